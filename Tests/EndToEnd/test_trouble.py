"""What an API server gets while the key-management service is in trouble: docs/behaviour-in-trouble.md, row by row, with a key of
JD Cloud against the strict fake; and C12, C16 and C18..C24 of the contract with such a key."""

import concurrent.futures
import contextlib
import os
import re
import shutil

import grpc
import pytest

from daemon import KeyFile, command, eventually, free_port, settings
from jdcloud_client import ACCESS_KEY, KEY, SECRET_KEY
from kms import refusal, v2
from machine import judged_undisturbed
from test_grpc_go import run
from test_leaks import THREADS

FORMATS = ("envelope", "compatible")
#: Where the daemon's own probes must not count.
SELDOM = {"rotation": {"observe_every": "10m", "settle": "0s"}}
#: So that nothing is ridden through for longer than a probe or two.
IMPATIENT = {"ride_through": "1s", "auth_grace": "1s"}
OK = "OK"


@contextlib.contextmanager
def undone(do, undo):
    do()
    try:
        yield
    finally:
        undo()


def only(*granted):
    account = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    return lambda fake: undone(
        lambda: fake.control("POST", "/accounts", {**account, "permissions": {"*": list(granted)}}),
        lambda: fake.control("POST", "/accounts", account),
    )


def certificate(fake, kind):
    fake.certificate(kind)
    fake.control("POST", "/connections/close")


def expired_certificate(fake):
    return undone(lambda: certificate(fake, "expired"), lambda: certificate(fake, "good"))


def refusing(fake):
    return undone(lambda: fake.listener("https", "close"), lambda: fake.listener("https", "open"))


def revoked(fake):
    return undone(lambda: fake.account(ACCESS_KEY, "revoke"), lambda: fake.account(ACCESS_KEY, "restore"))


def disabled(fake):
    return undone(lambda: fake.key(KEY, "disable"), lambda: fake.key(KEY, "enable"))


def switch(kind, **options):
    return lambda fake: fake.fault(kind, **options)


def outcome(call, *arguments):
    """OK, or the code of an error that names the key: the daemon's own, not what a client's timer says."""
    try:
        call(*arguments)
    except grpc.RpcError as error:
        assert "key primary: " in error.details(), (error.code(), error.details())
        return error.code().name
    return OK


@pytest.fixture
def unseen(on_jdcloud, folder):
    """What other replicas wrote: unseen(format, count). Each envelope has a local KEK of its own."""

    def make(write_format, count):
        made = []
        for number in range(count if write_format == "envelope" else 1):
            name = f"elsewhere-{number}"
            changes = {
                "name": name,
                "socket": {"path": str(folder / f"{name}.sock")},
                "state_directory": str(folder / name),
                "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                **SELDOM,
            }
            other = on_jdcloud(changes=changes, key={"write_format": write_format})
            with other.kms() as kms:
                made += [kms.encrypt(os.urandom(32)) for _ in range(count if write_format == "compatible" else 1)]
            other.stop()
        return made

    return make


# ---- the table -----------------------------------------------------------------------------------------------------

# Trouble, and the code of a Decrypt that needs the service.
TRANSIENT = {
    "refusing": (refusing, "UNAVAILABLE"),
    "500": (switch("error", code=500), "UNAVAILABLE"),
    "reset": (switch("reset", at="body"), "UNAVAILABLE"),
    "not JSON": (switch("content", variant="html"), "UNAVAILABLE"),
}
REFUSED = {
    "revoked": (revoked, "UNAUTHENTICATED"),
    "403": (switch("error", code=403), "PERMISSION_DENIED"),
    "404": (switch("error", code=404), "FAILED_PRECONDITION"),
    "expired token": (switch("expired_token"), "UNAUTHENTICATED"),
    "TLS": (expired_certificate, "UNAUTHENTICATED"),
    "clock": (switch("clock_skew"), "UNAUTHENTICATED"),
}


# What the log says first; where the service wraps every message itself, nothing goes on.
RIDING = "the key has trouble and goes on with what it has"
MUTE = "the key does not encrypt"


def row(kms, seen, unseen):
    """(Status, Encrypt through v2, through v1, ping, Decrypt in memory, not in memory)"""
    dek = bytes(range(32))
    return (
        outcome(kms.status),
        outcome(kms.encrypt, dek),
        outcome(kms.v1_encrypt, dek),
        outcome(kms.v1_encrypt, b"ping"),
        outcome(kms.open, seen),
        outcome(kms.open, unseen),
    )


