"""The journal on a real systemd with the package installed: every warning is an event with a MESSAGE_ID, `journalctl -x` explains it
in our words, fields have the names and forms that are documented, and what goes on does not flood."""

import json
import os
import re

import pytest

import packaged
from booted import SOCKET
from daemon import command, eventually
from kms import REPOSITORY

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="a systemd can be booted by root only")]

KEY = "/etc/kmsward/local.keys"
YAML = f"keys: [{{name: primary, local: {{file: {KEY}}}}}]\nrotation: {{observe_every: 1s, settle: 0s}}\n"


@pytest.fixture
def machine(goclient, package):
    with packaged.machine(package, goclient) as one:
        packaged.install(one, package)
        one.configure_local_key()
        one.write("/etc/kmsward/kmsward.yaml", YAML)
        yield one


def codes():
    """Every code, with the title that `kmsward explain` lists."""
    done = command("explain")
    assert done.returncode == 0
    return dict(line.split(None, 1) for line in done.stdout.splitlines())


def entries(machine, *options):
    return [json.loads(line) for line in machine.journal("-u", "kmsward", "-o", "json", *options).splitlines()]


def ours(machine, code):
    return [entry for entry in entries(machine) if entry.get("KMSWARD_EVENT") == code]


def serve(machine):
    machine.run("systemctl", "restart", "kmsward.socket", "kmsward.service")


def test_the_package_brings_a_catalogue_that_journald_takes(machine):
    listed = machine.run("journalctl", "--list-catalog").stdout
    found = dict(re.findall(r"^([0-9a-f]{32}) kmsward: (.+)$", listed, re.M))
    assert len(found) == len(codes())
    done = machine.run("journalctl", "--update-catalog")
    assert done.stderr == "", done.stderr
    dumped = machine.run("journalctl", "--dump-catalog", *found).stdout
    for code in codes():
        assert f"\nCode:    {code}\n" in dumped, code
    for page in set(re.findall(r"^Runbook: (\S+)$", dumped, re.M)):
        assert machine.run("cat", page).stdout.startswith("# "), page
    # Gone with the package, as is what it explained.
    machine.run("dpkg", "--purge", "kmsward")
    assert "kmsward:" not in machine.run("journalctl", "--list-catalog").stdout


def test_journalctl_explains_an_entry_in_our_words_with_the_key_it_is_about(machine):
    serve(machine)
    machine.run("mv", KEY, KEY + ".away")
    (entry,) = eventually(lambda: ours(machine, "KW-KEY-MISCONFIGURED"), "the trouble is told")
    assert entry["MESSAGE"].startswith("key primary: the key has trouble and goes on with what it has: key file " + KEY)
    assert "kmsward key init" in entry["MESSAGE"] and entry["MESSAGE"].endswith("[KW-KEY-MISCONFIGURED]")
    said = machine.journal("-x", "-u", "kmsward", f"MESSAGE_ID={entry['MESSAGE_ID']}")
    assert "Subject: Key primary: its set-up is wrong" in said
    assert "Defined-By: kmsward" in said
    assert re.search(r"^\S* ?Cluster: Nothing while it goes on with what it has", said, re.M), said
    assert "/usr/share/doc/kmsward/runbooks/KmswardKeyMisconfigured.md" in said
    machine.run("mv", KEY + ".away", KEY)
    (well,) = eventually(lambda: ours(machine, "KW-KEY-WELL"), "and that it is over")
    assert well["PRIORITY"] == "5" and well["KMSWARD_KEY"] == "primary"


#: The form of each field that is a number or one of a few words.
FORMS = {
    "PRIORITY": r"[2-6]",
    "MESSAGE_ID": r"[0-9a-f]{32}",
    "KMSWARD_EVENT": r"KW-[A-Z-]+",
    "KMSWARD_KEY": r"primary",
    "KMSWARD_API": r"v1beta1|v2",
    "KMSWARD_METHOD": r"encrypt|decrypt|status|version",
    "KMSWARD_UID": r"[\w-]+",
    "KMSWARD_CODE": r"[A-Z_]+|[a-zA-Z]+",
    "KMSWARD_CAUSE": r"[^\n]+",
    "KMSWARD_REMEDY": r"[^\n]*",
    "KMSWARD_DURATION_MS": r"\d+\.\d+",
    "KMSWARD_COUNT": r"\d+",
    "KMSWARD_PEER_PID": r"\d+",
    "KMSWARD_PEER_UID": r"\d+",
    "KMSWARD_PEER_GID": r"\d+",
}


