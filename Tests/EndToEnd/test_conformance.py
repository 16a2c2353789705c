"""The contract with kube-apiserver, check by check (C1 to C32), as far as a key on this host can show it."""

import base64
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
import uuid

import grpc
import pytest

import contract
import h2wire
from daemon import KeyFile, command, eventually, merged, settings
from kms import V1_PATH, V2_PATH, KMS, refusal, v1, v2

SUITES = ["aes-256-gcm", "sm4-ctr-hmac-sm3"]
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def refused_to_start(prepared, code):
    """Starts a daemon that must exit with `code` by itself; returns what it said."""
    prepared.launch()
    assert prepared.process.wait(30) == code, prepared.log()
    return prepared.log()


# ---- C1 to C8: methods, forms, sizes -------------------------------------------------------------------------------


def test_c1_v2_is_served_over_plain_http2(kms):
    contract.round_trip(kms)


def test_c1_unknown_methods_are_unimplemented(kms):
    contract.unknown_methods_unimplemented(kms)


def test_c1_unknown_methods_are_unimplemented_for_a_raw_peer(shared):
    with h2wire.Connection(shared.socket_path) as connection:
        for path in ("/v2.KeyManagementService/Nope", "/wrong.Service/Encrypt", "/", "*", "/v2.KeyManagementService"):
            outcome = connection.unary(path, b"")
            assert outcome.ended and outcome.grpc_status in (12, None), path
            assert outcome.grpc_status == 12 or outcome.reset is not None or outcome.http_status != "200", path
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0


def test_c2_v1beta1_is_served_on_the_same_socket(kms):
    contract.v1_served(kms)


@pytest.mark.parametrize(
    "authority",
    ["localhost", "/run/p/kms.sock", "%2Frun%2Fp%2Fkms.sock", "@kms", "unix:/run/kms.sock", "[::1]:443", "a b"],
)
def test_c3_every_authority_of_an_api_server_is_served(shared, authority):
    with h2wire.Connection(shared.socket_path) as connection:
        for path, request in (
            (V2_PATH + "Status", v2.StatusRequest()),
            (V2_PATH + "Encrypt", v2.EncryptRequest(plaintext=os.urandom(32), uid="a")),
            (V1_PATH + "Version", v1.VersionRequest(version="v1beta1")),
            (V1_PATH + "Encrypt", v1.EncryptRequest(version="v1beta1", plain=b"ping")),
        ):
            outcome = connection.unary(path, request.SerializeToString(), authority=authority)
            assert outcome.http_status == "200" and outcome.grpc_status == 0, (path, outcome.trailers, outcome.reset)


@pytest.mark.parametrize("agent", ["grpc-go/1.27.1", "grpc-go/1.79.0", "", "x" * 300, None])
def test_c3_any_user_agent_is_served(shared, agent):
    headers = [(k, v) for k, v in h2wire.request_headers(V2_PATH + "Status") if k != "user-agent"]
    if agent is not None:
        headers.append(("user-agent", agent))
    with h2wire.Connection(shared.socket_path) as connection:
        assert connection.unary("", b"", headers=headers).grpc_status == 0


@pytest.mark.parametrize("accepted", ["gzip", "identity,gzip", "identity, deflate, gzip", "snappy"])
def test_c3_replies_stay_uncompressed_whatever_the_peer_accepts(shared, accepted):
    with h2wire.Connection(shared.socket_path) as connection:
        plaintext = bytes(32)
        request = v2.EncryptRequest(plaintext=plaintext).SerializeToString()
        outcome = connection.unary(V2_PATH + "Encrypt", request, extra=[("grpc-accept-encoding", accepted)])
        assert outcome.grpc_status == 0
        sealed = v2.EncryptResponse.FromString(outcome.message)  # .message insists on the uncompressed flag
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id)
        outcome = connection.unary(
            V2_PATH + "Decrypt", request.SerializeToString(), extra=[("grpc-accept-encoding", accepted)]
        )
        assert v2.DecryptResponse.FromString(outcome.message).plaintext == plaintext


def test_c4_status_is_what_the_api_server_demands(kms):
    contract.healthy(kms)


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
def test_c5_the_version_is_as_configured_and_constant(start, key_file, version):
    one = start(api={"v2_version": version})
    for _ in range(2):
        with one.kms() as kms:
            assert kms.status().version == version
        one.restart()
    key_file.add()
    key_file.activate()
    with one.kms() as kms:
        before = kms.status().key_id
        eventually(lambda: kms.status().key_id != before, "the rotation shows")
        assert kms.status().version == version


def test_c5_the_default_version_works_on_every_release(kms):
    assert kms.status().version == "v2beta1"


@pytest.mark.parametrize("suite", SUITES)
def test_c6_replies_fit_with_the_longest_names(start, key_file, suite):
    one = start(
        cluster_context="c" * 255,
        keys=[{"name": "k" * 63, "suite": suite, "local": {"file": str(key_file.path)}}],
    )
    with one.kms() as kms:
        contract.round_trip(kms)
        contract.v1_served(kms)
        assert set(kms.status().key_id) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."), (
            "key_id has characters that are not plainly printable"
        )


@pytest.mark.parametrize("size", [0, 1, 4, 15, 16, 24, 31, 32, 33, 64, 255, 256, 1024, 4096, 65000])
def test_c7_any_size_round_trips_or_is_refused_cleanly(kms, size):
    plaintext = os.urandom(size)
    try:
        sealed = kms.encrypt(plaintext)
    except grpc.RpcError as error:
        assert size not in (16, 24, 32), "a key of a legal size is refused"
        assert error.code() is INVALID and error.details()
    else:
        assert kms.open(sealed) == plaintext
    try:
        cipher = kms.v1_encrypt(plaintext)
    except grpc.RpcError as error:
        assert size not in (4, 16, 24, 32), "a key of a legal size is refused"
        assert error.code() is INVALID and error.details()
    else:
        assert len(cipher) <= 65535, "the API server cannot store this cipher"
        assert kms.v1_decrypt(cipher) == plaintext


def test_c8_a_thousand_encrypts_are_distinct(kms):
    contract.distinct(kms, 1000)


# ---- C9: plaintext nowhere -----------------------------------------------------------------------------------------


