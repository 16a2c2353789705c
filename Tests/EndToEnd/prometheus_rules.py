"""The rules of ops/prometheus as the tests and the drill read them."""

import importlib.machinery
import importlib.util
import pathlib

import yaml

from kms import REPOSITORY

FOLDER = REPOSITORY / "ops" / "prometheus"
RULES = FOLDER / "kmsward.rules.yml"


def _script(path):
    """A script without the ending that import looks for."""
    loader = importlib.machinery.SourceFileLoader(pathlib.Path(path).name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


#: ops/prometheus/adapt.
adapt = _script(FOLDER / "adapt")


def _groups():
    return yaml.safe_load(RULES.read_text())["groups"]


def groups():
    """The names of the groups, in the order of the file: what records before what reads it."""
    return [group["name"] for group in _groups()]


def rules():
    """Every rule, in the order of the file."""
    return [rule for group in _groups() for rule in group["rules"]]


def alerts():
    """Every rule that alerts; one name may have several, of different severity."""
    return [rule for rule in rules() if "alert" in rule]


def alert(name, severity):
    (found,) = [one for one in alerts() if (one["alert"], one["labels"]["severity"]) == (name, severity)]
    return found
