"""Servers that behave and misbehave, for the tests of HTTPTransport; they end with their standard input.

Writes certificates of its making into the directory given, then prints `name port` for every server and `ready`.
What a server does is said by the path: /echo answers with the request's own bytes. `stats` tells how many connections
of a server are open, and waits for a number of them.
"""

import base64
import os
import pathlib
import re
import shutil
import socket
import ssl
import struct
import sys
import threading

import h2.config
import h2.connection
import h2.events

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "Fakes"))
from fake_certificates import HOUR, certificate, new_key, pem, write  # noqa: E402

FOLDER = sys.argv[1]
changed = threading.Condition()
open_connections = {}
accepted = {}
silent = [0]


# --- certificates ---


def make_certificates():
    authority, other, key = new_key(), new_key(), new_key()

    def issued(subject, issuer="test authority", signer=authority, **more):
        names = [subject, "127.0.0.1"] if subject == "kms.test" else [subject]
        return certificate(subject, issuer, key, signer, names=names, **more)

    for file, content in {
        "ca.pem": [certificate("test authority", "test authority", authority, authority, names=())],
        "other-ca.pem": [certificate("other authority", "other authority", other, other, names=())],
        "good.pem": [key, issued("kms.test")],
        "wrong-host.pem": [key, issued("other.test")],
        "expired.pem": [key, issued("kms.test", valid=(-3 * HOUR, -HOUR))],
        "not-yet.pem": [key, issued("kms.test", valid=(HOUR, 3 * HOUR))],
        "self-signed.pem": [key, issued("kms.test", "kms.test", key)],
        "unknown.pem": [key, issued("kms.test", "other authority", other)],
        "client.pem": [issued("client.test")],
        "client.key": [key],
        "stranger.pem": [issued("client.test", "other authority", other)],
    }.items():
        write(f"{FOLDER}/{file}", pem(*content))
    write(f"{FOLDER}/encrypted.key", pem(key, password=b"secret"))


