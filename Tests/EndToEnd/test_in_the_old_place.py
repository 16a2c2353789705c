"""`serve -f` on the JSON file of JD Cloud's own plugin, as it stands, with everything that it does not say where it is by default."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from daemon import BINARY

HERE = pathlib.Path(__file__).resolve().parent


def cannot():
    if os.geteuid() != 0:
        return "needs root"
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode != 0:
        return "no namespaces here"
    return None


pytestmark = pytest.mark.skipif(cannot() is not None, reason=str(cannot()))


@pytest.fixture
def seen(folder):
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--propagation", "private",
         sys.executable, str(HERE / "in_the_old_place.py"), str(folder)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_plugins_own_file_serves_unchanged_and_both_read_each_other(seen):
    assert seen["healthz"] == "ok" and seen["same_key_id"] and seen["read_back"], seen["log"]
    assert seen["reads_the_old_plugin"] and seen["the_old_plugin_reads"]
    # The blob, the whole blob, and nothing but the blob that the service answered with.
    assert seen["annotations"] == 0 and len(set(seen["blobs"])) == 2
    assert set(seen["blobs"]) <= set(seen["answered"])
    # What it does not say is where it is by default.
    assert seen["state"]["active_key_ids"] and seen["mode"].endswith("700")
    assert 'kmsward_key_ready{key="jdcloud"} 1' in seen["metrics"]
    # What it would gain, and what it risks, is said once; what it holds is not.
    assert seen["log"].count("writes compatible") == 1 and "envelope would do without" in seen["log"]
    assert "KmsSchema" in seen["log"] and "clear text" in seen["log"]
    assert seen["secret"] not in seen["log"]
    assert seen["code"] == 0, seen["log"]


def test_the_demo_serves_that_file_and_reads_through_an_outage_what_was_written_before():
    root = HERE.parents[1]
    done = subprocess.run(
        [root / "ops" / "dev" / "demo-jdcloud", BINARY, sys.executable],
        cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    before, _, rest = done.stdout.partition("The KMS stops answering")
    meanwhile, _, _ = rest.partition("The KMS answers again")
    assert "serve -f jdcloud-kms-plugin.json" in before and "Encrypt  key-2" in before
    assert "healthz ok" in meanwhile and "Decrypt  key-2: as it was written" in meanwhile
    (where,) = set(re.findall(r"/\S*/kmsward-demo\.\w+", done.stdout))
    assert not pathlib.Path(where).exists()
