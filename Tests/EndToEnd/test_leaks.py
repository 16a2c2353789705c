"""A hundred thousand calls and ten thousand given up leave memory, descriptors and threads where they were."""

import itertools
import pathlib

import contract
from daemon import eventually
from machine import judged_undisturbed
from test_grpc_go import run

#: What glibc's arenas and C-core's pools may keep once idle, in MiB; a leak of 1 KiB a call would be 100.
MEMORY, THREADS = 24, 8


def warmed(daemon, goclient):
    """The daemon after its first calls; returns (RSS, descriptors, threads)."""
    code, out = run(goclient, daemon.socket_path, "-n", "4000", "-c", "50", "load")
    assert code == 0, out
    settled(daemon)
    return daemon.rss_mib, daemon.descriptors, daemon.threads


def settled(daemon):
    eventually(lambda: daemon.metric("kmsward_requests_in_flight") == 0, "no call is in flight")
    eventually(lambda: daemon.metric("kmsward_connections") == 0, "the connections are closed")


def unchanged(daemon, before):
    rss, descriptors, threads = before
    settled(daemon)
    eventually(lambda: daemon.descriptors <= descriptors, f"descriptors are back at {descriptors}")
    eventually(lambda: daemon.rss_mib <= rss + MEMORY, f"memory is back near {rss:.0f} MiB")
    eventually(lambda: daemon.threads <= threads + THREADS, f"threads are back near {threads}")


def test_a_hundred_thousand_calls_leave_nothing(goclient, start):
    one = start()
    before = warmed(one, goclient)
    code, out = run(goclient, one.socket_path, "-n", "100000", "-c", "64", "load")
    assert code == 0 and out["ok"] == 100000, out
    unchanged(one, before)


@judged_undisturbed
def test_ten_thousand_cancelled_calls_leave_nothing(goclient, start):
    """Given up at full speed they are a flood, which the stall guard may end where the daemon seldom gets a processor."""
    one = start()
    try:
        cancelled_calls_leave_nothing(goclient, one)
    finally:
        one.discard()


def cancelled_calls_leave_nothing(goclient, one):
    before = warmed(one, goclient)
    cancelled = 0
    for _ in range(20):
        code, out = run(goclient, one.socket_path, "-n", "10000", "-c", "200", "cancel")
        assert code == 0 and out["failed"] == 0, out
        cancelled += out["cancelled"]
        if cancelled >= 10000:
            break
    assert cancelled >= 10000, f"only {cancelled} calls were given up in time"
    unchanged(one, before)
    with one.kms() as kms:
        contract.round_trip(kms)


def test_a_thousand_connections_one_after_the_other_leave_nothing(goclient, start):
    one = start()
    before = warmed(one, goclient)
    for _ in range(1000):
        with one.kms() as kms:
            kms.status()
    unchanged(one, before)


def test_rotations_leave_nothing(goclient, start, key_file):
    one = start()
    before = warmed(one, goclient)
    with one.kms() as kms:
        for _ in range(8):
            current = kms.status().key_id
            key_file.add()
            key_file.activate()
            eventually(lambda: kms.status().key_id != current, "the rotation shows")  # noqa: B023
    unchanged(one, before)


def test_memory_freed_after_a_burst_can_go_back_whole(goclient, start):
    """glibc gives back the top of its first arena only, so that there must be no other, whatever threads there are."""
    one = start()
    warmed(one, goclient)
    mappings = [line.split() for line in (pathlib.Path("/proc") / str(one.pid) / "maps").read_text().splitlines()]
    assert any(fields[-1] == "[heap]" for fields in mappings), "the first arena"
    # A further arena is 64 MiB of addresses at a multiple of that, the first pages in use, the rest out of reach.
    spans = [(*(int(end, 16) for end in fields[0].split("-")), fields[1]) for fields in mappings if len(fields) == 5]
    arenas = [
        hex(start) for (start, middle, used), (rest, end, unused) in itertools.pairwise(spans)
        if (used, unused, rest, end - start) == ("rw-p", "---p", middle, 64 << 20) and start % (64 << 20) == 0
    ]  # fmt: skip
    assert not arenas, arenas