def forms(secret):
    """The ways in which bytes show up in text."""
    yield secret.decode("latin-1")
    yield secret.hex()
    yield " ".join(f"{b:02x}" for b in secret)
    yield ", ".join(str(b) for b in secret)
    for encoded in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        yield encoded.decode().rstrip("=")[:-1]  # the last character depends on what follows


def test_c9_plaintext_appears_in_no_log_metric_or_error(start, key_file):
    one = start(log={"level": "trace"})
    marks = [os.urandom(32) for _ in range(3)] + [b"readable-plaintext-key-material!"]
    said = []
    with one.kms() as kms:
        for mark in marks:
            sealed = kms.encrypt(mark, uid=str(uuid.uuid4()))
            cipher = kms.v1_encrypt(mark)
            kms.open(sealed)
            kms.v1_decrypt(cipher)
            torn = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])
            said.append(refusal(kms.decrypt, torn, sealed.key_id)[1])
            # Plaintext where ciphertext, names and garbage belong must not be echoed either.
            said.append(refusal(kms.decrypt, mark, sealed.key_id)[1])
            said.append(refusal(kms.v1_decrypt, mark)[1])
            said.append(refusal(kms.decrypt, sealed.ciphertext, sealed.key_id, {"x.example.com": mark})[1])
            said.append(refusal(kms.raw, V2_PATH + "Encrypt", b"\x0a\x21" + mark)[1])
            said.append(refusal(kms.raw, V2_PATH + "Decrypt", b"\xff" + mark)[1])
    metrics = one.metrics_text()
    one.stop()
    haystack = "\n".join([one.log(), metrics, *said])
    assert "kmsward_requests_total" in metrics and one.log(), "there is nothing to search"
    lowered = haystack.lower()
    for mark in marks + key_file.secrets:
        for part in (mark, mark[:16], mark[16:]):
            for form in forms(part):
                assert form not in haystack and form not in lowered, "a secret is in the open"


# ---- C10, C11: nothing altered opens -------------------------------------------------------------------------------


def test_c10_every_flipped_ciphertext_byte_is_refused(kms):
    contract.refuses_every_flip(kms)


def test_c10_every_truncation_and_extension_is_refused(kms):
    contract.refuses_other_lengths(kms)


def test_c10_altered_annotations_are_refused(kms):
    contract.refuses_other_annotations(kms)


def test_c10_every_flipped_v1_cipher_byte_is_refused(kms):
    plain = os.urandom(32)
    cipher = kms.v1_encrypt(plain)
    for position in range(len(cipher)):
        torn = bytearray(cipher)
        torn[position] ^= 0x40
        refusal(kms.v1_decrypt, bytes(torn))
    for length in range(len(cipher)):
        refusal(kms.v1_decrypt, cipher[:length])
    refusal(kms.v1_decrypt, cipher + b"\0")
    assert kms.v1_decrypt(cipher) == plain


def test_c10_the_apis_do_not_open_each_others_data(kms):
    sealed = kms.encrypt(os.urandom(32))
    refusal(kms.v1_decrypt, sealed.ciphertext)
    refusal(kms.decrypt, kms.v1_encrypt(os.urandom(32)), sealed.key_id)


@pytest.mark.parametrize("suite", SUITES[1:])
def test_c10_the_other_suites_refuse_what_was_altered_too(start, key_file, suite):
    one = start(keys=[{"name": "primary", "suite": suite, "local": {"file": str(key_file.path)}}])
    with one.kms() as kms:
        contract.refuses_every_flip(kms, masks=(0x10,))
        contract.refuses_other_lengths(kms)
        contract.refuses_other_annotations(kms)


def test_c10_data_of_another_cluster_context_is_refused(start, prepare, folder, key_file):
    one = start(name="one", cluster_context="one")
    two = prepare(
        name="two",
        cluster_context="two",
        socket={"path": str(folder / "two.sock")},
        state_directory=str(folder / "state-two"),
    ).start()
    with one.kms() as a, two.kms() as b:
        sealed = a.encrypt(os.urandom(32))
        refusal(b.open, sealed)
        refusal(b.decrypt, sealed.ciphertext, b.status().key_id)
        refusal(b.v1_decrypt, a.v1_encrypt(os.urandom(32)))


def test_c11_unknown_and_empty_key_ids_are_refused_by_name(kms):
    contract.refuses_other_key_ids(kms)
    sealed = kms.encrypt(os.urandom(32))
    for key_id in ("", "kw1.AAAAAAAAAAAAAAAAAAAAAA.0.BBBBBBBBBBBBBBBBBBBBBB", "k" * 1024):
        code, details = refusal(kms.decrypt, sealed.ciphertext, key_id)
        assert code is INVALID and details, key_id[:60]


def test_c11_a_refused_key_id_reaches_no_backend(shared, kms):
    sealed = kms.encrypt(os.urandom(32))
    kms.open(sealed)
    before = shared.metric("kmsward_backend_calls_total", operation="unwrap")
    for number in range(50):
        refusal(kms.decrypt, sealed.ciphertext, f"kw1.{number:022d}.0.BBBBBBBBBBBBBBBBBBBBBB")
    # The watch proves the key once a second meanwhile.
    assert shared.metric("kmsward_backend_calls_total", operation="unwrap") <= before + 10


# ---- C12 to C17: rotation, replicas, history -----------------------------------------------------------------------


def rotate(key_file, kms):
    """Adds a version, activates it, and waits until Status announces it; returns the new key_id."""
    before = kms.status().key_id
    key_file.add()
    key_file.activate()
    eventually(lambda: kms.status().key_id != before, "the rotation shows in Status")
    return kms.status().key_id


@pytest.mark.parametrize("suite", SUITES)
def test_c12_every_earlier_key_still_opens_after_rotations_and_restart(start, folder, key_file, suite):
    one = start(keys=[{"name": "primary", "suite": suite, "local": {"file": str(key_file.path)}}])
    written, ids = [], []
    with one.kms() as kms:
        for _ in range(3):
            ids.append(kms.status().key_id)
            plaintext = os.urandom(32)
            written.append((plaintext, kms.encrypt(plaintext), kms.v1_encrypt(plaintext)))
            rotate(key_file, kms)
    assert len(set(ids)) == 3

    def all_open():
        with one.kms() as kms:
            for plaintext, sealed, cipher in written:
                assert kms.open(sealed) == plaintext
                assert kms.v1_decrypt(cipher) == plaintext

    all_open()
    one.restart()
    all_open()
    # A lost state directory costs time, never data.
    one.stop()
    for path in sorted((folder / "state").rglob("*"), reverse=True):
        path.unlink() if not path.is_dir() else path.rmdir()
    one.start()
    all_open()


