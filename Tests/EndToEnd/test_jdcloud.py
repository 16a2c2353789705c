"""The daemon with a key of JD Cloud, against the strict fake: what is written, what an outage shows, what nobody may see."""

import base64
import json
import pathlib
import subprocess

import grpc
import pytest

from daemon import command, eventually
from jdcloud_client import ACCESS_KEY, KEY, SECRET_KEY


def role_of(fake):
    return {"jrn": fake.roles[0], "endpoint": fake.https_url.removeprefix("https://")}


def writes(kms, plaintext):
    try:
        return kms.encrypt(plaintext)
    except grpc.RpcError:
        return None


@pytest.mark.parametrize("signature", ["v2", "v3"])
def test_reads_what_it_wrote_over_https(on_jdcloud, signature):
    one = on_jdcloud(signature=signature)
    with one.kms() as kms:
        key_id = kms.status().key_id
        reply = kms.encrypt(b"0123456789abcdef0123456789abcdef")
        assert reply.key_id == key_id
        assert kms.open(reply) == b"0123456789abcdef0123456789abcdef"


def test_a_rotation_gives_another_key_id_and_the_old_one_still_opens(on_jdcloud, fake):
    one = on_jdcloud()
    with one.kms() as kms:
        before = kms.encrypt(b"written before")
        fake.key(KEY, "rotate")
        eventually(lambda: kms.status().key_id != before.key_id, "a new key_id")
        assert kms.open(before) == b"written before"


def test_a_dead_service_hardly_shows(on_jdcloud, fake):
    one = on_jdcloud()
    with one.kms() as kms:
        before = kms.encrypt(b"written before")
        fake.listener("https", "close")
        eventually(lambda: "unavailable" in one.log(), "the trouble in the log")
        assert kms.status().healthz == "ok"
        reply = kms.encrypt(b"written meanwhile")
        assert kms.open(reply) == b"written meanwhile"
        assert kms.open(before) == b"written before"


def test_nothing_secret_is_said_at_any_level(on_jdcloud, fake):
    """Calls that work, and those that fail in every way that has words, at the level that says most."""
    one = on_jdcloud(changes={"log": {"level": "trace", "format": "json"}})
    secrets = [SECRET_KEY.encode(), b"an-uncommon-plaintext-of-32-byte"]
    with one.kms() as kms:
        kms.encrypt(secrets[1])
        for kind, options in [
            ("error", {"code": 403}),
            ("error", {"code": 401, "message": f"bad secret {SECRET_KEY}"}),
            ("expired_token", {}),
            ("clock_skew", {}),
            ("content", {"variant": "not_json"}),
            ("content", {"variant": "other_plaintext"}),
            ("throttle", {}),
        ]:
            before = fake.calls()
            with fake.fault(kind, **options):
                eventually(lambda: fake.calls() > before, f"a call that meets {kind}")
        # Another plaintext than was wrapped stops it until the next proof.
        eventually(lambda: writes(kms, secrets[1]), "a write")
        log = one.log() + one.metrics_text()
    assert ACCESS_KEY not in log
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:-4]):
            assert form.decode().lower() not in log.lower()


def test_in_compatible_the_old_plugin_could_take_over_and_back(on_jdcloud, fake):
    """What is written is the blob and nothing else, and what the old plugin stored is read; both through both APIs."""
    one = on_jdcloud(key={"write_format": "compatible"})
    caller = fake.caller()
    dek = bytes(range(32))
    with one.kms() as kms:
        assert caller.opened(kms.v1_encrypt(dek)) == dek
        reply = kms.encrypt(dek)
        assert caller.opened(reply.ciphertext) == dek and not reply.annotations
        assert kms.open(reply) == dek
        assert kms.v1_decrypt(caller.sealed(dek)) == dek


def test_after_the_change_to_envelope_the_old_objects_are_read(on_jdcloud, fake):
    one = on_jdcloud(key={"accept_formats": ["compatible", "envelope"]})
    dek = bytes(range(32))
    with one.kms() as kms:
        assert kms.v1_decrypt(fake.caller().sealed(dek)) == dek
        assert kms.open(kms.encrypt(dek)) == dek


def test_the_role_is_assumed_and_renewed(on_jdcloud, fake, folder):
    files = fake.block(folder)["credentials"]
    one = on_jdcloud(credentials={**files, "role": role_of(fake)})
    with one.kms() as kms:
        kms.encrypt(b"x")
        assert fake.calls("assumeRole", "ok") == 1
        (session,) = {entry["access_key"] for entry in fake.log() if entry["operation"] == "encrypt"}
        fake.account(session, "expire")
        eventually(lambda: fake.calls("assumeRole", "ok") == 2, "a second session")
        assert kms.status().healthz == "ok"


def test_credentials_in_files_are_read_again(on_jdcloud, fake, folder):
    one = on_jdcloud()
    (folder / "access_key").write_text("TESTAKNODESCRIBE")
    (folder / "secret_key").write_text("TESTSKtestaknodescribe")
    eventually(lambda: any(e["access_key"] == "TESTAKNODESCRIBE" for e in fake.log()), "a call with the new access key")
    assert one.process.poll() is None


def pair(folder, access_key):
    (folder / "access_key").write_text(access_key)
    (folder / "secret_key").write_text("TESTSK" + access_key.lower())


