"""Hostile and broken peers: whatever one sends, the others are served, the daemon lives, and memory stays bounded."""

import contextlib
import json
import os
import pathlib
import random
import resource
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

import contract
import floods
import h2wire
from daemon import eventually
from h2wire import ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, PUSH_PROMISE, SETTINGS, frame, framed
from kms import V2_PATH, v2
from machine import judged_undisturbed

#: What a hostile peer may cost at its worst, and what may stay of it, in MiB.
PEAK, LEFT = 640, 48
#: How many lines at level info or above one peer may cause in a few seconds.
LOG_LINES = 200
FLOOD_SECONDS = 2.5
#: Seconds within which a good client is served, whatever the others do: what an API server waits.
SERVED = 3.0
#: Seconds of a round trip that nobody need be cut for.
HARMLESS = 1.0


class Witness(threading.Thread):
    """A good client that never stops: every one of its calls must succeed."""

    def __init__(self, daemon):
        super().__init__()
        self.kms = daemon.kms(timeout=SERVED)
        self.halt, self.calls, self.failures, self.slowest = threading.Event(), 0, [], 0.0

    def run(self):
        while not self.halt.is_set():
            plaintext = os.urandom(32)
            began = time.monotonic()
            try:
                good = self.kms.open(self.kms.encrypt(plaintext)) == plaintext
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.failures += [] if good else ["other bytes came back"]
            except grpc.RpcError as error:
                self.failures.append(f"after {self.calls} calls: {error.code().name}: {error.details()}")
            self.calls += 2
            if self.failures:
                # One failure decides; the rest would only be noise.
                return


@contextlib.contextmanager
def witnessed(daemon, peak=PEAK, left=LEFT):
    """Runs its body beside a good client and checks what must hold of daemon and client afterwards."""
    with daemon.kms() as kms:
        kms.status()
    rss, descriptors = daemon.rss_mib, daemon.descriptors
    logged = daemon.log().count("\n")
    daemon.reset_peak_rss()
    witness = Witness(daemon)
    witness.start()
    try:
        eventually(lambda: witness.calls > 2 or witness.failures, "the witness is being served")
        before = witness.calls
        yield witness
        eventually(
            lambda: witness.calls >= before + 20 or witness.failures, "the witness is served during and after it"
        )
    finally:
        witness.halt.set()
        witness.join(60)
        witness.kms.close()
    assert daemon.process.poll() is None, f"the daemon died: {daemon.process.returncode}\n{daemon.log()[-4000:]}"
    assert not witness.is_alive()
    assert not witness.failures, witness.failures
    assert daemon.peak_rss_mib - rss < peak, f"grew by {daemon.peak_rss_mib - rss:.0f} MiB"
    peak_rss = daemon.peak_rss_mib
    eventually(lambda: daemon.rss_mib - rss < left, f"memory comes back below {rss + left:.0f} MiB (peak {peak_rss:.0f})")
    eventually(lambda: daemon.descriptors <= descriptors, "the descriptors come back")
    if daemon.configuration["log"]["level"] == "info":
        lines = daemon.log().splitlines()[logged:]
        assert len(lines) < LOG_LINES, f"{len(lines)} lines of log, such as:\n" + "\n".join(lines[-5:])
    with daemon.kms() as kms:
        contract.round_trip(kms)


def say_and_listen(path, data, read=True):
    """Sends bytes, then reads until the server hangs up or is silent for a moment."""
    with h2wire.connect(path, timeout=0.3) as peer, contextlib.suppress(OSError):
        peer.sendall(data)
        while read and peer.recv(65536):
            pass


# ---- bytes that are no HTTP/2, or bad HTTP/2 -----------------------------------------------------------------------