class Loop(threading.Thread):
    """Status, Encrypt, Status... as fast as it goes: what a rotation must not confuse."""

    def __init__(self, kms):
        super().__init__()
        self.kms, self.halt, self.error = kms, threading.Event(), None
        self.rounds, self.announced, self.disagreements = [], [], 0

    def run(self):
        try:
            before = self.kms.status().key_id
            while not self.halt.is_set():
                sealed = self.kms.encrypt(b"\1" * 32)
                after = self.kms.status().key_id
                self.rounds.append((before, sealed.key_id, after))
                self.disagreements += before != sealed.key_id
                for key_id in (before, sealed.key_id, after):
                    if not self.announced or self.announced[-1] != key_id:
                        self.announced.append(key_id)
                before = after
        except BaseException as error:  # reported by the test's thread
            self.error = error

    def finish(self):
        self.halt.set()
        self.join(30)
        assert not self.is_alive()
        if self.error:
            raise self.error


def test_c13_a_rotation_under_load_never_confuses_status_and_encrypt(start, key_file):
    one = start()
    with one.kms() as watched, one.kms() as kms:
        loop = Loop(watched)
        loop.start()
        ids = [kms.status().key_id]
        for _ in range(3):
            ids.append(rotate(key_file, kms))
        eventually(lambda: loop.error or (loop.rounds and loop.rounds[-1][0] == ids[-1]), "the loop sees the last key")
        loop.finish()
    for before, sealed, after in loop.rounds:
        assert sealed in (before, after), "Encrypt named a key that neither Status around it announced"
    assert loop.announced == ids, "a key_id came back, was skipped, or appeared from nowhere"
    assert loop.disagreements <= 3, "more than one extra round per rotation"


def test_c13_adding_without_activating_changes_nothing_for_writers(start, key_file):
    one = start()
    with one.kms() as kms:
        before = kms.status().key_id
        polls = one.metric("kmsward_backend_calls_total")
        key_file.add()
        # Several observations of the changed file: long enough for a wrong daemon to act on it.
        eventually(lambda: one.metric("kmsward_backend_calls_total") > polls + 3, "the key file is observed again")
        assert kms.status().key_id == before
        assert kms.encrypt(bytes(32)).key_id == before


def test_c14_the_first_status_and_the_first_encrypt_agree(start):
    one = start()
    for _ in range(3):
        with one.kms() as kms:
            contract.first_round(kms)
        one.restart()


def test_c15_another_key_file_never_yields_the_same_key_id(start, folder, key_file):
    one = start()
    with one.kms() as kms:
        first = kms.status().key_id
        sealed = kms.encrypt(os.urandom(32))
    one.stop()
    key_file.path.rename(folder / "old.keys")
    KeyFile(key_file.path).init()
    # On a host that remembers the former key it is refused: it may be a lost key, not a new one.
    one.start()
    with one.kms() as kms:
        code, details = refusal(kms.status)
        assert code is grpc.StatusCode.FAILED_PRECONDITION and "put back what was there" in details
    one.stop()
    os.remove(folder / "state" / "keyring.json")
    one.start()
    with one.kms() as kms:
        assert kms.status().key_id != first
        code, details = refusal(kms.open, sealed)
        assert code is INVALID and details


def test_c15_an_earlier_key_file_put_back_never_reuses_its_key_ids(start, folder, key_file):
    backup = KeyFile(folder / "backup.keys")
    key_file.copy_to(backup)
    one = start()
    with one.kms() as kms:
        first = kms.status().key_id
        second = rotate(key_file, kms)
        sealed = kms.encrypt(b"\2" * 32)
        newest = KeyFile(folder / "newest.keys")
        key_file.copy_to(newest)
        backup.copy_to(key_file)
        lacked = next(row[0] for row in newest.versions if row[1] == "active")
        eventually(lambda: "put the newer file back" in one.log(), "the operator is told of the older key file")
        assert lacked in one.log() and "raise epoch" not in one.log(), one.log()
        assert kms.status().key_id == second, "an older version must not come back while the process lives"
        assert kms.encrypt(bytes(32)).key_id == second
        assert kms.open(sealed) == b"\2" * 32, "the lost version is still in memory"
    one.stop()
    # After a restart the history in the state directory knows.
    one.launch().wait_listening()
    with one.kms() as kms:
        for call in (kms.status, lambda: kms.encrypt(bytes(32))):
            code, details = refusal(call)
            assert code is grpc.StatusCode.FAILED_PRECONDITION, (code, details)
            assert "put the newer key file back" in details and "raise epoch" not in details, details
        code, details = refusal(kms.open, sealed)
        assert code is grpc.StatusCode.FAILED_PRECONDITION and lacked in details, (code, details)
    one.terminate()
    newest.copy_to(key_file)
    one.start()
    with one.kms() as kms:
        assert kms.status().key_id == second
        assert kms.open(sealed) == b"\2" * 32


def test_c15_a_raised_epoch_gives_a_new_key_id_and_reads_the_old(start):
    one = start()
    with one.kms() as kms:
        before = kms.status().key_id
        sealed = kms.encrypt(b"\3" * 32)
    one.stop()
    one.configuration["keys"][0]["epoch"] = 1
    one.start()
    with one.kms() as kms:
        assert kms.status().key_id != before
        contract.round_trip(kms)
        assert kms.open(sealed) == b"\3" * 32


@pytest.fixture
def replicas(prepare, folder, key_file):
    """Two daemons as on two hosts: same configuration, copied key file, nothing shared."""
    copied = key_file.copy_to(KeyFile(folder / "b.keys"))
    one = prepare(name="one").start()
    two = prepare(
        name="two",
        key=copied,
        socket={"path": str(folder / "b.sock")},
        state_directory=str(folder / "b-state"),
    ).start()
    return one, two, copied


def test_c16_replicas_agree_and_read_each_other(replicas):
    one, two, _ = replicas
    with one.kms() as a, two.kms() as b:
        assert a.status().key_id == b.status().key_id
        for writer, reader in ((a, b), (b, a)):
            plaintext = os.urandom(32)
            assert reader.open(writer.encrypt(plaintext)) == plaintext
            assert reader.v1_decrypt(writer.v1_encrypt(plaintext)) == plaintext


