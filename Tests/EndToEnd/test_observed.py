"""That what is measured, shown, alerted on and written about is one and the same: metrics of a real daemon, dashboards, rules,
runbooks, docs/metrics.md; and the drill of the alerts in small."""

import re
import subprocess
import sys
import time
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

import prometheus_rules
from daemon import BINARY, KeyFile, eventually
from kms import REPOSITORY
from test_dashboards import PAGES, expressions

PAGE = REPOSITORY / "docs" / "metrics.md"
RUNBOOKS = REPOSITORY / "runbooks"
#: Metrics that only come with what they tell of, and are made by the drill: temporary credentials, trouble, folded series.
PASSING = {
    "kmsward_credentials_expiry_timestamp_seconds",
    "kmsward_key_trouble",
    "kmsward_key_writes_stop_in_seconds",
    "kmsward_metrics_series_folded_total",
}


def documented():
    """{name: (type, labels with their values, who uses it)}"""
    rows = {}
    for line in PAGE.read_text().splitlines():
        row = re.fullmatch(r"\| `(\w+)` \| (\w+) \| (.*) \| .+ \| (.*) \|", line)
        if row:
            labels = dict(re.findall(r"`(\w+)` \(([^)]*)\)", row[3]))
            rows[row[1]] = (row[2], labels, row[4])
    return rows


def named_in(expression):
    """The metrics that an expression asks for, without what a histogram's series end in."""
    names = set(re.findall(r"\b(?:kmsward|process)_[a-z_]+\b(?![\"=(])", re.sub(r'"[^"]*"', '""', expression)))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def asked_for():
    """{metric: where}, of rules and dashboards."""
    found = {}
    for rule in prometheus_rules.rules():
        for name in named_in(rule["expr"]):
            found.setdefault(name, []).append(rule.get("alert") or rule["record"])
    for file, page in PAGES.items():
        for where, expression in expressions(page):
            for name in named_in(expression):
                found.setdefault(name, []).append(f"{file}: {where}")
    return found




