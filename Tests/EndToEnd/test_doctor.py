"""kmsward doctor says what the API server would see, in words, with an exit code to act on."""

import os
import socket
import threading

import pytest

from daemon import command
from flawed_plugin import FlawedPlugin


def doctor(path, *more):
    return command("doctor", "--socket", path, *more)


def test_a_sound_daemon_is_given_a_clean_bill(shared):
    result = doctor(shared.socket_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PROBLEM" not in result.stdout
    assert "The API server can work with this plugin." in result.stdout
    for subject in ("v1beta1 health check", "v2 Status", "v2 key_id", "v2 damaged ciphertext", "Decrypt latency"):
        assert subject in result.stdout


def test_its_deliberate_damage_is_seen_in_the_log_and_warns_nobody(start):
    one = start()
    before = one.log()
    for _ in range(3):
        assert doctor(one.socket_path).returncode == 0
    one.stop()
    said = one.log()[len(before):]
    assert said.count("INVALID_ARGUMENT") >= 2 and "kmsward-doctor" in said
    assert not [line for line in said.splitlines() if " warning " in line or " error " in line], said


@pytest.mark.parametrize("spelling", ["unix://{}", "{}"])
def test_the_socket_is_spelt_as_in_the_encryption_configuration(shared, spelling):
    assert doctor(spelling.format(shared.socket_path)).returncode == 0


def test_each_way_of_not_being_there_is_told_apart(folder):
    result = doctor(folder / "none.sock")
    assert result.returncode == 1 and "there is no socket at" in result.stdout

    (folder / "file").write_text("")
    result = doctor(folder / "file")
    assert result.returncode == 1 and "is a regular file, not a socket" in result.stdout

    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / "left.sock"))
    left.close()
    result = doctor(folder / "left.sock")
    assert result.returncode == 1 and "left behind" in result.stdout

    result = doctor("@kmsward-test-nobody-listens")
    assert result.returncode == 1 and "nobody listens on @kmsward-test-nobody-listens" in result.stdout
    assert "left behind" not in result.stdout and "in this network namespace" in result.stdout


def test_a_silent_listener_is_a_deadline_with_a_hint(folder):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "silent.sock"))
        silent.listen()
        result = doctor(folder / "silent.sock", "--timeout", "300ms")
    assert result.returncode == 1
    assert "said nothing within 300 ms" in result.stdout and "DEADLINE_EXCEEDED" in result.stdout


def answering(folder, reply):
    """A listener that answers the first connection with `reply` and closes it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "other.sock"))
    listener.listen()

    def serve():
        with listener, listener.accept()[0] as peer:
            peer.recv(64)
            peer.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "reply, said",
    [(b"", "closed the connection at once"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2")],
)
def test_a_listener_of_another_kind_is_named(folder, reply, said):
    thread = answering(folder, reply)
    result = doctor(folder / "other.sock")
    thread.join()
    assert result.returncode == 1 and said in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_is_told_what_to_change(shared):
    # The directory must be open for the refusal to come from the socket.
    os.chmod(os.path.dirname(shared.socket_path), 0o755)
    result = command("doctor", "--socket", shared.socket_path, user=65534, group=65534, extra_groups=[])
    assert result.returncode == 1
    assert "may not connect" in result.stdout and "socket.group" in result.stdout
    assert "SocketGroup=" in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("directory, mode", [(0o755, "0660"), (0o750, "0600")])
def test_another_user_is_told_which_group_to_be_in(start, folder, directory, mode):
    """Whether it is the socket or its directory that the user may not use."""
    (group,) = [line.split(":")[2] for line in open("/etc/group") if line.startswith("daemon:")]
    one = start(socket={"mode": mode})
    os.chmod(one.socket_path, int(mode, 8))
    os.chown(one.socket_path, 0, int(group))
    os.chown(folder, 0, int(group))
    folder.chmod(directory)
    result = command("doctor", "--socket", one.socket_path, user=65534, group=65534, extra_groups=[])
    assert result.returncode == 1
    assert "may not connect" in result.stdout and "usermod -a -G daemon USER" in result.stdout, result.stdout
    assert "socket.group" not in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_user_who_is_not_admitted_is_told_which_options_do(start, folder):
    folder.chmod(0o711)
    one = start(socket={"owner": 1234})
    result = command("doctor", "--socket", one.socket_path, user=1234, group=1234, extra_groups=[])
    assert result.returncode == 1
    assert "this user (uid 1234) is probably not admitted: put it into allow.uids" in result.stdout, result.stdout
    assert "allow.gids" in result.stdout


@pytest.mark.parametrize(
    "defect, said",
    [
        ("unauthenticated", "Decrypt accepted it"),
        ("ignores key_id", "Decrypt accepted it"),
        ("healthz err", "healthz is"),
        ("status lags behind", "Status announces"),
    ],
)
def test_defects_of_a_plugin_are_named(folder, defect, said):
    plugin = FlawedPlugin(folder / "flawed.sock", defect)
    try:
        result = doctor(folder / "flawed.sock")
    finally:
        plugin.stop()
    assert result.returncode == 1, result.stdout
    assert said in result.stdout


def test_wrong_usage_is_explained(folder):
    result = doctor("unix://host/p.sock")
    assert result.returncode == 64
    assert "unix:///" in result.stderr
    assert "Usage: kmsward doctor" in result.stderr
