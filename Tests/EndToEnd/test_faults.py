"""The host fails: each fault has a clear outcome, and no key and no data is lost."""

import os
import pathlib
import re
import shutil
import stat
import subprocess

import grpc
import pytest

import contract
import h2wire
from daemon import BINARY, KeyFile, command, eventually
from kms import refusal

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def in_small_mount(folder, script, options="size=16k,nr_inodes=8"):
    """Runs a shell script in a mount namespace of its own, where `folder`/small is a tiny tmpfs ($SMALL)."""
    small = folder / "small"
    small.mkdir(exist_ok=True)
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec",
         f'mount -t tmpfs -o {options} tmpfs "$SMALL"\n{script}'],
        env=os.environ | {"SMALL": str(small), "KMSWARD": BINARY}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


FILL = 'dd if=/dev/zero of="$SMALL/filler" bs=4096 2>/dev/null || true'


def test_after_sigkill_everything_written_before_still_opens(start):
    one = start()
    with one.kms() as kms:
        written = [(p, kms.encrypt(p)) for p in (os.urandom(32) for _ in range(20))]
        key_id = kms.status().key_id
    for _ in range(3):
        one.kill()
        one.start()
        with one.kms() as kms:
            assert kms.status().key_id == key_id
            for plaintext, sealed in written:
                assert kms.open(sealed) == plaintext


def test_sigkill_in_the_middle_of_rotations_never_loses_data(start, key_file):
    one = start()
    written = []
    for _ in range(5):
        with one.kms() as kms:
            plaintext = os.urandom(32)
            written.append((plaintext, kms.encrypt(plaintext)))
        key_file.add()
        key_file.activate()
        one.kill()  # wherever it was
        one.start()
        with one.kms() as kms:
            contract.first_round(kms)
            for plaintext, sealed in written:
                assert kms.open(sealed) == plaintext


def test_of_two_instances_started_at_once_exactly_one_serves(prepare, folder):
    pair = [prepare(name=name, state_directory=str(folder / name)).launch() for name in ("one", "two")]
    eventually(lambda: any(d.process.poll() is not None for d in pair), "one of them gives way")
    (loser,) = [d for d in pair if d.process.poll() is not None]
    (winner,) = [d for d in pair if d.process.poll() is None]
    assert loser.process.returncode == 1, loser.log()
    winner.wait_listening()
    with winner.kms() as kms:
        contract.round_trip(kms)
    winner.stop()


@needs_root
def test_a_full_disk_leaves_no_half_key_file(folder):
    done = in_small_mount(
        folder,
        f'{FILL}\nset +e; "$KMSWARD" key init --file "$SMALL/new.keys"; code=$?\nls -A "$SMALL"; exit $code',
    )
    assert done.returncode == 1, done
    assert "new.keys" in done.stderr, done.stderr
    assert re.search(r"space|full|ENOSPC", done.stderr), done.stderr
    assert done.stdout.split() == ["filler"], f"left behind: {done.stdout}"


@needs_root
def test_a_full_disk_while_adding_a_version_leaves_the_key_file_as_it_was(folder, key_file):
    done = in_small_mount(
        folder,
        f'cp -p "{key_file.path}" "$SMALL/local.keys"\n{FILL}\n'
        "set +e\n"
        'for verb in add activate; do "$KMSWARD" key $verb --file "$SMALL/local.keys"; echo "code $?"; done\n'
        f'cmp "{key_file.path}" "$SMALL/local.keys" && echo unchanged\n'
        'ls -A "$SMALL"',
    )
    assert "code 1" in done.stdout.splitlines()[0], done
    assert "unchanged" in done.stdout, done
    assert re.search(r"space|full|ENOSPC", done.stderr), done.stderr
    assert set(done.stdout.split("unchanged", 1)[1].split()) <= {"filler", "local.keys", "local.keys.lock"}, done.stdout


@needs_root
def test_a_read_only_directory_for_the_key_file_is_named(folder):
    done = in_small_mount(folder, 'mount -o remount,ro "$SMALL"\n"$KMSWARD" key init --file "$SMALL/new.keys"')
    assert done.returncode == 1, done
    assert "new.keys" in done.stderr and re.search(r"[Rr]ead-only|EROFS", done.stderr), done.stderr


def mounted_prefix(folder, name, then=""):
    """A command prefix that runs the daemon where `folder`/`name` is a tiny tmpfs, only inside its namespace."""
    place = folder / name
    place.mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o size=64k,nr_inodes=16 tmpfs "{place}"\n{then}\nexec "$@"'
    return ["unshare", "-m", "--propagation", "private", "sh", "-ec", script, "sh"]


