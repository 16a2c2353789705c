"""The units on a real systemd: boot order, restarts and crashes without a lost call, reload, the sandbox, the journal."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import booted
from booted import HOST, SOCKET, UNITS, Load
from daemon import eventually
from jdcloud_client import ACCESS_KEY, SECRET_KEY
from kms import REPOSITORY

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a systemd can be booted by root only"),
]

CONFIGURATION = "/etc/kmsward/kmsward.yaml"
#: Built by `swift build`; knows SIGUSR1.
DEBUG_BINARY = pathlib.Path(os.environ.get("KMSWARD_DEBUG_BIN", REPOSITORY / ".build" / "debug" / "kmsward"))


@pytest.fixture
def boot(goclient):
    """Boots a machine with the units and a local key."""
    with contextlib.ExitStack() as stack:

        def make(**options):
            machine = booted.Machine(f"--bind-ro={os.path.dirname(goclient)}:/mnt", **options)
            stack.callback(machine.stop)
            machine.install()
            machine.configure_local_key()
            return machine

        yield make


@pytest.fixture
def machine(boot):
    return boot()


@pytest.fixture
def cloud(machine):
    """A fake JD Cloud in the machine, whose names are looked up by DNS."""
    with booted.NameServer(machine), booted.CloudInside(machine) as fake:
        yield fake


def serve(machine, unit="kmsward.service"):
    machine.run("systemctl", "start", unit)
    assert machine.property(unit, "StatusText").startswith("serving; key primary ok")


def client(machine, *arguments, path=SOCKET, **options):
    return machine.start("/mnt/goclient", "-socket", path, *arguments, stdout=subprocess.PIPE, text=True, **options)


def round_trip(machine, path=SOCKET):
    done = machine.run("/mnt/goclient", "-socket", path, "-timeout", "10s", "roundtrip", check=False)
    assert done.returncode == 0, done.stdout + machine.journal("-u", "kmsward")
    return json.loads(done.stdout)


def result(process):
    said, _ = process.communicate(timeout=120)
    return json.loads(said.splitlines()[-1])


def pid(machine, unit="kmsward.service"):
    return machine.property(unit, "MainPID")


def log(machine, unit="kmsward.service"):
    """Of the unit's processes, without systemd's own words."""
    return machine.journal("-o", "cat", f"_SYSTEMD_UNIT={unit}")


# Units


@pytest.mark.no_binary
@pytest.mark.parametrize(
    "unit", ["kmsward.service", "kmsward.socket", "kmsward-metrics.socket", "kmsward@a.service", "kmsward@a.socket"]
)
def test_the_units_are_right(folder, unit):
    for file in UNITS.iterdir():
        (folder / file.name.replace("@.", "@a.")).write_text(file.read_text())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", folder / unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # The binary is not installed here.
    found = [line for line in done.stderr.splitlines() if "/usr/bin/kmsward" not in line]
    assert not found, found
    for trap in ("RuntimeDirectory=", "PrivateUsers=yes"):
        assert trap not in re.sub(r"#.*", "", (folder / unit).read_text()), f"{trap} breaks the socket or the peer check"


@pytest.mark.no_binary
@pytest.mark.parametrize("unit", ["kmsward.service", "kmsward@.service"])
def test_the_sandbox_is_as_close_as_systemd_can_tell(unit):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=10", UNITS / unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.no_binary
@pytest.mark.parametrize("kind", ["service", "socket"])
def test_an_instance_differs_from_the_unit_by_its_name_alone(kind):
    one = (UNITS / f"kmsward.{kind}").read_text()
    for former, instances in [
        (r"(Description=.*)", r"\1 for %i"),
        (r"(kmsward|kmsward-metrics)\.socket", r"\1@%i.socket"),
        (r"/etc/kmsward/kmsward\.yaml", "/etc/kmsward/%i.yaml"),
        (r"/run/kmsward/", "/run/kmsward/%i/"),
        (r"(StateDirectory=kmsward)", r"\1/%i"),
        (r"(?m)^(LoadCredential=)(.*)", r"\1\2:%i.\2"),
        # Its socket for metrics is made by hand, and enabled with it.
        (r"(Also=kmsward@%i.socket).*", r"\1"),
    ]:
        one = re.sub(former, instances, one)
    assert re.sub(r"(?m)^#.*\n", "", one) == re.sub(r"(?m)^#.*\n", "", (UNITS / f"kmsward@.{kind}").read_text())


# Boot


def stand_in(machine, unit, *more):
    """A unit in the place of kube-apiserver.service, that makes its calls as soon as it is started."""
    machine.write(
        f"/etc/systemd/system/{unit}",
        "\n".join(
            [
                "[Unit]",
                "StartLimitIntervalSec=0",
                *more,
                "[Service]",
                "Type=oneshot",
                "RemainAfterExit=yes",
                "Restart=on-failure",
                "RestartSec=1",
                f"ExecStart=/mnt/goclient -socket {SOCKET} -timeout 10s roundtrip",
                "[Install]",
                "WantedBy=multi-user.target",
                "",
            ]
        ),
    )
    machine.run("systemctl", "enable", unit)


def answers(machine, unit):
    """What the runs of a stand-in printed, oldest first."""
    return [json.loads(line) for line in log(machine, unit).splitlines() if line.startswith("{")]


def began(machine, unit):
    return int(machine.property(unit, "InactiveExitTimestampMonotonic"))


def ready(machine):
    return int(machine.property("kmsward.service", "ActiveEnterTimestampMonotonic"))


def test_an_api_server_that_starts_at_boot_never_meets_a_refused_connection(machine):
    stand_in(machine, "kube-apiserver.service")
    # Ordered after the socket alone, as a process that nobody told of the daemon.
    stand_in(machine, "hasty.service", "DefaultDependencies=no", "After=kmsward.socket")
    machine.run("systemctl", "enable", "kmsward.service")
    machine.reboot()
    for unit in ("kube-apiserver.service", "hasty.service"):
        eventually(lambda: machine.state(unit) == "active", f"{unit} has made its calls")  # noqa: B023
        (made,) = answers(machine, unit)
        assert made["refused"] == 0 and "error" not in made, made
    assert ready(machine) <= began(machine, "kube-apiserver.service"), "it waited for READY=1"
    assert began(machine, "hasty.service") < ready(machine), "this one did not"
    assert machine.property("kmsward.service", "NRestarts") == "0"


def test_a_key_service_that_hangs_at_boot_delays_it_for_a_while_and_is_taken_up_when_it_answers(machine):
    with booted.CloudInside(machine) as fake:
        machine.configure_jdcloud_key(fake)
        machine.shell(f"echo 127.0.0.1 {HOST} >> /etc/hosts")
        machine.allow_network()
        stand_in(machine, "kube-apiserver.service")
        deaf = f"import socket, time; s = socket.create_server((\"127.0.0.1\", {fake.https_port})); time.sleep(1000)"
        machine.write("/etc/systemd/system/deaf.service", f"[Service]\nExecStart=python3 -c '{deaf}'\n")
        machine.run("systemctl", "add-wants", "sockets.target", "deaf.service")
        machine.run("systemctl", "enable", "kmsward.service")
        # It has the port now, and the machine another network.
        fake.stop()
        machine.reboot()
        status = lambda: machine.property("kmsward.service", "StatusText")  # noqa: E731
        eventually(lambda: status().startswith("starting; key primary not known yet"), "it says what it waits for")
        assert machine.state("kmsward.service") == "activating"
        eventually(lambda: ready(machine), "READY=1 all the same", patience=60)
        assert status().startswith("serving; key primary "), status()
        assert "primary ok" not in status()
        eventually(lambda: answers(machine, "kube-apiserver.service"), "the API server has asked", patience=60)
        assert ready(machine) <= began(machine, "kube-apiserver.service")
        daemon = pid(machine)
        machine.run("systemctl", "stop", "deaf.service")
        fake.start()
        eventually(lambda: machine.state("kube-apiserver.service") == "active", "it is served", patience=90)
        made = answers(machine, "kube-apiserver.service")
        assert "code = Unavailable" in made[0]["error"] and "error" not in made[-1], made
        assert [one["refused"] for one in made] == [0] * len(made)
        assert pid(machine) == daemon and machine.property("kmsward.service", "NRestarts") == "0"
        eventually(lambda: status().startswith("serving; key primary ok"), "the status is well again")


def test_a_client_that_connects_before_the_daemon_waits_in_the_socket(machine):
    machine.run("systemctl", "start", "kmsward.socket")
    # Not `start kmsward.service`: the connection itself does it.
    early = client(machine, "-timeout", "30s", "roundtrip")
    assert "error" not in result(early) and early.returncode == 0
    assert machine.state("kmsward.service") == "active"


# Restarts and crashes


@contextlib.contextmanager
def restarted(machine):
    machine.run("systemctl", "restart", "kmsward.service")
    yield


@contextlib.contextmanager
def stopped(machine):
    machine.run("systemctl", "stop", "kmsward.service")
    assert machine.state("kmsward.service") == "inactive"
    yield


def fails_again_and_again(machine):
    assert machine.run("systemctl", "restart", "kmsward.service", check=False).returncode != 0
    eventually(lambda: int(machine.property("kmsward.service", "NRestarts")) >= 2, "it is started again and again")


@contextlib.contextmanager
def failing_to_start(machine):
    folder = "/etc/systemd/system/kmsward.service.d"
    machine.write(f"{folder}/fails.conf", "[Service]\nExecStartPre=/bin/false\n")
    machine.run("systemctl", "daemon-reload")
    fails_again_and_again(machine)
    probe = machine.run("curl", "-sS", "-m", "1", "http://127.0.0.1:9464/livez", check=False)
    assert probe.returncode == 28, "a check of health waits too, and needs a timeout (docs/systemd.md)"
    yield
    machine.run("rm", "-r", folder)
    machine.run("systemctl", "daemon-reload")


@contextlib.contextmanager
def with_a_broken_configuration(machine):
    good = machine.run("cat", CONFIGURATION).stdout
    machine.write(CONFIGURATION, "keys: [{name: primary, locl: {}}]\n")
    fails_again_and_again(machine)
    assert "status=78" in machine.journal()
    assert "locl" in log(machine), "the journal says what is wrong"
    yield
    machine.write(CONFIGURATION, good)


@pytest.mark.parametrize("trouble", [restarted, stopped, failing_to_start, with_a_broken_configuration])
def test_whatever_becomes_of_the_daemon_the_socket_stays_for_all_who_know_it(machine, trouble):
    serve(machine)
    inode = machine.run("stat", "-c", "%i", SOCKET).stdout
    elsewhere = "/seen/from/a/pod"
    machine.run("mkdir", "-p", elsewhere)
    machine.run("mount", "--bind", "/run/kmsward", elsewhere)
    paths = (SOCKET, f"{elsewhere}/kms.sock")
    with trouble(machine):
        assert machine.state("kmsward.socket") == "active"
        waiting = [client(machine, "-timeout", "60s", "roundtrip", path=path) for path in paths]
    for one in waiting:
        made = result(one)
        assert one.returncode == 0 and "error" not in made and made["refused"] == 0, made
    assert machine.run("stat", "-c", "%i", SOCKET).stdout == inode, "the same socket all along"
    assert machine.state("kmsward.service") == "active"


# They take a minute, and several on a machine that does much else.
@pytest.mark.timeout(900)
def test_a_hundred_restarts_cost_no_call_and_crashes_only_those_in_flight(goclient):
    """The drill itself, without the journal. It fails if a restart costs a call, or a crash more than were in flight."""
    command = ["--restarts", "100", "--kills", "5", "--seconds", "0", "--timeout", "10s", "--client", goclient]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "ops" / "drill" / "restarts", *command],
        capture_output=True, text=True, timeout=840, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_daemon_that_crashes_more_often_than_systemd_usually_allows_is_started_again(machine):
    serve(machine)
    for _ in range(6):
        before = pid(machine)
        machine.shell(f"kill -SEGV {before}; while kill -0 {before} 2>/dev/null; do sleep 0.01; done")
        late = client(machine, "-timeout", "30s", "roundtrip")
        assert "error" not in result(late) and late.returncode == 0, "it waited for the next daemon"
        assert pid(machine) not in (before, "0")
    assert machine.state("kmsward.socket") == "active"


MEMORY = pathlib.Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no memory controller of cgroup v1 to end a process with")
def test_the_kernel_ends_a_daemon_without_memory_and_the_next_one_serves(machine):
    (own,) = re.findall(r"^\d+:memory:(.*)$", pathlib.Path("/proc/self/cgroup").read_text(), re.M)
    group = pathlib.Path(f"{MEMORY}{own}") / machine.name
    serve(machine)
    before = pid(machine)
    load = Load(machine)
    outside = [one for one in booted.descendants(machine.process.pid) if f"\nNSpid:\t{one}\t{before}\n" in namespaces(one)]
    group.mkdir()
    try:
        # Not a page more than it has.
        (group / "memory.limit_in_bytes").write_text("0")
        (group / "cgroup.procs").write_text(str(outside[0]))
        eventually(lambda: pid(machine) not in (before, "0"), "the next one is there")
        assert "oom_kill 1" in (group / "memory.oom_control").read_text()
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text(), "nobody is left in it")
        group.rmdir()
    round_trip(machine)
    made = load.result()
    assert made["failed"] <= 8, made
    assert "status=9/KILL" in machine.journal()


def namespaces(process):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{process}/status").read_text()
    return ""


def test_the_watchdog_ends_a_daemon_whose_engine_hangs(boot):
    assert DEBUG_BINARY.exists(), f"no binary at {DEBUG_BINARY}: swift build --product kmsward, or KMSWARD_DEBUG_BIN"
    machine = boot(binary=DEBUG_BINARY)
    machine.write("/etc/systemd/system/kmsward.service.d/soon.conf", "[Service]\nWatchdogSec=2\n")
    machine.run("systemctl", "daemon-reload")
    serve(machine)
    before = pid(machine)
    # The engine thread is held from now on.
    machine.run("kill", "-USR1", before)
    eventually(lambda: pid(machine) not in (before, "0"), "the next one is there")
    assert "Watchdog timeout (limit 2s)" in machine.journal("-u", "kmsward")
    assert machine.property("kmsward.service", "NRestarts") == "1"
    round_trip(machine)


# Sandbox, network and metrics


def test_it_runs_as_nobody_in_particular_and_says_so_in_fields(machine):
    serve(machine)
    process = pid(machine)
    status = machine.run("cat", f"/proc/{process}/status").stdout
    assert re.search(r"^CapEff:\s+0+$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    assert re.search(r"^Seccomp:\s+2$", status, re.M)
    user = machine.run("id", "-u", "kmsward").stdout.strip()
    assert re.search(rf"^Uid:\s+{user}\s+{user}\s+{user}\s+{user}$", status, re.M)
    assert machine.run("readlink", f"/proc/{process}/ns/net").stdout != machine.run("readlink", "/proc/1/ns/net").stdout
    metrics = machine.run("curl", "-sf", "http://127.0.0.1:9464/metrics").stdout
    assert "kmsward_memory_locked 1" in metrics
    entries = [json.loads(line) for line in machine.journal("-u", "kmsward", "-o", "json").splitlines()]
    ours = [entry for entry in entries if entry.get("_COMM") == "kmsward"]
    assert any(entry.get("MESSAGE") == "ready" for entry in ours), ours
    # Native entries, and nothing from a library that nobody asked for.
    assert {entry["_TRANSPORT"] for entry in ours} == {"journal"}, ours
    assert [entry["MESSAGE"] for entry in entries if int(entry["PRIORITY"]) <= 4] == []


def test_keys_are_served_though_the_port_of_the_metrics_is_taken(machine):
    taken = machine.start(
        "python3", "-c", "import socket; s = socket.create_server(('127.0.0.1', 9464)); print(flush=True); input()",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert taken.stdout.readline() == b"\n"
    serve(machine)
    round_trip(machine)
    assert machine.state("kmsward-metrics.socket") == "failed", "systemctl --failed shows it"
    assert log(machine).count("kmsward-metrics.socket") == 1, "and the daemon says it once"
    taken.communicate(b"\n")
    # Free again: the next start brings them back.
    machine.run("systemctl", "restart", "kmsward.service")
    assert machine.run("curl", "-sf", "http://127.0.0.1:9464/readyz").stdout == "ok\n"


def test_a_remote_key_needs_a_drop_in_and_says_so(machine, cloud):
    machine.configure_jdcloud_key(cloud)
    assert machine.run("systemctl", "start", "kmsward.service", check=False).returncode != 0
    assert "status=78" in machine.journal("-u", "kmsward")
    (said,) = {line for line in log(machine).splitlines() if "remote-keys.conf" in line}
    # What it says is done as it says it.
    machine.run("install", "-D", "-m", "644", "/media/remote-keys.conf", "/usr/share/kmsward/remote-keys.conf")
    machine.shell(re.search(r"install -D [^(]*", said)[0])
    machine.run("systemctl", "daemon-reload")
    serve(machine)
    round_trip(machine)
    assert cloud.calls("encrypt") > 0, "by the name that DNS knows"


def test_addresses_that_are_not_allowed_are_out_of_reach(machine, cloud):
    machine.configure_jdcloud_key(cloud)
    machine.allow_network()
    machine.shell(
        "sed -i 's/^IPAddressAllow=any/IPAddressAllow=192.0.2.0\\/24/' /etc/systemd/system/kmsward.service.d/remote-keys.conf"
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "kmsward.service")
    assert machine.property("kmsward.service", "StatusText").startswith("serving; key primary FAILED: ")
    assert cloud.calls() == 0


# Instances


def test_two_instances_have_nothing_to_do_with_each_other(machine):
    names = ("blue", "green")
    for port, name in enumerate(names, 9465):
        machine.run("kmsward", "key", "init", "--file", f"/etc/kmsward/{name}.keys")
        machine.run("chown", "kmsward", f"/etc/kmsward/{name}.keys")
        machine.write(f"/etc/kmsward/{name}.yaml", f"keys: [{{name: primary, local: {{file: /etc/kmsward/{name}.keys}}}}]\n")
        metrics = f"/etc/systemd/system/kmsward-metrics@{name}.socket"
        machine.run("install", "-m", "644", "/media/kmsward-metrics@.socket", metrics)
        machine.run("sed", "-i", f"s/^ListenStream=.*/ListenStream=127.0.0.1:{port}/", metrics)
        machine.run("systemctl", "enable", "--now", f"kmsward-metrics@{name}.socket", f"kmsward@{name}.service")
    serve(machine)
    blue, green = (f"/run/kmsward/{name}/kms.sock" for name in names)
    ids = {round_trip(machine, path)["key_id"] for path in (SOCKET, blue, green)}
    assert len(ids) == 3, "each has a key of its own"
    for port in (9464, 9465, 9466):
        assert machine.run("curl", "-sf", f"http://127.0.0.1:{port}/readyz").stdout == "ok\n"
    for name in ("", *(f"/{name}" for name in names)):
        machine.run("test", "-f", f"/var/lib/kmsward{name}/keyring.json")
    calm = [Load(machine, rate=200, path=path) for path in (SOCKET, green)]
    others = [pid(machine), pid(machine, "kmsward@green.service")]
    machine.run("systemctl", "kill", "-s", "KILL", "kmsward@blue.service")
    round_trip(machine, blue)
    machine.run("systemctl", "restart", "kmsward@blue.service")
    machine.write("/etc/kmsward/blue.yaml", "keys: [{name: primary, locl: {}}]\n")
    assert machine.run("systemctl", "reload", "kmsward@blue.service", check=False).returncode != 0
    assert "keys[0].locl" in log(machine, "kmsward@blue.service") and "locl" not in log(machine)
    machine.run("systemctl", "reload", "kmsward@green.service")
    machine.run("systemctl", "stop", "kmsward@blue.service", "kmsward@blue.socket", "kmsward-metrics@blue.socket")
    assert [one.result()["failed"] for one in calm] == [0, 0]
    assert [pid(machine), pid(machine, "kmsward@green.service")] == others


@pytest.mark.parametrize("name", ["", "blue"])
def test_what_the_unit_of_the_socket_decides_is_said_with_the_way_to_change_it(machine, name):
    unit, folder = (f"kmsward@{name}", f"/run/kmsward/{name}") if name else ("kmsward", "/run/kmsward")
    keys = "keys: [{name: primary, local: {file: /etc/kmsward/local.keys}}]\n"
    machine.write(f"/etc/kmsward/{name or 'kmsward'}.yaml", keys + "socket: {mode: '0600', group: kmsward}\nmetrics: {listen: 'off'}\n")
    machine.run("systemctl", "mask", "kmsward-metrics.socket")
    serve(machine, f"{unit}.service")
    (said,) = [line for line in log(machine, f"{unit}.service").splitlines() if "KW-CONFIG-REMARK" in line]
    assert f"write SocketMode=0600 with `systemctl edit {unit}.socket`, below [Socket]" in said
    # What it says is done as it says it.
    machine.write(f"/etc/systemd/system/{unit}.socket.d/override.conf", "[Socket]\nSocketMode=0600\n")
    machine.run("systemctl", "daemon-reload")
    mark = machine.run("date", "+%s.%N").stdout.strip()
    machine.run("systemctl", "restart", f"{unit}.socket", f"{unit}.service")
    assert machine.run("stat", "-c", "%a", f"{folder}/kms.sock").stdout == "600\n"
    round_trip(machine, f"{folder}/kms.sock")
    assert "KW-CONFIG-REMARK" not in machine.journal("-o", "cat", "-u", unit, f"--since=@{mark}")


# Reload


def reload(machine):
    return machine.run("systemctl", "reload", "kmsward.service", check=False).returncode


def test_systemctl_reload_waits_and_fails_with_the_reason_where_it_is_refused(machine):
    serve(machine)
    good = machine.run("cat", CONFIGURATION).stdout
    before = pid(machine)
    in_effect = "the new configuration is in effect"
    # There when the command returns, so nothing is waited for here.
    machine.write(CONFIGURATION, good + "log: {level: debug}\n")
    assert reload(machine) == 0 and in_effect in log(machine)
    broken = {
        "wrong": lambda: machine.write(CONFIGURATION, good + "lg: {level: debug}\n"),
        "half-written": lambda: machine.write(CONFIGURATION, good[: len(good) // 2]),
        "empty": lambda: machine.write(CONFIGURATION, ""),
        "unreadable": lambda: machine.run("chmod", "000", CONFIGURATION),
        "gone": lambda: machine.run("rm", CONFIGURATION),
    }
    words = {"wrong": "lg: unknown option", "unreadable": "ermission denied", "gone": "o such file"}
    for name, breaks in broken.items():
        breaks()
        mark = machine.run("date", "+%s.%N").stdout.strip()
        assert reload(machine) == 1, name
        said = machine.journal("-o", "cat", "-u", "kmsward", f"--since=@{mark}")
        assert "the new configuration is refused; the former one goes on" in said, said
        assert words.get(name, CONFIGURATION) in said, said
        assert machine.state("kmsward.service") == "active" and pid(machine) == before
        round_trip(machine)
        machine.write(CONFIGURATION, good)
    assert reload(machine) == 0
    assert pid(machine) == before


def test_a_reload_shows_in_the_state_of_the_unit(machine):
    serve(machine)
    machine.run("systemctl", "log-level", "debug")
    # By itself, without a command that systemd would wait for.
    machine.run("kill", "-HUP", pid(machine))
    told = lambda: machine.journal("_PID=1", "-o", "cat")  # noqa: E731
    eventually(lambda: "kmsward.service: Changed reload -> running" in told(), "the reload has ended")
    assert re.search("Got notification message from PID .*RELOADING=1.*Changed running -> reload.*READY=1", told(), re.S)
    assert machine.state("kmsward.service") == "active"


def test_fifty_reloads_under_load_fail_no_call(machine):
    serve(machine)
    before = pid(machine)
    good = machine.run("cat", CONFIGURATION).stdout
    machine.run("kmsward", "key", "init", "--file", "/etc/kmsward/second.keys")
    machine.run("chown", "kmsward", "/etc/kmsward/second.keys")
    second = "  - {name: second, local: {file: /etc/kmsward/second.keys}}\n"
    keys = "keys:\n  - {name: primary, local: {file: /etc/kmsward/local.keys}}\n"
    assert good.startswith("keys: ")
    load = Load(machine)
    for number in range(50):
        machine.write(CONFIGURATION, keys + second * (number % 2) + f"cache: {{entries: {1000 + number}}}\n")
        assert reload(machine) == 0, log(machine)
    made = load.result()
    assert made["failed"] == 0 and made["ok"] > 500, made
    assert log(machine).count("the new configuration is in effect") >= 50
    assert pid(machine) == before


# Credentials


def other_account(cloud, access_key):
    cloud.control("POST", "/accounts", {"access_key": access_key, "secret_key": SECRET_KEY})


def writes(machine):
    """Whether a key that has to ask its service for every write does write."""
    return machine.run("/mnt/goclient", "-socket", SOCKET, "-timeout", "10s", "roundtrip", check=False).returncode == 0


def signed_by(cloud):
    return cloud.log()[-1]["access_key"]


def test_credentials_are_rotated_by_replacing_their_file(machine, cloud):
    machine.configure_jdcloud_key(cloud, write_format="compatible")
    machine.allow_network()
    serve(machine)
    round_trip(machine)
    before = pid(machine)
    load = Load(machine, rate=50)
    other_account(cloud, "TESTAKOTHER")
    # As a configuration tool does.
    machine.write("/etc/kmsward/new", "TESTAKOTHER\n", mode="640")
    machine.run("chgrp", "kmsward", "/etc/kmsward/new")
    machine.run("mv", "/etc/kmsward/new", "/etc/kmsward/access_key_file")
    eventually(lambda: signed_by(cloud) == "TESTAKOTHER", "the new ones sign")
    cloud.account(ACCESS_KEY, "revoke")
    made = cloud.calls("encrypt")
    eventually(lambda: cloud.calls("encrypt") > made + 20, "calls go on")
    assert signed_by(cloud) == "TESTAKOTHER"
    assert load.result()["failed"] == 0
    assert pid(machine) == before


@pytest.mark.parametrize("store", ["credstore", "credstore.encrypted"])
def test_credentials_that_root_alone_can_read_are_handed_to_it(machine, cloud, store):
    machine.configure_jdcloud_key(cloud, credentials={"source": "systemd"}, write_format="compatible")
    machine.allow_network()

    def put(name, text):
        path = f"/etc/{store}/{name}"
        if store == "credstore":
            machine.write(path, text, mode="600")
        else:
            machine.run("mkdir", "-p", f"/etc/{store}")
            machine.run("systemd-creds", "encrypt", "--with-key=host", f"--name={name}", "-", path, input=text)

    if store != "credstore":
        drop_in = "/etc/systemd/system/kmsward.service.d"
        machine.run("install", "-D", "-m", "644", "-t", drop_in, "/media/encrypted-credentials.conf")
        machine.run("systemctl", "daemon-reload")
    put("jdcloud-access-key", ACCESS_KEY)
    put("jdcloud-secret-key", SECRET_KEY)
    serve(machine)
    round_trip(machine)
    # systemd hands them over at a start.
    other_account(cloud, "TESTAKOTHER")
    cloud.account(ACCESS_KEY, "revoke")
    put("jdcloud-access-key", "TESTAKOTHER")
    machine.run("systemctl", "restart", "kmsward.service")
    round_trip(machine)
    assert signed_by(cloud) == "TESTAKOTHER"


def test_a_key_file_can_be_a_credential(machine):
    machine.run("install", "-D", "-m", "600", "/etc/kmsward/local.keys", "/etc/credstore/local.keys")
    machine.run("rm", "/etc/kmsward/local.keys")
    file = "/run/credentials/kmsward.service/local.keys"
    machine.write(CONFIGURATION, f"keys: [{{name: primary, local: {{file: {file}}}}}]\n")
    serve(machine)
    round_trip(machine)
    machine.write("/etc/kmsward/blue.yaml", f"keys: [{{name: primary, local: {{file: {file.replace('.service', '@blue.service')}}}}}]\n")
    machine.run("mv", "/etc/credstore/local.keys", "/etc/credstore/blue.local.keys")
    serve(machine, "kmsward@blue.service")
    round_trip(machine, "/run/kmsward/blue/kms.sock")


# The journal


def calls_logged(machine):
    """A configuration whose every call is a line of the log."""
    machine.shell(f"echo 'log: {{level: trace}}' >> {CONFIGURATION}")
    serve(machine)


def few_calls(machine):
    done = machine.run(
        "/mnt/goclient", "-socket", SOCKET, "-timeout", "3s", "-n", 4000, "-rate", 1000, "load", check=False
    )
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["ok"] == 4000 and made["failed"] == 0, made


def test_calls_do_not_wait_for_a_stopped_journald(machine):
    calls_logged(machine)
    journald = pid(machine, "systemd-journald.service")
    machine.run("kill", "-STOP", journald)
    try:
        few_calls(machine)
    finally:
        machine.run("kill", "-CONT", journald)
    assert pid(machine) in machine.journal("-u", "kmsward", "-o", "export"), "and it goes on when journald does"


def test_calls_do_not_wait_for_a_full_journald(machine):
    calls_logged(machine)
    booted.fill_journal(machine)
    few_calls(machine)
