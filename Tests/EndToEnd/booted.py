"""A real systemd, booted in a container over a throw-away overlay of this machine's root, with the product installed.

Needs root, and systemd-container from `ops/dev/install-packages test`. A boot takes about half a second; nothing is left.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from daemon import BINARY, PATIENCE, eventually, short_directory
from jdcloud_client import ACCESS_KEY, KEY, SECRET_KEY, JDCloudFake
from kms import REPOSITORY

UNITS = REPOSITORY / "ops" / "systemd"
SOCKET = "/run/kmsward/kms.sock"
#: One of the names that the fake has a certificate for.
HOST = "kms.cn-north-1.jdcloud-api.com"

# A private mount namespace hides the host's cgroups and /run; the container must not be in the root cgroup. The overlay
# stays through a reboot, for which nspawn exits with 133.
BOOT = r"""
set -eu
name=$1; shift
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
cgroup=/sys/fs/cgroup/$name
mkdir -p "$cgroup" /run/host /run/upper /run/work /run/machine
mount --bind / /run/host
mount -t overlay overlay -o lowerdir=/run/host,upperdir=/run/upper,workdir=/run/work /run/machine
target=basic.target
while :; do
    code=0
    ( echo $BASHPID >"$cgroup/cgroup.procs"
      exec systemd-nspawn --quiet --directory=/run/machine --register=no --keep-unit --machine="$name" \
        --private-network --link-journal=no --console=read-only --capability=all --system-call-filter=bpf \
        --boot "$@" "systemd.unit=$target" systemd.show_status=0 systemd.log_level=notice ) || code=$?
    [ $code = 133 ] || break
    target=multi-user.target
done
for _ in $(seq 50); do
    find "$cgroup" -depth -type d -delete 2>/dev/null || :
    [ -d "$cgroup" ] || break
    sleep 0.1
done
exit $code
"""


class Machine:
    """A running container. `run` runs a command in it."""

    def __init__(self, *binds, binary=BINARY):
        self.folder = short_directory()
        self.name = f"kw{os.getpid()}{self.folder.name[-4:]}".lower().replace("_", "x")
        self.console = open(self.folder / "console", "wb")  # noqa: SIM115  # closed by stop
        # The checkout may lie in /tmp, which is another one in there.
        shared = [f"--bind-ro={UNITS}:/media", *([f"--bind-ro={binary}:/usr/bin/kmsward"] if binary else []), *binds]
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", BOOT, "boot", self.name, *shared],
            stdin=subprocess.DEVNULL, stdout=self.console, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.leader = None
        try:
            eventually(self._is_booted, "systemd has booted")
            self.wait_until_running()
            # Whatever this host's own daemon has there.
            self.run("rm", "-rf", "/etc/kmsward", "/var/lib/kmsward")
        except BaseException:
            self.stop()
            raise

    def wait_until_running(self):
        """Until everything that starts at boot has started."""
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        assert state in ("running", "degraded"), state

    def reboot(self):
        """On the way to multi-user.target, with all that was written."""
        former = pathlib.Path("/proc") / str(self.leader)
        self.run("systemctl", "reboot", check=False)
        eventually(lambda: not former.exists(), "the machine is down")
        eventually(self._is_booted, "systemd has booted again")

    def _is_booted(self):
        assert self.process.poll() is None, (self.folder / "console").read_text()
        with contextlib.suppress(OSError):
            for pid in descendants(self.process.pid):
                if (pathlib.Path("/proc") / str(pid) / "comm").read_text() == "systemd\n":
                    self.leader = pid
                    return self.run("systemctl", "is-active", "sysinit.target", check=False).returncode == 0
        return False

    def run(self, *command, check=True, timeout=PATIENCE, **options):
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", "--", *map(str, command)],
            capture_output=True, text=True, timeout=timeout, check=False, **options,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}\n{self.journal()}"
        return done

    def shell(self, script, **options):
        return self.run("bash", "-euc", script, **options)

    def start(self, *command, **options):
        """Starts a command in it, and returns the process."""
        return subprocess.Popen(["nsenter", "-t", str(self.leader), "-a", "--", *map(str, command)], **options)

    def in_network(self, *command):
        """A command of this host, with its files, that is to have the machine's network."""
        return ["nsenter", "-t", str(self.leader), "-n", *map(str, command)]

    def write(self, path, text, mode="644"):
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, input=text)

    def install(self):
        """What the package's scripts do, as far as systemd is concerned."""
        self.shell(
            """
            install -D -m 644 /media/kmsward.sysusers /usr/lib/sysusers.d/kmsward.conf
            install -D -m 644 /media/kmsward.tmpfiles /usr/lib/tmpfiles.d/kmsward.conf
            install -D -m 644 -t /usr/lib/systemd/system /media/kmsward*.service /media/kmsward.socket /media/kmsward@.socket \
                /media/kmsward-metrics.socket
            systemd-sysusers kmsward.conf
            systemd-tmpfiles --create kmsward.conf
            install -d -m 750 -g kmsward /etc/kmsward
            systemctl daemon-reload
            """
        )

    def configure_local_key(self):
        self.run("kmsward", "key", "init", "--file", "/etc/kmsward/local.keys")
        self.run("chown", "kmsward:kmsward", "/etc/kmsward/local.keys")
        self.write("/etc/kmsward/kmsward.yaml", "keys: [{name: primary, local: {file: /etc/kmsward/local.keys}}]\n")

    def configure_jdcloud_key(self, fake, credentials=None, **options):
        """A key of the fake, by a name of JD Cloud's; with its credentials in files, if nothing else is said."""
        self.write("/etc/kmsward/ca.pem", pathlib.Path(fake.ca).read_text())
        files = {"access_key_file": ACCESS_KEY, "secret_key_file": SECRET_KEY}
        for name, text in files.items():
            self.write(f"/etc/kmsward/{name}", text + "\n", mode="640")
            self.run("chgrp", "kmsward", f"/etc/kmsward/{name}")
        block = {
            "key_id": KEY,
            "endpoint": f"{HOST}:{fake.https_port}",
            "ca_file": "/etc/kmsward/ca.pem",
            "credentials": credentials or {"source": "files", **{name: f"/etc/kmsward/{name}" for name in files}},
        }
        made = {"keys": [{"name": "primary", "jdcloud": block, **options}], "rotation": {"observe_every": "1s"}}
        # JSON is YAML.
        self.write("/etc/kmsward/kmsward.yaml", json.dumps(made) + "\n")

    def allow_network(self, unit="kmsward.service"):
        """As remote-keys.conf says."""
        self.run("install", "-D", "-m", "644", "-t", f"/etc/systemd/system/{unit}.d", "/media/remote-keys.conf")
        self.run("systemctl", "daemon-reload")

    def property(self, unit, name):
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def state(self, unit):
        return self.property(unit, "ActiveState")

    def journal(self, *options):
        self.run("journalctl", "--sync", check=False)
        return self.run("journalctl", "--no-pager", *options, check=False).stdout

    def stop(self):
        with contextlib.suppress(subprocess.SubprocessError):
            if self.leader is not None:
                self.run("systemctl", "exit", "0", timeout=5, check=False)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.console.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def fill_journal(machine):
    """Leaves journald no room for another entry."""
    limits = "Storage=volatile\nRuntimeMaxUse=1M\nRuntimeKeepFree=0\nRateLimitIntervalSec=0\n"
    machine.write("/etc/systemd/journald.conf.d/full.conf", f"[Journal]\n{limits}")
    machine.run("mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", "/run/log/journal")
    machine.run("systemctl", "restart", "systemd-journald.service")
    machine.shell("dd if=/dev/zero of=/run/log/journal/all bs=4K 2>/dev/null || seq 5000 | logger")
    machine.run("logger", "nobody will find this")
    assert "nobody will find this" not in machine.journal()