def check(one, fake, fault, told, expected, ciphertexts):
    """Lets the daemon meet a fault, looks at the row, and at the recovery: without a restart, under the same key_id."""
    seen, unseen = ciphertexts
    with one.kms(timeout=3) as kms:
        key_id = kms.status().key_id
        kms.open(seen)
        with fault(fake):
            eventually(lambda: told in one.log(), f"{told!r} in the log")
            assert row(kms, seen, unseen) == expected
            assert outcome(kms.status) != OK or kms.status().key_id == key_id
        eventually(lambda: outcome(kms.status) == OK, "Status is ok again")
        eventually(lambda: outcome(kms.open, unseen) == OK, "what was not in memory is read")
        eventually(lambda: outcome(kms.encrypt, bytes(32)) == OK, "it is written again")
        assert kms.status().key_id == key_id
        assert one.process.poll() is None


@pytest.mark.parametrize(
    "write_format, trouble",
    [("envelope", one) for one in TRANSIENT | REFUSED]
    + [("compatible", one) for one in ("refusing", "revoked", "403", "TLS")],
)
def test_trouble_within_its_time_leaves_status_and_what_is_known(on_jdcloud, unseen, fake, write_format, trouble):
    fault, code = (TRANSIENT | REFUSED)[trouble]
    # What compatible writes is made by the service, whose answer is the answer.
    written = OK if write_format == "envelope" else code
    ciphertexts = unseen(write_format, 2)
    one = on_jdcloud(key={"write_format": write_format})
    told = RIDING if write_format == "envelope" else MUTE
    check(one, fake, fault, told, (OK, written, written, OK, OK, code), ciphertexts)


def test_a_service_that_asks_for_a_pause_gets_it_and_callers_are_told(on_jdcloud, unseen, fake):
    """429 with a pause longer than any call has: nobody is kept waiting for it, and nothing is sent meanwhile."""
    seen, other = unseen("compatible", 2)
    one = on_jdcloud(key={"write_format": "compatible"})
    with one.kms(timeout=3) as kms:
        key_id = kms.status().key_id
        kms.open(seen)
        with fake.fault("throttle", retry_after=12):
            eventually(lambda: MUTE in one.log(), "it is told")
            throttled = fake.calls(outcome="fault:throttle")
            assert row(kms, seen, other)[:5] == (OK, "UNAVAILABLE", "UNAVAILABLE", OK, OK)
            assert fake.calls(outcome="fault:throttle") == throttled
        eventually(lambda: outcome(kms.open, other) == OK, "what was not in memory is read")
        assert kms.status().key_id == key_id


@pytest.mark.parametrize("trouble", ["refusing", "revoked", "404"])
def test_trouble_beyond_its_time_stops_status_and_writes_and_nothing_that_is_known(on_jdcloud, unseen, fake, trouble):
    fault, code = (TRANSIENT | REFUSED)[trouble]
    ciphertexts = unseen("envelope", 2)
    one = on_jdcloud(key=IMPATIENT)
    check(one, fake, fault, "the key does not serve", (code, code, code, code, OK, code), ciphertexts)


def test_the_doctor_tells_of_trouble_that_the_api_server_does_not_see_yet(on_jdcloud, fake):
    one = on_jdcloud()
    sound = command("doctor", "--socket", one.socket_path)
    assert sound.returncode == 0 and "warning" not in sound.stdout, sound.stdout
    with revoked(fake):
        eventually(lambda: RIDING in one.log(), "it is told")
        ill = command("doctor", "--socket", one.socket_path)
    assert ill.returncode == 0
    assert re.search(r"^warning +key primary +riding through: .*Invalid accessKey.*writes stop in", ill.stdout, re.M), ill.stdout


def test_on_forbidden_wipe_ends_reading_with_the_permission_and_enabling_it_again_heals(on_jdcloud, unseen, fake):
    fault, code = REFUSED["revoked"]
    ciphertexts = unseen("envelope", 2)
    one = on_jdcloud(key={**IMPATIENT, "on_forbidden": "wipe"})
    told = "what was unwrapped with the key is wiped"
    check(one, fake, fault, told, (code, code, code, code, code, code), ciphertexts)
    assert one.metric("kmsward_cache_evictions_total", reason="denied") > 0