def test_c16_replicas_read_each_other_at_every_step_of_a_rotation(replicas, key_file):
    one, two, copied = replicas
    with one.kms() as a, two.kms() as b:

        def cross():
            for writer, reader in ((a, b), (b, a)):
                plaintext = os.urandom(32)
                assert reader.open(writer.encrypt(plaintext)) == plaintext
                assert reader.v1_decrypt(writer.v1_encrypt(plaintext)) == plaintext

        before = a.status().key_id
        cross()
        key_file.add()
        cross()
        key_file.copy_to(copied)
        cross()
        key_file.activate()
        eventually(lambda: a.status().key_id != before, "the first replica rotates")
        # The second has the new version but still writes with the old one.
        assert b.status().key_id == before
        cross()
        key_file.copy_to(copied)
        eventually(lambda: b.status().key_id == a.status().key_id, "the replicas agree again")
        cross()


def test_c17_key_id_and_annotations_hold_no_key_material(start, key_file):
    one = start()
    with one.kms() as kms:
        sealed = kms.encrypt(os.urandom(32))
        cipher = kms.v1_encrypt(os.urandom(32))
    public = b"\n".join([sealed.ciphertext, cipher, sealed.key_id.encode(), *sealed.annotations.values()])
    text = public.decode("latin-1")
    for secret in key_file.secrets:
        for begin in range(0, 25, 8):
            for form in forms(secret[begin : begin + 8]):
                assert form not in text, "8 bytes of a key appear in what goes to etcd"


# ---- C20, C29: the key is out of reach -----------------------------------------------------------------------------


def test_c29_it_listens_and_explains_itself_before_the_key_is_there(prepare, folder):
    absent = KeyFile(folder / "absent.keys")
    one = prepare(key=absent).launch().wait_listening()
    with one.kms() as kms:
        code, details = refusal(kms.status, timeout=5)
        assert code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.NOT_FOUND,
        ), (code, details)
        assert "absent.keys" in details, details
        for call in (lambda: kms.encrypt(bytes(32)), lambda: kms.v1_encrypt(bytes(32))):
            code, details = refusal(call)
            assert code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL) and details
        absent.init()

        def recovered():
            try:
                return kms.status(timeout=5).healthz == "ok"
            except grpc.RpcError:
                return False

        eventually(recovered, "Status is ok once the key file is there, without a restart")
        contract.round_trip(kms)
    one.stop()


def test_c20_with_the_key_file_gone_errors_are_mapped_and_recovery_needs_no_restart(start, folder, key_file):
    one = start()
    with one.kms() as kms:
        key_id = kms.status().key_id
        sealed = kms.encrypt(b"\4" * 32)
        key_file.path.rename(folder / "away.keys")
        logged = len(one.log())
        eventually(lambda: len(one.log()) > logged, "the loss is logged")
        assert str(key_file.path) in one.log()[logged:] and "does not exist" in one.log()[logged:]
        # The keys are in memory; writing goes on for 15 minutes, and the log says how long is left.
        assert re.search(r"writes stop in 1[45] min", one.log()[logged:]), one.log()[logged:]
        assert kms.status().key_id == key_id
        assert kms.encrypt(bytes(32)).key_id == key_id
        assert kms.open(sealed) == b"\4" * 32
        assert one.metric("kmsward_key_ready") == 1
    one.stop()
    one.launch().wait_listening()
    with one.kms() as kms:
        for call in (kms.status, lambda: kms.encrypt(bytes(32)), lambda: kms.open(sealed)):
            code, details = refusal(call)
            assert code is grpc.StatusCode.FAILED_PRECONDITION, (code, details)
            assert str(key_file.path) in details and "key init" in details, details
        (folder / "away.keys").rename(key_file.path)

        def recovered():
            try:
                return kms.status().key_id == key_id and kms.encrypt(bytes(32)).key_id == key_id
            except grpc.RpcError:
                return False

        eventually(recovered, "the same key_id is back")
        assert kms.open(sealed) == b"\4" * 32


def test_c20_a_key_file_that_others_may_read_is_refused_with_the_remedy(prepare, key_file):
    key_file.path.chmod(0o644)
    one = prepare().launch().wait_listening()
    with one.kms() as kms:
        code, details = refusal(kms.status, timeout=5)
        assert code is not grpc.StatusCode.UNKNOWN
        assert str(key_file.path) in details and re.search(r"0?600|chmod|mode|permission", details), details


# ---- C23, C25: cancellation, deadlines, many peers -----------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["99999999n", "9999999u", "3000m", "3S", "1M", "1H", "99999999H", "1000000u"])
def test_c23_every_unit_of_grpc_timeout_is_understood(shared, timeout):
    with h2wire.Connection(shared.socket_path) as connection:
        extra = [("grpc-timeout", timeout)]
        outcome = connection.unary(V2_PATH + "Status", b"", extra=extra)
        assert outcome.grpc_status == 0, (timeout, outcome.trailers, outcome.reset)


@pytest.mark.parametrize("timeout", ["1n", "1u", "0n", "0S"])
def test_c23_an_expired_deadline_ends_the_call(shared, timeout):
    with h2wire.Connection(shared.socket_path) as connection:
        try:
            outcome = connection.unary(V2_PATH + "Status", b"", extra=[("grpc-timeout", timeout)])
        except h2wire.h2.exceptions.StreamClosedError:
            pass  # ended, and more: C-core 1.51 ends such a stream twice, which this strict client takes ill
        else:
            assert outcome.ended
            assert outcome.grpc_status in (0, 4, None), outcome.trailers
    with h2wire.Connection(shared.socket_path) as connection:
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0


@pytest.mark.parametrize("timeout", ["", "3", "S", "3X", "-1S", "1.5S", "3 S", "999999999S", "99999999999999999999n"])
def test_c23_a_malformed_timeout_hurts_nobody_else(shared, timeout):
    with h2wire.Connection(shared.socket_path) as connection:
        assert connection.unary(V2_PATH + "Status", b"", extra=[("grpc-timeout", timeout)]).ended
    with h2wire.Connection(shared.socket_path) as connection:
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0


