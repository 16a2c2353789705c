"""The samples of ops/manifests: what kube-apiserver and kubelet would refuse, and that the pods and the units meet at one socket."""

import os
import re

import kubernetes_validate
import pytest
import yaml

from kms import REPOSITORY

pytestmark = pytest.mark.no_binary

FOLDER = REPOSITORY / "ops" / "manifests"
UNITS = REPOSITORY / "ops" / "systemd"
#: The oldest that speaks both KMS APIs without a feature gate, and what is newest in the schemas.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]


def read(name):
    (document,) = yaml.safe_load_all((FOLDER / name).read_text())
    return document


def listened(unit):
    """What a socket unit listens on."""
    (found,) = re.findall(r"(?m)^ListenStream=(.*)$", (UNITS / unit).read_text())
    return found


SOCKET = listened("kmsward.socket")


# EncryptionConfiguration: a file of kube-apiserver, which is in no published schema.


#: The providers of each sample, in order: the first writes, each of them reads.
SAMPLES = {
    "encryption-v1.yaml": [("kms", "v1"), "identity"],
    "encryption-v2.yaml": [("kms", "v2"), "identity"],
    "encryption-from-aescbc.yaml": [("kms", "v2"), "aescbc", "identity"],
    "encryption-back.yaml": ["identity", ("kms", "v2")],
}


def in_readme():
    """The one that README.md shows."""
    (block,) = re.findall(r"(?m)^ +apiVersion: apiserver\.config.*\n(?: +.*\n)+", (REPOSITORY / "README.md").read_text())
    return yaml.safe_load(block)


def kind_of(provider):
    (name,) = provider
    return (name, provider[name]["apiVersion"]) if name == "kms" else name


@pytest.mark.parametrize("name", [*SAMPLES, "README.md"])
def test_kube_apiserver_takes_an_encryption_configuration(name):
    document = in_readme() if name == "README.md" else read(name)
    assert set(document) == {"apiVersion", "kind", "resources"}, "it is decoded strictly"
    assert (document["apiVersion"], document["kind"]) == ("apiserver.config.k8s.io/v1", "EncryptionConfiguration")
    (entry,) = document["resources"]
    assert set(entry) == {"resources", "providers"} and entry["resources"] == ["secrets"]
    kinds = [kind_of(provider) for provider in entry["providers"]]
    assert kinds == SAMPLES.get(name, SAMPLES["encryption-v2.yaml"])
    for provider in entry["providers"]:
        ((what, block),) = provider.items()
        {"kms": check_kms, "aescbc": check_aescbc, "identity": check_identity}[what](block)


def check_kms(block):
    # kube-apiserver refuses a cachesize of v2, and without one v1 keeps only 1000 keys.
    assert set(block) == {"apiVersion", "name", "endpoint", "timeout"} | ({"cachesize"} & set(block))
    assert ("cachesize" in block) == (block["apiVersion"] == "v1")
    assert type(block.get("cachesize", 1)) is int and block.get("cachesize", 1) > 0
    # Part of what is stored: a sample of another name could not read what the others wrote.
    assert block["name"] == "kmsward"
    assert block["endpoint"] == f"unix://{SOCKET}"
    # What the daemon reckons with, and kube-apiserver's own default.
    assert block["timeout"] == "3s"


def check_aescbc(block):
    assert set(block) == {"keys"}
    (key,) = block["keys"]
    assert set(key) == {"name", "secret"} and key["name"]
    assert "REPLACE" in key["secret"], "a key that is published is no key: kube-apiserver is to refuse it as it stands"


def check_identity(block):
    assert block == {}


def test_the_readme_names_every_sample():
    listed = re.findall(r"(?m)^\| `([^`]+)` \|", (FOLDER / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.yaml"))
    assert {name for name in listed if name.startswith("encryption")} == set(SAMPLES)


# Pods


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["kmsward-pod.yaml", "kube-apiserver-patch.yaml"])
def test_kubernetes_takes_a_pod(name, version):
    # Strict: a field that no version knows is a typing error.
    kubernetes_validate.validate(read(name), version, strict=True)


@pytest.mark.parametrize("name", ["kmsward-pod.yaml", "kube-apiserver-patch.yaml"])
def test_a_pod_mounts_directories_that_must_be_there(name):
    spec = read(name)["spec"]
    (container,) = spec["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts == {one["name"]: one["hostPath"]["path"] for one in spec["volumes"]}, "paths are the host's, and all are used"
    for one in spec["volumes"]:
        assert one["hostPath"]["type"] == "Directory", f"{one['name']}: kubelet would create it with an owner who is wrong"
    folder = os.path.dirname(SOCKET)
    assert folder in mounts.values() and SOCKET not in mounts.values()
    (made,) = re.findall(r"(?m)^d (\S+) ", (UNITS / "kmsward.tmpfiles").read_text())
    assert made == folder, "what the unit's host makes at boot"
    assert re.search(rf"`d {folder} \d+ (\d+) (\d+) -`", (FOLDER / "README.md").read_text()), "and a pod's host"


def test_the_api_server_has_the_directory_of_its_configuration():
    text = (FOLDER / "kube-apiserver-patch.yaml").read_text()
    (file,) = re.findall(r"--encryption-provider-config=(\S+)", text)
    (container,) = read("kube-apiserver-patch.yaml")["spec"]["containers"]
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == os.path.dirname(file)]
    assert mount["readOnly"] is True
    assert container["name"] == "kube-apiserver", "the container of kubeadm's manifest, which the patch is merged into"


def test_the_static_pod_starts_first_goes_last_and_is_probed_for_its_own_life():
    document = read("kmsward-pod.yaml")
    spec = document["spec"]
    assert document["metadata"]["namespace"] == "kube-system"
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["automountServiceAccountToken"] is False and spec["hostNetwork"] is True
    (container,) = spec["containers"]
    host, port = listened("kmsward-metrics.socket").split(":")
    for probe in (container["livenessProbe"], container["startupProbe"]):
        # /readyz would have kubelet restart a daemon that rides through an outage with what it has in memory.
        assert probe["httpGet"] == {"host": host, "port": int(port), "path": "/livez"}
    # kubelet's default of a second is no sign of death on a busy node, and a key's first verdict may take 20 s.
    assert container["livenessProbe"]["timeoutSeconds"] >= 5
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 60
    (owner,) = re.findall(r"`d \S+ \d+ (\d+ \d+) -`", (FOLDER / "README.md").read_text())
    security = container["securityContext"]
    assert owner == f"{security['runAsUser']} {security['runAsGroup']}", "it makes its socket there"
    readable = {one["name"]: one.get("readOnly", False) for one in container["volumeMounts"]}
    assert readable == {"configuration": True, "socket": False, "state": False}
