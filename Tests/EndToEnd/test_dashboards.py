"""The dashboards of dashboards/, as far as that shows without Grafana: they are what their source makes, hold nothing that
Grafana's own model does not know, and every question in them is one that Prometheus understands."""

import importlib.util
import json
import re

import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from kms import REPOSITORY

pytestmark = pytest.mark.no_binary

FOLDER = REPOSITORY / "dashboards"
CHOSEN = ('cluster=~"$cluster"', 'instance=~"$instance"')


def generator():
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()
PAGES = {name: json.loads((FOLDER / name).read_text()) for name in GENERATOR.PAGES}


def expressions(page):
    """(where, PromQL) of panels and annotations."""
    for panel in page["panels"]:
        for target in panel.get("targets") or []:
            yield panel["title"], target["expr"]
    for annotation in page["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def filled(expression):
    """As Grafana sends it."""
    for name, value in (("$__rate_interval", "1m"), ("$cluster", ".*"), ("$instance", ".*"), ("$key", ".*")):
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def without_nulls(value):
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


every_page = pytest.mark.parametrize("name", PAGES)


def test_every_file_has_its_source():
    assert sorted(path.name for path in FOLDER.glob("*.json")) == sorted(PAGES)


@every_page
def test_a_page_is_what_its_source_makes(name):
    assert (FOLDER / name).read_text() == GENERATOR.PAGES[name](), "make dashboards"


@every_page
def test_grafanas_model_knows_all_that_is_in_a_page(name):
    register_default_plugins()
    page = without_nulls(PAGES[name])
    again = without_nulls(json.loads(json.dumps(Dashboard.from_json(page), cls=JSONEncoder)))
    for panel in again["panels"]:
        # What the model adds of its own.
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if defaults.get("custom") == {}:
            del defaults["custom"]
    assert again == page


@every_page
def test_every_question_is_promql_about_what_was_chosen(name):
    for where, expression in expressions(PAGES[name]):
        promql_parser.parse(filled(expression))
        for selector in re.findall(r"{([^}]*)}", expression):
            wanted = ('cluster=~"$cluster"',) if selector.startswith("alertname") else ('job="kmsward"', *CHOSEN)
            assert all(one in selector for one in wanted), f"{where}: {selector}"
        for function, window in re.findall(r"\b(rate|increase|changes)\([^[]*\[([^]]*)\]", expression):
            assert window in ("$__rate_interval", "5m", "2m"), f"{where}: {function} over {window}"


@every_page
def test_every_panel_has_a_unit_and_says_what_good_looks_like(name):
    page = PAGES[name]
    seen = set()
    for panel in (one for one in page["panels"] if one["type"] != "row"):
        title = panel["title"]
        assert title not in seen, f"two panels are called {title}"
        seen.add(title)
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, title
        assert "Good: " in panel["description"], f"{title}: what is good?"
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
    variables = [one["name"] for one in page["templating"]["list"]]
    assert variables[:3] == ["datasource", "cluster", "instance"]
    assert {one["name"] for one in page["annotations"]["list"]} == {"Restarts", "Rotations"}


@every_page
def test_panels_do_not_lie_upon_each_other(name):
    taken = {}
    for panel in PAGES[name]["panels"]:
        place = panel["gridPos"]
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            assert cell not in taken, f"{panel['title']} lies upon {taken[cell]}"
            taken[cell] = panel["title"]
