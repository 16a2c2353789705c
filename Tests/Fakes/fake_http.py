"""A small, strict HTTP/1.1 server for fakes: each byte of a reply, and how its connection ends, is the fake's choice.

One asyncio loop, no dependency. A listener keeps its port while it refuses connections, so that it can come back.
"""

import asyncio
import email.utils
import http
import re
import socket
import ssl
import struct
import time

HEAD_LIMIT = 64 * 1024
TARGET_LIMIT = 8 * 1024
BODY_LIMIT = 1024 * 1024

_KNOWN = {int(one) for one in http.HTTPStatus}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")
_TARGET = re.compile(r"/[\x21-\x7e]*\Z")


class BadRequest(Exception):
    """Bytes that are no HTTP/1.1 request as this server takes them; the connection ends after the reply."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Request:
    """One request, read to its end; header names are lower case."""

    __slots__ = ("method", "target", "path", "query", "headers", "body", "arrived")

    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.path, _, self.query = target.partition("?")
        self.arrived = time.perf_counter()


class Reply:
    """A status, header fields and a body."""

    __slots__ = ("status", "headers", "body", "chunked")

    def __init__(self, status, body=b"", content_type="application/json", headers=(), chunked=False):
        self.status, self.body, self.chunked = status, body, chunked
        self.headers = [("Content-Type", content_type), *headers]

    def head(self, now):
        """The bytes before the body; `now` is what the Date field says."""
        phrase = http.HTTPStatus(self.status).phrase if self.status in _KNOWN else "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}", f"Date: {email.utils.formatdate(now, usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status != 204:
            lines.append("Transfer-Encoding: chunked" if self.chunked else f"Content-Length: {len(self.body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def framed(self):
        """The body as it goes over the wire."""
        if not self.chunked:
            return self.body
        half = len(self.body) // 2
        pieces = [piece for piece in (self.body[:half], self.body[half:]) if piece]
        return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One peer. The service answers through it: at once, or in a coroutine that ends when the peer leaves."""

    def __init__(self, listener, number):
        self.listener, self.number = listener, number
        self.transport = self.task = None
        self.buffer = bytearray()
        self.served = 0
        self.is_open = False

    # From the peer

    def connection_made(self, transport):
        self.transport = transport
        self.is_open = True
        self.listener.opened(self)

    def connection_lost(self, exception):
        self.is_open = False
        if self.task is not None:
            self.task.cancel()
        self.listener.lost(self)

    def data_received(self, data):
        self.buffer += data
        if self.task is not None:
            if len(self.buffer) > BODY_LIMIT + HEAD_LIMIT:
                self.reset()
            return
        self._advance()

    def _advance(self):
        while self.is_open and self.task is None:
            try:
                request = self._next()
            except BadRequest as problem:
                self.buffer.clear()
                self.send(self.listener.service.malformed(self, problem))
                self.finish()
                return
            if request is None:
                return
            self.served += 1
            try:
                later = self.listener.service.serve(self, request)
            except Exception as defect:
                self.listener.service.failed(defect)
                self.reset()
                return
            if later is not None:
                self.task = asyncio.get_running_loop().create_task(later)
                self.task.add_done_callback(self._resume)

    def _resume(self, task):
        self.task = None
        if not task.cancelled() and task.exception() is not None:
            self.listener.service.failed(task.exception())
            self.reset()
        self._advance()

    def _next(self):
        end = self.buffer.find(b"\r\n\r\n", 0, HEAD_LIMIT)
        if end < 0:
            if len(self.buffer) >= HEAD_LIMIT:
                raise BadRequest(400, "header too long")
            return None
        first, *rest = self.buffer[:end].decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or words[2] != "HTTP/1.1":
            raise BadRequest(400, "not an HTTP/1.1 request line")
        method, target, _ = words
        if len(target) > TARGET_LIMIT:
            raise BadRequest(414, "URI too long")
        # An absolute target would mean that the client takes this server for a proxy.
        if not _TARGET.match(target) or "#" in target:
            raise BadRequest(400, "not an origin-form target")
        headers = {}
        for line in rest:
            name, colon, value = line.partition(":")
            if not colon or not _TOKEN.match(name) or not _VALUE.match(value):
                raise BadRequest(400, "malformed header field")
            if name.lower() in headers:
                raise BadRequest(400, f"header field {name.lower()} twice")
            headers[name.lower()] = value.strip(" \t")
        if "host" not in headers:
            raise BadRequest(400, "no host")
        if "transfer-encoding" in headers or "expect" in headers:
            raise BadRequest(400, "a body of unknown length, or an expectation")
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,10}", length):
            raise BadRequest(400, "malformed content-length")
        if int(length) > BODY_LIMIT:
            raise BadRequest(413, "body too large")
        start = end + 4
        if len(self.buffer) < start + int(length):
            return None
        body = bytes(self.buffer[start : start + int(length)])
        del self.buffer[: start + int(length)]
        return Request(method, target, headers, body)

    # To the peer

    def write(self, data):
        if self.is_open:
            self.transport.write(data)

    def send(self, reply):
        self.write(reply.head(self.listener.clock()) + reply.framed())

    def finish(self):
        """Ends the connection in order: what was written arrives, then FIN."""
        if self.is_open:
            self.transport.close()

    def reset(self):
        """Ends the connection with RST."""
        if self.is_open:
            # None where the transport has closed already and its end is not told yet.
            peer = self.transport.get_extra_info("socket")
            if peer is not None:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class Listener:
    """One port. It can refuse (closed), leave callers hanging (paused), and change its certificate while running."""

    def __init__(self, name, service, clock, host, port, context=None):
        self.name, self.service, self.clock, self.context = name, service, clock, context
        self.connections = set()
        self.accepted = self.tls_failures = self.peak = 0
        # Keeps the port while nobody listens on it: a bound socket that does not listen refuses.
        self.placeholder = self._bound(host, port)
        self.host, self.port = self.placeholder.getsockname()[:2]
        self.socket = None
        self.handshakes = set()

    @staticmethod
    def _bound(host, port):
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((host, port))
        return one

    @property
    def state(self):
        if self.socket is None:
            return "closed"
        return "open" if self.accepting else "paused"

    def open(self):
        """Listens and accepts."""
        if self.socket is None:
            self.socket = self._bound(self.host, self.port)
            self.socket.setblocking(False)
            self.socket.listen(1024)
        asyncio.get_running_loop().add_reader(self.socket, self._accept)
        self.accepting = True

    def pause(self):
        """Stops accepting: connections complete in the kernel, and nothing answers on them."""
        if self.socket is not None:
            asyncio.get_running_loop().remove_reader(self.socket)
            self.accepting = False

    def close(self):
        """Refuses new connections and resets those there are."""
        if self.socket is not None:
            asyncio.get_running_loop().remove_reader(self.socket)
            self.socket.close()
            self.socket = None
        for one in [*self.connections]:
            one.reset()
        for one in [*self.handshakes]:
            one.cancel()

    def close_idle(self):
        """Ends each connection that waits for its next request, as a gateway does with kept-alive ones."""
        idle = [one for one in self.connections if one.task is None and not one.buffer]
        for one in idle:
            one.finish()
        return len(idle)

    def _accept(self):
        for _ in range(64):
            try:
                peer, _ = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                self.service.failed(problem)
                return
            peer.setblocking(False)
            self.accepted += 1
            task = asyncio.get_running_loop().create_task(self._begin(peer, self.accepted))
            self.handshakes.add(task)
            task.add_done_callback(self.handshakes.discard)

    async def _begin(self, peer, number):
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self, number), peer, ssl=self.context
            )
        except (ssl.SSLError, OSError):
            self.tls_failures += 1

    def opened(self, connection):
        self.connections.add(connection)
        self.peak = max(self.peak, len(self.connections))

    def lost(self, connection):
        self.connections.discard(connection)
