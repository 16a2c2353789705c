"""kube-apiserver's own gRPC library as the client."""

import json
import os
import subprocess

import pytest

from daemon import eventually


def run(goclient, path, *arguments, timeout=120):
    """Runs goclient to its end; returns (exit code, its JSON)."""
    done = subprocess.run(
        [goclient, "-socket", path, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("authority", [None, "localhost", "%2Frun%2Fkmsward%2Fkms.sock", "@kms"])
def test_both_apis_round_trip(goclient, shared, authority):
    # Without -authority, grpc-go sends the raw socket path, as API servers up to 1.28 do.
    options = ["-authority", authority] if authority else []
    code, out = run(goclient, shared.socket_path, *options, "roundtrip")
    assert code == 0, out


def test_an_abstract_socket_is_served(goclient, start):
    name = f"@kw-go-{os.getpid()}"
    start(socket={"path": name, "mode": None}, allow={"uids": [os.getuid()]})
    code, out = run(goclient, name, "roundtrip")
    assert code == 0, out


def test_every_reply_of_a_parallel_load_is_right(goclient, shared):
    code, out = run(goclient, shared.socket_path, "-n", "10000", "-c", "100", "load")
    assert code == 0 and out["ok"] == out["calls"] == 10000, out


def test_a_client_that_was_there_first_is_served_once_the_daemon_comes(goclient, prepare):
    one = prepare()
    with subprocess.Popen(
        [goclient, "-socket", one.socket_path, "-timeout", "30s", "roundtrip"], stdout=subprocess.PIPE, text=True
    ) as client:
        one.start()
        said, _ = client.communicate(timeout=60)
    assert client.returncode == 0, said


def test_restarts_under_load_fail_no_call(goclient, start, folder):
    """With a drain, GOAWAY and WaitForReady, a restart costs a waiting client time, not errors."""
    one = start()
    progress = folder / "load.json"
    with open(progress, "wb") as out:
        client = subprocess.Popen(
            [goclient, "-socket", one.socket_path, "-timeout", "30s", "-n", "120000", "-c", "16", "load"], stdout=out
        )
    try:
        restarts = 0
        while client.poll() is None and restarts < 3:
            served = lambda: client.poll() is not None or one.metric("kmsward_requests_total") > 500
            eventually(served, "the load is being served again")
            if client.poll() is None:
                one.restart()
                restarts += 1
        assert restarts >= 1, "the load ended before anything was restarted"
        client.wait(120)
    finally:
        if client.poll() is None:
            client.kill()
            client.wait()
    result = json.loads(progress.read_text())
    assert result["ok"] > 100_000 and result["failed"] == 0, result
