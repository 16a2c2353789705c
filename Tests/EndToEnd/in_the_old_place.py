"""Takes the place of JD Cloud's own plugin on a host of its own: `unshare --mount --net python3 in_the_old_place.py DIRECTORY`

In its namespaces /var/lib is empty and the network is loopback, so the state directory and the metrics can be where they are by
default. Starts the fake, then `kmsward serve -f` on the plugin's JSON file, plays the API server, and prints what it saw as
one line of JSON.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "Fakes"))

from daemon import BINARY, PATIENCE, eventually  # noqa: E402
from jdcloud_client import ACCESS_KEY, KEY, SECRET_KEY, JDCloudFake  # noqa: E402
from kms import KMS  # noqa: E402

DEK = bytes(range(32))


def raise_loopback():
    """What `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up_and_running = struct.pack("16sh", b"lo", 0x1 | 0x40)
        fcntl.ioctl(any_socket, 0x8914, up_and_running)  # SIOCSIFFLAGS


def metrics():
    with contextlib.suppress(OSError), urllib.request.urlopen("http://127.0.0.1:9464/metrics", timeout=5) as answer:
        return answer.read().decode()


def served(directory, fake):
    seed = directory / "jdcloud-kms-plugin.json"
    # As the plugin's own documentation has it.
    document = {
        "AccessKey": ACCESS_KEY,
        "SecretKey": SECRET_KEY,
        "KmsEndpoint": fake.http_url.removeprefix("http://"),
        "KmsKeyId": KEY,
        "KmsSchema": "http",
        "GRPCSocketPath": str(directory / "kms.sock"),
        "DebugMode": False,
    }
    seed.write_text(json.dumps(document, indent=2))
    seed.chmod(0o600)
    caller = fake.caller()
    old_blob = caller.sealed(DEK)
    log = directory / "kmsward.log"
    with open(log, "wb") as output:
        process = subprocess.Popen([BINARY, "serve", "-f", str(seed)], stdin=subprocess.DEVNULL, stderr=output)
    try:
        eventually(lambda: process.poll() is not None or metrics(), "metrics where they are by default")
        with KMS(f"unix:{directory}/kms.sock") as kms:
            status = kms.status()
            v1, v2 = kms.v1_encrypt(DEK), kms.encrypt(DEK)
            seen = {
                "healthz": status.healthz,
                "same_key_id": status.key_id == v2.key_id,
                "annotations": len(v2.annotations),
                "blobs": [hashlib.sha256(blob).hexdigest() for blob in (v1, v2.ciphertext)],
                "read_back": kms.v1_decrypt(v1) == DEK and kms.open(v2) == DEK,
                "reads_the_old_plugin": kms.v1_decrypt(old_blob) == DEK,
                "the_old_plugin_reads": caller.opened(v1) == DEK and caller.opened(v2.ciphertext) == DEK,
                "metrics": metrics() or "",
            }
    finally:
        process.send_signal(signal.SIGTERM)
        seen_code = process.wait(PATIENCE)
    answered = [entry["blob_sha256"] for entry in fake.log() if entry["blob_sha256"]]
    return {**seen, "code": seen_code, "log": log.read_text(), "answered": answered, "secret": SECRET_KEY}


def main(directory):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"], check=True)
    raise_loopback()
    with JDCloudFake() as fake:
        seen = served(pathlib.Path(directory), fake)
    state = pathlib.Path("/var/lib/kmsward/keyring.json")
    print(json.dumps({**seen, "state": json.loads(state.read_text()), "mode": oct(os.stat(state.parent).st_mode)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