def test_an_access_key_that_was_enough_for_the_old_plugin_is_enough_when_it_is_said(prepare, folder, fake):
    """`encrypt` and `decrypt` alone: refused with the permissions that are missing, and the option that does without."""
    block = fake.block(folder)
    pair(folder, "TESTAKNODESCRIBE")
    observing = prepare(name="observing", keys=[{"name": "primary", "jdcloud": block}])
    observing.launch()
    remedy = "describeKey and describeKeyDetail of the key in IAM, or set version: static"
    eventually(lambda: remedy in observing.log(), "the remedy in the log")
    with observing.kms() as kms, pytest.raises(grpc.RpcError) as refused:
        kms.status()
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED and remedy in refused.value.details()
    observing.terminate()

    def described():
        return sum(entry["operation"].startswith("describe") for entry in fake.log())

    asked = described()
    assert asked > 0
    block["version"] = "static"
    for form in ("envelope", "compatible"):
        key = {"name": "primary", "jdcloud": block, "write_format": form}
        static = prepare(name=form, keys=[key]).start()
        dek = bytes(range(32))
        with static.kms() as kms:
            key_id = kms.status().key_id
            assert kms.v1_decrypt(kms.v1_encrypt(dek)) == dek
            assert kms.open(kms.encrypt(dek)) == dek
            fake.key(KEY, "rotate")
            before = fake.calls("encrypt")
            eventually(lambda: fake.calls("encrypt") >= before + 2, "two more proofs")
            assert (kms.status().healthz, kms.status().key_id) == ("ok", key_id)
        static.stop()
    assert described() == asked


def test_a_new_pair_that_may_not_decrypt_is_given_up_for_the_former_one(on_jdcloud, folder, fake):
    one = on_jdcloud(key={"write_format": "compatible"})
    warning = "new credentials are refused, and the former ones go on"
    with one.kms() as kms:
        before = kms.encrypt(b"0123456789abcdef")
        pair(folder, "TESTAKENCRYPTONLY")
        eventually(lambda: warning in one.log(), "the warning")
        seen = fake.calls("decrypt", "ok")
        eventually(lambda: fake.calls("decrypt", "ok") >= seen + 3, "three more proofs")
        assert kms.open(before) == b"0123456789abcdef"
        assert kms.open(kms.encrypt(b"fedcba9876543210")) == b"fedcba9876543210"
        assert kms.status().healthz == "ok"
    assert one.log().count(warning) == 1


def test_the_plugins_file_is_converted(folder, fake):
    seed = folder / "jdcloud-kms-plugin.json"
    seed.write_text(
        json.dumps(
            {
                "accesskey": ACCESS_KEY,
                "SecretKey": SECRET_KEY,
                "KmsEndpoint": "kms.internal.cn-north-1.jdcloud-api.com",
                "KmsKeyId": KEY,
                "KmsSchema": "http",
                "GRPCSocketPath": str(folder / "kms.sock"),
                "DebugMode": False,
            }
        )
    )
    seed.chmod(0o644)
    done = command("config", "convert", seed)
    assert done.returncode == 0
    assert SECRET_KEY not in done.stdout + done.stderr and ACCESS_KEY not in done.stdout
    assert "KmsSchema: http" in done.stderr and "its mode is 0644" in done.stderr
    for name, path in [("accesskey", "access-key"), ("SecretKey", "secret-key")]:
        assert f"jq -rj .{name} {seed} > /etc/kmsward/jdcloud-{path})\n" in done.stdout
    converted = folder / "kmsward.yaml"
    converted.write_text(done.stdout)
    assert command("config", "check", converted).returncode == 0, command("config", "check", converted).stderr


def test_a_mistake_in_the_plugins_file_has_line_and_column(folder):
    seed = folder / "jdcloud-kms-plugin.json"
    seed.write_text('{\n  "AccessKey": "AK",\n  "SecretKey": "SK"\n  "KmsKeyId": "x"\n}\n')
    done = command("config", "check", seed)
    assert done.returncode == 78
    assert f"{seed}:4:3: error: " in done.stderr


def test_the_commands_of_a_converted_file_are_those_of_a_shell(folder, fake):
    """Run as they are printed, wherever the file lies."""
    place = folder / "it's here; $(exit 3)"
    place.mkdir()
    seed = place / "jdcloud-kms-plugin.json"
    seed.write_text(json.dumps({
        "AccessKey": ACCESS_KEY, "SecretKey": SECRET_KEY, "KmsEndpoint": "kms.example", "KmsKeyId": KEY, "KmsSchema": "https",
        "GRPCSocketPath": "/run/kms.sock",
    }))  # fmt: skip
    done = command("config", "convert", "--secrets-directory", place, seed)
    lines = [line.removeprefix("#").strip() for line in done.stdout.splitlines() if "jq -rj" in line]
    assert len(lines) == 2, done.stdout
    for line, secret in zip(lines, (ACCESS_KEY, SECRET_KEY), strict=True):
        subprocess.run(["sh", "-euc", line], check=True)
        made = line.rpartition(" > ")[2].removesuffix(")")
        path = subprocess.run(["sh", "-euc", f"printf %s {made}"], check=True, capture_output=True, text=True).stdout
        assert pathlib.Path(path).parent == place and pathlib.Path(path).read_text() == secret
