"""No plaintext key stays in the process's memory: all writable mappings of the live daemon are searched for the keys
that it has just sealed and opened."""

import os
import re

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's memory needs root")

CHUNK = 1 << 24


def writable_mappings(pid):
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            span, mode, *rest = line.split()
            if mode.startswith("rw") and not (len(rest) > 3 and rest[3] in ("[vvar]", "[vsyscall]")):
                yield tuple(int(part, 16) for part in span.split("-"))


def occurrences(pid, needle):
    """How often `needle` stands in the process's writable memory, locked and left-out-of-dumps memory included."""
    found = 0
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for start, end in writable_mappings(pid):
            offset = start
            tail = b""
            while offset < end:
                try:
                    block = os.pread(memory, min(CHUNK, end - offset), offset)
                except OSError:  # a guard page, or a mapping that has gone
                    break
                if not block:
                    break
                found += len(re.findall(re.escape(needle), tail + block))
                tail = block[-len(needle) + 1 :]
                offset += len(block)
    finally:
        os.close(memory)
    return found


def test_the_search_finds_what_is_there(start):
    daemon = start()
    assert occurrences(daemon.pid, str(daemon.socket_path).encode()) > 0


@pytest.mark.parametrize("api", ["v1beta1", "v2"])
def test_no_plaintext_key_stays_in_memory(start, api):
    daemon = start()
    keys = [os.urandom(32) for _ in range(200)]
    with daemon.kms() as kms:
        for key in keys:
            if api == "v2":
                sealed = kms.encrypt(key)
                assert kms.open(sealed) == key
            else:
                assert kms.v1_decrypt(kms.v1_encrypt(key)) == key
        # While the connection is still open: its buffers are the likeliest place.
        left = [occurrences(daemon.pid, key) for key in (keys[0], keys[99], keys[-2], keys[-1])]
    assert left == [0, 0, 0, 0]
