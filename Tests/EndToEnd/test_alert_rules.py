"""Each alert of ops/prometheus by promtool: that it fires, with which words, that it does not, and that it ends."""

import re
import subprocess

import pytest
import yaml

import prometheus_rules
from prometheus_rules import FOLDER, RULES, alert, alerts, groups

pytestmark = pytest.mark.no_binary


class Case:
    """Series by the minute (or `step`), and at which times which alerts are there: {time: [(severity, labels, summary)]}.

    Each has beside the trouble a neighbour, `cp-2`, that is just well enough; its alerts are never expected.
    """

    def __init__(self, name, series, expected, step="1m"):
        self.name, self.series, self.expected, self.step = name, series, expected, step

    def written(self):
        """As promtool reads it; description and runbook are the rule's own, as nothing is filled in there."""

        def one(severity, labels, summary):
            rule = alert(self.name, severity)
            texts = {**rule["annotations"], "summary": summary, "description": rule["annotations"]["description"].strip()}
            return {"exp_labels": {"severity": severity, **labels}, "exp_annotations": texts}

        return {
            "rule_files": [str(RULES)],
            "evaluation_interval": self.step,
            # Else promtool takes the groups in the order of a Go map, another one at each run: alerts that stand on recorded
            # shares then see, in some runs, those of the step before.
            "group_eval_order": groups(),
            "tests": [
                {
                    "interval": self.step,
                    "input_series": [{"series": name, "values": values} for name, values in self.series.items()],
                    "alert_rule_test": [
                        {"eval_time": time, "alertname": self.name, "exp_alerts": [one(*found) for found in there]}
                        for time, there in self.expected.items()
                    ],
                }
            ],
        }


ONE = {"job": "kmsward", "instance": "cp-1"}
PRIMARY = {**ONE, "key": "primary"}


def named(metric, instance="cp-1", **labels):
    """A series of one control plane."""
    inner = ",".join(f'{name}="{value}"' for name, value in {"job": "kmsward", "instance": instance, **labels}.items())
    return f"{metric}{{{inner}}}"


def keyed(metric, instance="cp-1", **labels):
    return named(metric, instance, key="primary", **labels)


def calls(instance, code, values, method="decrypt"):
    return {named("kmsward_requests_total", instance, api="v2", method=method, code=code): values}


def durations(instance, all_of_them, within_a_second, method="decrypt"):
    labels = {"api": "v2", "method": method}
    return {
        named("kmsward_request_duration_seconds_count", instance, **labels): all_of_them,
        named("kmsward_request_duration_seconds_bucket", instance, **labels, le="1.0"): within_a_second,
    }


def trouble(code, instance="cp-1"):
    return keyed("kmsward_key_trouble", instance, code=code)


def announced(instance, **labels):
    usual = {"key_id": "kw1.a.0.x", "version": "1", "epoch": "0", "suite": "aes-256-gcm", "write_format": "envelope"}
    return keyed("kmsward_key_info", instance, **{**usual, "role": "encrypts", **labels})


def bad(summary, severity="critical", labels=ONE):
    return [(severity, labels, summary)]


HOURS_LATER = "14h"

