"""The units on a real systemd: boot order, restarts and crashes without a lost call, the sandbox, the journal."""

import json
import os
import re
import signal
import subprocess

import pytest

import booted
from booted import SOCKET, UNITS
from daemon import eventually

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a systemd can be booted by root only"),
]


@pytest.fixture
def machine(goclient):
    one = booted.Machine(f"--bind-ro={os.path.dirname(goclient)}:/opt")
    try:
        one.install()
        one.configure_local_key()
        yield one
    finally:
        one.stop()


def serve(machine):
    machine.run("systemctl", "start", "kmsward.socket", "kmsward.service")
    assert machine.property("kmsward.service", "StatusText").startswith("serving; key primary ok")


def client(machine, *arguments, path=SOCKET, **options):
    return machine.start("/opt/goclient", "-socket", path, *arguments, stdout=subprocess.PIPE, text=True, **options)


def round_trip(machine, path=SOCKET):
    done = machine.run("/opt/goclient", "-socket", path, "roundtrip", check=False)
    assert done.returncode == 0, done.stdout + machine.journal("-u", "kmsward")


def result(process):
    said, _ = process.communicate(timeout=120)
    return json.loads(said.splitlines()[-1])


@pytest.mark.no_binary
def test_the_units_are_right_and_closely_confined():
    for unit in ("kmsward.service", "kmsward.socket"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", UNITS / unit],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        # The binary is not installed here.
        found = [line for line in done.stderr.splitlines() if "/usr/bin/kmsward" not in line]
        assert not found, found
    service = (UNITS / "kmsward.service").read_text()
    for trap in ("RuntimeDirectory=", "PrivateUsers=yes"):
        assert trap not in re.sub(r"#.*", "", service), f"{trap} breaks the socket or the peer check"


def test_an_api_server_that_starts_at_boot_never_meets_a_refused_connection(machine):
    """Ordered after the plugin by its unit, it starts when the plugin is ready; its first call is served."""
    machine.write(
        "/etc/systemd/system/kube-apiserver.service",
        f"""[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/goclient -socket {SOCKET} roundtrip
""",
    )
    # All in one transaction, as at boot.
    machine.write(
        "/etc/systemd/system/control-plane.target",
        "[Unit]\nWants=kube-apiserver.service kmsward.service kmsward.socket\n",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "--no-block", "control-plane.target")
    eventually(lambda: machine.state("kube-apiserver.service") == "active", "the stand-in has made its calls")
    ready = int(machine.property("kmsward.service", "ActiveEnterTimestampMonotonic"))
    began = int(machine.property("kube-apiserver.service", "InactiveExitTimestampMonotonic"))
    assert ready <= began, "it waited for READY=1"


def test_a_client_that_connects_before_the_daemon_waits_in_the_socket(machine):
    machine.run("systemctl", "start", "kmsward.socket")
    # Not `start kmsward.service`: the connection itself does it.
    early = client(machine, "-timeout", "30s", "roundtrip")
    assert "error" not in result(early) and early.returncode == 0
    assert machine.state("kmsward.service") == "active"


def test_restarts_under_load_fail_no_call(machine):
    serve(machine)
    load = client(machine, "-timeout", "30s", "-n", "100000", "-c", "16", "load")
    restarts = 0
    while load.poll() is None and restarts < 10:
        machine.run("systemctl", "restart", "kmsward.service")
        restarts += 1
    out = result(load)
    assert restarts >= 3, "the load ended too early"
    assert out["ok"] == 100_000 and out["failed"] == 0, out
    assert machine.property("kmsward.service", "Result") == "success"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_costs_nothing_but_the_calls_in_flight(machine, number):
    serve(machine)
    inode = machine.run("stat", "-c", "%i", SOCKET).stdout
    for _ in range(6):  # more than systemd's usual limit of starts
        before = machine.property("kmsward.service", "MainPID")
        machine.run("kill", f"-{int(number)}", before)
        late = client(machine, "-timeout", "30s", "roundtrip")
        assert "error" not in result(late) and late.returncode == 0, "it waited for the next daemon"
        assert machine.property("kmsward.service", "MainPID") not in (before, "0")
    assert machine.run("stat", "-c", "%i", SOCKET).stdout == inode, "the same socket all along"
    assert machine.state("kmsward.socket") == "active"


def test_a_broken_configuration_takes_the_daemon_down_and_not_its_socket(machine):
    serve(machine)
    machine.run("mkdir", "-p", "/seen/from/a/pod")
    machine.run("mount", "--bind", "/run/kmsward", "/seen/from/a/pod")
    round_trip(machine, "/seen/from/a/pod/kms.sock")
    good = machine.run("cat", "/etc/kmsward/kmsward.yaml").stdout
    machine.write("/etc/kmsward/kmsward.yaml", "keys: [{name: primary, locl: {}}]\n")
    machine.run("systemctl", "restart", "kmsward.service", check=False)
    eventually(lambda: int(machine.property("kmsward.service", "NRestarts")) >= 2, "it is started again and again")
    assert "status=78" in machine.journal()
    assert machine.state("kmsward.socket") == "active"
    assert "locl" in machine.journal("-u", "kmsward"), "the journal says what is wrong"
    waiting = client(machine, "-timeout", "60s", "roundtrip", path="/seen/from/a/pod/kms.sock")
    machine.write("/etc/kmsward/kmsward.yaml", good)
    assert "error" not in result(waiting) and waiting.returncode == 0, "what waited is served, through the old mount too"


def test_stop_then_connect_starts_it_anew(machine):
    serve(machine)
    machine.run("systemctl", "stop", "kmsward.service")
    assert machine.state("kmsward.service") == "inactive"
    round_trip(machine)
    assert machine.state("kmsward.service") == "active"


def test_it_runs_as_nobody_in_particular_and_says_so_in_fields(machine):
    serve(machine)
    pid = machine.property("kmsward.service", "MainPID")
    status = machine.run("cat", f"/proc/{pid}/status").stdout
    assert re.search(r"^CapEff:\s+0+$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    assert re.search(r"^Seccomp:\s+2$", status, re.M)
    user = machine.run("id", "-u", "kmsward").stdout.strip()
    assert re.search(rf"^Uid:\s+{user}\s+{user}\s+{user}\s+{user}$", status, re.M)
    metrics = machine.run("curl", "-sf", "http://127.0.0.1:9464/metrics").stdout
    assert "kmsward_memory_locked 1" in metrics
    entries = [json.loads(line) for line in machine.journal("-u", "kmsward", "-o", "json").splitlines()]
    ours = [entry for entry in entries if entry.get("_COMM") == "kmsward"]
    assert any(entry.get("MESSAGE") == "ready" for entry in ours), ours
    # Native entries, and nothing from a library that nobody asked for.
    assert {entry["_TRANSPORT"] for entry in ours} == {"journal"}, ours
    assert [entry["MESSAGE"] for entry in ours if int(entry["PRIORITY"]) <= 4] == []


def test_a_reload_takes_what_is_right_and_tells_what_is_wrong(machine):
    serve(machine)
    pid = machine.property("kmsward.service", "MainPID")
    load = client(machine, "-timeout", "30s", "-n", "40000", "-c", "8", "load")
    good = machine.run("cat", "/etc/kmsward/kmsward.yaml").stdout
    said = lambda text: machine.journal("-u", "kmsward").count(text)  # noqa: E731
    for times, level in enumerate(("debug", "info"), 1):
        machine.write("/etc/kmsward/kmsward.yaml", good + f"log: {{level: {level}}}\n")
        machine.run("systemctl", "reload", "kmsward.service")
        eventually(lambda: said("the new configuration is in effect") == times, f"the level is {level}")  # noqa: B023
    machine.write("/etc/kmsward/kmsward.yaml", good + "lg: {level: debug}\n")
    machine.run("systemctl", "reload", "kmsward.service")
    eventually(lambda: said("the new configuration is refused; the former one goes on") == 1, "the mistake is told")
    out = result(load)
    assert out["ok"] == 40_000 and out["failed"] == 0, out
    assert machine.property("kmsward.service", "MainPID") == pid
