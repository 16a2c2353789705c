#!/usr/bin/env python3
"""Writes the dashboards of Grafana beside this file: `make dashboards`. What is in the JSON is decided here.

kmsward-fleet.json    every control plane of every cluster: who is ill, and do they agree
kmsward-plugin.json   one plugin: is it healthy, whose fault, since when
"""

import json
import pathlib

from grafana_foundation_sdk.builders import common as commons
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard, units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = pathlib.Path(__file__).parent
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
FAILED = 'code!~"OK|CANCELLED|INVALID_ARGUMENT"'
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"


class Page:
    """A dashboard in the making. `WHERE` in an expression stands for the chosen control planes, `KEY` for the keys as well."""

    def __init__(self, title, uid, description, where, tags=("kmsward",)):
        self.where = where
        self.built = (
            dashboards.Dashboard(title)
            .uid(uid)
            .description(description)
            .tags(list(tags))
            .readonly()
            .timezone("browser")
            .time("now-6h", "now")
            .refresh("30s")
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .with_variable(dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        )

    def choice(self, name, label, query, several=True):
        """A variable filled from a label; with `several` the choice may be all, also where the label is missing."""
        variable = (
            dashboards.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query(query)
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        )
        if several:
            everything = dashboard.VariableOption(selected=True, text="All", value="$__all")
            variable = variable.multi(True).include_all(True).all_value(".*").current(everything)
        self.built.with_variable(variable)

    def annotation(self, name, color, expression):
        self.built.annotation(
            dashboards.AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .enable(True)
            .hide(False)
            .icon_color(color)
            .expr(self._filled(expression))
        )

    def link(self, title, uid, tooltip):
        self.built.link(
            dashboards.DashboardLink(title)
            .type(dashboard.DashboardLinkType.LINK)
            .url(f"/d/{uid}")
            .tooltip(tooltip)
            .include_vars(True)
            .keep_time(True)
        )

    def row(self, title):
        self.built.with_row(dashboards.Row(title))

    def _filled(self, expression):
        return " ".join(expression.replace("KEY", self.where + ',key=~"$key"').replace("WHERE", self.where).split())

    def _query(self, expression, legend, reference, instant=False, as_table=False):
        query = prometheus.Dataquery().datasource(SOURCE).expr(self._filled(expression)).ref_id(reference)
        query = query.instant() if instant else query.range()
        if as_table:
            query = query.format(PromQueryFormat.TABLE)
        return query.legend_format(legend)

    def _place(self, panel, title, description, unit, width, height):
        panel = panel.title(title).description(" ".join(description.split())).datasource(SOURCE)
        return panel.unit(unit).span(width).height(height)

    def graph(self, title, description, unit, queries, width=8, height=8, stacked=False, least=0, most=None, steps=None):
        """Lines over time; `queries` are (expression, legend)."""
        panel = self._place(timeseries.Panel(), title, description, unit, width, height)
        panel = panel.legend(
            commons.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        ).tooltip(commons.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        panel = panel.line_width(1).fill_opacity(25 if stacked else 8).show_points(common.VisibilityMode.NEVER)
        if least is not None:
            panel = panel.min(least)
        if most is not None:
            panel = panel.max(most)
        if stacked:
            panel = panel.stacking(commons.StackingConfig().mode(common.StackingMode.NORMAL))
        if steps:
            panel = panel.thresholds(thresholds(steps)).thresholds_style(
                commons.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
            )
        for number, (expression, legend) in enumerate(queries):
            panel = panel.with_target(self._query(expression, legend, chr(ord("A") + number)))
        self.built.with_panel(panel)

    def number(self, title, description, unit, expression, steps, legend="", width=4, height=4, texts=None, none="-", name=False):
        """One value, or one a series, coloured by `steps`: (from, colour), the first from nothing."""
        panel = self._place(stat.Panel(), title, description, unit, width, height)
        panel = (
            panel.thresholds(thresholds(steps))
            .color_mode(common.BigValueColorMode.BACKGROUND_SOLID)
            .graph_mode(common.BigValueGraphMode.NONE)
            .text_mode(common.BigValueTextMode.VALUE_AND_NAME if legend else common.BigValueTextMode.VALUE)
            .reduce_options(commons.ReduceDataOptions().calcs(["lastNotNull"]))
            .no_value(none)
        )
        if name:
            panel = panel.text_mode(common.BigValueTextMode.NAME)
        if texts:
            panel = panel.mappings([mapping(texts)])
        self.built.with_panel(panel.with_target(self._query(expression, legend, "A", instant=True)))

    def rows(self, title, description, queries, columns, hidden=(), width=24, height=8, units_of=None, texts_of=None):
        """A table; `queries` are joined by the labels they share, `columns` are {name in Prometheus: heading}."""
        panel = self._place(table.Panel(), title, description, units.Short, width, height).show_header(True)
        for number, expression in enumerate(queries):
            panel = panel.with_target(self._query(expression, "", chr(ord("A") + number), instant=True, as_table=True))
        if len(queries) > 1:
            panel = panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        out = {name: True for name in ("Time", "__name__", "job", *hidden)}
        panel = panel.with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize", options={"excludeByName": out, "indexByName": {}, "renameByName": columns}
            )
        )
        for heading, unit in (units_of or {}).items():
            panel = panel.override_by_name(heading, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
        for heading, texts in (texts_of or {}).items():
            panel = panel.override_by_name(
                heading,
                [
                    dashboard.DynamicConfigValue(id_val="mappings", value=[mapping(texts)]),
                    dashboard.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-background"}),
                ],
            )
        self.built.with_panel(panel)

    def write(self):
        made = self.built.build()
        for number, panel in enumerate(made.panels, start=1):
            panel.id_val = number
        return json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def thresholds(steps):
    (first, *more) = steps
    return (
        dashboards.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=None, color=first[1])] + [dashboard.Threshold(value=v, color=c) for v, c in more])
    )


