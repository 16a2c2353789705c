"""A real systemd, booted in a container over a throw-away overlay of this machine's root, with the product installed.

Needs root, and systemd-container from `ops/dev/install-packages test`. A boot takes about half a second; nothing is left.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

from daemon import BINARY, PATIENCE, eventually, short_directory
from kms import REPOSITORY

UNITS = REPOSITORY / "ops" / "systemd"
SOCKET = "/run/kmsward/kms.sock"

# A private mount namespace hides the host's cgroups and /run; the container must not be in the root cgroup.
BOOT = r"""
set -eu
name=$1; shift
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
cgroup=/sys/fs/cgroup/$name
mkdir -p "$cgroup" /run/root
mount --bind / /run/root
code=0
( echo $BASHPID >"$cgroup/cgroup.procs"
  exec systemd-nspawn --quiet --directory=/run/root --volatile=overlay --register=no --keep-unit --machine="$name" \
    --private-network --link-journal=no --console=read-only --capability=all --system-call-filter=bpf \
    --boot "$@" systemd.unit=basic.target systemd.show_status=0 systemd.log_level=notice ) || code=$?
for _ in 1 2 3 4 5 6 7 8 9; do
    find "$cgroup" -depth -type d -delete 2>/dev/null || :
    [ -d "$cgroup" ] || break
    sleep 0.1
done
exit $code
"""


class Machine:
    """A running container. `run` runs a command in it."""

    def __init__(self, *binds, binary=True):
        self.folder = short_directory()
        self.name = f"kw{os.getpid()}{self.folder.name[-4:]}".lower().replace("_", "x")
        self.console = open(self.folder / "console", "wb")  # noqa: SIM115  # closed by stop
        # The checkout may lie in /tmp, which is another one in there.
        shared = [f"--bind-ro={UNITS}:/media", *([f"--bind-ro={BINARY}:/usr/bin/kmsward"] if binary else []), *binds]
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", BOOT, "boot", self.name, *shared],
            stdin=subprocess.DEVNULL, stdout=self.console, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.leader = None
        try:
            eventually(self._is_booted, "systemd has booted")
            state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
            assert state in ("running", "degraded"), state
            # Whatever this host's own daemon has there.
            self.run("rm", "-rf", "/etc/kmsward", "/var/lib/kmsward")
        except BaseException:
            self.stop()
            raise

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

    def write(self, path, text, mode="644"):
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, input=text)

    def install(self):
        """What the package's scripts do, as far as systemd is concerned."""
        self.shell(
            """
            install -D -m 644 /media/kmsward.sysusers /usr/lib/sysusers.d/kmsward.conf
            install -D -m 644 /media/kmsward.tmpfiles /usr/lib/tmpfiles.d/kmsward.conf
            install -D -m 644 -t /usr/lib/systemd/system /media/kmsward.service /media/kmsward.socket
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


def descendants(pid):
    """Nearest first."""
    found = [int(text) for text in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [further for child in found for further in descendants(child)]
