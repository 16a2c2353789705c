"""What the service manager hears and hands over: readiness, status, watchdog, stop, a socket, an exit code."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import grpc
import pytest

import h2wire
from daemon import BINARY, PATIENCE, command, eventually, free_port
from kms import KMS, V2_PATH, refusal, v2


class Manager:
    """A datagram socket that the daemon notifies, as systemd's."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(0.1)
        self.heard = []

    def listen(self):
        with contextlib.suppress(TimeoutError):
            while True:
                self.heard += self.socket.recv(4096).decode().split("\n")

    def until(self, condition, what):
        def holds():
            self.listen()
            return condition(self.heard)

        eventually(holds, what)
        return self.heard


@pytest.fixture
def manager(folder):
    one = Manager(folder / "notify")
    yield one
    one.socket.close()


def test_ready_status_and_stopping_are_told(prepare, manager):
    daemon = prepare().launch(notify=manager.path)
    heard = manager.until(lambda heard: "READY=1" in heard, "READY=1")
    assert any(re.match(r"STATUS=serving; key primary ok \d+ s ago; ", line) for line in heard)
    # Before that it says that it is on its way, and asks for the time.
    assert heard.index("EXTEND_TIMEOUT_USEC=30000000") < heard.index("READY=1")
    assert any(line.startswith("STATUS=starting; key primary not known yet") for line in heard)
    done = command("reload", "--socket", str(daemon.socket_path))
    assert done.returncode == 0, done.stderr
    manager.until(lambda heard: heard.count("READY=1") == 2, "READY=1 after the reload")
    assert [line for line in manager.heard if line in ("RELOADING=1", "READY=1")] == ["READY=1", "RELOADING=1", "READY=1"]
    daemon.stop()
    manager.until(lambda heard: "STOPPING=1" in heard, "STOPPING=1")


