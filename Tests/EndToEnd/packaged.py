"""The Debian package of the binary, and a machine to install it on."""

import contextlib
import os
import pathlib
import subprocess

import booted
from daemon import BINARY
from kms import REPOSITORY


def build(out):
    """Makes the package in a directory: its path."""
    done = subprocess.run(
        [REPOSITORY / "ops" / "packaging" / "deb", out, BINARY, "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return pathlib.Path(done.stdout.strip())


@contextlib.contextmanager
def machine(package, goclient):
    """A machine that has the package's directory at /srv and the client of the tests at /mnt; nothing is installed yet."""
    # Not the binary: that is what the package brings.
    one = booted.Machine(
        f"--bind-ro={os.path.dirname(goclient)}:/mnt", f"--bind-ro={os.path.dirname(package)}:/srv", binary=None
    )
    try:
        # A container's policy against starting daemons, which a host does not have.
        one.run("rm", "-f", "/usr/sbin/policy-rc.d")
        yield one
    finally:
        one.stop()


def install(machine, package, check=True):
    path = f"/srv/{os.path.basename(package)}"
    return machine.run("dpkg", "--install", "--force-confold", path, check=check, timeout=60)
