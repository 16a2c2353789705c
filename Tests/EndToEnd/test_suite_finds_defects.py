"""The suite is itself under test: a sound plugin passes its checks, and each known defect is caught by one."""

import grpc
import pytest

import contract
from flawed_plugin import FlawedPlugin
from kms import KMS

pytestmark = pytest.mark.no_binary

CHECKS = [
    contract.healthy,
    contract.first_round,
    contract.round_trip,
    lambda kms: contract.distinct(kms, 20),
    contract.refuses_every_flip,
    contract.refuses_other_lengths,
    contract.refuses_other_annotations,
    contract.refuses_other_key_ids,
    contract.unknown_methods_unimplemented,
    contract.v1_served,
]


@pytest.fixture
def plugin(folder):
    made = []

    def make(defect=None):
        made.append(FlawedPlugin(folder / "flawed.sock", defect))
        return KMS(f"unix:{folder}/flawed.sock")

    yield make
    for one in made:
        one.stop()


def test_a_sound_plugin_passes_every_check(plugin):
    with plugin() as kms:
        for check in CHECKS:
            check(kms)


@pytest.mark.parametrize(
    ("defect", "check"),
    [
        ("status lags behind", contract.first_round),
        ("healthz err", contract.healthy),
        ("wrong version", contract.healthy),
        ("annotation is no FQDN", contract.round_trip),
        ("leaks in annotation", contract.round_trip),
        ("ciphertext too long", contract.round_trip),
        ("deterministic", lambda kms: contract.distinct(kms, 20)),
        ("unauthenticated", contract.refuses_every_flip),
        ("unauthenticated", contract.refuses_other_lengths),
        ("ignores annotations", contract.refuses_other_annotations),
        ("ignores key_id", contract.refuses_other_key_ids),
        ("answers unknown methods", contract.unknown_methods_unimplemented),
        ("runtime version is no semver", contract.v1_served),
        ("refuses ping", contract.v1_served),
    ],
)
def test_a_defect_is_caught(plugin, defect, check):
    with plugin(defect) as kms, pytest.raises((AssertionError, grpc.RpcError)):
        check(kms)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("a.b", True), ("10.0.0.1", True), ("wrapped-kek.kmsward.internal", True), ("a.b.", True),
        ("com", False), ("a_b.c", False), ("A.b", False), ("*.b.c", False), ("a/b.c", False), ("", False),
        ("a..b", False), ("-a.b", False), ("x" * 64 + ".b", False), (".".join(["abcdefg"] * 32), False),
    ],
)  # fmt: skip
def test_the_fqdn_rule_is_the_api_servers(name, verdict):
    assert contract.is_fqdn(name) is verdict