def tls(file="good.pem", *, alpn=("http/1.1",), mutual=False, old=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{FOLDER}/{file}")
    context.set_alpn_protocols(list(alpn))
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(f"{FOLDER}/ca.pem")
    if old:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


# --- HTTP/1.1 ---


def read_request(stream):
    """The request's head and body as they came; None when the client has gone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        head += line
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    return head, stream.read(int(length.group(1))) if length else b""


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket.close(connection)


def until_gone(connection):
    """Says nothing until the client goes."""
    with changed:
        silent[0] += 1
        changed.notify_all()
    try:
        while connection.recv(4096):
            pass
    except OSError:
        pass
    with changed:
        silent[0] -= 1
        changed.notify_all()


def reply(body, *, status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def serve_http(connection, number):
    stream = connection.makefile("rb")
    count = 0
    while (request := read_request(stream)) is not None:
        count += 1
        head, body = request
        path = head.split(b" ")[1].decode().partition("?")[0]
        tags = (f"X-Connection: {number}", f"X-Request: {count}")
        send = connection.sendall
        if path.startswith("/status/"):
            send(reply(b"said so", status=f"{path[8:]} As You Wish", headers=tags))
        elif path == "/masked":
            send(reply(bytes(byte ^ 0x55 for byte in body), headers=tags))
        elif path == "/redirect":
            send(reply(b"elsewhere", status="302 Found", headers=("Location: /echo", *tags)))
        elif path == "/repeated":
            send(reply(b"", headers=("Set-Thing: a", "set-thing:  b\t", "Empty:", *tags)))
        elif path == "/interim":
            send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + reply(b"final", headers=tags))
        elif path == "/chunked":
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n")
            send(b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Late: 1\r\n\r\n")
        elif path == "/pieces":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n")
            for index in range(3000):
                send(bytes([index % 251]))
        elif path == "/until-close":
            send(b"HTTP/1.1 200 OK\r\n\r\nall there is")
            return
        elif path == "/drip":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nslow")
            until_gone(connection)
            return
        elif path == "/silent":
            until_gone(connection)
            return
        elif path == "/nothing":
            return
        elif path == "/reset":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            reset(connection)
            return
        elif path == "/truncated":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            return
        elif path == "/huge":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n")
            until_gone(connection)
            return
        elif path == "/huge-chunked":
            send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                while True:
                    send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
            except OSError:
                return
        elif path == "/huge-headers":
            send(b"HTTP/1.1 200 OK\r\n")
            try:
                while True:
                    send(b"X-Fill: " + b"x" * 4096 + b"\r\n")
            except OSError:
                return
        elif path == "/interim-forever":
            try:
                while True:
                    send(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                return
        elif path == "/garbage":
            send(b"220 mail.test ESMTP\r\n")
            return
        elif path == "/folded":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n X-Odd: 1\r\n\r\n")
        elif path == "/stale":
            # Answers once, and goes when the next request has come.
            send(reply(b"first", headers=tags))
            read_request(stream)
            return
        else:
            send(reply(head + body, headers=tags))


# --- HTTP/2 ---


def serve_h2(connection, number):
    h2c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    h2c.initiate_connection()
    connection.sendall(h2c.data_to_send())
    paths, bodies, pending = {}, {}, {}
    while data := connection.recv(65536):
        for event in h2c.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                paths[event.stream_id] = dict(event.headers)
                bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                h2c.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, h2.events.StreamEnded):
                answer_h2(h2c, number, event.stream_id, paths[event.stream_id], bodies[event.stream_id], pending)
        send_pending(h2c, pending)
        connection.sendall(h2c.data_to_send())


def answer_h2(h2c, number, stream, headers, body, pending):
    path = headers[":path"].partition("?")[0]
    start = [(":status", "200"), ("x-connection", str(number))]
    if path == "/silent":
        return
    if path == "/reset":
        h2c.send_headers(stream, start + [("content-length", "1000")])
        h2c.send_data(stream, b"half")
        h2c.reset_stream(stream)
        return
    if path == "/go-away":
        h2c.close_connection(error_code=1)
        return
    if path == "/masked":
        answer = bytes(byte ^ 0x55 for byte in body)
    else:
        answer = "".join(f"{key}: {value}\n" for key, value in headers.items()).encode() + body
    h2c.send_headers(stream, start)
    pending[stream] = answer


def send_pending(h2c, pending):
    """As much of the answers as the client's windows let through."""
    for stream, left in list(pending.items()):
        while (size := min(h2c.local_flow_control_window(stream), h2c.max_outbound_frame_size, len(left))) > 0:
            h2c.send_data(stream, left[:size])
            left = left[size:]
        pending[stream] = left
        if not left:
            h2c.end_stream(stream)
            del pending[stream]


# --- proxies ---


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve_proxy(connection, number, *, credentials=None, status=None):
    stream = connection.makefile("rb", buffering=0)
    request = read_request(stream)
    if request is None:
        return
    head = request[0]
    method, target = head.split(b" ")[:2]
    if status:
        connection.sendall(reply(b"no", status=status))
        return
    if credentials and b"Basic " + base64.b64encode(credentials) not in head:
        connection.sendall(reply(b"no", status="407 Proxy Authentication Required"))
        return
    if method != b"CONNECT":
        connection.sendall(reply(b"proxied " + head))
        return
    # Every name is this host: the client is not to look it up.
    onward = socket.create_connection(("127.0.0.1", int(target.rpartition(b":")[2])))
    connection.sendall(b"HTTP/1.1 200 Go Ahead\r\nX-Proxy: secret\r\n\r\n")
    threading.Thread(target=pump, args=(onward, connection), daemon=True).start()
    pump(connection, onward)
    onward.close()


# --- serving ---


def close_at_once(connection, number):
    connection.recv(1)


def greet(connection, number):
    connection.sendall(b"220 mail.test ESMTP\r\n")
    until_gone(connection)


def mute(connection, number):
    until_gone(connection)


def serve_stats(connection, number):
    """/open/NAME waits until no connection of it is open; /silent/N until N wait; answers with those accepted."""
    stream = connection.makefile("rb")
    while (request := read_request(stream)) is not None:
        _, what, value = request[0].split(b" ")[1].decode().split("/")
        with changed:
            if what == "open":
                done = changed.wait_for(lambda: open_connections[value] == 0, timeout=20)
                answer = f"{accepted[value]} {open_connections[value]}"
            elif what == "silent":
                done = changed.wait_for(lambda: silent[0] >= int(value), timeout=20)
                answer = str(silent[0])
            else:
                done, answer = True, f"{accepted[value]} {open_connections[value]}"
        connection.sendall(reply(answer.encode(), status="200 OK" if done else "504 Still Not"))


def shake_hands(connection):
    try:
        connection.do_handshake()
    except ssl.SSLError:
        # Closing with unread bytes resets the connection, which may overtake the alert.
        raw = socket.socket(fileno=os.dup(connection.fileno()))
        with raw:
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
        raise


def attend(server, connection, number, context, handler):
    try:
        if context:
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            shake_hands(connection)
        handler(connection, number)
        if context:
            connection.unwrap()
    except (OSError, ValueError, h2.exceptions.ProtocolError):
        pass
    finally:
        connection.close()
        with changed:
            open_connections[server] -= 1
            changed.notify_all()


def accept(server, listener, context, handler):
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with changed:
            open_connections[server] += 1
            accepted[server] += 1
            number = accepted[server]
        threading.Thread(
            target=attend, args=(server, connection, number, context, handler), daemon=True
        ).start()


def start(server, handler, context=None):
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    open_connections[server] = accepted[server] = 0
    threading.Thread(target=accept, args=(server, listener, context, handler), daemon=True).start()
    print(server, listener.getsockname()[1])


def main():
    threading.stack_size(256 * 1024)
    make_certificates()
    start("http", serve_http)
    start("https", serve_http, tls())
    for file in ("wrong-host", "expired", "not-yet", "self-signed", "unknown"):
        start(file, serve_http, tls(f"{file}.pem"))
    start("old-tls", serve_http, tls(old=True))
    start("mutual", serve_http, tls(mutual=True))
    start("h2", serve_h2, tls(alpn=("h2",)))
    start("mute", mute)
    start("hang-up", close_at_once)
    start("greeting", greet)
    start("proxy", serve_proxy)
    start("tls-proxy", serve_proxy, tls())
    start("strict-proxy", lambda c, n: serve_proxy(c, n, credentials=b"user:p@ss word"))
    start("closed-proxy", lambda c, n: serve_proxy(c, n, status="403 Forbidden"))
    start("stats", serve_stats)
    # A full backlog: connecting neither succeeds nor fails.
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(4):
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(full.getsockname())
    print("full", full.getsockname()[1])
    refused = socket.socket()
    refused.bind(("127.0.0.1", 0))
    print("refused", refused.getsockname()[1])
    print("ready", flush=True)
    sys.stdin.read()
    shutil.rmtree(FOLDER)


main()