HELLO = PREFACE + frame(SETTINGS)
BLOCK = floods.BLOCK
BAD = {
    "nothing": b"",
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a TLS ClientHello": bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "half a preface": PREFACE[:12],
    "a wrong preface": PREFACE[:-1] + b"X" + frame(SETTINGS),
    "a preface and no SETTINGS": PREFACE + frame(DATA, 0, 1, b"x"),
    "a frame longer than allowed": HELLO + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(100_000),
    "SETTINGS of a wrong length": HELLO + frame(SETTINGS, 0, 0, bytes(5)),
    "SETTINGS on a stream": HELLO + frame(SETTINGS, 0, 1),
    "SETTINGS ACK with a payload": HELLO + frame(SETTINGS, ACK, 0, bytes(6)),
    "an impossible window": HELLO + frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
    "an impossible frame size": HELLO + frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"),
    "a window of 2^31": HELLO + frame(h2wire.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 3,
    "a window update of zero": HELLO + frame(h2wire.WINDOW_UPDATE, 0, 0, bytes(4)),
    "DATA on an idle stream": HELLO + frame(DATA, 0, 1, b"x"),
    "DATA on stream zero": HELLO + frame(DATA, 0, 0, b"x"),
    "HEADERS on stream zero": HELLO + frame(HEADERS, END_HEADERS, 0, BLOCK),
    "HEADERS on an even stream": HELLO + frame(HEADERS, END_HEADERS, 2, BLOCK),
    "streams out of order": HELLO + frame(HEADERS, END_HEADERS, 5, BLOCK) + frame(HEADERS, END_HEADERS, 3, BLOCK),
    "HEADERS twice": HELLO + frame(HEADERS, END_HEADERS, 1, BLOCK) * 3,
    "broken HPACK": HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" * 64),
    "an HPACK index from nowhere": HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xfe"),
    "broken Huffman code": HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40\x84\xff\xff\xff\xff\x01a"),
    "no pseudo headers": HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, h2wire.header_block([("a", "b")])),
    "padding longer than the frame": HELLO + frame(HEADERS, END_HEADERS | 0x8, 1, b"\xff" + BLOCK),
    "CONTINUATION from nowhere": HELLO + frame(h2wire.CONTINUATION, END_HEADERS, 1, BLOCK),
    "HEADERS interrupted by PING": HELLO + frame(HEADERS, 0, 1, BLOCK) + frame(h2wire.PING, 0, 0, bytes(8)),
    "PUSH_PROMISE from a client": HELLO + frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + BLOCK),
    "PING of a wrong length": HELLO + frame(h2wire.PING, 0, 0, bytes(7)),
    "RST_STREAM of an idle stream": HELLO + frame(h2wire.RST_STREAM, 0, 9, bytes(4)),
    "RST_STREAM of a wrong length": HELLO + frame(h2wire.RST_STREAM, 0, 1, bytes(3)),
    "PRIORITY on itself": HELLO + frame(h2wire.PRIORITY, 0, 1, b"\0\0\0\1\0"),
    "GOAWAY, then calls": HELLO + frame(GOAWAY, 0, 0, bytes(8)) + frame(HEADERS, END_HEADERS, 1, BLOCK),
    "frames of unknown types": HELLO + b"".join(frame(kind, 0xFF, 1, b"abc") for kind in range(10, 256)),
    "the last stream id": HELLO + frame(HEADERS, END_HEADERS, 2**31 - 1, BLOCK),
    "a megabyte of zeros": HELLO + bytes(1 << 20),
    "headers of 1 MiB": HELLO
    + frame(HEADERS, 0, 1, BLOCK)
    + b"".join(frame(h2wire.CONTINUATION, 0, 1, h2wire.header_block([("x", "y" * 16000)])) for _ in range(64))
    + frame(h2wire.CONTINUATION, END_HEADERS, 1, b""),
}


def test_malformed_http2_hurts_only_its_sender(shared):
    with witnessed(shared) as witness:
        for name, data in BAD.items():
            say_and_listen(shared.socket_path, data)
            assert shared.process.poll() is None, f"died of: {name}"
            assert not witness.failures, (name, witness.failures)


def test_random_bytes_hurt_only_their_sender(shared):
    source = random.Random(20)
    with witnessed(shared):
        for _ in range(100):
            say_and_listen(shared.socket_path, source.randbytes(source.randrange(1, 4000)), read=False)
            say_and_listen(shared.socket_path, HELLO + source.randbytes(source.randrange(1, 4000)), read=False)


def test_a_good_connection_cut_or_flipped_anywhere_hurts_only_itself(shared):
    good = HELLO + frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, END_STREAM, 1, floods.MESSAGE)
    source = random.Random(21)
    with witnessed(shared):
        for length in range(0, len(good), 3):
            say_and_listen(shared.socket_path, good[:length], read=False)
        for position in range(len(PREFACE), len(good)):
            torn = bytearray(good)
            torn[position] ^= 1 << source.randrange(8)
            say_and_listen(shared.socket_path, bytes(torn), read=False)


def test_half_open_and_silent_peers_are_let_go_and_block_nobody(start):
    one = start(socket={"handshake_timeout": "1s"})
    with witnessed(one):
        peers = []
        for greeting in (b"", PREFACE[:5], PREFACE, PREFACE + frame(SETTINGS)[:4]):
            for _ in range(8):
                peer = h2wire.connect(one.socket_path)
                peer.sendall(greeting)
                peers.append(peer)
        for peer in peers:
            peer.shutdown(socket.SHUT_WR)
        for peer in peers:
            peer.close()
        silent = [h2wire.connect(one.socket_path) for _ in range(8)]
        for peer in silent:
            peer.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                while peer.recv(4096):
                    pass
            peer.close()