def test_c23_ten_thousand_cancelled_calls_leave_nothing_behind(shared, kms):
    kms.status()
    before = shared.descriptors
    request = h2wire.framed(v2.EncryptRequest(plaintext=bytes(32)).SerializeToString())
    with h2wire.Connection(shared.socket_path) as connection:
        headers = h2wire.request_headers(V2_PATH + "Encrypt")
        for number in range(200):
            # Of each fifty, half are cancelled before their message is complete. A round trip in between
            # keeps this a client with many cancellations rather than a flood.
            for index in range(50):
                stream = connection.begin(headers, request if index % 2 else request[:9], end=bool(index % 2))
                connection.h2.reset_stream(stream, h2wire.h2.errors.ErrorCodes.CANCEL)
                del connection.outcomes[stream]
            connection.flush()
            probe = connection.begin(h2wire.request_headers(V2_PATH + "Status"), h2wire.framed(b""))
            connection.flush()
            (outcome,) = connection.wait(probe)
            assert outcome.grpc_status == 0, f"batch {number}: {outcome.trailers} {outcome.reset} eof={connection.eof}"
            del connection.outcomes[probe]
    eventually(lambda: shared.metric("kmsward_requests_in_flight") == 0, "no call is in flight any more")
    eventually(lambda: shared.descriptors <= before, "the descriptors are back")
    contract.round_trip(kms)


def test_c25_many_connections_are_served_side_by_side(shared):
    connections = [h2wire.Connection(shared.socket_path) for _ in range(64)]
    try:
        for _ in range(3):
            streams = [c.begin(h2wire.request_headers(V2_PATH + "Status"), h2wire.framed(b"")) for c in connections]
            for connection in connections:
                connection.flush()
            for connection, stream in zip(connections, streams, strict=True):
                assert connection.wait(stream)[0].grpc_status == 0
    finally:
        for connection in connections:
            connection.close()


def test_c25_a_half_sent_call_blocks_nobody_and_may_be_completed_later(shared, kms):
    message = h2wire.framed(v2.EncryptRequest(plaintext=bytes(32)).SerializeToString())
    with h2wire.Connection(shared.socket_path) as slow:
        stream = slow.begin(h2wire.request_headers(V2_PATH + "Encrypt"), message[:7], end=False)
        slow.flush()
        for _ in range(20):
            kms.status()
        slow.h2.send_data(stream, message[7:], end_stream=True)
        slow.flush()
        (outcome,) = slow.wait(stream)
        assert outcome.grpc_status == 0
        assert v2.EncryptResponse.FromString(outcome.message).ciphertext


def test_c25_pings_of_a_silent_client_are_answered_not_punished(shared):
    with h2wire.Connection(shared.socket_path) as connection:
        for _ in range(2):
            connection.h2.ping(b"12345678")
            connection.flush()
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0
        assert connection.goaway is None


def test_c25_an_initial_window_of_one_byte_still_gets_the_whole_reply(shared):
    with h2wire.Connection(shared.socket_path) as connection:
        connection.h2.update_settings({h2wire.h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1})
        outcome = connection.unary(V2_PATH + "Encrypt", v2.EncryptRequest(plaintext=bytes(32)).SerializeToString())
        assert outcome.grpc_status == 0
        assert v2.EncryptResponse.FromString(outcome.message).ciphertext


# ---- C26 to C28: the socket ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), ("0600", 0o600), ("0660", 0o660)])
def test_c26_the_socket_has_the_configured_mode(start, mode, expected):
    one = start(socket={"mode": mode})
    assert stat.S_IMODE(os.stat(one.socket_path).st_mode) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_c26_the_socket_has_the_configured_owner_and_its_group_is_let_in(start, folder):
    one = start(socket={"mode": "0660", "owner": 0, "group": 61234})
    assert os.stat(one.socket_path).st_gid == 61234
    folder.chmod(0o755)
    assert _greeted_as(one.socket_path, user=61233, group=61234)


@pytest.mark.parametrize("mode", ["0666", "0602", "0777", "rw", "99999"])
def test_c26_a_world_writable_or_senseless_mode_is_refused(prepare, mode):
    said = refused_to_start(prepare(socket={"mode": mode}), 78)
    assert "mode" in said


def test_c26_the_socket_of_a_killed_instance_is_replaced(start):
    one = start()
    one.kill()
    assert os.path.exists(one.socket_path), "the test needs the stale socket"
    one.start()
    with one.kms() as kms:
        contract.round_trip(kms)


def test_c26_a_second_instance_refuses_and_leaves_the_first_alone(start, prepare):
    one = start(name="one")
    with one.kms() as kms:
        second = prepare(name="two", state_directory=str(one.folder / "state-two"))
        said = refused_to_start(second, 1)
        assert one.socket_path in said
        contract.round_trip(kms)
    with one.kms() as kms:
        contract.round_trip(kms)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a PID namespace")
def test_c26_a_second_instance_in_another_container_names_no_process_of_its_own(start, prepare):
    one = start(name="one")
    # There it would be process 1, as the first one is to itself in a container.
    second = prepare(name="two", prefix=["unshare", "--pid", "--fork", "--kill-child"])
    said = refused_to_start(second, 1)
    assert f"cannot listen on {one.socket_path}: a process outside of this container is serving it" in said


def test_c26_a_file_that_is_no_socket_is_not_removed(prepare, folder):
    path = folder / "kms.sock"
    path.write_text("precious")
    one = prepare()
    one.launch()
    assert one.process.wait(30) in (1, 78)
    assert str(path) in one.log()
    assert path.read_text() == "precious"


def test_c26_a_missing_directory_is_created_or_named(prepare, folder):
    one = prepare(socket={"path": str(folder / "not" / "there" / "kms.sock")})
    one.launch()
    eventually(lambda: one.process.poll() is not None or os.path.exists(one.socket_path), "it listens or ends")
    if one.process.poll() is None:
        one.wait_listening()
        mode = stat.S_IMODE(os.stat(folder / "not" / "there").st_mode)
        assert mode & 0o022 == 0, "the new directory is writable by others"
    else:
        assert one.process.returncode in (1, 78)
        assert str(folder / "not") in one.log()


