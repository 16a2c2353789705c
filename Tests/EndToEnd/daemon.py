"""Starts, watches and stops the real `kmsward` binary; knows nothing of its insides."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid

from prometheus_client.parser import text_string_to_metric_families

import h2wire
from kms import KMS, REPOSITORY

BINARY = os.environ.get("KMSWARD_BIN", str(REPOSITORY / ".build" / "release" / "kmsward"))
#: Bounds every wait; generous, as nothing here measures speed.
PATIENCE = 30.0
#: Where short_directory() makes directories; a test run has a place of its own.
SCRATCH = "/tmp"


def eventually(condition, what, patience=PATIENCE, step=0.02):
    """Polls until `condition()` is true and returns its value; fails after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(step)


def short_directory():
    """A new directory whose name leaves room for a socket (107 bytes)."""
    return pathlib.Path(tempfile.mkdtemp(prefix="kw-", dir=SCRATCH))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(*arguments, timeout=PATIENCE, **kwargs):
    """Runs `kmsward ...` to its end; returns the CompletedProcess with text output."""
    return subprocess.run(
        [BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False, **kwargs
    )


class KeyFile:
    """A local key file, changed only through the command line."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def _run(self, verb, *more):
        done = command("key", verb, "--file", self.path, *more)
        assert done.returncode == 0, f"key {verb}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def init(self, *more):
        self._run("init", *more)
        return self

    def add(self):
        return self._run("add")

    def activate(self, version=None):
        """Activates `version`, else the newest that is not active yet."""
        return self._run("activate", version or [row[0] for row in self.versions if row[1] == "added"][-1])

    def _rows(self):
        # docs/local-key-file.md: key <uuid> <created> <state> <key> <check>
        return [line.split() for line in self.path.read_text().splitlines() if line.startswith("key ")]

    @property
    def versions(self):
        """(uuid, state) of each version, oldest first."""
        return [(row[1], row[3]) for row in self._rows()]

    @property
    def identity(self):
        """The file's own UUID."""
        (line,) = [line for line in self.path.read_text().splitlines() if line.startswith("file ")]
        return uuid.UUID(line.split()[1])

    @property
    def active(self):
        """(uuid, time of making) of the version that wraps."""
        ((version, created),) = [(row[1], row[2]) for row in self._rows() if row[3] == "active"]
        return uuid.UUID(version), created

    def key_of(self, version):
        """The key of one version."""
        (key,) = [row[4] for row in self._rows() if uuid.UUID(row[1]) == version]
        return bytes.fromhex(key)

    @property
    def secrets(self):
        """The keys themselves, so that a test can look for them where they must not be."""
        found = [bytes.fromhex(row[4]) for row in self._rows()]
        assert found and all(len(key) == 32 for key in found), "the key file is not as documented"
        return found

    def list(self):
        return self._run("list")

    def copy_to(self, other):
        """Replaces `other` by a copy, atomically, as a careful operator would."""
        temporary = other.path.with_name(other.path.name + ".new")
        shutil.copy2(self.path, temporary)
        os.replace(temporary, other.path)
        return other


def merged(base, changes):
    """`base` with `changes` laid over it, key by key; a value of None removes the key."""
    out = dict(base)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def settings(folder, key_file, **changes):
    """A configuration with a local key and a rotation quick enough for tests; makes its state directory."""
    base = {
        "socket": {"path": str(folder / "kms.sock"), "mode": "0600"},
        "state_directory": str(folder / "state"),
        "keys": [{"name": "primary", "suite": "aes-256-gcm", "local": {"file": str(key_file.path)}}],
        "rotation": {"observe_every": "1s", "settle": "100ms"},
        "metrics": {"listen": f"127.0.0.1:{free_port()}"},
        "log": {"level": "info", "format": "text"},
    }
    made = merged(base, changes)
    # As systemd's StateDirectory= does.
    os.makedirs(made["state_directory"], mode=0o700, exist_ok=True)
    return made


class Daemon:
    """One `kmsward serve`."""

    def __init__(self, folder, configuration, name="kmsward", prefix=()):
        self.folder = pathlib.Path(folder)
        self.configuration = configuration
        self.name = name
        self.prefix = list(prefix)
        self.config_path = self.folder / f"{name}.yaml"
        self.log_path = self.folder / f"{name}.log"
        self.process = None

    # Where it is

    @property
    def socket_path(self):
        path = self.configuration["socket"]["path"]
        return path.removeprefix("unix://")

    @property
    def address(self):
        path = self.socket_path
        return f"unix-abstract:{path[1:]}" if path.startswith("@") else f"unix:{path}"

    @property
    def pid(self):
        return self.process.pid

    def kms(self, **kwargs):
        return KMS(self.address, **kwargs)

    # Life

    def launch(self, notify=None, **popen):
        """Starts the process and waits for nothing."""
        # JSON is YAML.
        self.config_path.write_text(json.dumps(self.configuration, indent=2))
        environment = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")}
        if notify:
            environment["NOTIFY_SOCKET"] = str(notify)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, BINARY, "serve", "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                **popen,
            )
        return self

    def start(self):
        """Starts it and waits for READY=1 on a notify socket of ours."""
        notify = self.folder / f"{self.name}.notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(notify))
            receiver.settimeout(0.2)
            self.launch(notify=notify)
            end = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in receiver.recv(4096).split(b"\n"):
                        break
                if self.process.poll() is not None:
                    raise AssertionError(f"exited {self.process.returncode} before READY=1:\n{self.log()}")
                if time.monotonic() > end:
                    self.process.kill()
                    self.process.wait()
                    raise AssertionError(f"no READY=1 within {PATIENCE} s:\n{self.log()}")
        notify.unlink(missing_ok=True)
        return self

    def wait_listening(self):
        """Waits until a client gets the server's SETTINGS."""

        def greeted():
            if self.process.poll() is not None:
                raise AssertionError(f"exited {self.process.returncode}:\n{self.log()}")
            try:
                with h2wire.Connection(self.socket_path) as connection:
                    while not connection.settings_seen and connection.pump():
                        pass
                    return connection.settings_seen
            except OSError:
                return False

        eventually(greeted, "the daemon accepts and sends SETTINGS")
        return self

    def terminate(self):
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def stop(self):
        """Ends it as systemd would, and insists on a clean end."""
        assert self.process.poll() is None, f"had already exited {self.process.returncode}:\n{self.log()}"
        code = self.terminate()
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.log()}"

    def restart(self):
        self.stop()
        return self.start()

    def kill(self):
        """SIGKILL: leaves the socket file behind."""
        self.process.kill()
        self.process.wait()

    def discard(self):
        """For the end of a test, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    # What it shows

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def metrics_text(self):
        url = f"http://{self.configuration['metrics']['listen']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name, **labels):
        """Sum of the samples called `name` whose labels include `labels`."""
        total = 0.0
        for family in text_string_to_metric_families(self.metrics_text()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def _proc_status(self, field):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise AssertionError(f"no {field} in /proc/{self.pid}/status")

    @property
    def rss_mib(self):
        return self._proc_status("VmRSS") / 1024

    @property
    def peak_rss_mib(self):
        return self._proc_status("VmHWM") / 1024

    def reset_peak_rss(self):
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def threads(self):
        return self._proc_status("Threads")

    @property
    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))
