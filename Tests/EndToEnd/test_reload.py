"""A configuration, keys and credentials that change while the daemon runs: no call fails, and what is wrong changes nothing."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

import jdcloud_client
from daemon import PATIENCE, KeyFile, command, eventually, merged
from flawed_plugin import FlawedPlugin
from jdcloud_client import ACCESS_KEY, SECRET_KEY
from kms import refusal

APPLIED, REFUSED = "the new configuration is in effect", "the new configuration is refused; the former one goes on"
AK2, SK2 = "TESTAKSECOND", "TESTSKsecondsecondsecond"


def write(daemon, text):
    """Puts a file in the place of the configuration, as a careful operator does."""
    new = daemon.config_path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, daemon.config_path)


def change(daemon, **changes):
    """Lays `changes` over the configuration, which nobody is told of."""
    daemon.configuration = merged(daemon.configuration, changes)
    write(daemon, json.dumps(daemon.configuration, indent=2))


def reloads(daemon, result):
    return daemon.metric("kmsward_config_reloads_total", result=result)


def hang_up(daemon, *says, result="applied"):
    """SIGHUP, and waits for the reload that it makes and for what it says."""
    before, start = reloads(daemon, result), len(daemon.log())
    daemon.process.send_signal(signal.SIGHUP)
    try:
        eventually(lambda: reloads(daemon, result) == before + 1, f"a reload that is {result}")
        for text in says:
            eventually(lambda: text in daemon.log()[start:], repr(text))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{daemon.log()[start:]}") from None


def local(key_file, name, **more):
    return {"name": name, "local": {"file": str(key_file.path)}, **more}


@pytest.fixture
def other_key(folder):
    return KeyFile(folder / "other.keys").init()


class Load:
    """Status, Encrypt and Decrypt on one connection, without a pause, until the block ends; any failure fails it.

    `keep` is decrypted as well; `connections` is what the daemon has accepted, this one included. `asks` is how often
    `kmsward reload` is run meanwhile, which connects once.
    """

    def __init__(self, daemon, keep=(), asks=0):
        self.daemon, self.keep, self.asks = daemon, list(keep), asks
        self.calls, self.key_ids, self.failures = 0, [], []
        self.over = threading.Event()

    def _run(self, kms):
        plaintext = os.urandom(32)
        while not self.over.is_set():
            try:
                told = kms.status().key_id
                sealed = kms.encrypt(plaintext)
                assert kms.open(sealed) == plaintext
                for one in self.keep:
                    kms.open(one)
                for key_id in (told, sealed.key_id):
                    if not self.key_ids or self.key_ids[-1] != key_id:
                        self.key_ids.append(key_id)
                self.calls += 1
            except (grpc.RpcError, AssertionError) as error:
                self.failures.append(error)
                return

    def __enter__(self):
        self.kms = self.daemon.kms()
        self.kms.status()
        self.connections = self.daemon.metric("kmsward_connections_accepted_total")
        self.thread = threading.Thread(target=self._run, args=(self.kms,))
        self.thread.start()
        self.passes(20)
        return self

    def passes(self, calls):
        """Waits for so many more rounds."""
        target = self.calls + calls
        eventually(lambda: self.calls >= target or self.failures, "the load goes on")

    def __exit__(self, *raised):
        try:
            if raised[0] is None:
                self.passes(20)
        finally:
            self.over.set()
            self.thread.join(PATIENCE)
            self.kms.close()
        assert not self.failures, f"after {self.calls} rounds: {self.failures}\n{self.daemon.log()}"
        # One connection all the time, and no key_id that was left comes back.
        assert self.daemon.metric("kmsward_connections_accepted_total") == self.connections + self.asks
        assert len(self.key_ids) == len(set(self.key_ids)), self.key_ids


def ask(daemon_or_path, *more):
    """`kmsward reload`, and how it ended."""
    path = getattr(daemon_or_path, "socket_path", daemon_or_path)
    return command("reload", "--socket", str(path), *more)


def test_who_asks_for_a_reload_is_told_what_became_of_it(start):
    one = start()
    with Load(one, asks=4):
        change(one, log={"level": "debug"})
        done = ask(one)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{APPLIED}: log.level\n", "")
        assert reloads(one, "applied") == 1
        done = ask(one)
        assert (done.returncode, done.stdout) == (0, "the configuration is read again, and is as before\n")
        change(one, limits={"drain": "9s"}, log={"level": "info"})
        done = ask(one)
        assert (done.returncode, done.stdout) == (0, f"{APPLIED}: log.level\n")
        assert done.stderr == "restart to apply: limits.drain\n"
        # It waits still: that is all there is to say.
        done = ask(one)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "restart to apply: limits.drain; all else is as before\n"
    assert one.log().count("is as before") == 1


def test_who_asks_for_a_reload_is_told_every_reason_why_it_is_refused(start):
    one = start()
    good = one.config_path.read_text()
    with Load(one, asks=3):
        write(one, good.replace('"rotation"', '"rotatoin"').replace('"level": "info"', '"level": "loud"'))
        done = ask(one)
        assert done.returncode == 1 and done.stdout == ""
        first, second, last = done.stderr.splitlines()
        assert "did you mean rotation?" in first and 'found "loud"' in second and last == REFUSED
        one.config_path.unlink()
        done = ask(one)
        assert done.returncode == 1 and "the file cannot be read: No such file or directory" in done.stderr
        write(one, good)
        assert ask(one).returncode == 0
    assert reloads(one, "refused") == 2


def test_many_who_ask_at_once_are_all_answered(start):
    one = start()
    with Load(one, asks=24), concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {done.returncode for done in pool.map(lambda _: ask(one), range(24))} == {0}


def test_who_asks_the_wrong_one_for_a_reload_is_told_so(start, folder):
    done = ask(folder / "nobody.sock")
    assert done.returncode == 1 and "cannot reload: " in done.stderr and "nobody.sock" in done.stderr
    other = FlawedPlugin(str(folder / "other.sock"))
    try:
        done = ask(folder / "other.sock")
        assert done.returncode == 1 and "knows no reload" in done.stderr
    finally:
        other.stop()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "silent.sock"))
        silent.listen()
        done = ask(folder / "silent.sock", "--timeout", "300ms")
        assert done.returncode == 1 and "silent.sock but said nothing within 1 s" in done.stderr, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_who_may_not_ask_for_a_reload_is_told_so(start, folder):
    folder.chmod(0o711)
    one = start(socket={"owner": 1234})
    done = command("reload", "--socket", one.socket_path, user=1234, group=1234, extra_groups=[])
    assert done.returncode == 1
    assert "this user (uid 1234) is probably not admitted: put it into allow.uids" in done.stderr, done.stderr


def test_sighup_takes_level_and_cache_at_once(start):
    one = start()
    with one.kms() as kms:
        kms.encrypt(b"x")
        assert "DEBUG" not in one.log().upper()
        change(one, log={"level": "debug"}, cache={"entries": 0})
        hang_up(one, "cache.entries; log.level")
        kms.encrypt(b"y")
        eventually(lambda: "debug" in one.log().lower(), "a line of level debug")
        change(one, log={"level": "warning"})
        hang_up(one)
        quiet = one.log()
        hang_up(one, result="unchanged")
        assert one.log() == quiet
        assert kms.status().healthz == "ok"


def test_a_cache_that_is_off_keeps_nothing(start, prepare, folder, key_file):
    other = start(name="other", state_directory=str(folder / "s2"), socket={"path": str(folder / "2.sock")})
    with other.kms() as kms:
        sealed = kms.encrypt(b"by another replica")
    other.stop()
    one = start()
    with one.kms() as kms:
        for entries, misses in ((10_000, 1), (0, 3)):
            change(one, cache={"entries": entries})
            if entries == 0:
                hang_up(one)
            before = one.metric("kmsward_backend_calls_total", operation="unwrap")
            for _ in range(3):
                assert kms.open(sealed) == b"by another replica"
            calls = one.metric("kmsward_backend_calls_total", operation="unwrap") - before
            # The watch of the key makes calls of its own, one a second.
            assert calls >= misses and (misses == 3 or calls <= 3), calls


def test_a_changed_file_is_taken_by_itself(start):
    one = start()
    change(one, log={"level": "debug"})
    eventually(lambda: APPLIED in one.log(), "the change")
    assert reloads(one, "applied") == 1


def test_files_that_are_exchanged_behind_a_link_are_seen(prepare, folder):
    """As Kubernetes does it with a ConfigMap: a link to a link to a directory, which is exchanged."""
    one = prepare()
    plain = json.dumps(one.configuration)
    debug = json.dumps(merged(one.configuration, {"log": {"level": "debug"}}))
    for name, text in (("v1", plain), ("v2", debug)):
        (folder / name).mkdir()
        (folder / name / "kmsward.yaml").write_text(text)
    (folder / "..data").symlink_to("v1")
    one.config_path = folder / "mounted.yaml"
    one.config_path.symlink_to("..data/kmsward.yaml")
    # `start` writes the configuration through the link.
    one.start()
    (folder / "..new").symlink_to("v2")
    os.replace(folder / "..new", folder / "..data")
    eventually(lambda: APPLIED in one.log(), "the change behind the link")


def test_a_wrong_file_is_refused_whole_with_every_reason(start):
    one = start()
    right = one.config_path.read_text()
    write(one, "keys: 7\nlog:\n  level: warn\nallow: { uids: [4711] }\n")
    place = str(one.config_path)
    hang_up(one, f"{place}:1:7: error: keys: ", f"{place}:3:10: error: log.level: ", REFUSED, result="refused")
    assert one.metric("kmsward_config_last_reload_successful") == 0
    with one.kms() as kms:
        assert kms.status().healthz == "ok"
        kms.open(kms.encrypt(b"x"))
    # Said once, not at every look: the next wrong file is seen by looks that see this one first.
    write(one, "keys: 8\n")
    eventually(lambda: one.log().count(REFUSED) == 2, "the refusal of the next one")
    assert one.log().count(f"{place}:3:10: error") == 1
    write(one, right)
    eventually(lambda: one.metric("kmsward_config_last_reload_successful") == 1, "the right file")


def test_a_file_that_is_gone_is_refused(start):
    one = start()
    one.config_path.rename(one.config_path.with_suffix(".away"))
    eventually(lambda: REFUSED in one.log(), "the refusal")
    assert "cannot be read: No such file" in one.log()


def test_what_only_a_restart_changes_is_named_once_and_the_rest_is_taken(start, folder):
    one = start()
    before = one.configuration
    waiting = {"socket": {"path": str(folder / "new.sock")}, "limits": {"drain": "9s"}}
    change(one, log={"level": "debug"}, **waiting)
    changed, one.configuration = one.configuration, before
    hang_up(one, "changes=log.level", "restart to apply", "socket.path, limits.drain")
    with one.kms() as kms:
        assert kms.status().healthz == "ok"
    assert not (folder / "new.sock").exists()
    one.stop()
    one.configuration = changed
    with one.start().kms() as kms:
        assert kms.status().healthz == "ok"


def test_keys_come_change_places_and_go_under_load(start, key_file, other_key):
    one = start()
    first = one.configuration["keys"][0]
    with one.kms() as kms:
        of_first = kms.encrypt(b"of the first key")
    with Load(one, keep=[of_first]) as load:
        change(one, keys=[first, local(other_key, "other")])
        hang_up(one, "added other")
        load.passes(50)
        change(one, keys=[local(other_key, "other"), first])
        hang_up(one, "other encrypts now")
        load.passes(50)
        with one.kms() as kms:
            of_other = kms.encrypt(b"x")
            assert of_other.key_id != of_first.key_id and kms.open(of_first) == b"of the first key"
        load.keep = [of_other, of_first]
        load.connections += 1
        # The same key in another file.
        key_file.path.rename(key_file.path.with_name("moved.keys"))
        key_file.path = key_file.path.with_name("moved.keys")
        change(one, keys=[local(other_key, "other"), local(key_file, "primary", ride_through="1h")])
        hang_up(one, "changed primary")
        load.passes(50)
        load.keep = [of_other]
        change(one, keys=[local(other_key, "other")])
        hang_up(one, "removed primary")
        load.passes(50)
    assert len(load.key_ids) == 2
    with one.kms() as kms:
        code, details = refusal(kms.open, of_first)
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "belongs to no configured key" in details
    assert one.metric("kmsward_key_ready", key="primary") == 0
    assert 'key="primary"' not in "".join(
        line for line in one.metrics_text().splitlines() if line.startswith("kmsward_key_")
    )
    one.restart()
    with one.kms() as kms:
        assert kms.status().key_id == of_other.key_id and kms.open(of_other) == b"x"


def test_a_key_that_does_not_work_is_refused_with_its_reason(start, folder, other_key):
    one = start()
    first = one.configuration["keys"][0]
    history = (folder / "state" / "keyring.json").read_text()
    with Load(one) as load:
        for keys in (
            [first, {"name": "b", "local": {"file": str(folder / "missing.keys")}}],
            [{"name": "b", "local": {"file": str(folder / "missing.keys")}}, first],
        ):
            change(one, keys=keys, log={"level": "debug"})
            hang_up(one, "key b: ", "missing.keys", REFUSED, result="refused")
        load.passes(20)
    assert "debug" not in one.log().lower(), "the rest of a refused file was taken"
    assert len(load.key_ids) == 1
    assert (folder / "state" / "keyring.json").read_text() == history
    # It comes to be there: SIGHUP tries the same file again.
    (folder / "missing.keys").write_bytes(other_key.path.read_bytes())
    (folder / "missing.keys").chmod(0o600)
    hang_up(one, "b encrypts now")


CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(1234); os.setuid(1234)
peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
peer.connect(sys.argv[1])
def hear():
    try:
        return peer.recv(4096)
    except ConnectionResetError:
        return b""
try:
    peer.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
except BrokenPipeError:
    pass
print("in" if hear() else "out", flush=True)
while hear():
    pass
print("cut", flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_the_allow_list_changes_for_new_and_present_connections(start, folder):
    folder.chmod(0o711)
    one = start(socket={"owner": 1234})

    def stranger():
        return subprocess.Popen(
            [sys.executable, "-c", CONNECT, one.socket_path], stdout=subprocess.PIPE, text=True
        )

    refused = stranger()
    assert refused.stdout.readline() == "out\n"
    refused.communicate(timeout=PATIENCE)
    with Load(one) as load:
        change(one, allow={"uids": [1234]})
        hang_up(one, "allow.uids")
        admitted = stranger()
        assert admitted.stdout.readline() == "in\n"
        load.connections += 1
        change(one, allow={"uids": []})
        hang_up(one)
        assert admitted.stdout.readline() == "cut\n"
        admitted.communicate(timeout=PATIENCE)


# With JD Cloud


@pytest.fixture(scope="module")
def cloud():
    with jdcloud_client.JDCloudFake() as fake:
        fake.control("POST", "/accounts", {"access_key": AK2, "secret_key": SK2})
        yield fake


@pytest.fixture
def fake(cloud):
    for access_key in (ACCESS_KEY, AK2):
        cloud.account(access_key, "restore")
    cloud.reset()
    return cloud


@pytest.fixture
def jdcloud(folder, fake):
    """One key of JD Cloud that writes `compatible`, so that every Encrypt is a call."""
    return {"name": "primary", "write_format": "compatible", "jdcloud": fake.block(folder)}


def used(fake, access_key, operation="encrypt"):
    return any(
        entry["access_key"] == access_key and entry["operation"] == operation and entry["outcome"] == "ok"
        for entry in fake.log()
    )


def test_a_pair_of_credential_files_is_rotated_and_no_call_fails(start, folder, fake, jdcloud):
    one = start(keys=[jdcloud])
    with Load(one) as load:
        # Half of the pair: the service refuses it, and the former pair goes on.
        (folder / "access_key").write_text(AK2)
        eventually(lambda: "new credentials are refused, and the former ones go on" in one.log(), "the warning")
        load.passes(10)
        (folder / "secret_key").write_text(SK2)
        eventually(lambda: used(fake, AK2), "a call with the new pair")
        load.passes(10)
        eventually(lambda: "well again" in one.log(), "the end of the trouble")
        fake.account(ACCESS_KEY, "revoke")
        load.passes(10)
    assert one.log().count("new credentials are refused") == 1
    for secret in (SECRET_KEY, SK2):
        assert secret not in one.log() + one.metrics_text()


@pytest.mark.parametrize("damage", ["empty", "missing", "two words"])
def test_a_bad_credential_file_is_said_and_the_former_credentials_go_on(start, folder, fake, jdcloud, damage):
    one = start(keys=[jdcloud])
    with Load(one) as load:
        match damage:
            case "empty":
                (folder / "secret_key").write_text("")
            case "missing":
                (folder / "secret_key").unlink()
            case "two words":
                (folder / "secret_key").write_text("two words")
        eventually(lambda: "no new credentials, and the former ones go on" in one.log(), "the warning")
        assert one.metric("kmsward_key_trouble", key="primary", code="misconfigured") == 1
        load.passes(10)
        (folder / "access_key").write_text(AK2)
        (folder / "secret_key").write_text(SK2)
        eventually(lambda: used(fake, AK2), "a call with the new pair")
        eventually(lambda: one.metric("kmsward_key_trouble", key="primary") == 0, "the end of the trouble")
    assert one.log().count("no new credentials") == 1


def test_credentials_in_the_configuration_are_changed_there(start, fake, jdcloud):
    def key(access_key, secret_key):
        given = {"source": "config", "access_key": access_key, "secret_key": secret_key}
        return merged(jdcloud, {"jdcloud": {"credentials": None}}) | {
            "jdcloud": jdcloud["jdcloud"] | {"credentials": given}
        }

    one = start(keys=[key(ACCESS_KEY, SECRET_KEY)])
    with one.kms() as kms:
        before = kms.encrypt(os.urandom(32))
        kms.open(before)
    with Load(one, keep=[before]) as load:
        change(one, keys=[key(AK2, "TESTSKthatiswrong")])
        hang_up(one, "key primary: ", result="refused")
        load.passes(10)
        change(one, keys=[key(AK2, SK2)])
        hang_up(one, "changed primary")
        fake.account(ACCESS_KEY, "revoke")
        decrypts = len([e for e in fake.log() if e["operation"] == "decrypt"])
        load.passes(10)
    # What was in memory stays: `before` costs no call, or each round would make two.
    rounds = load.calls
    assert len([e for e in fake.log() if e["operation"] == "decrypt"]) - decrypts < 2 * rounds
    assert len(load.key_ids) == 1
    assert "TESTSKthatiswrong" not in one.log()


def test_keys_that_stay_keep_their_connections(start, folder, fake, jdcloud, other_key):
    one = start(keys=[jdcloud], rotation={"observe_every": "60s"})
    with one.kms() as kms:
        kms.encrypt(b"0123456789abcdef")
        before = fake.counters()["listeners"]["https"]["accepted"]
        for keys in ([jdcloud, local(other_key, "other")], [jdcloud], [jdcloud | {"ride_through": "10m"}]):
            change(one, keys=keys)
            hang_up(one)
            kms.encrypt(b"0123456789abcdef")
        assert fake.counters()["listeners"]["https"]["accepted"] == before
        # Another endpoint is another transport, and the former one ends.
        threads = one.threads
        plain = jdcloud["jdcloud"] | {
            "endpoint": fake.http_url.removeprefix("http://"),
            "scheme": "http",
            "allow_plain_http": True,
        }
        change(one, keys=[jdcloud | {"jdcloud": plain}])
        hang_up(one)
        kms.encrypt(b"0123456789abcdef")
        eventually(lambda: one.threads <= threads, "the end of the former transport's thread")


def test_a_service_that_does_not_answer_is_refused_in_time(start, fake, jdcloud, other_key):
    one = start(keys=[local(other_key, "other")])
    with Load(one):
        with fake.fault("hang"):
            change(one, keys=[local(other_key, "other"), jdcloud])
            hang_up(one, "key primary: ", result="refused")
        hang_up(one, "added primary")


def test_bounds_can_be_raised_in_an_outage(start, fake, jdcloud):
    sealing = jdcloud | {"write_format": "envelope"}
    one = start(keys=[sealing | {"ride_through": "10m"}])
    fake.listener("https", "close")
    eventually(lambda: one.metric("kmsward_key_trouble", key="primary", code="unavailable") == 1, "the trouble")
    assert one.metric("kmsward_key_writes_stop_in_seconds", key="primary") <= 600
    change(one, keys=[sealing | {"ride_through": "2h"}])
    hang_up(one, "changed primary")
    eventually(lambda: one.metric("kmsward_key_writes_stop_in_seconds", key="primary") > 3600, "the longer time")
    with one.kms() as kms:
        assert kms.status().healthz == "ok"


def test_the_metrics_say_what_the_clock_and_the_proofs_are(start, fake, jdcloud):
    fake.settings(clock_offset_seconds=3600)
    one = start(keys=[jdcloud | {"write_format": "envelope", "ride_through": "2m"}])
    eventually(lambda: abs(one.metric("kmsward_backend_clock_offset_seconds", key="primary") - 3600) < 30, "the offset")
    assert abs(one.metric("kmsward_key_last_proof_timestamp_seconds", key="primary") - time.time()) < 60
    fake.listener("https", "close")
    eventually(lambda: one.metric("kmsward_key_trouble", key="primary", code="unavailable") == 1, "the trouble")
    assert 0 < one.metric("kmsward_key_writes_stop_in_seconds", key="primary") <= 120


def test_the_end_of_a_session_is_a_metric(start, fake, jdcloud):
    role = {"jrn": fake.roles[0], "endpoint": fake.https_url.removeprefix("https://")}
    credentials = jdcloud["jdcloud"]["credentials"] | {"role": role}
    one = start(keys=[jdcloud | {"jdcloud": jdcloud["jdcloud"] | {"credentials": credentials}}])
    end = one.metric("kmsward_credentials_expiry_timestamp_seconds", key="primary")
    assert abs(end - time.time() - 3600) < 120