def _greeted_as(path, user, group):
    """Whether a process of that uid and gid gets HTTP/2 SETTINGS from the socket."""
    program = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(10)\n"
        "p=sys.argv[1]; s.connect('\\0'+p[1:] if p[0]=='@' else p)\n"
        "try:\n"
        "    s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'+bytes([0,0,0,4,0,0,0,0,0]))\n"
        "    data=s.recv(9)\n"
        "except (ConnectionResetError, BrokenPipeError):\n"
        "    data=b''\n"
        "sys.exit(0 if len(data)==9 and data[3]==4 else 3)\n"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", program, path],
        user=user,
        group=group,
        extra_groups=[],
        timeout=30,
        check=False,
    )
    assert done.returncode in (0, 3), f"the probe itself failed: {done.returncode}"
    return done.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="connecting as another user needs root")
def test_c26_peers_outside_the_allow_list_are_turned_away(start):
    name = f"@kw-{uuid.uuid4()}"
    one = start(socket={"path": name, "mode": None}, allow={"uids": [61235], "gids": [61236]})
    assert _greeted_as(name, user=61235, group=61230)
    assert _greeted_as(name, user=61231, group=61236)
    assert not _greeted_as(name, user=61231, group=61230)
    assert not _greeted_as(name, user=65534, group=65534)
    assert one.metric("kmsward_connections_refused_total", reason="uid") == 2
    assert "61231" in one.log(), "the first refusal of a uid is logged"
    assert _greeted_as(name, user=os.getuid(), group=os.getgid())


def test_c26_an_abstract_socket_without_an_allow_list_is_refused(prepare):
    said = refused_to_start(prepare(socket={"path": "@kw-open", "mode": None}), 78)
    assert "allow" in said


def test_c27_a_path_of_107_bytes_is_served(start, folder):
    room = 107 - len(str(folder)) - 1
    one = start(socket={"path": str(folder / ("s" * room))})
    assert len(one.socket_path) == 107
    with one.kms() as kms:
        contract.round_trip(kms)


@pytest.mark.parametrize("length", [108, 200])
def test_c27_a_longer_path_is_refused_with_the_limit(prepare, folder, length):
    said = refused_to_start(prepare(socket={"path": str(folder / ("s" * (length - len(str(folder)) - 1)))}), 78)
    assert "107" in said


def test_c27_the_url_form_is_understood_as_the_api_server_does(start, folder):
    one = start(socket={"path": f"unix://{folder}/url.sock"})
    assert one.socket_path == f"{folder}/url.sock"
    with one.kms() as kms:
        contract.round_trip(kms)


@pytest.mark.parametrize("path", ["unix://run/kms.sock", "unix://host/p", "tcp://127.0.0.1:1", "relative.sock", ""])
def test_c27_a_path_that_the_api_server_would_read_otherwise_is_refused(folder, key_file, path):
    file = folder / "bad.yaml"
    file.write_text(json.dumps(settings(folder, key_file, socket={"path": path})))
    done = command("config", "check", file)
    assert done.returncode == 78, done
    assert "path" in done.stdout + done.stderr


def test_c28_sigterm_lets_calls_in_flight_finish(start):
    one = start()
    request = h2wire.framed(v2.EncryptRequest(plaintext=bytes(32)).SerializeToString())
    with h2wire.Connection(one.socket_path) as connection:
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0
        headers = h2wire.request_headers(V2_PATH + "Encrypt")
        streams = [connection.begin(headers, request) for _ in range(90)]
        connection.flush()
        one.process.send_signal(signal.SIGTERM)
        outcomes = connection.wait(*streams)
        last = connection.goaway[0] if connection.goaway else 0
        for stream, outcome in zip(streams, outcomes, strict=True):
            # Answered, or refused in the way that makes a client try again elsewhere.
            refused = outcome.reset == h2wire.h2.errors.ErrorCodes.REFUSED_STREAM or (
                connection.goaway is not None and stream > last
            )
            assert outcome.grpc_status == 0 or refused, (stream, last, outcome.trailers, outcome.reset)
    assert one.process.wait(30) == 0
    assert not os.path.exists(one.socket_path)


def test_c28_a_client_that_sends_on_after_goaway_is_served_until_it_goes(start):
    """As one does that has not been scheduled to read it: a restart under load must lose none of its calls."""
    one = start()
    with h2wire.Connection(one.socket_path) as connection:
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0
        one.process.send_signal(signal.SIGTERM)
        told, calls = None, 0
        # Longer than the daemon waits for calls to cease, shorter than it waits for the client to go.
        while told is None or time.monotonic() < told + 0.8:
            outcome = connection.unary(V2_PATH + "Status", b"")
            calls += 1
            assert outcome.grpc_status == 0, (calls, outcome.trailers, outcome.reset, connection.goaway)
            if told is None and connection.goaway is not None:
                told = time.monotonic()
        assert connection.goaway == (2**31 - 1, 0)
        assert one.process.poll() is None
    assert one.process.wait(30) == 0, one.log()


def test_c28_sigterm_with_a_call_that_never_completes_ends_within_the_drain(start):
    one = start(limits={"drain": "1s"})
    request = h2wire.framed(v2.EncryptRequest(plaintext=bytes(32)).SerializeToString())
    with h2wire.Connection(one.socket_path) as connection, h2wire.Connection(one.socket_path) as idle:
        idle.unary(V2_PATH + "Status", b"")
        connection.begin(h2wire.request_headers(V2_PATH + "Encrypt"), request[:8], end=False)
        connection.flush()
        connection.unary(V2_PATH + "Status", b"")
        one.stop()
    assert not os.path.exists(one.socket_path)


def test_c28_no_end_with_a_call_left_over_is_a_crash(prepare):
    """A race at the end shows in some ends only: hence twenty."""
    request = h2wire.framed(v2.EncryptRequest(plaintext=bytes(32)).SerializeToString())
    for _ in range(20):
        one = prepare(limits={"drain": "20ms"}).start()
        with h2wire.Connection(one.socket_path) as connection:
            connection.begin(h2wire.request_headers(V2_PATH + "Encrypt"), request[:8], end=False)
            connection.unary(V2_PATH + "Status", b"")
            code = one.terminate()
            assert code in (0, 1), f"ended by signal {-code}:\n{one.log()[-2000:]}"