CASES = [
    # 60 calls a minute; a tenth of them fails for half an hour. The neighbour fails 1 in 10,000, is left by its callers and
    # refuses what is damaged; the third had two calls, and both failed.
    Case(
        "KmswardCallsFailing",
        {
            **calls("cp-1", "OK", "0+54x850"),
            **calls("cp-1", "UNAVAILABLE", "0x400 0+6x30 180x420"),
            **calls("cp-2", "OK", "0+60x850"),
            **calls("cp-2", "UNAVAILABLE", "0+0.006x850"),
            **calls("cp-2", "INVALID_ARGUMENT", "0+60x850"),
            **calls("cp-2", "CANCELLED", "0+60x850"),
            **calls("cp-3", "UNAVAILABLE", "0x410 2x440"),
        },
        {
            "400m": [],
            # The share of an hour; then that of six, when the last five minutes are well; then that of a day.
            "412m": [
                *bad("cp-1 fails 10% of its calls"),
                *bad("cp-1 fails 0.3384% of its calls, for hours", "warning"),
            ],
            "445m": [
                *bad("cp-1 fails 5.594% of its calls"),
                *bad("cp-1 fails 2.703% of its calls, for hours", "warning"),
            ],
            "500m": bad("cp-1 fails 2.703% of its calls, for hours", "warning"),
            "700m": bad("cp-1 fails 0.9174% of its calls, for hours", "warning"),
            HOURS_LATER: [],
        },
    ),
    # The same with calls that take too long.
    Case(
        "KmswardCallsSlow",
        {
            **durations("cp-1", "0+60x850", "0+60x400 24000x30 24060+60x420"),
            **durations("cp-2", "0+60x850", "0+59.9x850"),
            **durations("cp-2", "0+60x850", "0x850", method="status"),
            **durations("cp-3", "0x410 2x440", "0x850"),
        },
        {
            "400m": [],
            "412m": [
                *bad("cp-1 takes over a second for 100% of its Encrypts and Decrypts"),
                *bad("cp-1 takes over a second for 3.333% of its Encrypts and Decrypts, for hours", "warning"),
            ],
            "445m": [
                *bad("cp-1 takes over a second for 53.33% of its Encrypts and Decrypts"),
                *bad("cp-1 takes over a second for 25.83% of its Encrypts and Decrypts, for hours", "warning"),
            ],
            "500m": bad("cp-1 takes over a second for 25.83% of its Encrypts and Decrypts, for hours", "warning"),
            "700m": bad("cp-1 takes over a second for 8.611% of its Encrypts and Decrypts, for hours", "warning"),
            HOURS_LATER: [],
        },
    ),
    Case(
        "KmswardObjectsUnreadable",
        {
            **calls("cp-1", "INVALID_ARGUMENT", "0x10 0+2x10 20x30"),
            **calls("cp-1", "OK", "0+60x50"),
            **calls("cp-2", "INVALID_ARGUMENT", "0x10 0+1x8 9x30"),
            **calls("cp-2", "INVALID_ARGUMENT", "0+9x50", method="encrypt"),
        },
        {
            "11m": [],
            "20m": bad("cp-1 was asked to decrypt what it cannot, 18 times in 10 minutes", "warning"),
            "35m": [],
        },
    ),
    Case(
        "KmswardDown",
        {named("up"): "1x5 0x9 1x9", named("up", "cp-2"): "1x5 0x1 1x20", 'up{job="other",instance="cp-1"}': "0x30"},
        {"7m": [], "9m": bad("cp-1 does not answer Prometheus"), "17m": []},
    ),
    Case(
        "KmswardAbsent",
        {named("up"): "0x5 stale _x18 0x9", 'up{job="other",instance="cp-1"}': "1x40"},
        {"15m": [], "22m": bad("Prometheus has no target of job kmsward", labels={"job": "kmsward"}), "27m": []},
    ),
    Case(
        "KmswardNotReady",
        {named("kmsward_ready"): "1x5 0x9 1x9", named("kmsward_ready", "cp-2"): "1x5 0x0 1x20"},
        {"6m": [], "8m": bad("cp-1 is not ready"), "17m": []},
    ),
    Case(
        "KmswardRestarting",
        {
            named("process_start_time_seconds"): "100x5 200x5 300x5 400x60",
            named("process_start_time_seconds", "cp-2"): "100x5 200x5 300x60",
        },
        {"16m": [], "19m": bad("cp-1 was restarted 3 times in 15 minutes", "warning"), "40m": []},
    ),
    Case(
        "KmswardReloadRefused",
        {
            named("kmsward_config_last_reload_successful"): "1x5 0x9 1x9",
            named("kmsward_config_last_reload_successful", "cp-2"): "1x30",
        },
        {"6m": [], "8m": bad("cp-1 refused its changed configuration", "warning"), "17m": []},
    ),
    Case(
        "KmswardMemoryNotLocked",
        {named("kmsward_memory_locked"): "1x5 0x9 1x9", named("kmsward_memory_locked", "cp-2"): "1x30"},
        {"6m": [], "8m": bad("cp-1 keeps secrets in memory that may be swapped out", "warning"), "17m": []},
    ),
    Case(
        "KmswardAcceptingPaused",
        {named("kmsward_accepting_paused"): "0x5 1x9 0x9", named("kmsward_accepting_paused", "cp-2"): "0x5 1x0 0x20"},
        {"6m": [], "8m": bad("cp-1 accepts no connections"), "17m": []},
    ),
    # Somebody who tries other protocols or never speaks is no API server that is kept out.
    # Called for ten minutes, not for twenty, and then again; the neighbour is called by a Status a minute.
    Case(
        "KmswardNotCalled",
        {
            named("process_start_time_seconds"): "0x60",
            named("process_start_time_seconds", "cp-2"): "0x60",
            named("kmsward_requests_total", method="status"): "0+5x10 50x20 55+5x30",
            named("kmsward_requests_total", "cp-2", method="status"): "0+1x60",
        },
        {"22m": [], "27m": bad("cp-1 is not called by any API server", "warning"), "33m": []},
    ),
    # Not called since the start, and then for the first time; nor is the neighbour, which was started ten minutes later.
    Case(
        "KmswardNotCalled",
        {
            named("process_start_time_seconds"): "0x40",
            named("process_start_time_seconds", "cp-2"): "0x9 600x14 1500x20",
            named("kmsward_requests_total", method="status"): "_x20 1+5x20",
        },
        {"14m": [], "17m": bad("cp-1 is not called by any API server", "warning"), "24m": []},
    ),
    Case(
        "KmswardPeersRefused",
        {
            named("kmsward_connections_refused_total", reason="uid"): "0x5 2x30",
            named("kmsward_connections_refused_total", "cp-2", reason="not_http2"): "0+1x40",
            named("kmsward_connections_refused_total", "cp-2", reason="handshake_timeout"): "0+1x40",
        },
        {"5m": [], "8m": bad("cp-1 turned away connections: uid", "warning", {**ONE, "reason": "uid"}), "20m": []},
    ),
    *(
        Case(
            name,
            {trouble(code): "_x5 1x9 stale", trouble(other, "cp-2"): "1x30"},
            {"4m": [], "6m": bad(f"key primary on cp-1: {code}", labels={**PRIMARY, "code": code}), "16m": []},
        )
        for name, code, other in (
            ("KmswardKeyDisabled", "keyDisabled", "unavailable"),
            ("KmswardKeyDisabled", "keyNotFound", "misconfigured"),
            ("KmswardUnauthorised", "unauthenticated", "throttled"),
            ("KmswardUnauthorised", "permissionDenied", "keyDisabled"),
            ("KmswardKeyMisconfigured", "misconfigured", "unauthenticated"),
            ("KmswardKeyMisconfigured", "invalidCiphertext", "keyNotFound"),
        )
    ),
    # An outage of eight minutes; the neighbour has one of three, and the third does not serve any more.
    Case(
        "KmswardRidingThrough",
        {
            keyed("kmsward_key_writes_stop_in_seconds"): "_x5 86400-60x8 stale",
            keyed("kmsward_key_writes_stop_in_seconds", "cp-2"): "_x5 86400-60x2 stale",
            keyed("kmsward_key_writes_stop_in_seconds", "cp-3"): "0x30",
        },
        {
            "9m": [],
            "12m": bad("key primary on cp-1 rides through trouble; writes stop in 23h 53m 0s", "warning", PRIMARY),
            "15m": [],
        },
    ),
    # The last hours; the neighbour has a minute more than four hours, the third has stopped, which is for NotReady to tell.
    Case(
        "KmswardWritesStopSoon",
        {
            keyed("kmsward_key_writes_stop_in_seconds"): "14640-60x20 stale",
            keyed("kmsward_key_ready"): "1x40",
            keyed("kmsward_key_writes_stop_in_seconds", "cp-2"): "14460x30",
            keyed("kmsward_key_ready", "cp-2"): "1x40",
            keyed("kmsward_key_writes_stop_in_seconds", "cp-3"): "0x30",
            keyed("kmsward_key_ready", "cp-3"): "0x40",
        },
        {"5m": [], "10m": bad("key primary on cp-1: writes stop in 3h 54m 0s", labels=PRIMARY), "21m": []},
    ),
    # A rotation that one of three has not followed yet; another key that only decrypts is nobody's business.
    Case(
        "KmswardKeyIDDiffers",
        {
            announced("cp-1", key_id="kw1.a.0.x"): "1x4 stale",
            announced("cp-1", key_id="kw1.a.0.y"): "_x5 1x40",
            announced("cp-2", key_id="kw1.a.0.x"): "1x24 stale",
            announced("cp-2", key_id="kw1.a.0.y"): "_x25 1x20",
            announced("cp-2", key_id="kw1.b.0.x", role="decrypts"): "1x40",
        },
        {
            "14m": [],
            "16m": bad("control planes of cluster  encrypt under 2 key_ids", labels={"job": "kmsward"}),
            "30m": [],
        },
    ),
    Case(
        "KmswardEpochDiffers",
        {
            announced("cp-1", epoch="1", cluster="a"): "1x40",
            announced("cp-2", cluster="a"): "1x24 stale",
            announced("cp-2", epoch="1", cluster="a"): "_x25 1x20",
            announced("cp-3", epoch="7", cluster="b"): "1x40",
        },
        {
            "9m": [],
            "16m": bad(
                "control planes of cluster a have 2 epochs configured", labels={"job": "kmsward", "cluster": "a"}
            ),
            "30m": [],
        },
    ),
    Case(
        "KmswardSuiteDiffers",
        {
            announced("cp-1", cluster="a", suite="sm4-gcm"): "1x24 stale",
            announced("cp-1", cluster="a"): "_x25 1x20",
            announced("cp-2", cluster="a"): "1x40",
            announced("cp-3", cluster="a", suite="sm4-gcm", role="decrypts"): "1x40",
        },
        {
            "9m": [],
            "16m": bad(
                "control planes of cluster a write in 2 ways", "warning", labels={"job": "kmsward", "cluster": "a"}
            ),
            "30m": [],
        },
    ),
    # The clock of promtool begins at 0. The neighbour is probed every ten minutes, as it is configured to be.
    Case(
        "KmswardProbeStale",
        {
            keyed("kmsward_key_last_probe_timestamp_seconds"): "0+60x4 240x9 840+60x20",
            keyed("kmsward_key_probe_interval_seconds"): "30x40",
            keyed("kmsward_key_last_probe_timestamp_seconds", "cp-2"): "0x9 600x9 1200x9 1800x9",
            keyed("kmsward_key_probe_interval_seconds", "cp-2"): "600x40",
        },
        {
            "10m": [],
            "11m": [],
            "13m": bad("key primary on cp-1 was last probed 9m 0s ago", "warning", PRIMARY),
            "20m": [],
        },
    ),
    Case(
        "KmswardLocalKEKTooOld",
        {
            keyed("kmsward_local_kek_age_seconds"): "2764800+3600x40 0x9",
            keyed("kmsward_local_kek_maximum_age_seconds"): "2592000x50",
            keyed("kmsward_local_kek_age_seconds", "cp-2"): "2592000+3600x50",
            keyed("kmsward_local_kek_maximum_age_seconds", "cp-2"): "2592000x50",
        },
        {
            "21h": [],
            "22h": [],
            "30h": bad("the local KEK of key primary on cp-1 is 33d 6h 0m 0s old", "warning", PRIMARY),
            "42h": [],
        },
        step="1h",
    ),
    # cp-1 rotates after a day and still reads the former a week later; cp-2 rotated and reads none; cp-3 has only just rotated.
    Case(
        "KmswardFormerKeyInUse",
        {
            announced("cp-1", key_id="kw1.a.0.x"): "1x23 stale",
            announced("cp-1", key_id="kw1.a.0.y"): "_x24 1x400",
            keyed("kmsward_former_key_decrypts_total"): "0x24 0+1x200 200x200",
            announced("cp-2", key_id="kw1.a.0.y"): "1x400",
            keyed("kmsward_former_key_decrypts_total", "cp-2"): "7x400",
            announced("cp-3", key_id="kw1.a.0.x"): "1x190 stale",
            announced("cp-3", key_id="kw1.a.0.y"): "_x191 1x30 stale",
            keyed("kmsward_former_key_decrypts_total", "cp-3"): "0x190 0+1x200",
        },
        {
            "7d": [],
            "9d": bad("cp-1 still decrypts with a former key_id, a week after it was replaced", "info", PRIMARY),
            "11d": [],
        },
        step="1h",
    ),
    Case(
        "KmswardThrottled",
        {
            keyed("kmsward_backend_calls_total", operation="unwrap", outcome="throttled", attempt="first"): "0x5 0+1x9 9x20",
            keyed("kmsward_backend_calls_total", "cp-2", operation="unwrap", outcome="ok", attempt="again"): "0+9x40",
        },
        {
            "9m": [],
            "13m": bad("the key-management service throttles key primary on cp-1", "warning", PRIMARY),
            "25m": [],
        },
    ),
    Case(
        "KmswardBreakerOpen",
        {keyed("kmsward_backend_breaker_open"): "0x5 1x9 0x9", keyed("kmsward_backend_breaker_open", "cp-2"): "0x5 1x3 0x20"},
        {
            "10m": [],
            "12m": bad("the key-management service of key primary on cp-1 is left alone", "warning", PRIMARY),
            "17m": [],
        },
    ),
    # Ends after an hour, and is renewed a minute before its end, which is late; the neighbour's is renewed in time.
    Case(
        "KmswardCredentialsExpiring",
        {
            keyed("kmsward_credentials_expiry_timestamp_seconds"): "3600x58 7200x20",
            keyed("kmsward_credentials_expiry_timestamp_seconds", "cp-2"): "3600x49 7200x40",
        },
        {
            "56m": [],
            "58m": bad("the credentials of key primary on cp-1 end in 2m 0s", "warning", PRIMARY),
            "60m": [],
        },
    ),
    Case(
        "KmswardCertificateExpiring",
        {
            keyed("kmsward_backend_certificate_expiry_timestamp_seconds"): "1728000x200 9504000x100",
            keyed("kmsward_backend_certificate_expiry_timestamp_seconds", "cp-2"): "9504000x300",
        },
        {
            "144h": [],
            "145h": [],
            "150h": bad("the certificate of the service of key primary on cp-1 ends in 13d 18h 0m 0s", "warning", PRIMARY),
            "210h": [],
        },
        step="1h",
    ),
    Case(
        "KmswardClockOff",
        {
            keyed("kmsward_backend_clock_offset_seconds"): "0x5 -540x9 0x20",
            keyed("kmsward_backend_clock_offset_seconds", "cp-2"): "59x40",
        },
        {"10m": [], "12m": bad("the clock of cp-1 is off by 9m 0s", "warning", PRIMARY), "16m": []},
    ),
]