@needs_root
def test_a_read_only_directory_for_the_socket_is_named(prepare, folder):
    place = folder / "ro"
    one = prepare(
        prefix=mounted_prefix(folder, "ro", f'mount -o remount,ro "{place}"'), socket={"path": str(place / "kms.sock")}
    ).launch()
    assert one.process.wait(30) in (1, 78), one.log()
    assert str(place) in one.log() and re.search(r"[Rr]ead-only|EROFS", one.log()), one.log()


@needs_root
@pytest.mark.parametrize(
    ("fault", "then"),
    [
        ("read-only", 'mount -o remount,ro "{place}"'),
        ("full", 'dd if=/dev/zero of="{place}/f" bs=4096 2>/dev/null || true'),
    ],
)
def test_a_state_directory_that_cannot_be_written_stops_no_service(prepare, folder, key_file, fault, then):
    place = folder / "state"
    one = prepare(prefix=mounted_prefix(folder, "state", then.format(place=place))).start()
    with one.kms() as kms:
        sealed = contract.round_trip(kms)
        before = kms.status().key_id
        key_file.add()
        key_file.activate()
        eventually(lambda: kms.status().key_id != before, "a rotation works without history")
        kms.open(sealed)
    assert str(place) in one.log(), "the operator is told"
    one.stop()


def test_a_missing_state_directory_is_made_or_told_once(prepare, folder, key_file):
    one = prepare()
    (folder / "state").rmdir()
    one.start()
    with one.kms() as kms:
        before = kms.status().key_id
        key_file.add()
        key_file.activate()
        eventually(lambda: kms.status().key_id != before, "a rotation works without history")
        observed = one.metric("kmsward_backend_calls_total")
        eventually(lambda: one.metric("kmsward_backend_calls_total") >= observed + 3, "the key is observed again")
    complaints = [line for line in one.log().splitlines() if str(folder / "state") in line]
    if (folder / "state").is_dir():
        assert not [line for line in complaints if "cannot be written" in line]
    else:
        assert 1 <= len(complaints) <= 4, f"{len(complaints)} complaints:\n" + one.log()
    one.stop()


def test_a_torn_state_directory_is_no_reason_to_stop(start, folder):
    one = start()
    with one.kms() as kms:
        sealed = kms.encrypt(b"\6" * 32)
        key_id = kms.status().key_id
    one.stop()
    files = [p for p in (folder / "state").rglob("*") if p.is_file()]
    assert files, "there is history to tear"
    for tear in (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), lambda p: p.write_bytes(b""),
                 lambda p: p.write_bytes(b"\xff" * 64)):  # fmt: skip
        for path in files:
            if path.exists():
                tear(path)
        one.start()
        with one.kms() as kms:
            assert kms.status().key_id == key_id
            assert kms.open(sealed) == b"\6" * 32
        one.stop()