@pytest.mark.parametrize("drain", ["0s", "1ms"])
def test_c28_with_no_time_to_drain_an_idle_daemon_still_ends_cleanly(start, drain):
    one = start(limits={"drain": drain})
    with h2wire.Connection(one.socket_path) as idle:
        assert idle.unary(V2_PATH + "Status", b"").grpc_status == 0
        one.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_c28_both_signals_end_it_cleanly(start, number):
    one = start()
    one.process.send_signal(number)
    assert one.process.wait(30) == 0, one.log()
    assert not os.path.exists(one.socket_path)


def test_c28_a_replaced_socket_survives_the_end_of_its_predecessor(start, folder):
    one = start()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(folder / "new.sock"))
        successor.listen()
        os.rename(folder / "new.sock", one.socket_path)
        one.stop()
        with h2wire.connect(one.socket_path):
            successor.accept()[0].close()


# ---- C30, C31: malformed requests ----------------------------------------------------------------------------------

MALFORMED = {
    "a truncated tag": b"\x80",
    "a length beyond the end": b"\x0a\x7f\x01",
    "an endless varint": b"\xff" * 12,
    "a length of 2^63": b"\x0a" + b"\xff" * 8 + b"\x7f",
    "a length of 2^64-1": b"\x0a" + b"\xff" * 9 + b"\x01",
    "field number zero": b"\x02\x00",
    "wire type 6": b"\x0e",
    "wire type 7": b"\x0f",
    "an end of group without its start": b"\x0c",
    "a group without its end": b"\x0b" * 100,
    "a varint where bytes belong": b"\x08\x01",
    "a fixed32 where bytes belong": b"\x0d\x01\x02\x03\x04",
}


@pytest.mark.parametrize("method", ["Encrypt", "Decrypt"])
@pytest.mark.parametrize("api", [V1_PATH, V2_PATH])
@pytest.mark.parametrize("defect", MALFORMED)
def test_c30_malformed_protobuf_is_an_error_not_a_crash(kms, api, method, defect):
    code, details = refusal(kms.raw, api + method, MALFORMED[defect])
    assert code is INVALID and details


def test_c30_strings_that_are_not_utf8_are_refused(kms):
    sealed = kms.encrypt(os.urandom(32))
    good = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id).SerializeToString()
    for bad in (b"\x1a\x02\xff\xfe", b"\x12\x02\xc0\x80", b"\x22\x06\x0a\x02\xff\xfe\x12\x00"):
        code, _ = refusal(kms.raw, V2_PATH + "Decrypt", good + bad)
        assert code is INVALID, bad


def test_c30_unknown_fields_are_skipped_or_refused_by_number(kms):
    extra = b"\x98\x06\x01" + b"\xa2\x06\x03abc" + b"\xa9\x06" + bytes(8) + b"\xb5\x06" + bytes(4)
    request = v2.EncryptRequest(plaintext=b"\5" * 32, uid="u").SerializeToString()
    for path, body in ((V2_PATH + "Status", extra), (V2_PATH + "Encrypt", extra + request + extra)):
        try:
            reply = kms.raw(path, body)
        except grpc.RpcError as error:
            assert error.code() is INVALID and "field 99" in error.details()
        else:
            if path.endswith("Encrypt"):
                assert kms.open(v2.EncryptResponse.FromString(reply)) == b"\5" * 32


def test_c30_oversized_messages_are_refused_and_the_connection_lives(kms):
    for size in (4 * 1024 * 1024, 1024 * 1024, 256 * 1024):
        code, _ = refusal(kms.raw, V2_PATH + "Encrypt", v2.EncryptRequest(plaintext=bytes(size)).SerializeToString())
        assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, INVALID), code
        contract.round_trip(kms)


def test_c30_huge_annotations_are_refused(kms):
    sealed = kms.encrypt(os.urandom(32))
    for annotations in (
        {"a.example.com": bytes(60000)},
        {f"a{n}.example.com": b"" for n in range(2000)},
        {"x" * 30000 + ".example.com": b""},
    ):
        code, _ = refusal(kms.decrypt, sealed.ciphertext, sealed.key_id, annotations)
        assert code in (INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_c30_missing_and_torn_messages_are_refused(shared):
    message = v2.EncryptRequest(plaintext=bytes(32)).SerializeToString()
    for body in (
        b"",  # none
        h2wire.framed(message)[:-1],  # cut short
        b"\x02" + h2wire.framed(message)[1:],  # no such flag
        struct.pack(">BI", 0, 0xFFFFFFFF) + message,  # promises 4 GiB
    ):
        with h2wire.Connection(shared.socket_path) as connection:
            stream = connection.begin(h2wire.request_headers(V2_PATH + "Encrypt"), body)
            connection.flush()
            (outcome,) = connection.wait(stream)
            assert outcome.grpc_status != 0, body[:8]
            assert outcome.ended or connection.eof
    with h2wire.Connection(shared.socket_path) as connection:
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (":method", "GET"), (":method", "PUT"), (":scheme", "https"), ("content-type", "text/plain"),
        ("content-type", "application/json"), ("te", "gzip"), (":authority", None), (":path", None), ("te", None),
    ],
)  # fmt: skip
def test_c30_requests_that_are_no_grpc_hurt_nobody(shared, name, value):
    headers = [(k, value if k == name else v) for k, v in h2wire.request_headers(V2_PATH + "Status")]
    headers = [(k, v) for k, v in headers if v is not None]
    with h2wire.Connection(shared.socket_path) as connection:
        assert connection.unary("", b"", headers=headers).ended or connection.eof
    with h2wire.Connection(shared.socket_path) as connection:
        assert connection.unary(V2_PATH + "Status", b"").grpc_status == 0


@pytest.mark.parametrize("version", ["v1beta1", "", "v1", "v2", "x" * 1000])
def test_c31_any_v1_version_is_tolerated_or_cleanly_refused(kms, version):
    plain = os.urandom(32)
    for call in (
        lambda: kms.v1_decrypt(kms.v1_encrypt(plain, version=version), version=version) == plain,
        lambda: kms.v1_version(version=version).version == "v1beta1",
    ):
        try:
            assert call()
        except grpc.RpcError as error:
            assert version not in ("v1beta1", ""), "the documented forms are served"
            assert error.code() is INVALID and error.details()


def test_c31_a_v1_cipher_of_the_largest_size_is_refused_not_fatal(kms):
    for size in (0, 1, 65535):
        code, details = refusal(kms.v1_decrypt, os.urandom(size))
        assert code is INVALID and details


