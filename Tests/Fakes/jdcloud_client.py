"""Drives the JD Cloud fake from tests.

`JDCloudFake` starts it as a process and turns its switches. `Caller` is a client of our own that signs by the published
algorithm, so that the fake is not tested by the signers it checks with.
"""

import base64
import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import uuid

PROGRAM = pathlib.Path(__file__).with_name("jdcloud.py")
#: Bounds every wait; generous, as nothing here measures speed.
PATIENCE = 30.0
KEY = "srh6mt4lj49tnzvs"
ACCESS_KEY, SECRET_KEY = "TESTAK0123456789", "TESTSKabcdefghijklmnop"


class ControlError(Exception):
    """The control port said no."""


class JDCloudFake:
    """The fake as a child process. Keys, accounts and authority outlive `stop` and `start`; the ports stay the same."""

    #: What it is started by.
    prefix = ()

    def __init__(self, *options):
        self.options = [str(one) for one in options]
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="jdcloud-"))
        self.process = None
        self.ports = {}

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(self, *_):
        self.discard()

    def start(self):
        """Starts it; the facts it prints become attributes: http_url, https_url, metadata_url, ca, keys, accounts."""
        command = [*self.prefix, sys.executable, str(PROGRAM), "--state", str(self.directory), "--until-stdin-ends"]
        command += [f"--{name.replace('_', '-')}={port}" for name, port in self.ports.items()] + self.options
        with open(self.directory / "fake.log", "ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        # A fake that says nothing is ended, so that the read below cannot wait for ever.
        guard = threading.Timer(PATIENCE, self.process.kill)
        guard.start()
        line = self.process.stdout.readline()
        guard.cancel()
        if not line:
            self.stop(signal.SIGKILL)
            raise RuntimeError(f"the fake did not start: {(self.directory / 'fake.log').read_text()}")
        self.facts = json.loads(line)
        self.ports = {name: self.facts[name] for name in self.facts if name.endswith("_port")}
        return self

    def __getattr__(self, name):
        if name.startswith("_") or name == "facts" or name not in self.facts:
            raise AttributeError(name)
        return self.facts[name]

    def stop(self, number=signal.SIGTERM):
        """Ends it (SIGKILL for a crash) and waits for its end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def discard(self):
        """Ends it and removes its directory; fails when the fake has seen a defect of its own."""
        try:
            failures = self.counters()["failures"] if self.process is not None and self.process.poll() is None else []
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
        assert not failures, f"the fake failed: {failures}"

    def control(self, method, path, document=None):
        """One request to the control port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.facts["control_port"], timeout=PATIENCE)
        with contextlib.closing(connection):
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body)
            reply = connection.getresponse()
            answer = json.loads(reply.read())
        if reply.status != 200:
            raise ControlError(answer["error"])
        return answer

    @contextlib.contextmanager
    def fault(self, kind, **options):
        """A switch that is on inside the block."""
        number = self.control("POST", "/faults", {"kind": kind, **options})["id"]
        try:
            yield number
        finally:
            with contextlib.suppress(ControlError):
                self.control("DELETE", f"/faults/{number}")

    def settings(self, **changes):
        return self.control("PATCH", "/settings", changes)

    def counters(self):
        return self.control("GET", "/counters")

    def calls(self, operation=None, outcome=None):
        """How many calls there were, by operation and by the beginning of the outcome (`refused`, `fault:reset`)."""
        return sum(
            count
            for name, outcomes in self.counters()["calls"].items()
            for what, count in outcomes.items()
            if operation in (None, name) and what.startswith(outcome or "")
        )

    def log(self, after=0):
        return self.control("GET", f"/log?after={after}")["entries"]

    def reset(self):
        """Everything but keys and accounts as at the start."""
        self.control("POST", "/reset")

    def key(self, key_id, verb):
        """rotate, enable, disable, delete, cancelDelete, destroy."""
        return self.control("POST", f"/keys/{key_id}/{verb}", {})

    def version(self, key_id, version, verb):
        return self.control("POST", f"/keys/{key_id}/versions/{version}/{verb}", {})

    def versions(self, key_id):
        """Versions of a key, oldest first."""
        (key,) = [one for one in self.control("GET", "/keys")["keys"] if one["id"] == key_id]
        return [one["version"] for one in key["versions"]]

    def account(self, access_key, verb):
        """revoke, restore, expire."""
        self.control("POST", f"/accounts/{access_key}/{verb}", {})

    def listener(self, name, verb):
        """open, pause, close; `name` is http, https or metadata."""
        self.control("POST", f"/listeners/{name}/{verb}", {})

    def certificate(self, kind):
        """good, expired, not-yet-valid, ending, wrong-name, unknown-authority; for the handshakes from now on."""
        self.control("POST", f"/certificate/{kind}", {})

    def block(self, folder, access_key=ACCESS_KEY, **options):
        """What a configuration says of `KEY`, with its credentials in files of `folder`."""
        pair = {"source": "files"}
        for name, text in (("access_key", access_key), ("secret_key", SECRET_KEY)):
            path = pathlib.Path(folder) / name
            path.write_text(text + "\n")
            pair[f"{name}_file"] = str(path)
        address = self.https_url.removeprefix("https://")
        return {"key_id": KEY, "endpoint": address, "ca_file": self.ca, "credentials": pair, **options}

    def caller(self, access_key=ACCESS_KEY, **options):
        """A client with one of the accounts."""
        (account,) = [one for one in self.facts["accounts"] if one["access_key"] == access_key]
        return Caller(self.facts["http_url"], access_key, account["secret_key"], **options)