def test_a_torn_key_file_is_explained_and_does_not_disturb_a_running_daemon(start, folder, key_file):
    one = start()
    with one.kms() as kms:
        sealed = kms.encrypt(b"\7" * 32)
        key_id = kms.status().key_id
        good = key_file.path.read_bytes()
        for torn in (good[: len(good) // 2], b"", good + good, bytes(len(good))):
            replacement = folder / "torn"
            replacement.write_bytes(torn)
            replacement.chmod(0o600)
            logged = len(one.log())
            os.replace(replacement, key_file.path)
            eventually(lambda: len(one.log()) > logged, "the damage is logged")  # noqa: B023
            assert str(key_file.path) in one.log()[logged:]
            assert kms.open(sealed) == b"\7" * 32
            listing = command("key", "list", "--file", key_file.path)
            assert listing.returncode == 1 and str(key_file.path) in listing.stderr
            # The file comes back before the next kind of damage.
            replacement.write_bytes(good)
            replacement.chmod(0o600)
            logged = len(one.log())
            os.replace(replacement, key_file.path)
            eventually(lambda: kms.status().key_id == key_id, "the key is healthy again")
            eventually(lambda: len(one.log()) > logged, "the recovery is logged")  # noqa: B023


def test_running_out_of_descriptors_is_survived_without_a_storm(start):
    one = start()
    with one.kms() as kms:
        kms.status()
        limit = one.descriptors + 4
        subprocess.run(["prlimit", "--pid", str(one.pid), f"--nofile={limit}:4096"], check=True)
        logged = one.log().count("\n")
        peers = []
        try:
            for _ in range(40):
                peers.append(h2wire.connect(one.socket_path))
            for _ in range(200):
                kms.status()
                contract.round_trip(kms)
        finally:
            for peer in peers:
                peer.close()
        assert one.log().count("\n") - logged < 50, "a log storm:\n" + one.log()[-2000:]
        subprocess.run(["prlimit", "--pid", str(one.pid), "--nofile=4096:4096"], check=True)
    with one.kms() as fresh:
        contract.round_trip(fresh)
    one.stop()


@pytest.mark.parametrize("limit", [10, 16, 30, 47])
def test_starting_with_too_few_descriptors_ends_with_a_reason(prepare, limit):
    # With fewer, the runtime's own dispatch library may end the process before the first line of ours.
    one = prepare(prefix=["prlimit", f"--nofile={limit}:{limit}"]).launch()
    assert one.process.wait(30) == 1, one.log()
    assert f"limit of open files is {limit}" in one.log(), "it says why"
    assert "LimitNOFILE=" in one.log(), "and what to do"


def test_a_low_soft_limit_of_descriptors_is_raised_and_a_low_hard_one_told(prepare):
    one = prepare(prefix=["prlimit", "--nofile=64:4096"]).start()
    assert "LimitNOFILE" not in one.log()
    limits = (pathlib.Path("/proc") / str(one.pid) / "limits").read_text()
    assert int(re.search(r"Max open files\s+(\d+)", limits).group(1)) > 256
    one.stop()
    two = prepare(name="two", prefix=["prlimit", "--nofile=64:64"]).start()
    with two.kms() as kms:
        contract.round_trip(kms)
    assert "LimitNOFILE" in two.log()
    two.stop()


def test_a_memory_lock_limit_of_zero_is_told_not_fatal(prepare):
    one = prepare(prefix=["prlimit", "--memlock=0:0"])
    if os.geteuid() == 0:
        # Root may lock whatever the limit says: the capability has to go.
        one.prefix = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", *one.prefix]
    one.start()
    with one.kms() as kms:
        contract.round_trip(kms)
    assert one.metric("kmsward_memory_locked") == 0
    assert re.search(r"lock", one.log()), one.log()
    one.stop()


def test_a_port_in_use_for_metrics_is_named(start, prepare, folder):
    one = start(name="one")
    two = prepare(
        name="two",
        socket={"path": str(folder / "two.sock")},
        state_directory=str(folder / "state-two"),
        metrics=one.configuration["metrics"],
    ).launch()
    assert two.process.wait(30) in (1, 78), two.log()
    assert one.configuration["metrics"]["listen"] in two.log()


def test_key_files_are_private_from_their_first_byte(folder):
    made = KeyFile(folder / "fresh.keys")
    old = os.umask(0)
    try:
        made.init()
        made.add()
        made.activate()
    finally:
        os.umask(old)
    assert stat.S_IMODE(made.path.stat().st_mode) & 0o077 == 0
    left = [p for p in pathlib.Path(folder).iterdir() if p.name.startswith("fresh") and p != made.path]
    for path in left:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert path.stat().st_size == 0, f"a second copy of the keys: {path}"


def test_an_unreadable_configuration_is_named(folder):
    done = command("serve", "--config", folder / "none.yaml")
    assert done.returncode == 78, done
    assert "none.yaml" in done.stdout + done.stderr
    shutil.copy("/dev/null", folder / "empty.yaml")
    done = command("serve", "--config", folder / "empty.yaml")
    assert done.returncode == 78, done
    assert "empty.yaml" in done.stdout + done.stderr


def test_a_dead_socket_is_explained_by_doctor(start):
    one = start()
    one.kill()
    done = command("doctor", "--socket", one.socket_path, "--timeout", "2s")
    assert done.returncode == 1
    assert one.socket_path in done.stdout + done.stderr


def test_decrypting_what_a_lost_key_wrote_is_an_error_with_a_reason(start, folder, key_file):
    one = start()
    with one.kms() as kms:
        sealed = kms.encrypt(bytes(32))
    one.stop()
    shutil.rmtree(folder / "state")
    key_file.path.unlink()
    KeyFile(key_file.path).init()
    one.start()
    with one.kms() as kms:
        code, details = refusal(kms.open, sealed)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "add the former key file as a further key" in details, details
