"""Verifies JD Cloud signatures V2 and V3 with the vendor's own signers.

The received request is signed anew with the vendor's code, and what that would send as Authorization is compared with
what was sent, byte for byte. All that is ours is the rule book around it: which headers must be signed, how old a date
may be, that a nonce serves once, and that the body is covered.
"""

import base64
import binascii
import calendar
import hashlib
import hmac
import importlib
import importlib.metadata
import pathlib
import re
import sys
import time
import types
import uuid
from urllib.parse import parse_qsl, quote, unquote

HERE = pathlib.Path(__file__).parent
ALGORITHMS = {
    "JDCLOUD2-HMAC-SHA256": ("jdcloud-sdk-core", "jdcloud2_request"),
    "JDCLOUD3-HMAC-SHA256": ("jdcloud-sdk", "jdcloud3_request"),
}
DATE, NONCE, TOKEN = "x-jdcloud-date", "x-jdcloud-nonce", "x-jdcloud-security-token"
#: What the vendor never signs, so that naming it can only be a mistake.
NEVER_SIGNED = ("authorization", "user-agent", "x-jdcloud-request-id")

_AUTHORIZATION = re.compile(
    r"(?P<algorithm>[A-Z0-9-]+) Credential=(?P<access_key>[A-Za-z0-9_-]+)/(?P<scope>[A-Za-z0-9/_-]+), "
    r"SignedHeaders=(?P<signed>[a-z0-9;_-]+), Signature=(?P<signature>[0-9a-f]{64})\Z"
)
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?\Z")
_REGION = re.compile(r"[a-z0-9-]+\Z")


class Refusal(Exception):
    """A request that is answered with an error. `reason` is for counters and tests, the rest goes to the client."""

    def __init__(self, reason, code, status, message, headers=()):
        super().__init__(message)
        self.reason, self.code, self.status, self.message, self.headers = reason, code, status, message, headers


def unauthenticated(reason, message):
    return Refusal(reason, 401, "ACCESS_ERROR", f"{message} [gw]")


class _Silent:
    def log(self, level, message):
        """The vendor's signer would log the canonical request."""


class _Credential:
    def __init__(self, access_key, secret_key):
        self.access_key, self.secret_key = access_key, secret_key