class Load:
    """Calls of both APIs at a constant rate, from a client in the machine that dials as kube-apiserver does."""

    def __init__(self, machine, rate=400, in_flight=8, timeout="10s", path=SOCKET):
        self.machine = machine
        options = ["-socket", path, "-timeout", timeout, "-n", 0, "-rate", rate, "-c", in_flight, "load"]
        # Its process id first: nsenter would keep a signal to itself.
        self.process = machine.start(
            "sh", "-c", 'echo $$; exec /mnt/goclient "$@"', "load", *options, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.stdout.readline().strip()

    def result(self):
        """Ends it: what became of its calls."""
        self.machine.run("kill", self.pid)
        said, _ = self.process.communicate(timeout=PATIENCE)
        return json.loads(said.splitlines()[-1])


class CloudInside(JDCloudFake):
    """A fake JD Cloud on the machine's own loopback. Not after a reboot, before it is started again."""

    def __init__(self, machine):
        super().__init__()
        self.machine = machine

    @property
    def prefix(self):
        return self.machine.in_network()

    def control(self, method, path, document=None):
        # From a process in the machine, as its ports are.
        url = f"http://127.0.0.1:{self.control_port}{path}"
        body = [] if document is None else ["--data-binary", json.dumps(document)]
        return json.loads(self.machine.run("curl", "-sSf", "-X", method, *body, url).stdout)


class NameServer:
    """Tells a machine that every name is its own loopback address, by DNS."""

    def __init__(self, machine):
        script = "import sys, stage; stage.NameServer('127.0.0.53'); print(flush=True); sys.stdin.read()"
        self.process = subprocess.Popen(
            machine.in_network(sys.executable, "-c", script),
            cwd=REPOSITORY / "ops" / "drill", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout.readline() == b"\n", "the name server does not start"
        machine.shell("rm -f /etc/resolv.conf; echo nameserver 127.0.0.53 > /etc/resolv.conf")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()


def descendants(pid):
    """Nearest first."""
    found = [int(text) for text in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [further for child in found for further in descendants(child)]
