"""The OCI image: made twice, looked through, and run by crun as the pod manifest says."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import tarfile
import urllib.request

import pytest
import yaml

import contract
from daemon import BINARY, PATIENCE, Daemon, KeyFile, command, eventually, free_port, short_directory
from kms import REPOSITORY

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="containers are run by root only")]

#: A name of the fake's certificate.
SERVICE = "kms.cn-north-1.jdcloud-api.com"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
# crun 1.8 refuses a host with cgroups of both versions; a private mount namespace hides those of version 1.
CRUN = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun --cgroup-manager=disabled "$@"'


class Image:
    """An archive, read; its file system is unpacked below `rootfs`."""

    def __init__(self, archive, folder):
        layout = folder / "layout"
        with tarfile.open(archive) as packed:
            packed.extractall(layout, filter="data")
        blob = lambda reference: layout / "blobs" / reference["digest"].replace(":", "/")  # noqa: E731
        (reference,) = json.loads((layout / "index.json").read_text())["manifests"]
        self.name = reference["annotations"]["org.opencontainers.image.ref.name"]
        self.manifest = json.loads(blob(reference).read_text())
        self.settings = json.loads(blob(self.manifest["config"]).read_text())["config"]
        (layer,) = self.manifest["layers"]
        with tarfile.open(blob(layer)) as files:
            self.files = files.getmembers()
        subprocess.run(["umoci", "unpack", "--image", f"{layout}:{self.name}", folder / "bundle"], check=True)
        self.rootfs = folder / "bundle" / "rootfs"
        self.runtime = json.loads((folder / "bundle" / "config.json").read_text())

    def read(self, path):
        return (self.rootfs / path.lstrip("/")).read_text()


@pytest.fixture(scope="module")
def archives():
    """Two archives of the same binary."""
    out = short_directory()
    made = []
    for number in ("1", "2"):
        build = [REPOSITORY / "ops" / "image" / "build", out / number, BINARY]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made.append(pathlib.Path(done.stdout.strip()))
    yield made
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def image(archives):
    path = short_directory()
    yield Image(archives[0], path)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def manifest():
    """The sample of a static pod."""
    return yaml.safe_load((REPOSITORY / "ops" / "manifests" / "kmsward-pod.yaml").read_text())["spec"]


class Pod(Daemon):
    """The daemon in a container that is set up from the manifest as kubelet and a container runtime do it.

    But for the default seccomp profile, which the container runtime brings, and the limits of memory.
    """

    def __init__(self, folder, image, manifest, configuration):
        super().__init__(folder, configuration)
        (spec,) = manifest["containers"]
        security = spec["securityContext"]
        user, group = security["runAsUser"], security["runAsGroup"]
        self.runtime = json.loads(json.dumps(image.runtime))
        self.runtime["process"].update(
            args=image.settings["Entrypoint"] + spec["args"],
            user={"uid": user, "gid": group},
            capabilities={} if security["capabilities"] == {"drop": ["ALL"]} else None,
            noNewPrivileges=not security["allowPrivilegeEscalation"],
            terminal=False,
        )
        self.runtime["root"] = {"path": str(image.rootfs), "readonly": security["readOnlyRootFilesystem"]}
        own = {"network"} if manifest["hostNetwork"] else set()
        self.runtime["linux"]["namespaces"] = [
            one for one in self.runtime["linux"]["namespaces"] if one["type"] not in own
        ]
        # The image's volumes are what the manifest mounts; cgroups are left out by CRUN.
        system = [one for one in self.runtime["mounts"] if one["type"] != "cgroup"]
        self.runtime["mounts"] = [one for one in system if one["destination"] not in image.settings["Volumes"]]
        volumes = {one["name"]: one["hostPath"]["path"] for one in manifest["volumes"]}
        for mount in spec["volumeMounts"]:
            # In place of a directory of the host.
            source = self.folder / volumes[mount["name"]].lstrip("/")
            source.mkdir(parents=True, mode=0o700)
            os.chown(source, user, group)
            self.mount(source, mount["mountPath"], "ro" if mount.get("readOnly") else "rw")
        self.user = f"{user}:{group}"
        self.config_path = self.on_host("/etc/kmsward/kmsward.yaml")
        self.pid_path = self.folder / "pid"

    def mount(self, source, path, mode="ro"):
        self.runtime["mounts"].append(
            {"destination": path, "type": "bind", "source": str(source), "options": ["bind", "rprivate", mode]}
        )

    def on_host(self, path):
        """Where a path of a mounted directory is on the host."""
        (source,) = [one["source"] for one in self.runtime["mounts"] if one["destination"] == os.path.dirname(path)]
        return pathlib.Path(source, os.path.basename(path))

    @property
    def socket_path(self):
        return str(self.on_host(self.configuration["socket"]["path"]))

    @property
    def pid(self):
        return int(self.pid_path.read_text())

    def crun(self, *arguments, **options):
        state = ["--root", str(self.folder / "crun")]
        wrapped = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", CRUN, "crun", *state, *arguments]
        return subprocess.Popen(wrapped, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, text=True, **options)

    def run(self, *arguments):
        """A command of crun, to its end; returns (exit code, output)."""
        process = self.crun(*arguments, stdout=subprocess.PIPE)
        said, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def launch(self):
        self.config_path.write_text(json.dumps(self.configuration))
        for directory, _, files in os.walk(self.config_path.parent):
            for file in files:
                shutil.chown(pathlib.Path(directory, file), *map(int, self.user.split(":")))
        (self.folder / "config.json").write_text(json.dumps(self.runtime))
        with open(self.log_path, "ab") as log:
            start = ("run", "--bundle", str(self.folder), "--pid-file", str(self.pid_path), self.folder.name)
            self.process = self.crun(*start, stdout=log)
        return self

    def execute(self, *arguments):
        """As `kubectl exec`: returns (exit code, output)."""
        return self.run("exec", "--user", self.user, self.folder.name, *arguments)

    def terminate(self):
        self.run("kill", self.folder.name, "TERM")
        return self.process.wait(PATIENCE)

    def discard(self):
        if self.process is not None and self.process.poll() is None:
            self.run("delete", "--force", self.folder.name)
            self.process.wait(PATIENCE)


@pytest.fixture
def pod(folder, image, manifest):
    """Makes a pod, not yet started, with these keys: pod(keys)."""
    made = []

    def make(*keys):
        listen = {"listen": f"127.0.0.1:{free_port()}"}
        # All else as it is by default.
        configuration = {"keys": list(keys), "metrics": listen, "socket": {"path": "/run/kmsward/kms.sock"}}
        made.append(Pod(folder, image, manifest, configuration))
        return made[-1]

    yield make
    for one in made:
        one.discard()


@pytest.fixture
def name_server(folder):
    """A resolv.conf that names a DNS server which knows the service, and the server's log."""
    address = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 254 | 1}"
    log = folder / "dnsmasq.log"
    options = ["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", f"--listen-address={address}"]
    options += ["--pid-file=", "--user=root", "--log-queries", "--log-facility=-", f"--address=/{SERVICE}/127.0.0.1"]
    with open(log, "wb") as output:
        server = subprocess.Popen(["/usr/sbin/dnsmasq", "--keep-in-foreground", *options], stderr=output)
    try:
        eventually(lambda: server.poll() is not None or "started" in log.read_text(), "the DNS server serves")
        assert server.poll() is None, log.read_text()
        path = folder / "resolv.conf"
        path.write_text(f"nameserver {address}\n")
        yield path, log
    finally:
        server.terminate()
        server.wait()