def mapping(texts):
    """{value: (text, colour)}"""
    return dashboard.ValueMap(
        options={
            str(value): dashboard.ValueMappingResult(text=text, color=color, index=number)
            for number, (value, (text, color)) in enumerate(texts.items())
        }
    )


YES_NO = {1: ("yes", GREEN), 0: ("no", RED)}
NO_YES = {0: ("no", GREEN), 1: ("yes", RED)}
NONE_IS_GOOD = [(None, GREEN), (1, RED)]
#: What annotates every page. A range of two minutes finds what happened between two points a minute apart.
RESTARTS = "changes(process_start_time_seconds{WHERE}[2m]) > 0"
ROTATIONS = "increase(kmsward_key_rotations_total{WHERE}[2m]) > 0"


def alerts(page):
    page.rows(
        "Alerts",
        "What fires now. Good: nothing. runbooks/ has a page on each, by its name.",
        ['ALERTS{alertname=~"Kmsward.+",alertstate="firing",cluster=~"$cluster",instance=~"($instance)|"}'],
        {
            "alertname": "Alert",
            "severity": "Severity",
            "cluster": "Cluster",
            "instance": "Control plane",
            "key": "Key",
            "code": "Code",
            "reason": "Reason",
        },
        hidden=("Value", "alertstate"),
        height=5,
    )