def scrape(daemon, accept):
    request = urllib.request.Request(f"http://{daemon.configuration['metrics']['listen']}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@pytest.fixture
def busy(on_jdcloud, folder):
    """A daemon that has done a little of everything."""
    archive = KeyFile(folder / "archive.keys").init()
    one = on_jdcloud(key={"price_per_million_calls": 3}, changes=None)
    one.configuration["keys"].append({"name": "archive", "local": {"file": str(archive.path)}})
    one.restart()
    with one.kms() as kms:
        kms.status()
        kms.open(kms.encrypt(b"\7" * 32))
        kms.v1_decrypt(kms.v1_encrypt(b"ping"))
    eventually(lambda: one.metric("kmsward_key_probes_total", key="primary", result="ok") >= 1, "a probe has ended")
    return one


def buckets(text):
    """The bounds of the histograms' buckets as they are written."""
    return set(re.findall(r'le="([^"]*)"', text))


@pytest.mark.parametrize("accept", ["text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"])
def test_the_rules_find_their_buckets_in_either_format(busy, accept):
    _, text = scrape(busy, accept)
    for rule in prometheus_rules.rules():
        for wanted in re.findall(r'le="([^"]*)"', rule["expr"]):
            assert wanted in buckets(text), f"{rule['record']}: no bucket {wanted}"


def test_what_a_daemon_shows_is_what_is_documented(busy):
    kind, text = scrape(busy, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    rows = documented()
    shown = set()
    for family in openmetrics(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert rows[name][0] == family.type, name
        shown.add(name)
        for sample in family.samples:
            labels = set(sample.labels) - {"le"}
            assert labels == set(rows[name][1]), f"{sample.name}{sample.labels}"
            for label in labels:
                values = rows[name][1][label]
                if not values.startswith("bounded"):
                    assert sample.labels[label] in values.split(", "), f"{sample.name}{sample.labels}"
    assert shown >= set(rows) - PASSING, "documented, and not shown"


def test_prometheus_finds_no_fault_with_the_text_format(busy):
    kind, text = scrape(busy, "text/plain; version=0.0.4")
    assert kind.startswith("text/plain")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_page_of_metrics_is_current():
    made = subprocess.run(
        [sys.executable, str(prometheus_rules.FOLDER / "metrics-page"), BINARY], capture_output=True, text=True, check=True
    )
    assert made.stdout == PAGE.read_text(), "make reference"


@pytest.mark.no_binary
def test_what_is_asked_for_exists_and_what_exists_is_asked_for():
    rows, asked = documented(), asked_for()
    assert not {name: where for name, where in asked.items() if name not in rows}, "no such metric"
    assert not set(rows) - set(asked), "metrics that nobody looks at: show them, or drop them"
    for name in asked:
        assert rows[name][2] != "nothing", name


@pytest.mark.no_binary
def test_labels_that_are_asked_for_exist_with_these_values():
    rows = documented()
    everywhere = {"job", "cluster", "instance", "le", "alertname", "alertstate"}
    expressions_of_all = [rule["expr"] for rule in prometheus_rules.rules()]
    expressions_of_all += [expression for page in PAGES.values() for _, expression in expressions(page)]
    for expression in expressions_of_all:
        for metric, selector in re.findall(r"\b((?:kmsward|process)_[a-z_]+){([^}]*)}", expression):
            labels = rows[re.sub(r"_(bucket|sum|count)$", "", metric)][1]
            for label, _, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
                if label in everywhere or "$" in value:
                    continue
                assert label in labels, f"{metric} has no {label}"
                known = labels[label]
                if not known.startswith("bounded"):
                    assert set(value.split("|")) <= set(known.split(", ")), f"{metric}: {label} is never {value}"


@pytest.mark.no_binary
def test_every_alert_has_a_runbook_and_points_to_it():
    for rule in prometheus_rules.alerts():
        assert rule["annotations"]["runbook_url"] == f"{prometheus_rules.adapt.RUNBOOKS}/{rule['alert']}.md"
        assert (RUNBOOKS / f"{rule['alert']}.md").is_file(), f"no runbook for {rule['alert']}"


@pytest.mark.no_binary
@pytest.mark.parametrize("folder", ["runbooks", "docs"])
def test_metrics_that_pages_name_exist(folder):
    rows = documented()
    for page in (REPOSITORY / folder).rglob("*.md"):
        # Also by their beginning, as grep takes them.
        for name in re.findall(r"\bkmsward_[a-z_]+", page.read_text()):
            begins = re.sub(r"_(bucket|sum|count)$", "", name)
            assert any(one.startswith(begins) for one in rows), f"{page.name}: {name}"


def test_reading_metrics_and_health_asks_no_backend(on_jdcloud, fake):
    one = on_jdcloud(changes={"rotation": {"observe_every": "10m", "settle": "0s"}})
    eventually(lambda: one.metric("kmsward_key_ready", key="primary") == 1, "the key is ready")
    before = fake.counters()["calls"]
    for path in ("metrics", "livez", "readyz"):
        for _ in range(50):
            with urllib.request.urlopen(f"http://{one.configuration['metrics']['listen']}/{path}", timeout=10) as answer:
                assert answer.status == 200 and answer.read()
    assert fake.counters()["calls"] == before


@pytest.mark.timeout(300)
def test_alerts_fire_in_a_real_prometheus_and_end():
    stages = ("nothing goes wrong", "down for longer", "a key file is damaged", "a configuration is broken")
    options = [word for one in stages for word in ("--only", one)]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "ops" / "drill" / "alerts"), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("KmswardRidingThrough", "KmswardCallsFailing", "KmswardNotReady", "KmswardReloadRefused"):
        assert name in done.stdout, done.stdout


def test_a_key_s_gauges_have_the_values_that_they_are_named_for(start, key_file):
    """Not only that they are there: one had the bits of its number taken for the number."""
    one = start()
    (active, _), began = key_file.active, time.time()
    with one.kms() as kms:
        for _ in range(7):
            kms.encrypt(bytes(32))
    eventually(lambda: one.metric("kmsward_local_kek_uses", key="primary") == 7, "seven messages are counted")
    assert one.metric("kmsward_local_kek_age_seconds", key="primary") <= time.time() - began + 60
    assert one.metric("kmsward_local_kek_maximum_age_seconds", key="primary") == 30 * 86400
    assert one.metric("kmsward_key_probe_interval_seconds", key="primary") == 1
    for name in ("kmsward_key_last_proof_timestamp_seconds", "kmsward_key_last_probe_timestamp_seconds"):
        assert began - 60 <= one.metric(name, key="primary") <= time.time() + 1, name
    info = one.metrics_text()
    assert one.metric("kmsward_key_info", key="primary", version=str(active), suite="aes-256-gcm", role="encrypts") == 1, info