def test_every_warning_is_an_event_whose_fields_have_their_forms_and_a_storm_leaves_few(machine):
    machine.run("mv", KEY, KEY + ".away")
    serve(machine)
    # An API server that tries again and again.
    for _ in range(50):
        machine.run("/mnt/goclient", "-socket", SOCKET, "roundtrip", check=False)
    machine.run("chmod", "0755", "/run/kmsward")
    machine.run("chmod", "0666", SOCKET)
    for _ in range(3):
        machine.run("runuser", "-u", "nobody", "--", "kmsward", "doctor", "--socket", SOCKET, check=False)
    machine.write("/etc/kmsward/kmsward.yaml", YAML + "lg: {}\n")
    machine.run("systemctl", "reload", "kmsward.service", check=False)
    eventually(lambda: ours(machine, "KW-CONFIG-REFUSED"), "the refusal is told")
    found = [entry for entry in entries(machine) if entry.get("_COMM") == "kmsward"]
    known = codes()
    documented = set(re.findall(r"KMSWARD_[A-Z_]+", (REPOSITORY / "runbooks" / "README.md").read_text()))
    met = set()
    for entry in found:
        assert {name for name in entry if name.startswith("KMSWARD_")} <= documented, entry
        for name, form in FORMS.items():
            if name in entry:
                assert re.fullmatch(form, entry[name]), (name, entry)
        if int(entry["PRIORITY"]) <= 4:
            assert entry["KMSWARD_EVENT"] in known and entry["MESSAGE_ID"], entry
            assert entry["MESSAGE"].endswith(f"[{entry['KMSWARD_EVENT']}]"), entry
            met.add(entry["KMSWARD_EVENT"])
    assert {"KW-KEY-MISCONFIGURED", "KW-READY-WITHOUT-KEY", "KW-CALL-KEY-UNUSABLE", "KW-PEER-REFUSED", "KW-CONFIG-REFUSED"} <= met
    failed = ours(machine, "KW-CALL-KEY-UNUSABLE")
    assert {"KMSWARD_KEY", "KMSWARD_API", "KMSWARD_METHOD", "KMSWARD_CODE", "KMSWARD_CAUSE", "KMSWARD_DURATION_MS"} <= set(failed[0])
    # One for each method at once, and not one a call.
    assert len(failed) <= 6, [entry["MESSAGE"] for entry in failed]
    metrics = machine.run("curl", "-sS", "http://127.0.0.1:9464/metrics").stdout
    calls = sum(int(count) for count in re.findall(r'^kmsward_requests_total\{.*code="FAILED_PRECONDITION"\} (\d+)$', metrics, re.M))
    assert calls >= 50
    (refused,) = ours(machine, "KW-PEER-REFUSED")
    assert refused["KMSWARD_PEER_UID"] == "65534" and "allow: { uids: [65534] }" in refused["MESSAGE"]


@pytest.mark.parametrize(
    "yaml, limit, code, said",
    [
        ("keys: [{name: primary, locl: {}}]\n", 4096, "KW-CONFIG-BROKEN", r"kmsward\.yaml:1:\d+: error: .*locl"),
        (YAML, 40, "KW-START-FAILED", r"the limit of open files is 40"),
    ],
)
def test_a_start_that_fails_is_an_event_of_the_unit_too(machine, yaml, limit, code, said):
    machine.write("/etc/kmsward/kmsward.yaml", yaml)
    machine.write("/etc/systemd/system/kmsward.service.d/limit.conf", f"[Service]\nLimitNOFILE={limit}\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "kmsward.service", check=False)
    entry = eventually(lambda: ours(machine, code), "the unit's journal says why")[0]
    assert re.search(said, entry["MESSAGE"]) and entry["PRIORITY"] == "2"
    assert entry["_SYSTEMD_UNIT"] == "kmsward.service"


def test_explain_takes_codes_and_statuses_and_knows_no_others():
    for code, title in codes().items():
        done = command("explain", code.lower())
        assert done.returncode == 0 and done.stdout.startswith(f"{code}: {title}\n"), done
        assert re.search(r"^Cause:   \S", done.stdout, re.M) and re.search(r"^First:   \S", done.stdout, re.M)
    assert command("explain", "UNAVAILABLE").stdout.startswith("KW-CALL-UNAVAILABLE: ")
    done = command("explain", "KW-NONSENSE")
    assert done.returncode == 64 and "`kmsward explain` lists them" in done.stderr


def test_doctor_leads_to_the_explanation(prepare, folder):
    one = prepare().start()
    os.rename(folder / "local.keys", folder / "away.keys")
    one.restart()
    done = command("doctor", "--socket", one.socket_path)
    assert done.returncode == 1
    assert "FAILED_PRECONDITION: key primary: " in done.stdout and "-> kmsward explain FAILED_PRECONDITION" in done.stdout
    one.stop()
