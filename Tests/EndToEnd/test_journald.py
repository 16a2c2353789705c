"""The log as the journal keeps it: a real systemd-journald, alone in a mount namespace of its own."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from daemon import eventually

JOURNALD = "/lib/systemd/systemd-journald"
#: Nothing here is about rotation.
CALM = {"observe_every": "1s", "settle": "1s"}
HERE = pathlib.Path(__file__).resolve().parent


def cannot():
    if os.geteuid() != 0:
        return "needs root"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "no mount namespaces here"
    return None


pytestmark = pytest.mark.skipif(cannot() is not None, reason=str(cannot()))


@pytest.fixture
def journal(folder):
    """The directory of journald's files."""
    assert os.path.exists(JOURNALD) and shutil.which("journalctl"), "no systemd here: ops/dev/install-packages test"
    path = folder / "journal"
    path.mkdir()
    return path


def beside_journald(mode, journal):
    return [
        *("unshare", "--mount", "--propagation", "private"),
        *(sys.executable, str(HERE / "in_journal.py"), mode, str(journal)),
    ]


def entries(journal):
    """What kmsward has in the journal, oldest first."""
    done = subprocess.run(
        ["journalctl", "-D", str(journal), "--all", "--output=json", "SYSLOG_IDENTIFIER=kmsward"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_PAGER": ""},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("mode, format", [("plain", "journal"), ("stream", "auto")])
def test_entries_are_native_and_say_where_they_come_from(prepare, journal, mode, format):
    one = prepare(prefix=beside_journald(mode, journal), rotation=CALM, log={"level": "debug", "format": format}).start()
    eventually(lambda: entries(journal), "an entry of kmsward in the journal")
    one.stop()
    found = eventually(lambda: entries(journal), "the journal after the daemon's end")
    for entry in found:
        assert entry["_TRANSPORT"] == "journal", entry
        assert entry["_PID"] == str(one.pid)
        assert entry["MESSAGE"] and "\n" not in entry["MESSAGE"]
        assert entry["PRIORITY"] in "234567"
        assert entry["CODE_FILE"].endswith(".swift")
        assert int(entry["CODE_LINE"]) > 0
        assert entry["CODE_FUNC"]
        assert entry["KMSWARD_LOGGER"].startswith("kmsward")
    assert {key for entry in found for key in entry if key.startswith("KMSWARD_")} - {"KMSWARD_LOGGER"}, (
        "no entry has a field from metadata"
    )
    # Nothing went to standard error as text beside the entries.
    assert not [line for line in one.log().splitlines() if " info " in line or " notice " in line]


def test_a_redirected_standard_error_is_not_taken_for_the_journal(prepare, journal):
    # systemd's variable is inherited; the stream is not, as standard error is a file here.
    prefix = [*beside_journald("plain", journal), "env", "JOURNAL_STREAM=1:1"]
    one = prepare(prefix=prefix, rotation=CALM, log={"level": "debug", "format": "auto"}).start()
    one.stop()
    assert one.log().strip()
    assert not [entry for entry in entries(journal) if entry["_TRANSPORT"] == "journal"]


def test_a_journald_that_hangs_holds_up_no_call_and_no_exit(prepare, journal):
    one = prepare(prefix=beside_journald("plain", journal), rotation=CALM, log={"level": "trace", "format": "journal"}).start()
    journald = int((journal / "journald.pid").read_text())
    os.kill(journald, signal.SIGSTOP)
    try:
        with one.kms() as kms:
            for index in range(500):
                assert kms.encrypt(b"0123456789abcdef", uid=f"stalled-{index}").ciphertext
        assert one.terminate() == 0
    finally:
        os.kill(journald, signal.SIGCONT)
