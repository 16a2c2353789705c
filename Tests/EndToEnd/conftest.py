"""Black-box tests: they start the real binary, speak to its socket as kube-apiserver does, and look at it from outside.

    python3 -m venv .venv && .venv/bin/pip install -r Tests/EndToEnd/requirements.txt
    swift build -c release --static-swift-stdlib --product kmsward
    .venv/bin/pytest Tests/EndToEnd

KMSWARD_BIN names another binary. Needs Linux and what `ops/dev/install-packages test` installs: where that is missing
tests fail. Some fault tests need root, and are skipped without it; the end of the run lists what was skipped.
"""

import os
import pathlib
import shutil
import tempfile

import pytest

import daemon as daemons
import gobuild
import jdcloud_client
import packaged
from kms import REPOSITORY


def pytest_configure(config):
    config.addinivalue_line("markers", "no_binary: runs without a kmsward binary")


def pytest_collection_modifyitems(items):
    # A missing binary is a failure, not a skip: a suite that tests nothing must not be green.
    if not os.access(daemons.BINARY, os.X_OK) and any("no_binary" not in item.keywords for item in items):
        raise pytest.UsageError(f"no binary at {daemons.BINARY}; build it or set KMSWARD_BIN")


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory):
    """Where this run has its temporary files. What is left there at its end, nobody has removed: that is a defect of a test."""
    # pytest's own lie elsewhere, and outlive a run that failed.
    tmp_path_factory.getbasetemp()
    path = pathlib.Path(tempfile.mkdtemp(prefix="kw-", dir="/tmp"))
    # As /tmp, for tests that run something as another user.
    path.chmod(0o1777)
    daemons.SCRATCH = tempfile.tempdir = str(path)
    yield
    left = sorted(str(one.relative_to(path)) for one in path.rglob("*"))
    shutil.rmtree(path)
    assert not left, f"left behind in the folder for temporary files: {left}"


@pytest.fixture
def folder():
    """A short directory of the test's own."""
    path = daemons.short_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def key_file(folder):
    return daemons.KeyFile(folder / "local.keys").init()


@pytest.fixture
def prepare(folder, key_file):
    """Makes daemons, not yet started: prepare(name=..., **changes to the configuration)."""
    made = []

    def make(name="kmsward", key=None, configuration=None, prefix=(), **changes):
        configuration = configuration or daemons.settings(folder, key or key_file, **changes)
        made.append(daemons.Daemon(folder, configuration, name=name, prefix=prefix))
        return made[-1]

    yield make
    for one in made:
        one.discard()


@pytest.fixture
def start(prepare):
    """Makes a daemon and waits for its READY=1."""
    return lambda *args, **kwargs: prepare(*args, **kwargs).start()


@pytest.fixture(scope="module")
def shared():
    """One running daemon for the tests of a module that leave it as they found it; it must stop cleanly."""
    path = daemons.short_directory()
    key = daemons.KeyFile(path / "local.keys").init()
    one = daemons.Daemon(path, daemons.settings(path, key, log={"level": "debug"})).start()
    one.key_file = key
    yield one
    try:
        one.stop()
    finally:
        one.discard()
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def kms(shared):
    """A connection to the shared daemon."""
    with shared.kms() as client:
        yield client


@pytest.fixture(scope="module")
def cloud():
    """A fake JD Cloud for the tests of a module."""
    with jdcloud_client.JDCloudFake() as fake:
        yield fake


@pytest.fixture
def fake(cloud):
    """The same, its switches and counters as at the start."""
    cloud.reset()
    return cloud


@pytest.fixture
def on_jdcloud(start, folder, fake):
    """Starts a daemon with one key of the fake: on_jdcloud(options of the provider..., key=..., changes=...)."""

    def make(changes=None, key=None, **options):
        block = fake.block(folder, **options)
        return start(keys=[{"name": "primary", "jdcloud": block, **(key or {})}], **(changes or {}))

    return make


@pytest.fixture(scope="session")
def goclient(tmp_path_factory):
    """The grpc-go client, built once."""
    missing = gobuild.missing()
    assert missing is None, f"{missing}: ops/dev/install-packages test"
    return gobuild.build(REPOSITORY / "Tests" / "EndToEnd" / "goclient", tmp_path_factory.mktemp("go"), "goclient")


@pytest.fixture(scope="session")
def package():
    """The Debian package, built once."""
    path = daemons.short_directory()
    try:
        yield packaged.build(path)
    finally:
        shutil.rmtree(path)