# ---- C32: what operators see ---------------------------------------------------------------------------------------


def test_c32_the_uid_of_every_v2_call_is_logged_at_debug(shared, kms):
    for_encrypt, for_decrypt = str(uuid.uuid4()), str(uuid.uuid4())
    sealed = kms.encrypt(os.urandom(32), uid=for_encrypt)
    kms.open(sealed, uid=for_decrypt)
    eventually(lambda: for_encrypt in shared.log() and for_decrypt in shared.log(), "both uids are in the log", 10)


def test_c32_a_uid_cannot_forge_log_lines(shared, kms):
    forged = f"{uuid.uuid4()}\n2030-01-01T00:00:00Z error forged-line\x1b[31m"
    try:
        kms.encrypt(os.urandom(32), uid=forged)
    except grpc.RpcError as error:
        assert error.code() is INVALID
    marker = str(uuid.uuid4())
    kms.encrypt(os.urandom(32), uid=marker)
    eventually(lambda: marker in shared.log(), "the log has caught up", 10)
    assert not any(line.startswith("2030-01-01") for line in shared.log().splitlines())
    assert "\x1b" not in shared.log()


def test_c32_nothing_per_request_is_logged_at_info(start):
    one = start()
    with one.kms() as kms:
        contract.round_trip(kms)
        before = one.log()
        for _ in range(100):
            kms.open(kms.encrypt(os.urandom(32), uid=str(uuid.uuid4())))
        assert one.log() == before


def test_c32_requests_are_counted_by_api_method_and_code(shared, kms):
    def count(**labels):
        return shared.metric("kmsward_requests_total", **labels)

    rows = {
        ("v2", "status", "OK"): kms.status,
        ("v2", "encrypt", "OK"): lambda: kms.encrypt(bytes(32)),
        ("v2", "decrypt", "INVALID_ARGUMENT"): lambda: refusal(kms.decrypt, b"x", "y"),
        ("v1beta1", "version", "OK"): kms.v1_version,
        ("v1beta1", "encrypt", "OK"): lambda: kms.v1_encrypt(bytes(32)),
        ("v1beta1", "decrypt", "INVALID_ARGUMENT"): lambda: refusal(kms.v1_decrypt, b"x"),
    }
    for (api, method, code), call in rows.items():
        labels = {"api": api, "method": method, "code": code}
        before = count(**labels)
        for _ in range(7):
            call()
        eventually(lambda: count(**labels) == before + 7, f"{labels} counts 7 more calls", 10)  # noqa: B023


def test_c32_metrics_name_the_key_and_never_touch_it(shared, kms):
    key_id = kms.status().key_id
    assert shared.metric("kmsward_key_info", key="primary", key_id=key_id) == 1
    assert shared.metric("kmsward_key_ready", key="primary") == 1
    assert shared.metric("kmsward_build_info") == 1
    assert shared.metric("process_resident_memory_bytes") > 1 << 20
    unwraps = shared.metric("kmsward_backend_calls_total", operation="unwrap")
    for _ in range(50):
        shared.metrics_text()
    assert shared.metric("kmsward_backend_calls_total", operation="unwrap") <= unwraps + 1


# ---- the command line ----------------------------------------------------------------------------------------------


def test_doctor_finds_a_healthy_daemon_healthy(shared):
    done = command("doctor", "--socket", shared.socket_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_doctor_says_what_is_wrong_with_a_dead_socket(folder):
    done = command("doctor", "--socket", folder / "none.sock", "--timeout", "1s")
    assert done.returncode == 1
    assert "none.sock" in done.stdout + done.stderr


def test_config_check_accepts_what_serve_accepts_and_names_what_it_does_not(folder, key_file):
    good = folder / "good.yaml"
    good.write_text(json.dumps(settings(folder, key_file)))
    assert command("config", "check", good).returncode == 0
    bad = folder / "bad.yaml"
    bad.write_text(json.dumps(merged(settings(folder, key_file), {"sockte": {}})))
    done = command("config", "check", bad)
    assert done.returncode == 78
    assert "sockte" in done.stdout + done.stderr


def test_a_broken_configuration_ends_serve_with_78(prepare, folder):
    one = prepare(configuration={"socket": {"path": str(folder / "kms.sock")}})
    assert "keys" in refused_to_start(one, 78)


@pytest.mark.parametrize("arguments", [["serve", "--no-such-option"], ["nonsense"], ["serve", "--config"]])
def test_a_wrong_command_line_ends_with_64(arguments):
    assert command(*arguments).returncode == 64


def test_version_is_a_semantic_version():
    done = command("version")
    assert done.returncode == 0
    assert contract.SEMVER.search(done.stdout)


def test_key_init_never_overwrites_a_key_file(key_file):
    before = key_file.path.read_bytes()
    done = command("key", "init", "--file", key_file.path)
    assert done.returncode != 0
    assert str(key_file.path) in done.stdout + done.stderr
    assert key_file.path.read_bytes() == before
    assert stat.S_IMODE(key_file.path.stat().st_mode) & 0o077 == 0


def test_key_list_names_the_versions_and_shows_no_key(key_file):
    key_file.add()
    shown = key_file.list()
    for version, state in key_file.versions:
        assert version in shown and state in shown
    for secret in key_file.secrets:
        for form in forms(secret[:8]):
            assert form not in shown and form not in shown.lower()


def test_a_retired_version_never_becomes_active_again(key_file):
    (first, _), *_ = key_file.versions
    key_file.add()
    key_file.activate()
    before = key_file.path.read_bytes()
    done = command("key", "activate", "--file", key_file.path, first)
    assert done.returncode == 1 and first in done.stderr
    assert key_file.path.read_bytes() == before


def test_dev_serves_from_an_empty_directory(folder):
    from daemon import BINARY

    run = folder / "run"
    with open(folder / "dev.log", "wb") as log:
        process = subprocess.Popen([BINARY, "serve", "--dev", "--run-dir", str(run)], stdout=log, stderr=log)
    try:
        eventually(lambda: process.poll() is not None or (run / "kms.sock").exists(), "the socket appears")
        assert process.poll() is None, (folder / "dev.log").read_text()
        with KMS(f"unix:{run}/kms.sock") as kms:
            contract.round_trip(kms)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