def test_messages_of_4_mib_are_refused_without_keeping_them(shared):
    body = framed(v2.EncryptRequest(plaintext=bytes(4 << 20)).SerializeToString())
    parts = [body[i : i + 16384] for i in range(0, len(body), 16384)]
    with witnessed(shared):
        for _ in range(10):
            with h2wire.connect(shared.socket_path) as peer:
                peer.settimeout(0.3)
                with contextlib.suppress(OSError):
                    peer.sendall(HELLO + frame(HEADERS, END_HEADERS, 1, BLOCK))
                    for part in parts:  # whatever the flow-control window says
                        peer.sendall(frame(DATA, 0, 1, part))
                    while peer.recv(65536):
                        pass


#: What each of a thousand connections sends before it falls silent.
CROWDS = {
    "never says a word": b"",
    "sends the fixed bytes only": PREFACE,
    "sends a preface": HELLO,
    "sends a preface and acknowledges SETTINGS": HELLO + frame(SETTINGS, ACK),
}


@pytest.mark.parametrize("greeting", CROWDS.values(), ids=CROWDS.keys())
def test_a_newcomer_gets_in_while_a_thousand_silent_connections_are_held(start, greeting):
    """The API server connects after the crowd, which stays; the one that was there before keeps its place too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2048:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    one = start()
    limit = 128
    with witnessed(one):
        peers = []
        try:
            for _ in range(1000):
                peer = h2wire.connect(one.socket_path)
                peers.append(peer)
                with contextlib.suppress(OSError):
                    peer.sendall(greeting)
            eventually(lambda: one.metric("kmsward_connections_refused_total", reason="limit") > 0, "the limit acts")
            if greeting.startswith(HELLO):
                eventually(lambda: one.metric("kmsward_connections") == limit, "the crowd has all places")
            for _ in range(5):
                # On a new connection.
                with one.kms(timeout=SERVED) as late:
                    contract.round_trip(late)
            assert one.metric("kmsward_connections") <= limit
        finally:
            for peer in peers:
                peer.close()
    eventually(lambda: one.metric("kmsward_connections") <= 1, "their places are free again")
    crowded = one.log().count("more than half of socket.max_connections")
    assert crowded == (1 if greeting.startswith(HELLO) else 0), one.log()


def test_slow_readers_block_nobody_and_are_bounded(shared):
    request = framed(v2.EncryptRequest(plaintext=bytes(60000)).SerializeToString())
    parts = [request[i : i + 16384] for i in range(0, len(request), 16384)]
    with witnessed(shared):
        peers = []
        try:
            for _ in range(8):
                peer = h2wire.connect(shared.socket_path)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                peer.settimeout(0.2)
                peers.append(peer)
                with contextlib.suppress(OSError):
                    # A window that would let the replies come, and nobody who reads them.
                    peer.sendall(HELLO + frame(SETTINGS, 0, 0, b"\0\4\x7f\xff\xff\xff"))
                    peer.sendall(frame(h2wire.WINDOW_UPDATE, 0, 0, b"\x7f\x00\x00\x00"))
                    for stream in range(1, 200, 2):
                        peer.sendall(frame(HEADERS, END_HEADERS, stream, BLOCK))
                        for part in parts[:-1]:
                            peer.sendall(frame(DATA, 0, stream, part))
                        peer.sendall(frame(DATA, END_STREAM, stream, parts[-1]))
            with h2wire.Connection(shared.socket_path) as good:
                for _ in range(50):
                    assert good.unary(V2_PATH + "Status", b"").grpc_status == 0
        finally:
            for peer in peers:
                peer.close()


# ---- floods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", floods.KINDS)
@judged_undisturbed
def test_a_flood_starves_nobody(start, kind):
    """Fresh daemon for each, so that the memory seen is the flood's: its peak, and what is left of it half a minute later."""
    one = start()
    try:
        flooded(one, kind)
        one.stop()
    finally:
        one.discard()


def flooded(one, kind):
    script = pathlib.Path(floods.__file__)
    with witnessed(one) as witness:
        done = subprocess.run(
            [sys.executable, str(script), kind, one.socket_path, str(FLOOD_SECONDS)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["connections"] >= 1 and report["sent"] > 0, report
        refused = {
            reason: one.metric("kmsward_connections_refused_total", reason=reason) for reason in ("stalled", "barred")
        }
        # On a machine so busy that the flood is a trickle nobody need be cut, as long as nobody waits for it.
        if kind in floods.CUT and witness.slowest > HARMLESS:
            assert refused["stalled"] > 0, f"nobody was cut: {refused}, and a round trip took {witness.slowest:.1f} s"
        if kind in floods.BARRED and refused["stalled"]:
            assert refused["barred"] > 0, f"nobody was barred: {refused}"
            assert f"peer_pid={report['pid']}" in one.log(), one.log()