@pytest.mark.parametrize(
    "granted, unread",
    [(("encrypt", "describe"), "PERMISSION_DENIED"), (("decrypt", "describe"), OK)],
    ids=("decrypt revoked", "encrypt revoked"),
)
@pytest.mark.parametrize("write_format", FORMATS)
def test_c21_half_a_permission_is_told_at_the_next_probe_and_stops_status_after_the_grace(
    on_jdcloud, unseen, fake, granted, unread, write_format
):
    denied = "PERMISSION_DENIED"
    ciphertexts = unseen(write_format, 2)
    # More than a probe, so that the grace is seen.
    one = on_jdcloud(key={"write_format": write_format, "ride_through": "3s", "auth_grace": "3s"})
    expected = (denied, denied, denied, denied, OK, unread)
    check(one, fake, only(*granted), "the key does not serve", expected, ciphertexts)
    is_mute = write_format == "compatible" and "encrypt" not in granted
    assert (MUTE if is_mute else RIDING) in one.log(), "the grace comes first"


def scheduled(fake):
    # As the service does it, what is not deleted after all comes back disabled.
    return undone(
        lambda: fake.key(KEY, "delete"), lambda: (fake.key(KEY, "cancelDelete"), fake.key(KEY, "enable"))
    )  # fmt: skip


def without_versions(fake):
    versions = fake.versions(KEY)
    return undone(
        lambda: [fake.version(KEY, one, "disable") for one in versions],
        lambda: [fake.version(KEY, one, "enable") for one in versions],
    )


STOPPED = "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    "write_format, fault, unread",
    [
        ("envelope", disabled, STOPPED),
        ("compatible", disabled, STOPPED),
        ("envelope", scheduled, STOPPED),
        # Said of the version that wrapped it: others may open.
        ("envelope", without_versions, "PERMISSION_DENIED"),
    ],
)
def test_a_key_that_may_not_be_used_stops_writes_at_first_sight_and_reads_go_on(
    on_jdcloud, unseen, fake, write_format, fault, unread
):
    # What happens half a minute later is KeyServiceTests' and the drill's.
    ciphertexts = unseen(write_format, 2)
    one = on_jdcloud(key={"write_format": write_format})
    expected = (STOPPED, STOPPED, STOPPED, STOPPED, OK, unread)
    check(one, fake, fault, "the key does not serve", expected, ciphertexts)


def test_a_damaged_ciphertext_concerns_itself_alone_and_is_asked_about_once(on_jdcloud, fake):
    """A good start and a damaged wrapped key; said of it once, it is not asked about again, and nothing else changes."""
    one = on_jdcloud(key={"write_format": "compatible"}, changes=SELDOM)
    with one.kms() as kms:
        sealed = kms.encrypt(bytes(32))
        torn = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])
        for _ in range(2):
            code, _ = refusal(kms.decrypt, torn, sealed.key_id)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert fake.calls("decrypt", "refused") == 1
        assert kms.status().healthz == "ok"
        assert kms.open(sealed) == bytes(32)
        assert one.metric("kmsward_backend_breaker_open") == 0 and one.metric("kmsward_key_ready") == 1


@pytest.mark.parametrize("trouble", ["refusing", "revoked", "TLS"])
def test_trouble_since_before_the_start_is_explained_and_no_key_id_is_made_up(
    on_jdcloud, unseen, fake, trouble
):
    fault, code = (TRANSIENT | REFUSED)[trouble]
    (sealed,) = unseen("envelope", 1)
    with fault(fake):
        one = on_jdcloud()
        with one.kms() as kms:
            for call in (kms.status, lambda: kms.encrypt(bytes(32)), lambda: kms.open(sealed)):
                assert outcome(call) == code
    with one.kms() as kms:
        eventually(lambda: outcome(kms.status) == OK, "Status is ok without a restart")
        assert kms.status().key_id == sealed.key_id
        eventually(lambda: outcome(kms.open, sealed) == OK, "it is read")