def pinned():
    """The versions in vendor.txt, by package."""
    lines = (HERE / "vendor.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


class VendorSigner:
    """One of the vendor's signers, loaded from its own folder; date and nonce are those of the request checked."""

    def __init__(self, folder, package):
        found = [one.version for one in importlib.metadata.distributions(path=[str(folder)])]
        if found != [pinned()[package]]:
            raise SystemExit(f"{folder}: {package} is {found or 'not there'}; wanted {pinned()[package]}")
        # Both packages import as jdcloud_sdk; under a name of its own each finds its own siblings.
        alias = "vendor_" + package.replace("-", "_")
        root = types.ModuleType(alias)
        root.__path__ = [str(folder / "jdcloud_sdk" / "core")]
        sys.modules[alias] = root
        self.module = importlib.import_module(alias + ".signer")
        self.signer = self.module.Signer(_Silent())
        self.encodes = package == "jdcloud-sdk"

    def authorization(self, method, target, host, headers, body, credential, region, service, date, nonce):
        """The Authorization value the vendor would send; `headers` are the signed ones without host."""
        path, _, query = target.partition("?")
        if not self.encodes:
            # V2 encodes the path it is given and leaves the query alone; the wire has the path encoded or not.
            path = unquote(path)
            pairs = parse_qsl(query, keep_blank_values=True)
            query = "&".join(f"{quote(name, '~')}={quote(value, '~')}" for name, value in pairs)
        moment = calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
        self.module.time = types.SimpleNamespace(time=lambda: moment)
        self.module.uuid = types.SimpleNamespace(uuid4=lambda: nonce)
        sent = dict(headers)
        self.signer.sign(
            method=method,
            service=service,
            region=region,
            uri=f"http://{host}{path}" + (f"?{query}" if query else ""),
            headers=sent,
            data=body,
            credential=credential,
            security_token=headers.get(TOKEN, ""),
        )
        return sent["Authorization"]


class Verifier:
    """Checks requests against the accounts of a `Vault`; remembers the nonces it has seen."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.signers = {
            algorithm: VendorSigner(folder / package, package) for algorithm, (package, _) in ALGORITHMS.items()
        }
        self.nonces = {}

    def forget(self):
        self.nonces.clear()

    def check(self, request, service, vault, settings, now):
        """The account that signed the request; raises Refusal."""
        headers = request.headers
        account, parts, signed = self._signature(headers, service, vault)
        vendor_client = account.client == "vendor"
        self._coverage(headers, parts["algorithm"], signed, vendor_client)
        date, nonce = headers[DATE], headers[NONCE]
        if date[:8] != parts["scope"].split("/")[0]:
            raise unauthenticated("scope_date", "the date of the scope is not that of x-jdcloud-date")
        try:
            body = request.body.decode("utf-8")
        except UnicodeDecodeError:
            raise Refusal("body_encoding", 400, "INVALID_ARGUMENT", "the body is not UTF-8") from None
        expected = self.signers[parts["algorithm"]].authorization(
            request.method,
            request.target,
            headers["host"],
            {name: headers[name] for name in signed if name != "host"},
            body,
            _Credential(account.access_key, account.secret_key),
            parts["scope"].split("/")[1],
            service,
            date,
            nonce,
        )
        if not hmac.compare_digest(expected.encode(), headers["authorization"].encode("latin-1")):
            raise unauthenticated("wrong_signature", "sign result is not same")
        if vendor_client and headers.get("x-jdcloud-content-sha256") not in (None, _sha256(request.body)):
            raise unauthenticated("wrong_body_hash", "sign result is not same")
        self._freshness(account, date, nonce, settings, now)
        self._token(account, headers, settings, now)
        return account

    def _signature(self, headers, service, vault):
        if "authorization" not in headers:
            raise unauthenticated("no_authorization", "lack of header authorization")
        parts = _AUTHORIZATION.match(headers["authorization"])
        if not parts:
            raise unauthenticated("malformed_authorization", "Invalid authentication credentials")
        if parts["algorithm"] not in ALGORITHMS:
            raise unauthenticated("unknown_algorithm", "Invalid authentication credentials")
        scope = parts["scope"].split("/")
        terminator = ALGORITHMS[parts["algorithm"]][1]
        if len(scope) != 4 or scope[3] != terminator or not _REGION.match(scope[1]):
            raise unauthenticated("malformed_scope", "Invalid authentication credentials")
        if scope[2] != service:
            raise unauthenticated("wrong_service", "Invalid authentication credentials")
        for name in (DATE, NONCE):
            if name not in headers:
                raise unauthenticated("lacks_" + name.rpartition("-")[2], f"lack of header {name}")
        account = vault.account(parts["access_key"])
        if account is None:
            raise unauthenticated("unknown_access_key", "Invalid accessKey")
        if account.revoked:
            raise unauthenticated("revoked_access_key", "Invalid accessKey")
        return account, parts, parts["signed"].split(";")

    @staticmethod
    def _coverage(headers, algorithm, signed, vendor_client):
        if signed != sorted(set(signed)):
            raise unauthenticated("unsorted_signed_headers", "sign result is not same")
        for name in signed:
            if name in NEVER_SIGNED:
                raise unauthenticated("never_signed_header", "sign result is not same")
            if name not in headers:
                raise unauthenticated("absent_signed_header", f"lack of header {name}")
        must = {"content-type", "host"} | ({TOKEN} & set(headers))
        if not vendor_client:
            must |= {DATE, NONCE}
            # Its presence takes the body out of the signature at the real gateway.
            if "x-jdcloud-content-sha256" in headers:
                raise unauthenticated("unsigned_body", "x-jdcloud-content-sha256 leaves the body unsigned")
        for name in sorted(must - set(signed)):
            raise unauthenticated("unsigned_header", f"lack of header signedHeaders: {name}")
        if not _HOST.match(headers["host"]):
            raise unauthenticated("malformed_host", "sign result is not same")
        if headers.get("x-jdcloud-algorithm", algorithm) != algorithm:
            raise unauthenticated("wrong_algorithm_header", "Invalid authentication credentials")
        if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", headers[DATE]):
            raise unauthenticated("malformed_date", "x-jdcloud-date is malformed")
        try:
            time.strptime(headers[DATE], "%Y%m%dT%H%M%SZ")
        except ValueError:
            raise unauthenticated("malformed_date", "x-jdcloud-date is malformed") from None
        if not _UUID4.match(headers[NONCE]):
            raise unauthenticated("malformed_nonce", "x-jdcloud-nonce is malformed")

    def _freshness(self, account, date, nonce, settings, now):
        age = now - calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
        if abs(age) > settings["skew_seconds"]:
            raise skewed()
        seen = self.nonces.setdefault(account.access_key, {})
        number = uuid.UUID(nonce).bytes
        if number in seen:
            raise unauthenticated("reused_nonce", "x-jdcloud-nonce was used before")
        seen[number] = now
        # Dictionaries keep their order: what is too old to pass the date check is at the front.
        while seen and now - next(iter(seen.values())) > 2 * settings["skew_seconds"] + 60:
            del seen[next(iter(seen))]

    @staticmethod
    def _token(account, headers, settings, now):
        sent = headers.get(TOKEN)
        if account.token is None:
            if sent is not None:
                raise unauthenticated("needless_session_token", "Invalid authentication credentials")
            return
        if sent is None:
            raise unauthenticated("no_session_token", f"lack of header {TOKEN}")
        if settings["raw_tokens"]:
            token = sent
        else:
            try:
                token = base64.b64decode(sent, validate=True).decode()
            except (binascii.Error, ValueError):
                raise unauthenticated("malformed_session_token", "Invalid authentication credentials") from None
        if not hmac.compare_digest(token.encode(), account.token.encode()):
            raise unauthenticated("wrong_session_token", "Invalid authentication credentials")
        if now >= account.expires:
            raise expired_token()


def skewed():
    return unauthenticated("skewed_date", "x-jdcloud-date is expired, check the date of the client")


def expired_token():
    return unauthenticated("expired_session_token", "the security token has expired")


def _sha256(body):
    return hashlib.sha256(body).hexdigest()