def test_the_same_commit_gives_the_same_image(archives):
    one, two = (hashlib.sha256(path.read_bytes()).hexdigest() for path in archives)
    assert one == two


def test_it_says_what_it_is(image, manifest):
    version = command("version").stdout.split()[1]
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for said in (image.manifest["annotations"], image.settings["Labels"]):
        assert said["org.opencontainers.image.version"] == version
        assert said["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert said["org.opencontainers.image.revision"].removesuffix("-dirty") == revision.stdout.strip()
    (container,) = manifest["containers"]
    assert image.name == container["image"], "the pod asks for this image"
    assert image.settings["Cmd"] == container["args"]
    security = container["securityContext"]
    assert image.settings["User"] == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert security["runAsNonRoot"] and f":{security['runAsUser']}:" in image.read("/etc/passwd")
    mounted = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
    assert set(image.settings["Volumes"]) == mounted, "nothing else is written to"
    assert "Env" not in image.settings, "no secrets, and nothing that changes what the configuration says"


def test_nothing_is_in_it_but_the_daemon_and_what_it_loads(image):
    """No shell, no package manager, no key: every file is of a kind that is named here."""
    kinds = (
        r"usr/bin/kmsward",
        r"usr/lib/[a-z0-9_]+-linux-gnu/(lib[^/]+\.so[^/]*|ld-linux[^/]*)",
        r"usr/lib64/ld-linux[^/]*",
        r"etc/(passwd|group|nsswitch\.conf|os-release|ssl/certs/ca-certificates\.crt)",
        r"usr/lib/os-release",
        r"usr/share/(doc/[^/]+/copyright|common-licenses/[^/]+)",
        r"var/lib/dpkg/status\.d/[^/]+",
    )
    packages = set()
    for one in image.files:
        assert one.isfile() or one.isdir() or one.issym(), f"{one.name}: a device or the like"
        assert one.mode & 0o7022 == 0, f"{one.name}: setuid or writable by others: {one.mode:o}"
        volume = one.name in ("run/kmsward", "var/lib/kmsward")
        assert (one.uid, one.gid) == ((9464, 9464) if volume else (0, 0)), one.name
        if one.isfile() or (one.issym() and one.name not in ("lib", "lib64")):
            assert any(re.fullmatch(kind, one.name) for kind in kinds), one.name
        if one.name.startswith("var/lib/dpkg/status.d/"):
            assert re.search(r"^Version: \S", image.read(one.name), re.M)
            packages.add(os.path.basename(one.name))
    # For scanners, and for the licences.
    assert {"base-files", "ca-certificates", "libc6", "libcurl4", "libgrpc29", "libssl3"} <= packages
    for package in packages:
        assert image.read(f"/usr/share/doc/{package}/copyright")


def test_the_certificate_authorities_are_whole(image):
    """All that Debian trusts, none torn."""
    text = image.read(AUTHORITIES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=text)
    assert len(context.get_ca_certs()) == text.count("-----BEGIN CERTIFICATE-----") > 100


def test_it_serves_as_the_pod_manifest_says(pod, image, manifest):
    one = pod({"name": "primary", "local": {"file": "/etc/kmsward/local.keys"}})
    KeyFile(one.on_host("/etc/kmsward/local.keys")).init()
    one.launch().wait_listening()
    with one.kms() as kms:
        contract.first_round(kms)
        contract.round_trip(kms)
        contract.v1_served(kms)
    (container,) = manifest["containers"]
    sample = command("config", "print", REPOSITORY / "ops" / "kmsward.yaml").stdout
    for probe in ("livenessProbe", "startupProbe"):
        asked = container[probe]["httpGet"]
        with urllib.request.urlopen(f"http://{one.configuration['metrics']['listen']}{asked['path']}", timeout=10) as answer:
            assert answer.status == 200
        # The port is another one in this test; the manifest's is the one where the configuration says nothing.
        assert f'listen: "{asked["host"]}:{asked["port"]}" # default' in sample
    assert one.metric("kmsward_memory_locked") == 1 or "secrets may be swapped to disk" in one.log()

    status = pathlib.Path(f"/proc/{one.pid}/status").read_text()
    assert re.search(r"^Uid:\s+9464\s+9464\s+9464\s+9464$", status, re.M)
    assert re.findall(r"^Cap\w+:\s+(\w+)$", status, re.M) == ["0" * 16] * 5
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    mounts = [line.split() for line in pathlib.Path(f"/proc/{one.pid}/mountinfo").read_text().splitlines()]
    options = {line[4]: line[5].split(",") for line in mounts}
    assert "ro" in options["/"] and "ro" in options["/etc/kmsward"] and "rw" in options["/run/kmsward"]
    assert one.on_host("/var/lib/kmsward/keyring.json").exists(), "the key history is kept on the host"

    assert one.execute("kmsward", "doctor", "--socket", "/run/kmsward/kms.sock")[0] == 0
    for shell in ("sh", "/bin/sh", "bash"):
        code, said = one.execute(shell, "-c", "true")
        assert code != 0 and "not found" in said, said
    one.stop()


@pytest.mark.parametrize("trust", ["ca_file", "the system's authorities"])
def test_it_reaches_a_kms_by_its_name(pod, fake, folder, name_server, trust):
    """DNS, TLS and libcurl, which is loaded late, with nothing but what the image has."""
    resolver, queries = name_server
    one = pod()
    etc = one.config_path.parent
    port = fake.https_url.rsplit(":", 1)[1]
    pair = {f"{name}_file": f"/etc/kmsward/{name}" for name in ("access_key", "secret_key")}
    block = fake.block(etc, endpoint=f"{SERVICE}:{port}", ca_file="/etc/kmsward/ca.pem")
    block["credentials"].update(pair)
    if trust == "ca_file":
        shutil.copy(fake.ca, etc / "ca.pem")
    else:
        del block["ca_file"]
        authorities = shutil.copy(fake.ca, folder / "ca.pem")
        os.chmod(authorities, 0o644)
        one.mount(authorities, AUTHORITIES)
    one.configuration["keys"] = [{"name": "primary", "jdcloud": block}]
    one.mount(resolver, "/etc/resolv.conf")
    one.launch().wait_listening()
    with one.kms() as kms:
        eventually(lambda: healthy(kms), "the key is reached")
        contract.round_trip(kms)
    assert fake.calls("encrypt") >= 1
    assert f"query[A] {SERVICE}" in queries.read_text()
    one.stop()


def healthy(kms):
    with contextlib.suppress(AssertionError):
        return contract.healthy(kms)
    return None