def test_trouble_of_a_key_that_only_reads_changes_nothing_else(start, folder, fake, unseen):
    (sealed,) = unseen("envelope", 1)
    writer = KeyFile(folder / "writer.keys").init()
    configuration = settings(folder, writer)
    configuration["keys"].append({"name": "former", "jdcloud": fake.block(folder)})
    one = start(configuration=configuration)
    with one.kms() as kms:
        assert kms.open(sealed)
        key_id = kms.status().key_id
        with disabled(fake):
            eventually(lambda: "is disabled" in one.log(), "it is told")
            assert kms.status().key_id == key_id
            assert kms.open(kms.encrypt(bytes(32))) == bytes(32)
            assert one.metric("kmsward_key_ready", key="primary") == 1
            eventually(lambda: one.metric("kmsward_key_ready", key="former") == 0, "the metrics tell")


# ---- C18, C20: a service that says nothing -------------------------------------------------------------------------


@pytest.mark.parametrize("write_format", FORMATS)
def test_c18_status_asks_nobody_whatever_the_service_does(on_jdcloud, fake, write_format):
    one = on_jdcloud(changes=SELDOM, key={"write_format": write_format})
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(one.kms()) for _ in range(3)]
        key_id = clients[0].status().key_id
        before = fake.calls()
        for fault in (contextlib.nullcontext(), fake.fault("latency", ms=2900), fake.fault("hang"), refusing(fake)):
            with fault:
                for _ in range(50):
                    assert {kms.status().key_id for kms in clients} == {key_id}
        assert fake.calls() == before


@pytest.mark.parametrize("write_format", FORMATS)
@judged_undisturbed
def test_c20_a_hung_service_costs_a_caller_its_time_and_gives_it_a_reason(on_jdcloud, unseen, fake, write_format):
    """A moment before the caller's own timer would end the call without one."""
    seen, other = unseen(write_format, 2)
    one = on_jdcloud(changes=SELDOM, key={"write_format": write_format})
    try:
        with one.kms(timeout=2) as kms:
            kms.open(seen)
            with fake.fault("hang"):
                assert outcome(kms.status) == OK
                assert outcome(kms.open, seen) == OK
                assert outcome(kms.open, other) == "DEADLINE_EXCEEDED"
                assert outcome(kms.encrypt, bytes(32)) == (OK if write_format == "envelope" else "UNAVAILABLE")
            # It was still asked, and the next who wants it has it.
            eventually(lambda: outcome(kms.open, other) == OK, "it is read")
    finally:
        one.discard()


# ---- C23, C24: callers that leave, callers that come together ------------------------------------------------------


def at_rest(one, fake):
    eventually(lambda: one.metric("kmsward_requests_in_flight") == 0, "no call is in flight")
    eventually(lambda: fake.counters()["in_flight"] == 0, "the service works for nobody")
    eventually(lambda: one.metric("kmsward_backend_calls_waiting") == 0, "nobody waits for a turn")


@pytest.mark.parametrize("how", ["cancelled", "out of time"])
def test_c23_a_caller_that_leaves_ends_the_call_of_the_service(on_jdcloud, fake, how):
    one = on_jdcloud(changes=SELDOM, key={"write_format": "compatible"})
    with one.kms() as kms, fake.fault("hang"):
        timeout = 0.5 if how == "out of time" else 60
        call = kms._encrypt.future(v2.EncryptRequest(plaintext=bytes(32)), timeout=timeout)
        eventually(lambda: fake.counters()["in_flight"] == 1 or call.done(), "the service has the call")
        if how == "cancelled":
            call.cancel()
        at_rest(one, fake)
        assert fake.calls("encrypt", "abandoned") >= 1


@judged_undisturbed
def test_c23_ten_thousand_callers_that_leave_a_slow_service_leave_nothing_behind(goclient, on_jdcloud, fake):
    """No connection, task or descriptor: here, and at the service."""
    one = on_jdcloud(changes=SELDOM, key={"write_format": "compatible"})
    try:
        leavers_leave_nothing_behind(goclient, one, fake)
    finally:
        one.discard()


