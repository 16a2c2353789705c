"""The Debian package on a real systemd: installed, upgraded under load, taken back, removed and purged."""

import json
import os
import re
import shutil
import subprocess

import pytest

import booted
from booted import SOCKET
from daemon import BINARY, eventually, short_directory
from kms import REPOSITORY

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="a systemd can be booted by root only")]


@pytest.fixture(scope="module")
def packages():
    """The paths of two packages of the same binary, the older first."""
    out = short_directory()
    made = []
    for revision in ("1", "2"):
        done = subprocess.run(
            [REPOSITORY / "ops" / "packaging" / "deb", out, BINARY, revision],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append(done.stdout.strip())
    yield made
    shutil.rmtree(out)


@pytest.fixture
def machine(goclient, packages):
    # Not the binary: that is what the package brings.
    one = booted.Machine(
        f"--bind-ro={os.path.dirname(goclient)}:/opt", f"--bind-ro={os.path.dirname(packages[0])}:/srv", binary=False
    )
    # A container's policy against starting daemons, which a host does not have.
    one.run("rm", "-f", "/usr/sbin/policy-rc.d")
    try:
        yield one
    finally:
        one.stop()


def install(machine, package, check=True):
    path = f"/srv/{os.path.basename(package)}"
    return machine.run("dpkg", "--install", "--force-confold", path, check=check, timeout=60)


def set_up(machine, package):
    install(machine, package)
    machine.configure_local_key()
    machine.run("systemctl", "start", "kmsward.socket", "kmsward.service")


def load(machine, calls):
    return machine.start(
        "/opt/goclient", "-socket", SOCKET, "-timeout", "30s", "-n", calls, "-c", "8", "load",
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process):
    said, _ = process.communicate(timeout=120)
    return json.loads(said.splitlines()[-1])


def test_lintian_finds_no_error(packages):
    command = ["lintian", "--allow-root", "--fail-on", "error", packages[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_same_commit_gives_the_same_package(packages):
    again = short_directory()
    try:
        subprocess.run([REPOSITORY / "ops" / "packaging" / "deb", again, BINARY, "1"], check=True, capture_output=True)
        (other,) = again.glob("*.deb")
        with open(packages[0], "rb") as one, open(other, "rb") as two:
            assert one.read() == two.read()
    finally:
        shutil.rmtree(again)


def test_a_fresh_installation_says_what_to_do_next_and_then_does_it(machine, packages):
    done = install(machine, packages[0])
    assert "kmsward key init" in done.stderr and "systemctl start" in done.stderr
    assert machine.state("kmsward.service") == "inactive", "there is no key yet"
    for unit in ("kmsward.socket", "kmsward.service"):
        assert machine.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    assert machine.run("stat", "-c", "%a %U %G", "/etc/kmsward", "/etc/kmsward/kmsward.yaml").stdout.split("\n")[:2] == [
        "750 root kmsward", "640 root kmsward",
    ]  # fmt: skip
    # As it says, with the configuration as it came.
    machine.run("kmsward", "key", "init", "--file", "/etc/kmsward/local.keys")
    machine.run("chown", "kmsward", "/etc/kmsward/local.keys")
    machine.run("systemctl", "start", "kmsward.socket", "kmsward.service")
    assert machine.run("/opt/goclient", "-socket", SOCKET, "roundtrip").returncode == 0
    machine.run("man", "-w", "8", "kmsward")
    assert "complete" in machine.run("cat", "/usr/share/bash-completion/completions/kmsward").stdout


def test_upgrade_and_downgrade_under_load_fail_no_call(machine, packages):
    set_up(machine, packages[0])
    before = machine.property("kmsward.service", "MainPID")
    calls = load(machine, 60_000)
    install(machine, packages[1])
    upgraded = machine.property("kmsward.service", "MainPID")
    assert upgraded not in ("0", before), "the new one serves"
    install(machine, packages[0])
    assert machine.property("kmsward.service", "MainPID") not in ("0", upgraded), "and the old one again"
    out = result(calls)
    assert out["failed"] == 0 and out["ok"] == 60_000, out


def test_an_upgrade_leaves_a_daemon_alone_that_holds_what_a_new_one_could_not_get(machine, packages):
    set_up(machine, packages[0])
    machine.shell("echo 'rotation: {observe_every: 1s}' >> /etc/kmsward/kmsward.yaml && systemctl restart kmsward.service")
    before = machine.property("kmsward.service", "MainPID")
    machine.run("mv", "/etc/kmsward/local.keys", "/etc/kmsward/away")
    status = lambda: machine.property("kmsward.service", "StatusText")  # noqa: E731
    eventually(lambda: "riding through" in status() or "FAILED" in status(), "the trouble is known", patience=60)
    said = install(machine, packages[1]).stderr
    assert "not restarted" in said and "systemctl restart kmsward" in said
    assert machine.property("kmsward.service", "MainPID") == before
    assert machine.run("/opt/goclient", "-socket", SOCKET, "roundtrip").returncode == 0, "it goes on"


def test_an_upgrade_leaves_a_daemon_alone_whose_configuration_is_broken(machine, packages):
    set_up(machine, packages[0])
    before = machine.property("kmsward.service", "MainPID")
    machine.write("/etc/kmsward/kmsward.yaml", "keys: [{name: primary, locl: {}}]\n")
    said = install(machine, packages[1]).stderr
    assert "not restarted" in said and re.search(r"kmsward\.yaml:1:\d+: .*locl", said), said
    assert machine.property("kmsward.service", "MainPID") == before


def test_removal_and_purge_leave_keys_and_say_so(machine, packages):
    set_up(machine, packages[0])
    key = machine.run("cat", "/etc/kmsward/local.keys").stdout
    machine.run("dpkg", "--remove", "kmsward")
    assert machine.state("kmsward.service") == "inactive" and machine.state("kmsward.socket") == "inactive"
    assert machine.run("cat", "/etc/kmsward/kmsward.yaml").stdout, "the configuration stays until the purge"
    said = machine.run("dpkg", "--purge", "kmsward")
    assert "left as it is: /etc/kmsward" in said.stderr
    assert machine.run("cat", "/etc/kmsward/local.keys").stdout == key
    assert machine.run("test", "-e", "/etc/kmsward/kmsward.yaml", check=False).returncode == 1
    # And all is there again for whoever purged by mistake.
    install(machine, packages[1])
    machine.run("systemctl", "start", "kmsward.socket", "kmsward.service")
    assert machine.run("/opt/goclient", "-socket", SOCKET, "roundtrip").returncode == 0