# promtool computes for eight seconds where it goes by the minute for half a day, and for minutes on a machine that is very busy.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_alert_fires_with_its_words_when_it_should_and_ends(case, tmp_path):
    kinds = [bool(found) for found in case.expected.values()]
    assert kinds[0] is False and True in kinds and kinds[-1] is False, "a case goes from quiet over trouble to quiet"
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(case.written(), sort_keys=False))
    promtool("test", "rules", path)


def test_every_alert_has_a_case():
    assert sorted({rule["alert"] for rule in alerts()}) == sorted({case.name for case in CASES})
    for rule in alerts():
        assert any(
            rule["labels"]["severity"] == severity
            for case in CASES
            if case.name == rule["alert"]
            for there in case.expected.values()
            for severity, _, _ in there
        ), f"{rule['alert']} of severity {rule['labels']['severity']} is never seen to fire"


def test_every_alert_says_how_grave_it_is_what_it_means_and_where_to_read_on():
    for rule in alerts():
        assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"}, {"severity": "info"}), rule["alert"]
        texts = rule["annotations"]
        assert set(texts) == {"summary", "description", "runbook_url"}, rule["alert"]
        assert re.search(r"{{ \$labels|no target", texts["summary"]), f"{rule['alert']} does not say where"
        assert "{{" not in texts["description"], f"{rule['alert']}: the cases take the description as it stands"


