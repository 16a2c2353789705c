"""What the command line says of mistakes, and how it completes words."""

import os
import shlex
import subprocess

import pytest

from daemon import BINARY, PATIENCE, KeyFile, command


@pytest.mark.parametrize(
    "arguments, said, usage",
    [
        (["serve", "extra"], "Unexpected argument 'extra'", "serve"),
        (["serve", "--bogus"], "Unknown option '--bogus'", "serve"),
        (["serve"], "give either --config FILE or --dev", "serve"),
        (["serve", "--dev", "--metrics", "nowhere"], "--metrics: ", "serve"),
        (["doctor", "--socket", "unix://host/p"], "unix:///host/p", "doctor"),
        (["doctor", "--socket", "/s", "--timeout", "3"], "3s or 500ms", "doctor"),
        (["key", "activate", "--file", "f", "newest"], "a version looks like", "key activate"),
        (["key", "init", "--file", "f", "--suite", "rot13"], "aes-256-gcm", "key init"),
        (["config", "check", "a", "b"], "Unexpected argument 'b'", "config check"),
        (["key", "add", "--file", ""], "the path is empty", "key add"),
        (["serve", "--dev", "--run-dir", ""], "the path is empty", "serve"),
        (["serve", "--config", ""], "the path is empty", "serve"),
        (["config", "check", ""], "the path is empty", "config check"),
    ],
)
def test_wrong_usage_names_the_mistake_and_the_subcommand(arguments, said, usage):
    done = command(*arguments)
    assert done.returncode == 64
    first, *rest = done.stderr.splitlines()
    assert first.startswith("Error: ") and said in first
    assert any(line.startswith(f"Usage: kmsward {usage} ") for line in rest), done.stderr
    assert any(f"kmsward {usage} --help" in line for line in rest), done.stderr


@pytest.mark.parametrize("arguments", [["serve", "--config"], ["config", "check"], ["config", "print"]])
def test_a_configuration_that_is_not_there_has_no_line(arguments):
    done = command(*arguments, "/nonexistent.yaml")
    assert done.returncode == 78
    assert done.stderr == "/nonexistent.yaml: error: the file cannot be read: No such file or directory\n"


def test_activating_the_active_version_is_no_error(folder):
    key = KeyFile(folder / "local.keys").init()
    key.add()
    ((_, _), (version, _)) = key.versions
    assert f"version {version} is active;" in key.activate(version)
    content = key.path.read_bytes()
    assert f"version {version} is active already" in key.activate(version)
    assert key.path.read_bytes() == content


def test_a_file_that_is_no_key_file_is_not_to_be_made_private(folder):
    other = folder / "passwd"
    other.write_text("root:x:0:0:root:/root:/bin/bash\n")
    other.chmod(0o644)
    done = command("key", "list", "--file", other)
    assert done.returncode == 1
    assert "is not a key file" in done.stderr and "chmod" not in done.stderr


def test_key_errors_name_the_file_as_it_was_typed(folder):
    (folder / "broken.keys").write_text("kmsward local keys 1\n")
    (folder / "broken.keys").chmod(0o600)
    (folder / "link.keys").symlink_to("broken.keys")
    version = "01234567-89ab-4cde-8f01-23456789abcd"
    for name in ("broken.keys", "./broken.keys", "link.keys", "none.keys"):
        for arguments in (["list"], ["add"], ["activate", version]):
            done = command("key", arguments[0], "--file", name, *arguments[1:], cwd=folder)
            assert done.returncode == 1
            assert done.stderr.startswith(f"kmsward: key file {name} "), done.stderr


@pytest.mark.parametrize(
    "lacking, used",
    [
        ([], "renameat2"),
        (["renameat2:error=EINVAL"], "link"),
        (["renameat2:error=ENOSYS", "link:error=EPERM"], "openat"),
    ],
)
def test_a_key_file_is_made_whatever_calls_the_file_system_lacks(folder, lacking, used):
    path = folder / "new.keys"
    trace = folder / "trace"
    tracer = ["strace", "-f", "-o", trace, "-e", "trace=renameat2,link,openat"]
    for fault in lacking:
        tracer += ["-e", f"inject={fault}"]
    for expected in (0, 1):
        done = subprocess.run(
            [*tracer, BINARY, "key", "init", "--file", path], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == expected, done
        if expected == 0:
            made = path.read_bytes()
            (last,) = [line for line in trace.read_text().splitlines() if str(path) + '"' in line][-1:]
            assert f" {used}(" in last and "O_TRUNC" not in last, last
    assert path.read_bytes() == made and "never overwritten" in done.stderr
    assert command("key", "list", "--file", path).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert {entry.name for entry in folder.iterdir()} == {"new.keys", "trace"}


def completed(folder, *words):
    """What bash offers for the last of the words."""
    script = command("--generate-completion-script", "bash").stdout
    (folder / "completions").write_text(script)
    line = shlex.join(["kmsward", *words[:-1]]) + " " + words[-1]
    probe = f"""
        PATH={shlex.quote(os.path.dirname(BINARY))}:$PATH
        source {folder}/completions
        COMP_WORDS=({shlex.join(["kmsward", *words])})
        COMP_CWORD={len(words)}
        COMP_LINE={shlex.quote(line)}
        COMP_POINT={len(line)}
        $(complete -p kmsward | sed -E 's/.*-F ([^ ]+).*/\\1/') kmsward {shlex.join([words[-1], ["kmsward", *words][-2]])}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", probe], capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=folder
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--config", ""],
        ["serve", "-f", ""],
        ["config", "check", ""],
        ["config", "print", ""],
        ["doctor", "--socket", ""],
        ["key", "init", "--file", ""],
        ["key", "list", "--file", ""],
    ],
)
def test_files_are_completed(folder, words):
    (folder / "some.yaml").write_text("")
    (folder / "kms.sock").write_text("")
    assert {"some.yaml", "kms.sock"} <= completed(folder, *words)


def test_suites_and_directories_are_completed(folder):
    assert completed(folder, "key", "init", "--suite", "") == {"aes-256-gcm", "sm4-ctr-hmac-sm3", "sm4-gcm"}
    (folder / "sub").mkdir()
    (folder / "file").write_text("")
    assert "sub" in completed(folder, "serve", "--run-dir", "")
    assert "file" not in completed(folder, "serve", "--run-dir", "")
