"""The runbooks: a page for each alert and each event, each linked, nothing in them that does not exist, and every plain command of
theirs run on a real systemd with the product installed."""

import json
import os
import re
import shlex

import pytest

import booted
from daemon import command
from kms import REPOSITORY

RUNBOOKS = REPOSITORY / "runbooks"
PAGES = sorted(page for page in RUNBOOKS.glob("*.md") if page.name != "README.md")
NAMES = [page.name for page in PAGES]
SECTIONS = [
    "What the user of the cluster sees", "Confirm", "Causes, most likely first", "Fix", "Over when", "Prevent",
]  # fmt: skip
RULES = "".join(path.read_text() for path in sorted((REPOSITORY / "ops" / "prometheus").glob("*.rules.yml")))
ALERTS = sorted(set(re.findall(r"^\s*- alert: (\w+)$", RULES, re.M)))


def blocks(page):
    """(kind, lines) of each block of commands; a plain one changes nothing."""
    found = re.findall(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(), re.M)
    return [(kind, text.splitlines()) for kind, text in found]


def commands(*kinds):
    """{line: pages that have it}"""
    found = {}
    for page in [*PAGES, RUNBOOKS / "README.md"]:
        for kind, lines in blocks(page):
            if kind in kinds:
                for line in lines:
                    found.setdefault(line, []).append(page.name)
    return found


@pytest.mark.no_binary
def test_there_are_alerts_and_each_has_its_page():
    assert len(ALERTS) >= 20
    assert not [alert for alert in ALERTS if not (RUNBOOKS / f"{alert}.md").exists()]
    for url in re.findall(r"runbook_url: (\S+)", RULES):
        assert (RUNBOOKS / url.rpartition("/runbooks/")[2]).is_file(), url


@pytest.mark.no_binary
def test_the_index_leads_to_every_page_and_every_page_to_what_exists():
    index = (RUNBOOKS / "README.md").read_text()
    assert not [name for name in NAMES if f"]({name})" not in index]
    for alert in ALERTS:
        assert re.search(rf"^\| {alert} \| \[.+\]\({alert}\.md\) \|$", index, re.M), alert
    for page in [*PAGES, RUNBOOKS / "README.md"]:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            # Pages only: they are installed without the rest of the tree.
            assert (RUNBOOKS / link).is_file() and "/" not in link, f"{page.name}: {link}"


@pytest.mark.no_binary
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_says_what_is_seen_how_to_confirm_and_fix_it_and_when_it_is_over(page):
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.M) == SECTIONS
    assert re.match(r"# \S.*\n\n(Alert|In the journal): `", text)
    if page.stem in ALERTS:
        assert f"Alert: `{page.stem}`." in text
    parts = re.split(r"^## .+$", text, flags=re.M)[1:]
    for section, part in zip(SECTIONS, parts):
        assert part.strip(), section
    assert "```sh" in parts[1], "exact commands"
    assert "```sh fix" not in parts[1] + parts[4], "the index promises that nothing is changed there"


@pytest.mark.no_binary
def test_every_metric_of_a_page_exists():
    registry = (REPOSITORY / "Sources" / "Observability" / "Names.swift").read_text()
    names = set(re.findall(r'"((?:kmsward|process)_[a-z_]+)"', registry))
    assert "kmsward_key_ready" in names
    exact = {name + end for name in names for end in ("", "_bucket", "_sum", "_count")}
    for page in [*PAGES, RUNBOOKS / "README.md"]:
        for name in re.findall(r"\b(?:kmsward|process)_[a-z_]+", page.read_text()):
            # The pattern of a grep may stand for several.
            assert name in exact or any(one.startswith(name) for one in names), f"{page.name}: {name}"


def parser():
    done = command("--experimental-dump-help")
    assert done.returncode == 0
    return json.loads(done.stdout)["command"]


def check(words, whole):
    """Whether `kmsward WORDS` is one that there is."""
    node = parser()
    while words and not words[0].startswith("-") and node.get("subcommands"):
        below = {one["commandName"]: one for one in node["subcommands"]}
        assert words[0] in below, f"{whole}: no {words[0]}"
        node, words = below[words[0]], words[1:]
    options = {"--" + name["name"] for one in node["arguments"] for name in one.get("names", []) if name["kind"] == "long"}
    for word in words:
        assert not word.startswith("--") or word in options, f"{whole}: no {word}"


def test_every_kmsward_command_of_a_page_exists():
    met = 0
    for page in [*PAGES, RUNBOOKS / "README.md"]:
        text = page.read_text()
        lines = [line for _, lines in blocks(page) for line in lines] + re.findall(r"`(kmsward [^`]+)`", text)
        for line in lines:
            for part in re.findall(r"(?:^|(?<=-- )|(?<=&& )|(?<=; ))kmsward ([a-z][^|;&\n]*)", line):
                check(shlex.split(part), f"{page.name}: {line}")
                met += 1
    assert met > 20


def test_every_curl_has_a_timeout():
    """systemd holds the port of a daemon that is down: without one, the command hangs at the very moment it is for."""
    lines = [*commands("sh", "sh fix", "sh cluster"), *command("explain", "--catalog").stdout.splitlines()]
    calls = [line for line in lines if re.search(r"\bcurl -", line)]
    assert len(calls) > 10
    assert not [line for line in calls if not re.search(r"\bcurl [^|]*-m \d", line)]


@pytest.fixture(scope="module")
def machine():
    one = booted.Machine()
    try:
        one.install()
        one.configure_local_key()
        one.run("systemctl", "start", "kmsward.socket", "kmsward.service")
        yield one
    finally:
        one.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="a systemd can be booted by root only")
def test_every_plain_command_of_a_page_runs(machine):
    """As it stands there, where all is well."""
    plain = commands("sh")
    assert len(plain) > 30
    failed = {}
    for line, pages in plain.items():
        done = machine.run("bash", "-o", "pipefail", "-c", line, check=False)
        quiet = " || true" in line or re.search(r"\| (tail|head)\b", line)
        complaint = re.search(r"not found|invalid|unrecognized|unknown|No such", done.stderr)
        if complaint or done.returncode != 0 and not quiet:
            failed[line] = (pages, done.returncode, done.stdout[-300:], done.stderr[-300:])
    assert not failed, json.dumps(failed, indent=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="a systemd can be booted by root only")
def test_what_changes_something_is_well_formed(machine):
    """Not run, but read by a shell, and made of programs that there are."""
    programs = set()
    for line in commands("sh fix", "sh cluster"):
        done = machine.run("bash", "-n", "-c", line, check=False)
        assert done.returncode == 0, (line, done.stderr)
        programs.add(shlex.split(line)[0])
    elsewhere = {"apt-get", "kubectl", "promtool", "scp", "etcdctl", "for"}
    for program in programs - elsewhere:
        machine.run("bash", "-c", f"command -v {program}")