def test_the_rules_and_the_sample_are_sound():
    promtool("check", "rules", RULES)
    promtool("check", "config", "--lint=all", FOLDER / "prometheus.yml")


def test_a_site_changes_the_place_of_the_runbooks_the_job_and_the_pace_in_one_command():
    as_they_are = prometheus_rules.adapt.adapted()
    assert as_they_are == RULES.read_text()
    elsewhere = run(FOLDER / "adapt", "--runbooks", "https://wiki.example.net/kmsward/", "--job", "kms-plugin")
    for before, after in zip(alerts(), read(elsewhere), strict=True):
        assert after["annotations"]["runbook_url"] == f"https://wiki.example.net/kmsward/{after['alert']}.md"
        assert after["expr"] == before["expr"].replace('job="kmsward"', 'job="kms-plugin"')
    faster = {(one["alert"], one["labels"]["severity"]): one for one in read(run(FOLDER / "adapt", "--faster", "60"))}
    assert faster["KmswardDown", "critical"]["for"] == "2000ms"
    assert "[5000ms]" in faster["KmswardThrottled", "warning"]["expr"]
    assert "offset 10080000ms" in faster["KmswardFormerKeyInUse", "info"]["expr"]
    assert "(4 * 3600 / 60)" in faster["KmswardWritesStopSoon", "critical"]["expr"]
    assert "14.4 * 0.001" in faster["KmswardCallsFailing", "critical"]["expr"]
    assert "> 60" in faster["KmswardClockOff", "warning"]["expr"], "how far a clock is off has nothing to do with the pace"


def run(*command):
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def promtool(*arguments):
    return run("promtool", *arguments)


def read(text):
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule]