class Signature:
    """One signature, V2 or V3, with every step open to the tests."""

    def __init__(self, version, method, path, query, headers, body, access_key, secret_key, date, region, service):
        self.algorithm = f"JDCLOUD{version}-HMAC-SHA256"
        terminator = f"jdcloud{version}_request"
        names = sorted(headers)
        pairs = sorted(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.canonical = "\n".join(
            [
                method,
                urllib.parse.quote(urllib.parse.unquote(path), "/~"),
                "&".join(f"{urllib.parse.quote(n, '~')}={urllib.parse.quote(v, '~')}" for n, v in pairs),
                *(f"{name}:{headers[name].strip()}" for name in names),
                "",
                ";".join(names),
                hashlib.sha256(body).hexdigest(),
            ]
        )
        self.canonical_hash = hashlib.sha256(self.canonical.encode()).hexdigest()
        scope = f"{date[:8]}/{region}/{service}/{terminator}"
        self.key = f"JDCLOUD{version}{secret_key}".encode()
        for part in (date[:8], region, service, terminator):
            self.key = hmac.digest(self.key, part.encode(), "sha256")
        text = "\n".join([self.algorithm, date, scope, self.canonical_hash])
        self.signature = hmac.digest(self.key, text.encode(), "sha256").hex()
        self.authorization = (
            f"{self.algorithm} Credential={access_key}/{scope}, SignedHeaders={';'.join(names)}, "
            f"Signature={self.signature}"
        )


class Reply:
    """A reply read to its end: status, headers (lower case), body, and the envelope's parts."""

    def __init__(self, status, headers, body):
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers}

    @property
    def envelope(self):
        return json.loads(self.body)

    @property
    def result(self):
        return self.envelope["result"]

    @property
    def error(self):
        return self.envelope["error"]


class Caller:
    """A client of the fake. Each part of a request can be changed before or after signing."""

    def __init__(self, url, access_key, secret_key, version=2, token=None, region="jdcloud-api", context=None):
        self.url = urllib.parse.urlsplit(url)
        self.access_key, self.secret_key, self.version, self.token = access_key, secret_key, version, token
        self.region, self.context = region, context
        self.timeout = PATIENCE

    def connect(self):
        """A connection of its own, to be closed by the caller."""
        if self.url.scheme == "https":
            context = self.context or ssl.create_default_context()
            return http.client.HTTPSConnection(self.url.hostname, self.url.port, timeout=self.timeout, context=context)
        return http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=self.timeout)

    def signed(self, method, target, body=b"", date=None, nonce=None, service="kms", unsigned=(), extra=(), without=()):
        """Header fields of a signed request. `unsigned` are sent but not signed, `extra` are signed too, `without` are
        neither sent nor signed."""
        path, _, query = target.partition("?")
        date = date or datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        headers = {
            "content-type": "application/json",
            "host": self.url.netloc,
            "x-jdcloud-date": date,
            "x-jdcloud-nonce": nonce or str(uuid.uuid4()),
        }
        if self.token is not None:
            headers["x-jdcloud-security-token"] = base64.b64encode(self.token.encode()).decode()
        headers.update(extra)
        for name in without:
            del headers[name]
        covered = {name: value for name, value in headers.items() if name not in unsigned}
        signature = Signature(
            self.version,
            method,
            path,
            query,
            covered,
            body,
            self.access_key,
            self.secret_key,
            date,
            self.region,
            service,
        )
        return {**headers, "authorization": signature.authorization}

    def send(self, method, target, body=b"", headers=None, connection=None):
        """Sends exactly these header fields (and a length, if there is a body)."""
        with contextlib.ExitStack() as stack:
            if connection is None:
                connection = stack.enter_context(contextlib.closing(self.connect()))
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            reply = connection.getresponse()
            return Reply(reply.status, reply.getheaders(), reply.read())

    def call(self, method, target, document=None, connection=None, **signing):
        """Signs and sends; `document` becomes the JSON body."""
        body = b"" if document is None else json.dumps(document).encode()
        headers = self.signed(method, target, body, **signing)
        return self.send(method, target, body, headers, connection)

    def encrypt(self, plaintext, key_id=KEY, **options):
        document = {"keyId": key_id, "plaintext": base64.b64encode(plaintext).decode()}
        return self.call("POST", f"/v1/key/{key_id}:Encrypt", document, **options)

    def decrypt(self, blob, key_id=KEY, **options):
        document = {"keyId": key_id, "ciphertextBlob": base64.b64encode(blob).decode()}
        return self.call("POST", f"/v1/key/{key_id}:Decrypt", document, **options)

    def sealed(self, plaintext, key_id=KEY):
        """The blob of a plaintext."""
        return base64.b64decode(self.encrypt(plaintext, key_id).result["ciphertextBlob"])

    def opened(self, blob, key_id=KEY):
        """The plaintext of a blob."""
        return base64.b64decode(self.decrypt(blob, key_id).result["plaintext"])

    def describe(self, key_id=KEY, query="", detail=True, **options):
        target = f"/v1/key/{key_id}" + (":describeKeyDetail" if detail else "") + (f"?{query}" if query else "")
        return self.call("GET", target, **options)
