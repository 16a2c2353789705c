"""What the drills share: a fake JD Cloud, daemons with a key of it, a name server of our own, and the page of results."""

import collections
import contextlib
import datetime
import os
import pathlib
import platform
import re
import socket
import struct
import subprocess
import sys
import threading

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "Tests" / "EndToEnd"))
sys.path.insert(0, str(REPOSITORY / "Tests" / "Fakes"))

import daemon as daemons  # noqa: E402
from jdcloud_client import ACCESS_KEY  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

PAGE = REPOSITORY / "docs" / "fault-drill.md"
#: Where the daemons of a drill look for the fake: a name that only our name server knows.
HOST = "kms.drill.example"
#: What kube-apiserver gives a call.
TIMEOUT = 3.0


def configuration(folder, fake, write_format, access_key=ACCESS_KEY, host=None, key=None, rotation=None, **changes):
    """A configuration with one key of the fake, everything else as it is by default."""
    folder.mkdir(parents=True, exist_ok=True)
    block = fake.block(folder, access_key)
    if host is not None:
        block["endpoint"] = f"{host}:{block['endpoint'].rpartition(':')[2]}"
    made = daemons.settings(folder, daemons.KeyFile(folder / "unused"), rotation=rotation, **changes)
    made["keys"] = [{"name": "primary", "write_format": write_format, "jdcloud": block, **(key or {})}]
    return made


def sample(daemon):
    """Every series of the daemon's own, as {(name, labels): value}."""
    return collections.Counter(
        {
            (one.name, tuple(sorted(one.labels.items()))): one.value
            for family in text_string_to_metric_families(daemon.metrics_text())
            for one in family.samples
            if one.name.startswith("kmsward_") and not one.name.endswith(("_bucket", "_sum", "_count", "_created"))
        }
    )


class NameServer:
    """Answers for `HOST` with 127.0.0.1, or says nothing, or that there is no such name. Needs port 53 of its address."""

    def __init__(self, address="127.0.0.77"):
        self.address, self.mode, self.asked = address, "answer", 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                query, peer = self.socket.recvfrom(512)
                if not query:
                    return
                self.asked += 1
                if self.mode != "silent":
                    self.socket.sendto(self._answer(query), peer)

    def _answer(self, query):
        """The question again, and one address if it asks for one."""
        end = query.index(0, 12) + 5
        (kind,) = struct.unpack(">H", query[end - 4 : end - 2])
        found = self.mode == "answer"
        records = [struct.pack(">HHHIH4s", 0xC00C, 1, 1, 1, 4, bytes([127, 0, 0, 1]))] if found and kind == 1 else []
        flags = 0x8180 if found else 0x8183
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + query[12:end] + b"".join(records)

    def prefix(self, folder):
        """A command that runs another where this is the only name server; the process stays the same one."""
        (folder / "resolv.conf").write_text(f"nameserver {self.address}\n")
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: dns\n")
        script = 'for f in resolv nsswitch; do mount --bind "$0/$f.conf" /etc/$f.conf; done; exec "$@"'
        return ["unshare", "-m", "--propagation", "private", "sh", "-ec", script, str(folder)]

    def close(self):
        # Wakes the thread, which close() would not.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def duration(seconds):
    """As an operator reads it."""
    if seconds < 0.0995:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def setting():
    """Machine, date and commit, for the head of a section."""
    model = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(
        ["git", "-C", REPOSITORY, "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.date.today()}, commit {commit}, {os.cpu_count()} processors "
        f"({model[1].strip() if model else platform.machine()}), {memory:.0f} GiB, Linux {platform.release()}; "
        f"load before: {os.getloadavg()[0]:.1f}"
    )


def table(head, rows):
    """A table of Markdown; columns whose name ends in a colon are aligned right."""
    lines = ["| " + " | ".join(one.rstrip(":") for one in head) + " |"]
    lines.append("|" + "|".join("---:" if one.endswith(":") else "---" for one in head) + "|")
    return "\n".join(lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows])


def write(section, text, path=PAGE):
    """Puts `text` between the marks of its section of a page; the rest of the page is written by hand."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    page = path.read_text()
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path} has no marks for {section}")
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")