def leavers_leave_nothing_behind(goclient, one, fake):
    def connections():
        return fake.counters()["listeners"]["https"]["open"]

    with one.kms() as kms:
        # As many at once as there will be, so that every connection that is kept is there.
        with fake.fault("latency", ms=100), concurrent.futures.ThreadPoolExecutor(32) as pool:
            sealed = list(pool.map(kms.encrypt, [bytes(32)] * 64))
        at_rest(one, fake)
        before = one.descriptors, one.threads, connections()
        with fake.fault("latency", ms=100):
            cancelled = 0
            for _ in range(5):
                code, out = run(goclient, one.socket_path, "-n", "10000", "-c", "64", "cancel")
                assert code == 0 and out["failed"] == 0, out.get("error", out)
                cancelled += out["cancelled"]
                if cancelled >= 10000:
                    break
            assert cancelled >= 10000
            # And such as may go on without their callers.
            for one_of in sealed:
                request = v2.DecryptRequest(ciphertext=one_of.ciphertext, key_id=one_of.key_id)
                kms._decrypt.future(request, timeout=60).cancel()
            at_rest(one, fake)
        descriptors, threads, kept = before
        eventually(lambda: one.descriptors <= descriptors, f"descriptors are back at {descriptors}")
        eventually(lambda: one.threads <= threads + THREADS, f"threads are back near {threads}")
        eventually(lambda: connections() <= kept, f"connections are back at {kept}")
        assert one.metric("kmsward_backend_breaker_open") == 0, "a caller that leaves says nothing of the service"
        assert kms.open(kms.encrypt(bytes(32))) == bytes(32)


@pytest.mark.parametrize("write_format", FORMATS)
def test_c24_two_hundred_who_want_one_wrapped_key_make_one_call(on_jdcloud, unseen, fake, write_format):
    (sealed,) = unseen(write_format, 1)
    one = on_jdcloud(changes=SELDOM, key={"write_format": write_format})
    before = fake.calls("decrypt")
    with one.kms() as kms, fake.fault("latency", ms=100), concurrent.futures.ThreadPoolExecutor(200) as pool:
        opened = list(pool.map(kms.open, [sealed] * 200))
    assert len(set(opened)) == 1
    # On a machine that is slow enough, a second try beside a late first.
    beside = one.metric("kmsward_backend_decisions_total", decision="tried_beside")
    assert fake.calls("decrypt") - before == 1 + beside


# ---- C12, C16: versions and replicas -------------------------------------------------------------------------------


@pytest.fixture
def replicas(on_jdcloud, folder):
    """Two daemons as on two hosts, with nothing in common but the key: replicas(format)."""

    def make(write_format):
        made = []
        for name in ("one", "two"):
            changes = {
                "name": name,
                "socket": {"path": str(folder / f"{name}.sock")},
                "state_directory": str(folder / name),
                "metrics": {"listen": f"127.0.0.1:{free_port()}"},
            }
            made.append(on_jdcloud(changes=changes, key={"write_format": write_format}))
        return made

    return make


@pytest.mark.parametrize("write_format", FORMATS)
def test_c12_c16_replicas_agree_and_read_everything_over_rotations_and_restarts(replicas, fake, folder, write_format):
    pair = replicas(write_format)
    written, ids = [], []

    def all_open():
        for reader in pair:
            with reader.kms() as kms:
                for plaintext, sealed, cipher in written:
                    assert kms.open(sealed) == plaintext
                    assert kms.v1_decrypt(cipher) == plaintext

    for _ in range(3):
        for writer in pair:
            with writer.kms() as kms:
                plaintext = os.urandom(32)
                written.append((plaintext, kms.encrypt(plaintext), kms.v1_encrypt(plaintext)))
        all_open()
        with pair[0].kms() as a, pair[1].kms() as b:
            ids.append(a.status().key_id)
            assert b.status().key_id == ids[-1]
            fake.key(KEY, "rotate")

            def rotated(a=a, b=b):
                # At every step of the rotation, whoever is ahead.
                for writer, reader in ((a, b), (b, a)):
                    assert reader.open(writer.encrypt(bytes(32))) == bytes(32)
                return ids[-1] not in (a.status().key_id, b.status().key_id)

            eventually(rotated, "both have rotated")
            assert a.status().key_id == b.status().key_id
    assert len(set(ids)) == 3
    for one in pair:
        one.restart()
    all_open()
    # A lost state directory costs time, never data.
    for one, name in zip(pair, ("one", "two")):
        one.stop()
        shutil.rmtree(folder / name)
        (folder / name).mkdir(mode=0o700)
        one.start()
    all_open()
    with pair[0].kms() as a, pair[1].kms() as b:
        assert a.status().key_id == b.status().key_id
        assert a.status().key_id not in ids