def fleet():
    page = Page(
        "Kmsward / Fleet",
        "kmsward-fleet",
        "Every control plane's Kmsward: who is ill, since when, and whether all agree. Green at the top and equal lines below are good.",
        'job="kmsward",cluster=~"$cluster",instance=~"$instance"',
    )
    page.choice("cluster", "Cluster", 'label_values(up{job="kmsward"}, cluster)')
    page.choice("instance", "Control plane", 'label_values(up{job="kmsward",cluster=~"$cluster"}, instance)')
    page.annotation("Restarts", BLUE, RESTARTS)
    page.annotation("Rotations", "purple", ROTATIONS)
    page.link("Plugin", "kmsward-plugin", "One plugin: is it healthy, whose fault, since when")

    page.row("Is it healthy")
    page.number(
        "Answer Prometheus",
        "The share of plugins that are there. Good: 100 %. Less: KmswardDown says which.",
        units.PercentUnit,
        "avg(up{WHERE})",
        [(None, RED), (1, GREEN)],
    )
    page.number(
        "Not ready",
        "Plugins whose key that encrypts does not serve: their API servers are unready, and refuse writes of Secrets after three minutes. Good: 0.",
        units.Short,
        "count(kmsward_ready{WHERE} == 0) or vector(0)",
        NONE_IS_GOOD,
    )
    page.number(
        "Keys in trouble",
        "Keys with trouble, most of which serve all the same. Good: 0. The plugin's page says what trouble it is.",
        units.Short,
        "count(kmsward_key_trouble{WHERE} == 1) or vector(0)",
        [(None, GREEN), (1, ORANGE)],
    )
    page.number(
        "Writes stop in",
        "The shortest time that a key goes on encrypting if its trouble lasts. Good: none is limited.",
        units.Seconds,
        "min(kmsward_key_writes_stop_in_seconds{WHERE})",
        [(None, RED), (4 * 3600, ORANGE)],
        none="no limit",
    )
    page.number(
        "Share of failed calls",
        "The share of calls of the last five minutes that failed, over all plugins. Good: 0; the objective is 0.1 %.",
        units.PercentUnit,
        f"sum(rate(kmsward_requests_total{{WHERE,{FAILED}}}[5m])) / sum(rate(kmsward_requests_total{{WHERE}}[5m]))",
        [(None, GREEN), (0.001, ORANGE), (0.0144, RED)],
    )
    page.number(
        "Key_ids",
        "How many key_ids the most divided cluster encrypts under. Good: 1; 2 for minutes during a rotation.",
        units.Short,
        'max(count by (cluster) (count by (cluster, key_id) (kmsward_key_info{WHERE,role="encrypts"})))',
        [(None, RED), (1, GREEN), (2, ORANGE)],
    )
    page.rows(
        "Control planes",
        "One line each. Good: ready, one key_id and one version everywhere, no failed calls.",
        [
            "min by (cluster, instance) (kmsward_ready{WHERE})",
            "sum by (cluster, instance) (rate(kmsward_requests_total{WHERE}[$__rate_interval]))",
            f"sum by (cluster, instance) (rate(kmsward_requests_total{{WHERE,{FAILED}}}[$__rate_interval]))",
            "min by (cluster, instance) (kmsward_key_writes_stop_in_seconds{WHERE})",
            "max by (cluster, instance) (time() - process_start_time_seconds{WHERE})",
            "max by (cluster, instance, version) (kmsward_build_info{WHERE})",
        ],
        {
            "cluster": "Cluster",
            "instance": "Control plane",
            "version": "Version",
            "Value #A": "Ready",
            "Value #B": "Calls",
            "Value #C": "Failed",
            "Value #D": "Writes stop in",
            "Value #E": "Up for",
        },
        hidden=("Value #F",),
        units_of={"Calls": units.RequestsPerSecond, "Failed": units.RequestsPerSecond, "Writes stop in": units.Seconds, "Up for": units.Seconds},
        texts_of={"Ready": YES_NO},
    )

    alerts(page)
    page.row("Calls")
    page.graph(
        "Calls",
        "Calls of each API server. Good: alike, and never nothing: an API server asks for Status at least once a minute.",
        units.RequestsPerSecond,
        [("sum by (instance) (rate(kmsward_requests_total{WHERE}[$__rate_interval]))", "{{instance}}")],
    )
    page.graph(
        "Failed calls",
        "The share of calls that fail. Good: nothing. One line alone: that host; all lines: the key-management service.",
        units.PercentUnit,
        [
            (
                f"sum by (instance) (rate(kmsward_requests_total{{WHERE,{FAILED}}}[$__rate_interval]))"
                " / sum by (instance) (rate(kmsward_requests_total{WHERE}[$__rate_interval]))",
                "{{instance}}",
            )
        ],
        steps=[(None, GREEN), (0.001, RED)],
    )
    page.graph(
        "Encrypt and Decrypt, 99th percentile",
        "Good: well below 10 ms, as nearly all is answered from memory. Towards 3 s the API server gives up.",
        units.Seconds,
        [
            (
                "histogram_quantile(0.99, sum by (instance, le) "
                '(rate(kmsward_request_duration_seconds_bucket{WHERE,method=~"encrypt|decrypt"}[$__rate_interval])))',
                "{{instance}}",
            )
        ],
    )

    page.row("Key-management service")
    page.graph(
        "Calls to it",
        "Good: one or two a minute for each key, more after a restart. All that is answered from memory is not here.",
        units.RequestsPerSecond,
        [("sum by (instance) (rate(kmsward_backend_calls_total{WHERE}[$__rate_interval]))", "{{instance}}")],
    )
    page.graph(
        "Failed calls to it",
        "Good: nothing. The outcome says whose fault it is: unavailable and deadlineExceeded the way or the service, "
        "throttled the quota, unauthenticated and permissionDenied credentials, keyDisabled the key.",
        units.RequestsPerSecond,
        [
            (
                'sum by (instance, outcome) (rate(kmsward_backend_calls_total{WHERE,outcome!="ok"}[$__rate_interval]))',
                "{{instance}} {{outcome}}",
            )
        ],
    )
    page.graph(
        "Answered from memory",
        "The share of look-ups in the cache that need no call. Good: near 100 %, but for the minutes after a restart.",
        units.PercentUnit,
        [
            (
                'sum by (instance) (rate(kmsward_cache_requests_total{WHERE,outcome="hit"}[$__rate_interval]))'
                " / sum by (instance) (rate(kmsward_cache_requests_total{WHERE}[$__rate_interval]))",
                "{{instance}}",
            )
        ],
        most=1,
    )

    page.row("Do they agree")
    page.rows(
        "Keys of the control planes",
        "What each control plane has of each key. Good: lines of one key differ in nothing but the control plane.",
        ["max by (cluster, instance, key, key_id, version, epoch, suite, write_format, role, provider) (kmsward_key_info{WHERE})"],
        {
            "cluster": "Cluster",
            "instance": "Control plane",
            "key": "Key",
            "key_id": "key_id",
            "version": "Version",
            "epoch": "Epoch",
            "suite": "Suite",
            "write_format": "Writes",
            "role": "Role",
            "provider": "Provider",
        },
        hidden=("Value",),
        width=24,
    )
    page.graph(
        "Cost",
        "What the calls to the key-management services cost by the hour at the configured price, in its currency. Good: level. Nothing where no price is configured.",
        units.Short,
        [
            (
                "sum by (cluster, instance) (rate(kmsward_backend_billed_calls_total{WHERE}[$__rate_interval])"
                " * on (cluster, instance, key) group_left () kmsward_backend_call_price{WHERE}) * 3600",
                "{{instance}}",
            )
        ],
        width=12,
    )
    page.graph(
        "Memory",
        "Resident memory. Good: level, some 30 to 60 MiB.",
        units.BytesIEC,
        [("process_resident_memory_bytes{WHERE}", "{{instance}}")],
        width=12,
    )
    return page.write()


