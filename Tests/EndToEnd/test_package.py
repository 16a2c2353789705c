"""The Debian package on a real systemd: installed, upgraded under load, taken back, removed and purged."""

import os
import re
import shutil
import subprocess

import pytest

import booted
import packaged
from booted import SOCKET, UNITS, Load
from daemon import eventually
from kms import REPOSITORY
from packaged import install

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="a systemd can be booted by root only")]


def changed(package, version, change=lambda tree: None):
    """The same with another version, and what `change` does to its files."""
    other = package.with_name(f"kmsward_{version}.deb")
    tree = other.with_suffix("")
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text()))
    change(tree)
    command = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", tree, other]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(tree)
    return other


@pytest.fixture(scope="module")
def packages(package):
    """The paths of two packages of the same binary, the older first."""
    return package, changed(package, "9.0-1")


def with_a_network(tree):
    """As it was when the unit had a network and a port for metrics of its own, and there were no instances."""
    units = tree / "lib" / "systemd" / "system"
    for gone in ("kmsward-metrics.socket", "kmsward@.service", "kmsward@.socket"):
        (units / gone).unlink()
    shutil.rmtree(tree / "usr" / "share" / "kmsward")
    unit = (units / "kmsward.service").read_text()
    for now, then in [
        (r"(?m)^PrivateNetwork=.*\n|^IPAddressDeny=.*\n|^Wants=.*\n", ""),
        (r"(?m)^RestrictAddressFamilies=.*", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"),
        (r"(?m)^ExecReload=.*", "ExecReload=/bin/kill -HUP $MAINPID"),
        (r" kmsward-metrics\.socket", ""),
    ]:
        unit, count = re.subn(now, then, unit)
        assert count > 0, now
    (units / "kmsward.service").write_text(unit)
    for script in (tree / "DEBIAN").glob("p*"):
        script.write_text(script.read_text().replace("kmsward-metrics.socket", ""))


@pytest.fixture
def machine(goclient, package):
    with packaged.machine(package, goclient) as one:
        yield one


def set_up(machine, package):
    install(machine, package)
    machine.configure_local_key()
    machine.run("systemctl", "start", "kmsward.service")


def round_trip(machine, path=SOCKET):
    done = machine.run("/mnt/goclient", "-socket", path, "-timeout", "10s", "roundtrip", check=False)
    assert done.returncode == 0, done.stdout + machine.journal("-u", "kmsward")


def test_lintian_finds_no_error(package, folder):
    command = ["lintian", "--allow-root", "--fail-on", "error", package]
    # It leaves files behind there.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout


def test_the_same_commit_gives_the_same_package(package, folder):
    assert packaged.build(folder).read_bytes() == package.read_bytes()


# Documentation


@pytest.fixture(scope="module")
def tree(package, tmp_path_factory):
    """The files of the package."""
    path = tmp_path_factory.mktemp("tree")
    subprocess.run(["dpkg-deb", "--extract", package, path], check=True)
    return path


def anchors(page):
    """What a link to a heading of the page may name, as GitHub makes it."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_of_an_installed_page_leads_somewhere(tree):
    root = tree / "usr" / "share" / "doc" / "kmsward"
    pages = sorted(root.rglob("*.md"))
    met = set()
    for page in pages:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            kept = re.fullmatch(r"https://github\.com/kmsward/kmsward/blob/main/([^#]+)(?:#.*)?", link)
            if kept:
                assert (REPOSITORY / kept[1]).exists(), f"{page.name}: {link}"
                assert not (root / kept[1]).exists(), f"{page.name}: {link} is installed"
                continue
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists() and target.is_relative_to(root), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"
            met.add(target)
    for name in ("docs/systemd.md", "docs/configuration.md", "runbooks/README.md", "examples/manifests"):
        assert root / name in met, f"nobody leads to {name}"
    assert not [page for page in pages if page not in met and page.parent.name == "runbooks"]
    assert not list(root.rglob("*.md.gz")), "a link does not lead to a packed page"


def manual(tree):
    """The manual page as it is read."""
    page = tree / "usr" / "share" / "man" / "man8" / "kmsward.8.gz"
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "120", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(["man", "--warnings", "--local-file", page], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    return done.stdout


def test_the_manual_names_every_file_by_a_path_that_exists(tree):
    files = manual(tree).partition("\nFILES\n")[2].partition("\nSEE ALSO\n")[0]
    named = {path.rstrip(".,") for path in re.findall(r"/\S+", files)}
    for path in named:
        # What is made by an administrator or by the daemon is in no package.
        if path.startswith("/usr/"):
            assert (tree / path.lstrip("/")).exists(), path
    own = [tree / "usr" / "share" / "kmsward", tree / "etc"]
    packed = {f"/{file.relative_to(tree)}" for folder in own for file in folder.rglob("*") if file.is_file()}
    assert packed and packed <= named, packed - named
    unit = (UNITS / "kmsward.service").read_text()
    credentials = re.findall(r"(?m)^LoadCredential=(.*)$", unit)
    assert credentials and all(re.search(rf"\b{name}\b", files) for name in credentials)
    (key_file,) = re.findall(r"(?m)^ +file: (\S+)", (tree / "etc" / "kmsward" / "kmsward.yaml").read_text())
    assert {
        key_file, SOCKET, "/var/lib/kmsward/keyring.json", "/etc/credstore/CREDENTIAL", "/etc/credstore.encrypted/CREDENTIAL",
        "/run/credentials/kmsward.service/CREDENTIAL", "/usr/share/doc/kmsward/docs", "/usr/share/doc/kmsward/runbooks",
    } <= named  # fmt: skip


# Installation


def test_a_fresh_installation_says_what_to_do_next_and_then_does_it(machine, packages):
    done = install(machine, packages[0])
    for word in ("kmsward key init", "remote-keys.conf", "systemctl start"):
        assert word in done.stderr, done.stderr
    assert machine.state("kmsward.service") == "inactive", "there is no key yet"
    for unit in ("kmsward.socket", "kmsward-metrics.socket", "kmsward.service"):
        assert machine.run("systemctl", "is-enabled", unit).stdout.strip() == "enabled"
    assert machine.run("stat", "-c", "%a %U %G", "/etc/kmsward", "/etc/kmsward/kmsward.yaml").stdout.split("\n")[:2] == [
        "2750 root kmsward", "640 root kmsward",
    ]  # fmt: skip
    # As it says, with the configuration as it came.
    machine.run("kmsward", "key", "init", "--file", "/etc/kmsward/local.keys")
    machine.run("chown", "kmsward", "/etc/kmsward/local.keys")
    machine.run("systemctl", "start", "kmsward.service")
    round_trip(machine)
    machine.run("man", "-w", "8", "kmsward")
    assert "complete" in machine.run("cat", "/usr/share/bash-completion/completions/kmsward").stdout


def test_upgrade_and_downgrade_under_load_fail_no_call(machine, packages):
    set_up(machine, packages[0])
    before = machine.property("kmsward.service", "MainPID")
    calls = Load(machine)
    install(machine, packages[1])
    upgraded = machine.property("kmsward.service", "MainPID")
    assert upgraded not in ("0", before), "the new one serves"
    install(machine, packages[0])
    assert machine.property("kmsward.service", "MainPID") not in ("0", upgraded), "and the old one again"
    round_trip(machine)
    out = calls.result()
    assert out["failed"] == 0 and out["ok"] > 100, out


def test_an_upgrade_from_a_unit_with_a_network_goes_on_under_load(machine, packages):
    """Its port for metrics becomes systemd's; a key behind a network keeps its way there."""
    former = changed(packages[0], "0.0.9-1", with_a_network)
    install(machine, former)
    with booted.CloudInside(machine) as fake:
        machine.configure_jdcloud_key(fake, write_format="compatible")
        machine.shell(f"echo 127.0.0.1 {booted.HOST} >> /etc/hosts")
        machine.run("systemctl", "start", "kmsward.service")
        before = machine.property("kmsward.service", "MainPID")
        calls = Load(machine, rate=50)
        eventually(lambda: fake.calls("encrypt") > 50, "calls of the KMS under way")
        said = install(machine, packages[0]).stderr
        assert "allows it one" in said, said
        assert machine.property("kmsward.service", "MainPID") not in ("0", before)
        served = fake.calls("encrypt")
        eventually(lambda: fake.calls("encrypt") > served + 50, "and still")
        out = calls.result()
        assert out["failed"] == 0 and out["ok"] > 100, out
        assert machine.state("kmsward-metrics.socket") == "active"
        assert machine.run("curl", "-sf", "http://127.0.0.1:9464/readyz").stdout == "ok\n"
        assert machine.run("systemctl", "reload", "kmsward.service").returncode == 0
        # And back, with its port for metrics its own again.
        install(machine, former)
        round_trip(machine)


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
    round_trip(machine)


def test_an_upgrade_leaves_a_daemon_alone_whose_key_service_is_out_of_reach(machine, packages):
    install(machine, packages[0])
    with booted.CloudInside(machine) as fake:
        machine.configure_jdcloud_key(fake)
        machine.shell(
            f"""
            echo 127.0.0.1 {booted.HOST} >> /etc/hosts
            install -D -m 644 -t /etc/systemd/system/kmsward.service.d /usr/share/kmsward/remote-keys.conf
            systemctl daemon-reload && systemctl start kmsward.service
            """
        )
        round_trip(machine)
        before = machine.property("kmsward.service", "MainPID")
        fake.stop()
        status = lambda: machine.property("kmsward.service", "StatusText")  # noqa: E731
        eventually(lambda: "riding through" in status(), "the outage is known", patience=60)
        calls = Load(machine)
        said = install(machine, packages[1]).stderr
        assert "kmsward.service is not restarted: a key has trouble" in said and "riding through" in said, said
        assert machine.property("kmsward.service", "MainPID") == before
        out = calls.result()
        assert out["failed"] == 0 and out["ok"] > 0, out
        # As it says, once the service is back.
        fake.start()
        eventually(lambda: "key primary ok" in status(), "it is over", patience=60)
        machine.shell(re.search(r"systemctl restart kmsward\S*", said)[0])
        assert machine.property("kmsward.service", "MainPID") not in ("0", before)
        round_trip(machine)


def test_an_upgrade_does_with_each_instance_what_is_safe_for_it(machine, packages):
    set_up(machine, packages[0])
    machine.run("cp", "/etc/kmsward/kmsward.yaml", "/etc/kmsward/well.yaml")
    machine.run("cp", "/etc/kmsward/kmsward.yaml", "/etc/kmsward/broken.yaml")
    units = ["kmsward@well.service", "kmsward@broken.service"]
    machine.run("systemctl", "enable", "--now", *units)
    well, broken = (machine.property(unit, "MainPID") for unit in units)
    machine.write("/etc/kmsward/broken.yaml", "keys: [{name: primary, locl: {}}]\n")
    calls = Load(machine, path="/run/kmsward/well/kms.sock")
    said = install(machine, packages[1]).stderr
    assert "kmsward@broken.service is not restarted" in said and "kmsward@well" not in said, said
    assert machine.property(units[0], "MainPID") not in ("0", well)
    assert machine.property(units[1], "MainPID") == broken
    round_trip(machine, "/run/kmsward/broken/kms.sock")
    assert calls.result()["failed"] == 0
    # As docs/systemd.md has it.
    machine.shell(
        """
        sed s/9464/9465/ /usr/share/kmsward/kmsward-metrics@.socket > /etc/systemd/system/kmsward-metrics@well.socket
        systemctl daemon-reload && systemctl enable kmsward-metrics@well.socket
        mkdir /etc/systemd/system/kmsward-metrics.socket.d
        echo '[Socket]' > /etc/systemd/system/kmsward-metrics.socket.d/mine.conf
        """
    )
    # A pod's own, in a network namespace of its own, as kubelet makes them.
    machine.run("mkdir", "/run/kmsward/pod")
    script = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/kmsward/pod/kms.sock'); s.listen(); print(flush=True); input()"
    pod = machine.start("unshare", "--net", "python3", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert pod.stdout.readline() == b"\n"
    said = machine.run("dpkg", "--purge", "kmsward").stderr
    assert machine.shell("find /run/kmsward -type s").stdout == "/run/kmsward/pod/kms.sock\n", "which somebody serves"
    pod.communicate(b"\n")
    assert [machine.state(unit) for unit in units] == ["inactive", "inactive"]
    assert machine.shell("ls -d /etc/systemd/system/kmsward* /etc/systemd/system/*.wants/kmsward* 2>/dev/null || :").stdout == (
        "/etc/systemd/system/kmsward-metrics.socket.d\n"
    )
    assert "left as it is: /etc/systemd/system/kmsward-metrics.socket.d" in said, "what nobody but the administrator made"


def test_an_upgrade_minds_no_configuration_that_its_owner_removed(machine, packages):
    set_up(machine, packages[0])
    # Only an instance, made by a careful root.
    machine.shell("umask 027; cp /etc/kmsward/kmsward.yaml /etc/kmsward/one.yaml; chmod 00750 /etc/kmsward")
    machine.run("systemctl", "disable", "--now", "kmsward.service", "kmsward.socket")
    machine.run("rm", "/etc/kmsward/kmsward.yaml")
    machine.run("systemctl", "enable", "--now", "kmsward@one.service")
    install(machine, packages[1])
    round_trip(machine, "/run/kmsward/one/kms.sock")
    assert machine.run("stat", "-c", "%a", "/etc/kmsward").stdout == "750\n", "as its owner has made it"


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
    for unit in ("kmsward.service", "kmsward.socket", "kmsward-metrics.socket"):
        assert machine.state(unit) == "inactive"
    assert machine.run("cat", "/etc/kmsward/kmsward.yaml").stdout, "the configuration stays until the purge"
    said = machine.run("dpkg", "--purge", "kmsward")
    assert "left as it is: /etc/kmsward" in said.stderr
    assert machine.run("cat", "/etc/kmsward/local.keys").stdout == key
    for gone in ("/etc/kmsward/kmsward.yaml", "/run/kmsward"):
        assert machine.run("test", "-e", gone, check=False).returncode == 1, gone
    # And all is there again for whoever purged by mistake.
    install(machine, packages[1])
    machine.run("systemctl", "start", "kmsward.service")
    round_trip(machine)