def test_the_watchdog_is_fed_while_the_engine_turns(prepare, manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon = prepare().launch(notify=manager.path)
    manager.until(lambda heard: heard.count("WATCHDOG=1") >= 5, "five signs of life")
    daemon.stop()


def test_a_missing_key_file_is_told_to_everybody_and_nothing_is_made(prepare, manager, key_file):
    os.rename(key_file.path, f"{key_file.path}.away")
    daemon = prepare().launch(notify=manager.path)
    heard = manager.until(lambda heard: "READY=1" in heard, "READY=1 despite the missing key")
    status = next(line for line in heard if line.startswith("STATUS=serving"))
    assert "FAILED" in status and "kmsward key init" in status
    with daemon.kms() as kms:
        code, details = refusal(kms.status)
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert "kmsward key init" in details
    with pytest.raises(urllib.error.HTTPError) as unready:
        urllib.request.urlopen(f"http://{daemon.configuration['metrics']['listen']}/readyz")
    assert unready.value.code == 503 and "kmsward key init" in unready.value.read().decode()
    assert not os.path.exists(key_file.path)
    # And it heals by itself.
    os.rename(f"{key_file.path}.away", key_file.path)
    with daemon.kms() as kms:

        def healed():
            with contextlib.suppress(grpc.RpcError):
                return kms.status().healthz == "ok"

        eventually(healed, "the key is taken up without a restart")
    daemon.stop()


def test_a_socket_from_systemd_is_served_and_left_alone(prepare, folder):
    path = folder / "activated.sock"
    daemon = prepare(prefix=["systemd-socket-activate", f"--listen={path}"]).launch()
    eventually(path.exists, "the socket unit's socket is there")
    inode = path.stat().st_ino
    with KMS(f"unix:{path}", timeout=PATIENCE) as kms:
        assert kms.status().healthz == "ok"
    # systemd-socket-activate has become the daemon.
    daemon.stop()
    assert path.stat().st_ino == inode, "an adopted socket is not ours to remove"


def test_options_that_the_unit_of_the_socket_decides_are_said_at_the_start_and_at_a_reload(prepare, folder):
    path = folder / "activated.sock"
    said = {"mode": "0600", "owner": 0, "group": 4711}
    daemon = prepare(prefix=["systemd-socket-activate", f"--listen={path}"], socket={"path": str(path), **said}, allow={"uids": [4711]})

    def remarks(text):
        return sorted(re.findall(r"kmsward\.yaml:\d+:\d+: warning: (\S+): .*?(?:write (\S+) with `systemctl edit kmsward\.socket`|$)", text, re.M))

    daemon.launch()
    eventually(path.exists, "the socket unit's socket is there")
    with KMS(f"unix:{path}", timeout=PATIENCE) as kms:
        kms.status()
    expected = [("socket.group", "SocketGroup=4711"), ("socket.mode", "SocketMode=0600")]
    assert remarks(daemon.log()) == expected, "and nothing of the owner, who is as the file says"
    assert "cannot connect while" not in daemon.log(), "that goes by a mode that nobody has set"
    # What no restart would apply is not said to wait for one.
    for options, there in [
        ({"mode": "0620"}, [("socket.group", "SocketGroup=4711"), ("socket.mode", "SocketMode=0620")]),
        ({"path": str(folder / "other.sock"), "group": 0}, [("socket.mode", "SocketMode=0620"), ("socket.path", "")]),
        ({"mode": "0600"}, [("socket.mode", "SocketMode=0600"), ("socket.path", "")]),
    ]:
        daemon.configuration["socket"] |= options
        daemon.config_path.write_text(json.dumps(daemon.configuration, indent=2))
        done = command("reload", "--socket", path)
        assert (done.returncode, done.stdout) == (0, "the configuration is read again, and is as before\n")
        assert remarks(done.stderr) == there and "restart" not in done.stderr, done.stderr
    assert f"{path}, and that one is served" in done.stderr
    # As the unit has it, there is nothing to say.
    path.chmod(0o600)
    daemon.configuration["socket"] |= {"path": str(path)}
    daemon.configuration["limits"] = {"drain": "9s"}
    daemon.config_path.write_text(json.dumps(daemon.configuration, indent=2))
    done = command("reload", "--socket", path)
    assert (done.stdout, done.stderr) == ("", "restart to apply: limits.drain; all else is as before\n")
    daemon.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_it_cleanly(start, number):
    daemon = start()
    daemon.process.send_signal(number)
    assert daemon.process.wait(PATIENCE) == 0
    assert not os.path.exists(daemon.socket_path)


def never_read(peer):
    """Has libgrpc answer until the socket is full."""
    peer.sendall(h2wire.PREFACE + h2wire.frame(4) + h2wire.frame(4, 1))
    peer.settimeout(1)
    with contextlib.suppress(OSError):
        for _ in range(200):
            peer.sendall(h2wire.frame(4) * 1000)


def test_a_peer_that_never_reads_does_not_spoil_the_end(start):
    # libgrpc waits for it for as long as it likes, even after it was told to cancel everything.
    one = start(limits={"drain": "2s"})
    with h2wire.connect(one.socket_path) as peer:
        never_read(peer)
        one.stop()


def test_a_key_without_time_to_ride_through_serves_while_it_is_well(start, key_file):
    one = start(keys=[{"name": "primary", "local": {"file": str(key_file.path)}, "ride_through": "0s"}])
    with one.kms() as kms:
        for _ in range(3):
            before = one.metric("kmsward_backend_calls_total", operation="unwrap")
            eventually(
                lambda: one.metric("kmsward_backend_calls_total", operation="unwrap") > before, "another probe"
            )
            assert kms.open(kms.encrypt(b"k" * 32)) == b"k" * 32
    assert "wiped" not in one.log()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once_with_a_call_in_flight(start, first, second):
    # The first one alone would wait for twice what this test waits.
    daemon = start(limits={"drain": f"{2 * PATIENCE:.0f}s"})
    request = h2wire.framed(v2.EncryptRequest(plaintext=bytes(32)).SerializeToString())
    with h2wire.Connection(daemon.socket_path) as connection, h2wire.connect(daemon.socket_path) as peer:
        connection.begin(h2wire.request_headers(V2_PATH + "Encrypt"), request[:8], end=False)
        connection.unary(V2_PATH + "Status", b"")
        never_read(peer)
        daemon.process.send_signal(first)
        eventually(lambda: "stopping: calls in flight may finish" in daemon.log(), "the drain begins")
        assert daemon.process.poll() is None
        daemon.process.send_signal(second)
        assert daemon.process.wait(PATIENCE) == -second
    # What it leaves is no obstacle.
    daemon.start().stop()


def passed_on(daemon, *addresses):
    """Starts a daemon that is handed a listening socket for each address, and connects to make that happen."""
    daemon.prefix = ["systemd-socket-activate", *(f"--listen={address}" for address in addresses)]
    daemon.launch()
    host, port = addresses[0].split(":")

    def connected():
        try:
            return socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            return None

    eventually(connected, "systemd-socket-activate listens").close()
    return daemon.process.wait(PATIENCE)


@pytest.mark.parametrize("count, said", [(1, "stream"), (2, "2 sockets")])
def test_sockets_from_systemd_that_cannot_be_served_are_a_broken_configuration(prepare, count, said):
    daemon = prepare()
    assert passed_on(daemon, *(f"127.0.0.1:{free_port()}" for _ in range(count))) == 78, daemon.log()
    assert said in daemon.log()


def readyz(daemon):
    with urllib.request.urlopen(f"http://{daemon.configuration['metrics']['listen']}/readyz") as answer:
        return answer.read().decode()


def with_bounds(daemon, **bounds):
    daemon.configuration["keys"][0] |= bounds
    return daemon


def test_what_is_ridden_through_is_told_with_the_time_that_is_left(prepare, manager, key_file):
    daemon = with_bounds(prepare(), auth_grace="23h59m30s").launch(notify=manager.path)
    manager.until(lambda heard: "READY=1" in heard, "READY=1")
    assert readyz(daemon) == "ok\n"
    os.rename(key_file.path, f"{key_file.path}.away")
    told = f"key primary riding through: key file {key_file.path} does not exist"
    left = "writes stop in 23 h 59 min (KW-KEY-MISCONFIGURED)"
    eventually(lambda: left in readyz(daemon), "/readyz says how long it goes on")
    assert readyz(daemon).startswith("[!] key primary: riding through: ") and readyz(daemon).endswith("\nok\n")
    manager.until(lambda heard: any(told in line and left in line for line in heard), "STATUS= says it too")
    os.rename(f"{key_file.path}.away", key_file.path)
    eventually(lambda: readyz(daemon) == "ok\n", "it is over")
    daemon.stop()


def test_the_configured_grace_bounds_how_long_writing_goes_on(prepare, key_file):
    daemon = with_bounds(prepare(), auth_grace="0s").start()
    with daemon.kms() as kms:
        sealed = kms.encrypt(bytes(32))
        os.rename(key_file.path, f"{key_file.path}.away")

        def stopped():
            try:
                kms.encrypt(bytes(32))
            except grpc.RpcError as error:
                return error.code() is grpc.StatusCode.FAILED_PRECONDITION
            return False

        eventually(stopped, "without grace, writing stops at the first look")
        assert kms.open(sealed) == bytes(32)
    daemon.stop()


def test_a_broken_configuration_exits_78_with_every_mistake(folder):
    file = folder / "broken.yaml"
    file.write_text("socket:\n  pth: /tmp/x\napi: { v2_version: v3 }\nkeys: []\n")
    for result in (command("serve", "--config", file), command("config", "check", file)):
        assert result.returncode == 78
        lines = result.stderr.splitlines()
        assert len(lines) >= 3 and all(line.startswith(f"{file}:") for line in lines)
        assert "path" in lines[0], "the nearest right spelling is named"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("hidden", [False, True])
def test_a_configuration_that_may_not_be_read_is_told_with_the_remedy(folder, hidden):
    file = folder / "kmsward.yaml"
    file.write_text("keys: []\n")
    file.chmod(0o600)
    folder.chmod(0o700 if hidden else 0o711)
    chgrp, chmod = (f"chgrp daemon {folder};", f"chmod 750 {folder}") if hidden else (f"chgrp daemon {file};", f"chmod 640 {file}")
    for words in (["serve", "--config", file], ["config", "check", "--on-this-host", file]):
        done = command(*words, user="nobody", group="daemon", extra_groups=[])
        assert done.returncode == 78
        assert done.stderr == f"{file}: error: the file cannot be read: Permission denied: let user nobody in: {chgrp} {chmod}\n"


def test_a_port_in_use_is_one_line_with_the_remedy(prepare):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        daemon = prepare(metrics={"listen": address}).launch()
        assert daemon.process.wait(PATIENCE) == 1
    complaint = [line for line in daemon.log().splitlines() if address in line]
    assert len(complaint) == 1 and "critical" in complaint[0]
    assert not os.path.exists(daemon.socket_path), "the socket is not left behind"


def test_a_port_in_use_does_not_keep_it_from_the_socket_that_systemd_holds(prepare, folder):
    path = folder / "activated.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        daemon = prepare(prefix=["systemd-socket-activate", f"--listen={path}"], metrics={"listen": address}).launch()
        eventually(path.exists, "the socket unit's socket is there")
        with KMS(f"unix:{path}", timeout=PATIENCE) as kms:
            assert kms.status().healthz == "ok"
        (said,) = [line for line in daemon.log().splitlines() if address in line]
        assert "warning" in said and "no metrics" in said
        daemon.stop()


def test_development_mode_prints_what_to_paste(folder):
    run = folder / "run"
    process = subprocess.Popen(
        [BINARY, "serve", "--dev", "--run-dir", str(run), "--metrics", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        said = ""
        end = time.monotonic() + PATIENCE
        while "Ctrl-C" not in said and time.monotonic() < end:
            said += process.stdout.readline()
        assert f"endpoint: unix://{run}/kms.sock" in said and "apiVersion: apiserver.config.k8s.io/v1" in said
        assert os.stat(run / "dev.keys").st_mode & 0o777 == 0o600
        assert command("doctor", "--socket", run / "kms.sock").returncode == 0
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        process.stdout.close()