def plugin():
    page = Page(
        "Kmsward / Plugin",
        "kmsward-plugin",
        "One plugin, from top to bottom: is it healthy, whose fault is it, since when. What is below explains what is above.",
        'job="kmsward",cluster=~"$cluster",instance=~"$instance"',
    )
    page.choice("cluster", "Cluster", 'label_values(up{job="kmsward"}, cluster)')
    page.choice("instance", "Control plane", 'label_values(up{job="kmsward",cluster=~"$cluster"}, instance)', several=False)
    page.choice("key", "Key", 'label_values(kmsward_key_ready{job="kmsward",cluster=~"$cluster",instance=~"$instance"}, key)')
    page.annotation("Restarts", BLUE, RESTARTS)
    page.annotation("Rotations", "purple", ROTATIONS)
    page.link("Fleet", "kmsward-fleet", "All control planes")
    rate = "[$__rate_interval]"

    page.row("Is it healthy, and whose fault")
    page.number(
        "Ready",
        "Whether Status says ok. Good: yes. No: this API server is unready, and refuses writes of Secrets after three minutes.",
        units.Short,
        "kmsward_ready{WHERE}",
        [(None, RED), (1, GREEN)],
        texts=YES_NO,
        width=3,
    )
    page.number(
        "Trouble",
        "What is wrong with which key. Good: none. unavailable, deadlineExceeded, malformedReply: the key-management service or the way to it. throttled: "
        "the quota. unauthenticated, permissionDenied: credentials, clock, certificate. keyDisabled, keyNotFound: the key itself. misconfigured: this host.",
        units.Short,
        "kmsward_key_trouble{KEY} == 1",
        [(None, RED)],
        legend="{{key}}: {{code}}",
        width=6,
        none="none",
        name=True,
    )
    page.number(
        "Writes stop in",
        "How long each key goes on encrypting if its trouble lasts. Good: no limit.",
        units.Seconds,
        "kmsward_key_writes_stop_in_seconds{KEY}",
        [(None, RED), (4 * 3600, ORANGE)],
        legend="{{key}}",
        none="no limit",
        width=4,
    )
    page.number(
        "Last proof",
        "How long ago each key was seen to unwrap. Good: below a minute, or what rotation.observe_every is.",
        units.Seconds,
        "time() - kmsward_key_last_proof_timestamp_seconds{KEY}",
        [(None, GREEN), (120, ORANGE), (600, RED)],
        legend="{{key}}",
        width=4,
    )
    page.number(
        "Left alone",
        "Whether the key-management service is left alone, since five calls in a row got no answer. Good: no.",
        units.Short,
        "max(kmsward_backend_breaker_open{KEY})",
        [(None, GREEN), (1, RED)],
        texts=NO_YES,
        width=3,
    )
    page.number(
        "Up for",
        "Time since the start. Good: long; short after it was restarted, when what was in memory has to be unwrapped again.",
        units.Seconds,
        "time() - process_start_time_seconds{WHERE}",
        [(None, YELLOW), (600, GREEN)],
        width=4,
    )
    page.graph(
        "Since when: keys that serve",
        "1 while a key serves, 0 while it does not. Good: all at 1.",
        units.Short,
        [("kmsward_key_ready{KEY}", "{{key}}"), ("kmsward_ready{WHERE}", "the plugin")],
        most=1,
        width=12,
        height=6,
    )
    page.graph(
        "Since when: trouble",
        "1 while there is trouble of that class. Good: nothing.",
        units.Short,
        [("kmsward_key_trouble{KEY}", "{{key}}: {{code}}")],
        most=1,
        width=12,
        height=6,
    )

    alerts(page)
    page.row("Calls of the API server")
    page.graph(
        "Calls",
        "Good: Status at least once a minute. No Status: the API server does not reach the socket, or is not there.",
        units.RequestsPerSecond,
        [("sum by (api, method) (rate(kmsward_requests_total{WHERE}" + rate + "))", "{{api}} {{method}}")],
    )
    page.graph(
        "Failed calls",
        "By method and code; the runbooks have a page on each code. Good: nothing. CANCELLED is the caller's own doing; "
        "INVALID_ARGUMENT concerns single objects.",
        units.RequestsPerSecond,
        [('sum by (method, code) (rate(kmsward_requests_total{WHERE,code!="OK"}' + rate + ")) > 0", "{{method}} {{code}}")],
    )
    page.graph(
        "Time to the answer",
        "Median and 99th percentile. Good: below 10 ms; a first Decrypt takes as long as the key-management service does. The API server gives up after 3 s.",
        units.Seconds,
        [
            (
                f"histogram_quantile({quantile}, sum by (method, le) (rate(kmsward_request_duration_seconds_bucket{{WHERE}}{rate})))",
                f"{{{{method}}}} {name}",
            )
            for quantile, name in (("0.5", "median"), ("0.99", "99 %"))
        ],
    )
    page.graph(
        "Where the time goes",
        "Seconds spent by the second. crypto: sealing and opening. queue: waiting for a turn at the key-management service. backend: calls to it. "
        "cache: callers waiting for what was not in memory, which covers queue and backend. Good: next to nothing but crypto.",
        units.Seconds,
        [
            ("sum(rate(kmsward_crypto_duration_seconds_sum{WHERE}" + rate + "))", "crypto"),
            ("sum(rate(kmsward_queue_duration_seconds_sum{WHERE}" + rate + "))", "queue"),
            ("sum(rate(kmsward_backend_duration_seconds_sum{WHERE}" + rate + "))", "backend"),
            ("sum(rate(kmsward_cache_load_duration_seconds_sum{WHERE}" + rate + "))", "cache"),
            ("sum(rate(kmsward_request_duration_seconds_sum{WHERE}" + rate + "))", "calls in all"),
        ],
    )
    page.graph(
        "In flight",
        "Calls being served, and calls that wait for their turn at the key-management service. Good: near 0; limits.calls_in_flight refuses more.",
        units.Short,
        [
            ("kmsward_requests_in_flight{WHERE}", "calls"),
            ("sum(kmsward_backend_calls_waiting{KEY})", "waiting for a turn"),
            ("kmsward_cache_loads_in_flight{WHERE}", "being unwrapped"),
        ],
    )
    page.graph(
        "Connections",
        "Open ones, and those accepted, refused and left each second. Good: a few open for each API server, none refused. "
        "uid: somebody who is not allowed; stalled, barred: a peer floods.",
        units.Short,
        [
            ("kmsward_connections{WHERE}", "open"),
            ("rate(kmsward_connections_accepted_total{WHERE}" + rate + ")", "accepted"),
            ("sum by (reason) (rate(kmsward_connections_refused_total{WHERE}" + rate + "))", "refused: {{reason}}"),
            ("rate(kmsward_connections_abandoned_total{WHERE}" + rate + ")", "left before they spoke"),
        ],
    )

    page.row("Key-management service")
    page.graph(
        "Calls to it",
        "By what is asked and how it ended. Good: describe, wrap and unwrap ok, one or two a minute for each key.",
        units.RequestsPerSecond,
        [("sum by (operation, outcome) (rate(kmsward_backend_calls_total{KEY}" + rate + ")) > 0", "{{operation}} {{outcome}}")],
    )
    page.graph(
        "Time of one call",
        "Median and 99th percentile. Good: level, some milliseconds. 2.9 s and more does not reach the API server in time.",
        units.Seconds,
        [
            (
                f"histogram_quantile({quantile}, sum by (operation, le) (rate(kmsward_backend_duration_seconds_bucket{{KEY}}{rate})))",
                f"{{{{operation}}}} {name}",
            )
            for quantile, name in (("0.5", "median"), ("0.99", "99 %"))
        ],
    )
    page.graph(
        "Tries and decisions",
        "Further tries beside a late call or after a failed one, and calls refused without asking. Good: nothing.",
        units.RequestsPerSecond,
        [
            ('sum by (attempt) (rate(kmsward_backend_calls_total{KEY,attempt!="first"}' + rate + ")) > 0", "try {{attempt}}"),
            ("sum by (decision) (rate(kmsward_backend_decisions_total{KEY}" + rate + ")) > 0", "{{decision}}"),
        ],
    )
    page.graph(
        "Waiting for a turn",
        "How long calls wait before they are made, 99th percentile: for one of 16 places, and for the rate after a 429. Good: next to nothing.",
        units.Seconds,
        [
            (
                f"histogram_quantile(0.99, sum by (key, le) (rate(kmsward_queue_duration_seconds_bucket{{KEY}}{rate})))",
                "{{key}}",
            )
        ],
    )
    page.graph(
        "Billed calls by the hour",
        "Calls that the service counts, and what they cost at the configured price. Good: some 120 to 360 for each key.",
        units.Short,
        [
            ("sum by (key) (rate(kmsward_backend_billed_calls_total{KEY}" + rate + ")) * 3600", "{{key}}: calls"),
            (
                "sum by (key) (rate(kmsward_backend_billed_calls_total{KEY}" + rate + ") * on (cluster, instance, key) "
                "kmsward_backend_call_price{KEY}) * 3600",
                "{{key}}: cost",
            ),
        ],
    )
    page.graph(
        "Clock",
        "What is added to this machine's time in calls to the service. Good: 0; 900 s off is refused.",
        units.Seconds,
        [("kmsward_backend_clock_offset_seconds{KEY}", "{{key}}")],
        least=None,
    )

    page.row("Memory for unwrapped keys")
    page.graph(
        "Look-ups",
        "hit: from memory. miss: one call. coalesced: waits for another's call. negative: known not to open. Good: hits, few misses after the first minutes.",
        units.RequestsPerSecond,
        [("sum by (outcome) (rate(kmsward_cache_requests_total{WHERE}" + rate + "))", "{{outcome}}")],
        stacked=True,
    )
    page.graph(
        "Waiting for what was not there",
        "How long a Decrypt waits, median and 99th percentile. Good: as long as one call takes. Nothing: all is in memory.",
        units.Seconds,
        [
            (f"histogram_quantile({quantile}, sum by (le) (rate(kmsward_cache_load_duration_seconds_bucket{{WHERE}}{rate})))", name)
            for quantile, name in (("0.5", "median"), ("0.99", "99 %"))
        ],
    )
    page.graph(
        "Entries",
        "Unwrapped keys in memory, and their bytes. Good: level, below cache.entries.",
        units.Short,
        [("kmsward_cache_entries{WHERE}", "entries"), ("kmsward_cache_secret_bytes{WHERE}", "bytes of secrets")],
    )
    page.graph(
        "Let go",
        "Why entries left. Good: nothing. capacity: cache.entries is too small. expired: the service was away for ride_through. denied: the key was disabled.",
        units.RequestsPerSecond,
        [("sum by (reason) (rate(kmsward_cache_evictions_total{WHERE}" + rate + ")) > 0", "{{reason}}")],
        width=12,
    )
    page.graph(
        "Loaded anew",
        "Entries looked at again beside a hit, once an hour each, and how often that failed. Good: none failed.",
        units.RequestsPerSecond,
        [("sum by (outcome) (rate(kmsward_cache_reloads_total{WHERE}" + rate + "))", "{{outcome}}")],
        width=12,
    )

    page.row("Keys and rotation")
    page.rows(
        "Keys",
        "What each key is now. Good: as on the other control planes.",
        ["max by (key, key_id, version, epoch, suite, write_format, role, provider) (kmsward_key_info{KEY})"],
        {"key": "Key", "version": "Version", "epoch": "Epoch", "suite": "Suite", "write_format": "Writes", "role": "Role", "provider": "Provider"},
        hidden=("Value",),
        height=5,
    )
    page.graph(
        "Probes",
        "Each ends ok or failed. Good: ok, one for every rotation.observe_every.",
        units.RequestsPerSecond,
        [("sum by (key, result) (rate(kmsward_key_probes_total{KEY}" + rate + "))", "{{key}}: {{result}}")],
    )
    page.graph(
        "Age of the last probe",
        "Against the interval that is configured. Good: a saw whose teeth are as high as the interval.",
        units.Seconds,
        [
            ("time() - kmsward_key_last_probe_timestamp_seconds{KEY}", "{{key}}"),
            ("kmsward_key_probe_interval_seconds{KEY}", "{{key}}: interval"),
        ],
    )
    page.graph(
        "Rotations, and what is left of former keys",
        "Key_ids taken up, and Decrypts of what was written under a former one. Good: the second goes to nothing in the days after the first.",
        units.Short,
        [
            ("increase(kmsward_key_rotations_total{KEY}" + rate + ")", "{{key}}: rotations"),
            ("increase(kmsward_former_key_decrypts_total{KEY}" + rate + ")", "{{key}}: Decrypts of former ones"),
        ],
    )
    page.graph(
        "Age of the local KEK",
        "Against local_kek.max_age. Good: below it.",
        units.Seconds,
        [
            ("kmsward_local_kek_age_seconds{KEY}", "{{key}}"),
            ("kmsward_local_kek_maximum_age_seconds{KEY}", "{{key}}: most"),
        ],
        width=12,
    )
    page.graph(
        "Uses of the local KEK",
        "Encryptions under it since this process took it up. Good: below local_kek.max_uses, 4 billion by default.",
        units.Short,
        [("kmsward_local_kek_uses{KEY}", "{{key}}")],
        width=12,
    )

    page.row("Credentials and certificates")
    page.number(
        "Credentials end in",
        "Temporary ones are renewed ten minutes ahead. Good: more than that. None: they do not end.",
        units.Seconds,
        "kmsward_credentials_expiry_timestamp_seconds{KEY} - time()",
        [(None, RED), (180, ORANGE), (600, GREEN)],
        legend="{{key}}",
        width=12,
        none="never",
    )
    page.number(
        "The service's certificate ends in",
        "As the last connection showed it. Good: more than 14 days. None: no TLS, or no connection yet.",
        units.Seconds,
        "kmsward_backend_certificate_expiry_timestamp_seconds{KEY} - time()",
        [(None, RED), (3 * 86400, ORANGE), (14 * 86400, GREEN)],
        legend="{{key}}",
        width=12,
    )

    page.row("The process")
    page.number(
        "Version",
        "The version that runs. Good: the same everywhere.",
        units.Short,
        "kmsward_build_info{WHERE}",
        [(None, BLUE)],
        legend="{{version}}",
        width=4,
        name=True,
    )
    page.number(
        "Memory is locked",
        "Whether secrets are in memory that cannot be swapped out. Good: yes.",
        units.Short,
        "kmsward_memory_locked{WHERE}",
        [(None, RED), (1, GREEN)],
        texts=YES_NO,
    )
    page.number(
        "Last reload was taken",
        "No: the configuration file is not what runs. Good: yes.",
        units.Short,
        "kmsward_config_last_reload_successful{WHERE}",
        [(None, RED), (1, GREEN)],
        texts=YES_NO,
    )
    page.number(
        "Configuration taken",
        "How long ago the configuration that runs was read. Good: when it was changed last.",
        units.Seconds,
        "time() - kmsward_config_last_reload_success_timestamp_seconds{WHERE}",
        [(None, BLUE)],
    )
    page.number(
        "Accepting paused",
        "Whether no connection is accepted for want of descriptors or memory. Good: no.",
        units.Short,
        "kmsward_accepting_paused{WHERE}",
        [(None, GREEN), (1, RED)],
        texts=NO_YES,
    )
    page.number(
        "Lost for observers",
        "Log lines lost since the start because their reader did not keep up, and series folded into `other`. Good: 0.",
        units.Short,
        "sum(kmsward_log_lines_dropped_total{WHERE}) + (sum(kmsward_metrics_series_folded_total{WHERE}) or vector(0))",
        [(None, GREEN), (1, ORANGE)],
    )
    page.graph(
        "Processor time",
        "Seconds by the second. Good: a few thousandths when idle.",
        units.Short,
        [("rate(process_cpu_seconds_total{WHERE}" + rate + ")", "user and system")],
    )
    page.graph(
        "Memory",
        "Good: level. Resident is what counts; virtual is only reserved.",
        units.BytesIEC,
        [("process_resident_memory_bytes{WHERE}", "resident"), ("process_virtual_memory_bytes{WHERE}", "virtual")],
    )
    page.graph(
        "Descriptors and threads",
        "Good: descriptors far below the limit.",
        units.Short,
        [
            ("process_open_fds{WHERE}", "descriptors"),
            ("process_max_fds{WHERE}", "limit of descriptors"),
            ("process_threads{WHERE}", "threads"),
        ],
    )
    page.graph(
        "Reloads",
        "Changes of the configuration that were taken, had changed nothing, or were refused. Good: none refused.",
        units.Short,
        [("sum by (result) (increase(kmsward_config_reloads_total{WHERE}" + rate + "))", "{{result}}")],
        width=24,
        height=5,
    )
    return page.write()


PAGES = {"kmsward-fleet.json": fleet, "kmsward-plugin.json": plugin}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make())
