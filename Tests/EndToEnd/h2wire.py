"""HTTP/2 over a UNIX socket by hand: exact headers, half-sent calls, and frames that no library would send."""

import contextlib
import socket
import struct
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1


def connect(path, timeout=10.0):
    """A connected stream socket; `@name` is an abstract one."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A full backlog makes a blocking connect wait, for as long as SO_SNDTIMEO says, and any other fail at once.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout) + 1, 0))
    try:
        peer.connect("\0" + path[1:] if path.startswith("@") else path)
    except OSError:
        peer.close()
        raise
    peer.settimeout(timeout)
    return peer


def framed(message, compressed=0):
    """A gRPC length-prefixed message."""
    return struct.pack(">BI", compressed, len(message)) + message


def frame(kind, flags=0, stream=0, payload=b""):
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request_headers(path, authority="localhost", extra=()):
    """The header list of a gRPC request as grpc-go writes it."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-go/1.65.0"),
        ("te", "trailers"),
        *extra,
    ]


def header_block(headers):
    """Headers as literals without indexing, so that one block serves for any number of streams."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode([hpack.NeverIndexedHeaderTuple(name, value) for name, value in headers])


class Outcome:
    """What became of one stream."""

    def __init__(self):
        self.http_status = None
        self.headers = {}
        self.data = b""
        self.trailers = {}
        self.reset = None
        self.ended = False

    @property
    def grpc_status(self):
        value = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if value is None else int(value)

    @property
    def message(self):
        """The reply's bytes; it must be one uncompressed message."""
        compressed, length = struct.unpack(">BI", self.data[:5])
        assert compressed == 0, "the reply is compressed"
        assert len(self.data) == 5 + length, "the reply is not one whole message"
        return self.data[5:]


class Connection:
    """A well-behaved HTTP/2 client whose headers go out exactly as given."""

    def __init__(self, path, timeout=10.0):
        self.timeout = timeout
        self.socket = connect(path, timeout)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.outcomes = {}
        self.goaway = None
        self.settings_seen = False
        self.eof = False
        self.pending = b""
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, headers, body=None, end=True):
        """Opens a stream; `body=None` leaves it open after the headers. Not flushed."""
        stream = self.h2.get_next_available_stream_id()
        self.outcomes[stream] = Outcome()
        self.h2.send_headers(stream, headers, end_stream=body is None and end)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=end)
        return stream

    def pump(self):
        """Reads what is there (waits for something) and files it; False at end of file."""
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            self.eof = True
            return False
        for event in self.h2.receive_data(self._without_goaway(data)):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self.settings_seen = True
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            outcome = self.outcomes.get(getattr(event, "stream_id", None))
            if outcome is None:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                outcome.headers = dict(event.headers)
                outcome.http_status = outcome.headers.get(":status")
            elif isinstance(event, h2.events.TrailersReceived):
                outcome.trailers = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                outcome.data += event.data
            elif isinstance(event, h2.events.StreamReset):
                outcome.reset = event.error_code
                outcome.ended = True
            elif isinstance(event, h2.events.StreamEnded):
                outcome.ended = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.flush()
        return True

    def _without_goaway(self, data):
        """Whole frames, less GOAWAY: the library ends a connection at its sight, HTTP/2 lets open streams finish."""
        self.pending += data
        kept = b""
        while len(self.pending) >= 9:
            end = 9 + int.from_bytes(self.pending[:3], "big")
            if len(self.pending) < end:
                break
            one, self.pending = self.pending[:end], self.pending[end:]
            if one[3] == GOAWAY:
                last, code = struct.unpack(">II", one[9:17])
                self.goaway = (last & 0x7FFFFFFF, code)
            else:
                kept += one
        return kept

    def wait(self, *streams):
        """Reads until the streams have ended or the peer hangs up; returns their outcomes."""
        end = time.monotonic() + self.timeout
        while not all(self.outcomes[s].ended for s in streams):
            assert time.monotonic() < end, f"no end of stream within {self.timeout} s"
            if not self.pump():
                break
        return [self.outcomes[s] for s in streams]

    def unary(self, path, message, authority="localhost", extra=(), headers=None):
        """One call; returns its Outcome."""
        stream = self.begin(headers or request_headers(path, authority, extra), framed(message))
        self.flush()
        return self.wait(stream)[0]

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
