"""What a kube-apiserver does with the plugin, for drills: asks for Status, writes objects, reads them again, and logs what fails.

    apiserver.py SOCKET FOLDER-OF-OBJECTS USER

Objects are kept in the folder, so that they outlive this process. Its lines look like an API server's; its deadline is 3 s.
"""

import os
import pathlib
import pickle
import pwd
import random
import sys
import time

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "Tests" / "EndToEnd"))

from kms import KMS  # noqa: E402

OBJECTS = 50


def said(error):
    return f"rpc error: code = {error.code().name} desc = {error.details()}"


def log(severity, place, message):
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now))
    print(f"{severity}{stamp}.{int(now % 1 * 1e6):06d}       1 {place}] {message}", flush=True)


def become(name):
    user = pwd.getpwnam(name)
    os.initgroups(name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def main(socket, folder, user):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kms = KMS(f"unix:{socket}", timeout=3.0)  # connects when it is used: as the user
    become(user)
    was_well = None
    while True:
        try:
            status = kms.status()
            is_well, why = status.healthz == "ok", f'healthz {status.healthz!r}'
        except grpc.RpcError as error:
            is_well, why = False, said(error)
        if not is_well:
            log("E", "kmsv2.go:213", f'"kms plugin failed" err="failed to probe: {why}"')
        elif not was_well:
            log("I", "kmsv2.go:198", f'"kms plugin is healthy" keyID="{status.key_id}"')
        was_well = is_well
        name = folder / f"secret-{random.randrange(OBJECTS)}"
        try:
            if name.exists():
                plaintext, sealed = pickle.loads(name.read_bytes())
                if kms.open(sealed) != plaintext:
                    log("E", "cacher.go:475", f'"unable to decode" key="/registry/secrets/default/{name.name}" err="wrong bytes"')
            if not name.exists() or random.random() < 0.1:
                plaintext = os.urandom(32)
                name.write_bytes(pickle.dumps((plaintext, kms.encrypt(plaintext))))
        except grpc.RpcError as error:
            log("E", "cacher.go:475", f'"cannot transform" key="/registry/secrets/default/{name.name}" err="{said(error)}"')
        time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
