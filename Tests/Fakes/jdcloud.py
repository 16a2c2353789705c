"""A strict JD Cloud: KMS, STS and instance metadata on loopback, with switches for everything that can go wrong.

    python Tests/Fakes/jdcloud.py

prints one line of JSON: ports, certificate authority, keys, access keys. README.md says what it checks, and what it is
not.
"""

import argparse
import asyncio
import base64
import binascii
import collections
import contextlib
import gc
import hashlib
import json
import os
import pathlib
import re
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from urllib.parse import parse_qsl

import fake_certificates
import fake_faults
import fake_http
import jdcloud_signatures
from fake_http import Reply
from jdcloud_signatures import Refusal
from jdcloud_vault import DAY, DISABLED, ENABLED, SCHEDULED, Account, Key, Role, Vault, invalid, when

NAMES = [
    "localhost",
    "127.0.0.1",
    "kms.jdcloud-api.com",
    "kms.cn-north-1.jdcloud-api.com",
    "kms.internal.cn-north-1.jdcloud-api.com",
    "sts.jdcloud-api.com",
]
#: "Data smaller than 4K".
PLAINTEXT_LIMIT = 4096
LOG_LENGTH = 20_000

KEY, VERSION = r"(?P<key>[A-Za-z0-9_-]{1,64})", r"(?P<version>[A-Za-z0-9_-]{1,64})"
ROUTES = [
    (method, re.compile(path + r"\Z"), operation)
    for method, path, operation in (
        ("POST", f"/v1/key/{KEY}:Encrypt", "encrypt"),
        ("POST", f"/v1/key/{KEY}:Decrypt", "decrypt"),
        ("GET", f"/v1/key/{KEY}:GenerateDataKey", "generateDataKey"),
        ("GET", f"/v1/key/{KEY}:describeKeyDetail", "describeKeyDetail"),
        ("GET", f"/v1/key/{KEY}", "describeKey"),
        ("GET", "/v1/key", "describeKeyList"),
        ("POST", "/v1/key:create", "createKey"),
        ("PATCH", f"/v1/key/{KEY}", "updateKey"),
        ("PATCH", f"/v1/key/{KEY}:rotate", "rotateKey"),
        ("PATCH", f"/v1/key/{KEY}:enable", "enableKey"),
        ("PATCH", f"/v1/key/{KEY}:disable", "disableKey"),
        ("DELETE", f"/v1/key/{KEY}:delete", "deleteKey"),
        ("PATCH", f"/v1/key/{KEY}:cancelDelete", "cancelDeleteKey"),
        ("PATCH", f"/v1/key/{KEY}/version/{VERSION}:enable", "enableKeyVersion"),
        ("PATCH", f"/v1/key/{KEY}/version/{VERSION}:disable", "disableKeyVersion"),
        ("DELETE", f"/v1/key/{KEY}/version/{VERSION}:delete", "deleteKeyVersion"),
        ("PATCH", f"/v1/key/{KEY}/version/{VERSION}:cancelDelete", "cancelDeleteKeyVersion"),
        ("POST", "/v1/sessionToken:assumeRole", "assumeRole"),
    )
]
METADATA = re.compile(r"/(?:jcs-)?metadata/latest/(?P<what>iam/instance-role-security-credentials|placement/region)\Z")

#: Settings that a test may change; `reset` brings these back.
SETTINGS = {
    "clock_offset_seconds": 0,
    "skew_seconds": 900,
    "rate_limit_per_minute": 0,
    "rate_window_seconds": 60,
    "retry_after": False,
    "raw_tokens": False,
    "chunked": False,
    # The KMS's own words for a key that cannot be used are not published.
    "key_state_error": {"code": 400, "status": "FAILED_PRECONDITION"},
    "version_order": "scrambled",
    "sts_lifetime_seconds": None,
    "sts_expiration_utc_offset_hours": 8,
    "metadata_role": "kmsward-node",
    "metadata_lifetime_seconds": 3600,
    "metadata_expiry": "expiration",
    "metadata_code": "success",
}
CHOICES = {
    "version_order": ("scrambled", "oldest", "newest"),
    "metadata_expiry": ("expiration", "expireTime", "remainingSeconds", "none"),
}

#: What may be wrong with the content of a reply that says 200 (`no_content`: 204).
VARIANTS = (
    "html",
    "empty",
    "not_json",
    "not_utf8",
    "array",
    "no_result",
    "null_result",
    "list_result",
    "wrong_types",
    "null_fields",
    "missing_fields",
    "error_in_200",
    "bad_base64",
    "unpadded_base64",
    "other_plaintext",
    "short_plaintext",
    "foreign_blob",
    "damaged_blob",
    "huge",
    "no_content",
)


class Call:
    """One request on its way through the fake: what is known of it, for filters, counters and the log."""

    def __init__(self, listener, connection, request):
        self.listener, self.connection, self.request = listener, connection, request
        self.operation, self.key_id, self.version, self.access_key = "unknown", None, None, None
        self.algorithm = None
        self.blob = None
        self.account = None
        self.refusal = None
        self.request_id = uuid.uuid4().hex
        self.own = 0.0
        self.recorded = False


def once(pairs):
    """A JSON object whose names occur once."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name twice")
    return document


def exact(document, required, optional=(), where="the body"):
    """Checks that a JSON object has these members, of these types, and no others. bool is no int."""
    if not isinstance(document, dict):
        raise invalid(f"{where} is not an object")
    wanted = {**required, **dict(optional)}
    for name in required:
        if name not in document:
            raise invalid(f"{where} lacks {name}")
    for name, value in document.items():
        if name not in wanted:
            raise invalid(f"{where} has an unknown member {name}")
        if type(value) is not wanted[name]:
            raise invalid(f"{name} has the wrong type")
    return document


def octets(text, name):
    """Canonical base64, nothing else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{name} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise invalid(f"{name} is not canonical base64")
    return data


def encoded(data):
    return base64.b64encode(data).decode()


def body_of(document):
    return json.dumps(document, separators=(",", ":")).encode()


class JDCloud:
    """The service behind the listeners `http`, `https` and `metadata`."""

    def __init__(self, vault, verifier, seed):
        self.vault, self.verifier = vault, verifier
        self.faults = fake_faults.Faults(seed)
        self.settings = dict(SETTINGS)
        self.listeners = {}
        self.node = None
        self.plaintexts = {}
        self.failures = []
        # Makes blobs that no key of the vault opens.
        self.stranger = Key("stranger", 0, secrets.token_hex(32))
        self.stranger.rotate(0)
        self.in_flight = 0
        self.clear()

    def clear(self):
        """Empties counters and log."""
        self.calls = collections.defaultdict(collections.Counter)
        self.peak_in_flight = self.in_flight
        self.log = collections.deque(maxlen=LOG_LENGTH)
        self.logged = 0
        self.windows = {}

    def failed(self, what):
        """Keeps a defect of the fake itself; the type and the place, as the text may hold what a client sent."""
        trace = traceback.extract_tb(what.__traceback__)[-1:] if isinstance(what, BaseException) else ()
        place = "".join(f" at {os.path.basename(one.filename)}:{one.lineno}" for one in trace)
        self.failures.append((type(what).__name__ if isinstance(what, BaseException) else str(what)) + place)
        print(f"fake: {self.failures[-1]}", file=sys.stderr, flush=True)

    def now(self):
        return time.time() + self.settings["clock_offset_seconds"]

    # The way of a request

    def malformed(self, connection, problem):
        call = Call(connection.listener.name, connection.number, None)
        status = {413: "HTTP_REQUEST_ENTITY_TOO_LARGE", 414: "HTTP_URI_TOO_LONG"}.get(
            problem.status, "HTTP_BAD_REQUEST"
        )
        self._record(call, "refused:malformed_http", problem.status)
        return self._refused(call, Refusal("malformed_http", problem.status, status, f"{problem} [gw]"))

    def serve(self, connection, request):
        """Answers at once, or gives a coroutine that will."""
        call = Call(connection.listener.name, connection.number, request)
        try:
            if call.listener == "metadata":
                self._route_metadata(call)
            else:
                self._route(call)
                self._admit(call)
        except Refusal as refusal:
            call.refusal = refusal
        call.own += time.perf_counter() - request.arrived
        delays = self.faults.delays(call)
        # A request that is refused is refused whatever else goes wrong: a fault never hides a wrong signature.
        ending = None if call.refusal else self.faults.ending(call)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if delays or (ending is not None and ending.kind in ("reset", "drip")):
            return self._slowly(connection, call, delays, ending)
        try:
            self._answer(connection, call, ending)
        finally:
            self.in_flight -= 1
        return None

    async def _slowly(self, connection, call, delays, ending):
        try:
            for fault in delays:
                await fault.wait(call.request.arrived)
            if ending is not None and ending.kind == "reset":
                await self._reset(connection, call, ending)
            elif ending is not None and ending.kind == "drip":
                await self._drip(connection, call, ending)
            else:
                self._answer(connection, call, ending)
        except asyncio.CancelledError:
            self._record(call, "abandoned", 0)
            raise
        finally:
            self.in_flight -= 1

    def _route(self, call):
        request = call.request
        path = jdcloud_signatures.unquote(request.path)
        for method, pattern, operation in ROUTES:
            found = pattern.match(path)
            if found and method == request.method:
                call.operation = operation
                call.key_id = found.groupdict().get("key")
                call.version = found.groupdict().get("version")
                return
        raise Refusal("no_route", 404, "NOT_FOUND", "no route and no API found with those values [gw]")

    def _admit(self, call):
        """What stands before the service itself: signature, rate, content type."""
        headers = call.request.headers
        call.algorithm = headers.get("authorization", "").partition(" ")[0][:24] or None
        named = re.search(r"Credential=([A-Za-z0-9_-]{1,64})/", headers.get("authorization", ""))
        call.access_key = named and named[1]
        service = "sts" if call.operation == "assumeRole" else "kms"
        call.account = self.verifier.check(call.request, service, self.vault, self.settings, self.now())
        self._limit_rate(call.account)
        if headers.get("content-type") != "application/json":
            raise invalid("Content-Type is not application/json")

    def _limit_rate(self, account):
        limit, length = self.settings["rate_limit_per_minute"], self.settings["rate_window_seconds"]
        if not limit:
            return
        now = time.monotonic()
        begun, count = self.windows.get(account.access_key, (now, 0))
        if now - begun >= length:
            begun, count = now, 0
        self.windows[account.access_key] = (begun, count + 1)
        if count >= limit:
            raise self._throttled(int(begun + length - now) + 1 if self.settings["retry_after"] else None)

    @staticmethod
    def _throttled(retry_after):
        headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
        text = "minute rate limit exceeded, role:ak [gw]"
        return Refusal("rate_limited", 429, "HTTP_RATE_LIMIT_EXCEEDED", text, headers)

    def _answer(self, connection, call, ending):
        began = time.perf_counter()
        outcome, reply = self._outcome(call, ending)
        call.own += time.perf_counter() - began
        kind = None if ending is None else ending.kind
        self._record(call, outcome, 0 if reply is None else reply.status)
        if reply is None:
            connection.finish()
        elif kind == "truncate":
            whole = reply.framed()
            kept = len(whole) // 2 if ending.options["bytes"] is None else ending.options["bytes"]
            connection.write(reply.head(self.now()) + whole[:kept])
            connection.finish()
        else:
            connection.send(reply)

    async def _reset(self, connection, call, ending):
        at = ending.options["at"]
        outcome, reply = self._outcome(call, ending, run=at != "before")
        self._record(call, outcome, 0)
        if at != "before":
            whole = reply.framed()
            connection.write(reply.head(self.now()) + (whole[: len(whole) // 2] if at == "body" else b""))
            # So that the client mostly sees what was written before the reset takes it away.
            await asyncio.sleep(0.01)
        connection.reset()

    async def _drip(self, connection, call, ending):
        outcome, reply = self._outcome(call, ending)
        whole = reply.head(self.now()) + reply.framed()
        step = max(1, ending.options["bytes"])
        last = (len(whole) - 1) // step * step
        for start in range(0, last, step):
            connection.write(whole[start : start + step])
            await asyncio.sleep(ending.options["interval_ms"] / 1000)
        self._record(call, outcome, reply.status)
        connection.write(whole[last:])

    def _outcome(self, call, ending, run=True):
        """(what the counters say, the reply or None)."""
        if call.refusal is not None:
            return f"refused:{call.refusal.reason}", self._refused(call, call.refusal)
        kind = None if ending is None else ending.kind
        options = {} if ending is None else ending.options
        label = None if ending is None else f"fault:{kind}"
        if kind == "close" or not run:
            return label, None
        if kind == "error":
            status = options["status"] or {
                400: "HTTP_BAD_REQUEST",
                401: "ACCESS_ERROR",
                403: "HTTP_FORBIDDEN",
                404: "NOT_FOUND",
                429: "HTTP_RATE_LIMIT_EXCEEDED",
                500: "HTTP_INTERNAL_SERVER_ERROR",
                502: "HTTP_BAD_GATEWAY",
                503: "HTTP_SERVICE_UNAVAILABLE",
                504: "HTTP_SERVER_TIMING_OUT",
            }.get(options["code"], "UNKNOWN")
            after = [] if options["retry_after"] is None else [("Retry-After", str(options["retry_after"]))]
            text = options["message"] or "a fault that was asked for [gw]"
            return label, self._refused(call, Refusal(kind, options["code"], status, text, after))
        if kind == "throttle":
            return label, self._refused(call, self._throttled(options["retry_after"]))
        if kind == "expired_token":
            return label, self._refused(call, jdcloud_signatures.expired_token())
        if kind == "clock_skew":
            return label, self._refused(call, jdcloud_signatures.skewed())
        if kind == "redirect":
            return label, Reply(307, b"", headers=[("Location", options["location"])])
        try:
            result = self._metadata(call) if call.listener == "metadata" else self._run(call)
        except Refusal as refusal:
            return f"refused:{refusal.reason}", self._refused(call, refusal)
        if isinstance(result, str):
            return label or "ok", Reply(200, result.encode(), content_type="text/plain")
        if kind == "content":
            return f"{label}:{options['variant']}", self._wrong(call, options["variant"], result)
        return label or "ok", result if isinstance(result, Reply) else self._success(call, result)

    def _fields(self, call):
        return [("x-jdcloud-request-id", call.request_id), ("via", "jd-gateway/1.0")]

    def _success(self, call, result):
        if "ciphertextBlob" in result:
            call.blob = hashlib.sha256(base64.b64decode(result["ciphertextBlob"])).hexdigest()
        body = body_of({"requestId": call.request_id, "result": result})
        return Reply(200, body, headers=self._fields(call), chunked=self.settings["chunked"])

    def _refused(self, call, refusal):
        error = {"code": refusal.code, "status": refusal.status, "message": refusal.message}
        fields = self._fields(call) + [*refusal.headers]
        return Reply(refusal.code, body_of({"requestId": call.request_id, "error": error}), headers=fields)

    def _record(self, call, outcome, status):
        if call.recorded:
            return
        call.recorded = True
        self.calls[call.operation][outcome] += 1
        self.logged += 1
        # Never a body, a header's value, a signature or a token.
        self.log.append(
            {
                "number": self.logged,
                "time": round(time.time(), 6),
                "listener": call.listener,
                "connection": call.connection,
                "operation": call.operation,
                "key_id": call.key_id,
                "access_key": call.access_key,
                "algorithm": call.algorithm,
                "outcome": outcome,
                "status": status,
                "request_id": call.request_id,
                # Of what was answered, so that it can be told that nothing was added.
                "blob_sha256": call.blob,
                "own_microseconds": round(call.own * 1e6),
            }
        )

    # Wrong content

    def _wrong(self, call, variant, result):
        def wrapped(result):
            return body_of(result if bare else {"requestId": call.request_id, "result": result})

        bare = isinstance(result, Reply)
        if bare:
            result = json.loads(result.body)
        error = {"code": 500, "status": "HTTP_INTERNAL_SERVER_ERROR", "message": "failed [gw]"}
        bodies = {
            "array": lambda: b"[" + wrapped(result) + b"]",
            "no_result": lambda: body_of({"requestId": call.request_id}),
            "null_result": lambda: wrapped(None),
            "list_result": lambda: wrapped([result]),
            "wrong_types": lambda: wrapped(dict.fromkeys(result, 7)),
            "null_fields": lambda: wrapped(dict.fromkeys(result)),
            "missing_fields": lambda: wrapped({}),
            "not_json": lambda: wrapped(result)[:-2],
            "not_utf8": lambda: wrapped(result)[:-1] + b',"note":"\xff\xfe"}',
            "empty": lambda: b"",
            "error_in_200": lambda: body_of({"requestId": call.request_id, "error": error}),
            "bad_base64": lambda: wrapped(dict.fromkeys(result, "%%%not base64%%%")),
            "huge": lambda: wrapped({**result, "note": "x" * (32 << 20)}),
        }
        if variant == "html":
            page = b"<html><head><title>Maintenance</title></head><body>Back soon.</body></html>"
            return Reply(200, page, content_type="text/html", headers=self._fields(call))
        if variant == "no_content":
            return Reply(204, b"", headers=self._fields(call))
        body = bodies[variant]() if variant in bodies else wrapped({**result, **self._wrong_octets(variant, result)})
        return Reply(200, body, headers=self._fields(call))

    def _wrong_octets(self, variant, result):
        changed = {}
        if "plaintext" in result:
            plaintext = base64.b64decode(result["plaintext"])
            if variant == "other_plaintext":
                known = [one for one in self.plaintexts.get(len(plaintext), ()) if one != plaintext]
                changed["plaintext"] = encoded(known[-1] if known else os.urandom(len(plaintext)))
            elif variant == "short_plaintext":
                changed["plaintext"] = encoded(plaintext[:-1])
            elif variant == "unpadded_base64":
                changed["plaintext"] = result["plaintext"].rstrip("=")
        if "ciphertextBlob" in result:
            blob = base64.b64decode(result["ciphertextBlob"])
            if variant == "foreign_blob":
                changed["ciphertextBlob"] = encoded(self.stranger.seal(os.urandom(len(blob) - 32)))
            elif variant == "damaged_blob":
                changed["ciphertextBlob"] = encoded(blob[:-1] + bytes([blob[-1] ^ 1]))
            elif variant == "unpadded_base64":
                changed["ciphertextBlob"] = result["ciphertextBlob"].rstrip("=")
        return changed

    # The operations

    def _run(self, call):
        """The result of an admitted call; raises Refusal."""
        if call.operation == "assumeRole":
            return self._assume_role(call)
        if not call.account.may(call.operation, call.key_id):
            raise Refusal("no_permission", 403, "HTTP_FORBIDDEN", "no IAM permission [gw]")
        query = self._query(call)
        document = self._document(call)
        now = self.now()
        if call.operation in ("createKey", "describeKeyList"):
            return getattr(self, "_" + call.operation)(query, document, now)
        key = self.vault.find(call.key_id, now)
        if call.version is None:
            return getattr(self, "_" + call.operation)(key, query, document, now)
        version = key.find(call.version)
        verb = call.operation.removesuffix("KeyVersion")
        return self._change(verb, version, query, now)

    QUERIES = {
        "describeKeyDetail": {"pageNumber": (1, 10**6, 1), "pageSize": (10, 100, 10)},
        "describeKeyList": {"pageNumber": (1, 10**6, 1), "pageSize": (10, 100, 10)},
        "deleteKey": {"delayDays": (7, 30, 7)},
        "deleteKeyVersion": {"delayDays": (7, 30, 7)},
    }

    def _query(self, call):
        """The query parameters, defaults filled in; all there are, are numbers."""
        known = self.QUERIES.get(call.operation, {})
        values = {name: default for name, (_, _, default) in known.items()}
        pairs = parse_qsl(call.request.query, keep_blank_values=True)
        if len({name for name, _ in pairs}) != len(pairs) or len(pairs) != len(
            [piece for piece in call.request.query.split("&") if piece]
        ):
            raise invalid("a query parameter twice, or malformed")
        for name, text in pairs:
            if name not in known:
                raise invalid(f"unknown query parameter {name}")
            low, high, _ = known[name]
            if not re.fullmatch(r"[0-9]{1,7}", text) or not low <= int(text) <= high:
                raise invalid(f"{name} is not in {low}..{high}")
            values[name] = int(text)
        return values

    def _document(self, call):
        """The body as JSON: none with GET and DELETE, an object that repeats the path's parameters otherwise."""
        request = call.request
        if request.method in ("GET", "DELETE"):
            if request.body:
                raise invalid(f"a body with {request.method}")
            return None
        try:
            document = json.loads(request.body, object_pairs_hook=once)
        except (ValueError, RecursionError):
            raise invalid("the body is not a JSON object with each name once") from None
        if call.account.client == "vendor":
            # The vendor's client writes null for what was not set.
            document = _without_nulls(document)
        named = {"keyId": str} if call.key_id else {}
        if call.version:
            named["version"] = str
        payload = {
            "encrypt": {"plaintext": str},
            "decrypt": {"ciphertextBlob": str},
            "createKey": {"keyCfg": dict},
            "updateKey": {"keyCfg": dict},
            "assumeRole": {"assumeRoleInfo": dict},
        }.get(call.operation, {})
        exact(document, {**named, **payload})
        if named and document["keyId"] != call.key_id:
            raise invalid("keyId is not that of the path")
        if call.version and document["version"] != call.version:
            raise invalid("version is not that of the path")
        return document

    def _usable(self, what, name, status):
        if status != ENABLED:
            state = "disabled" if status == DISABLED else "scheduled for deletion"
            error = self.settings["key_state_error"]
            raise Refusal("key_" + state.replace(" ", "_"), error["code"], error["status"], f"{what} {name} is {state}")

    def _seal(self, key, plaintext):
        self._usable("key", key.key_id, key.status)
        blob = key.seal(plaintext)
        if blob is None:
            self._usable("key", key.key_id, DISABLED)
        self._remember(plaintext)
        return encoded(blob)

    def _remember(self, plaintext):
        known = self.plaintexts.setdefault(len(plaintext), collections.deque(maxlen=2))
        if plaintext not in known:
            known.append(plaintext)

    def _encrypt(self, key, query, document, now):
        plaintext = octets(document["plaintext"], "plaintext")
        if not 0 < len(plaintext) < PLAINTEXT_LIMIT:
            raise invalid("plaintext is empty or not smaller than 4K")
        return {"ciphertextBlob": self._seal(key, plaintext)}

    def _decrypt(self, key, query, document, now):
        blob = octets(document["ciphertextBlob"], "ciphertextBlob")
        self._usable("key", key.key_id, key.status)
        opened = key.open(blob)
        if opened is None:
            raise Refusal("foreign_blob", 400, "INVALID_ARGUMENT", "ciphertextBlob is invalid")
        version, plaintext = opened
        self._usable("key version", version.version, version.status)
        self._remember(plaintext)
        return {"plaintext": encoded(plaintext)}

    def _generateDataKey(self, key, query, document, now):
        plaintext = os.urandom(32)
        return {"plaintext": encoded(plaintext), "ciphertextBlob": self._seal(key, plaintext)}

    @staticmethod
    def _info(key):
        return {
            "keyId": key.key_id,
            "keyName": key.name,
            "keyStatus": key.status,
            "createTime": when(key.created),
            "keyDesc": key.description,
            "rotationCycle": key.rotation_cycle,
            "deleteTime": when(key.deletes),
        }

    def _describeKey(self, key, query, document, now):
        return {"keyInfo": self._info(key)}

    def _describeKeyDetail(self, key, query, document, now):
        versions = [one for one in key.versions if one.exists]
        if self.settings["version_order"] == "newest":
            versions.reverse()
        elif self.settings["version_order"] == "scrambled":
            # The names are random: stable, and in no order that a client could lean on.
            versions.sort(key=lambda one: one.version)
        start = (query["pageNumber"] - 1) * query["pageSize"]
        rows = [
            {
                "keyVersion": one.version,
                "createTime": when(one.created),
                "keyStatus": one.status,
                "deleteTime": when(one.deletes),
            }
            for one in versions[start : start + query["pageSize"]]
        ]
        detail = {
            "keyId": key.key_id,
            "keyName": key.name,
            "rotationCycle": key.rotation_cycle,
            "keyVersionCount": len(versions),
            "keyVersionList": rows,
        }
        return {"keyDetail": detail}

    def _describeKeyList(self, query, document, now):
        keys = [self.vault.find(key_id, now) for key_id in [*self.vault.keys] if self._lives(key_id, now)]
        start = (query["pageNumber"] - 1) * query["pageSize"]
        rows = [self._info(key) for key in keys[start : start + query["pageSize"]]]
        return {"keyList": rows, "totalCount": len(keys)}

    def _lives(self, key_id, now):
        deletes = self.vault.keys[key_id].deletes
        return deletes is None or deletes > now

    @staticmethod
    def _configuration(document):
        configuration = exact(document["keyCfg"], {"keyDescCfg": dict}, {"keyRotateCfg": dict}, "keyCfg")
        names = exact(configuration["keyDescCfg"], {"keyName": str, "keyDesc": str}, {"keyType": int}, "keyDescCfg")
        rotation = exact(
            configuration.get("keyRotateCfg", {}), {}, {"autoRotate": bool, "rotationCycle": int}, "keyRotateCfg"
        )
        if names.get("keyType", 0) != 0:
            raise invalid("this fake has aes-256 keys alone")
        return {
            "name": names["keyName"],
            "description": names["keyDesc"],
            "rotation_cycle": rotation.get("rotationCycle", 0) if rotation.get("autoRotate") else 0,
        }

    def _createKey(self, query, document, now):
        return {"keyId": self.vault.create(None, now, **self._configuration(document)).key_id}

    def _updateKey(self, key, query, document, now):
        for name, value in self._configuration(document).items():
            setattr(key, name, value)
        return self._saved()

    def _rotateKey(self, key, query, document, now):
        self._usable("key", key.key_id, key.status)
        key.rotate(now)
        return self._saved()

    def _enableKey(self, key, query, document, now):
        return self._change("enable", key, query, now)

    def _disableKey(self, key, query, document, now):
        return self._change("disable", key, query, now)

    def _deleteKey(self, key, query, document, now):
        return self._change("delete", key, query, now)

    def _cancelDeleteKey(self, key, query, document, now):
        return self._change("cancelDelete", key, query, now)

    def _change(self, verb, what, query, now):
        """A key's or a version's state; what is scheduled for deletion must first be taken back."""
        if (what.status == SCHEDULED) != (verb == "cancelDelete"):
            error = self.settings["key_state_error"]
            raise Refusal("wrong_state", error["code"], error["status"], f"{verb} is not possible in this state")
        what.status = {"enable": ENABLED, "disable": DISABLED, "delete": SCHEDULED, "cancelDelete": DISABLED}[verb]
        what.deletes = int(now) + query["delayDays"] * DAY if verb == "delete" else None
        return self._saved()

    def _saved(self):
        self.vault.save()
        return {}

    # Temporary credentials

    def _assume_role(self, call):
        self._query(call)
        document = self._document(call)
        info = exact(
            document["assumeRoleInfo"],
            {"roleJrn": str, "roleSessionName": str},
            {"policy": str, "durationSeconds": int},
            "assumeRoleInfo",
        )
        role = self.vault.roles.get(info["roleJrn"])
        if role is None:
            raise Refusal("no_such_role", 404, "NOT_FOUND", "role not found")
        if call.account.access_key not in role.trusted:
            raise Refusal("no_permission", 403, "HTTP_FORBIDDEN", "no IAM permission [gw]")
        if not re.fullmatch(r"[A-Za-z0-9_.@=,-]{2,64}", info["roleSessionName"]):
            raise invalid("roleSessionName is malformed")
        if len(info.get("policy", "").encode()) > 2048:
            raise invalid("policy is longer than 2048 bytes")
        seconds = info.get("durationSeconds", 3600)
        if not 3600 <= seconds <= role.longest:
            raise invalid(f"durationSeconds is not in 3600..{role.longest}")
        lifetime = self.settings["sts_lifetime_seconds"] or seconds
        session = self.vault.session(role.permissions, lifetime, self.now(), call.account.client)
        shift = self.settings["sts_expiration_utc_offset_hours"] * 3600
        credentials = {
            "accessKey": session.access_key,
            "secretKey": session.secret_key,
            "sessionToken": session.token,
            "expiration": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(session.expires + shift)),
        }
        return {"credentials": credentials}

    def _route_metadata(self, call):
        """No signature here; what came through a proxy is refused, as another metadata service does."""
        found = METADATA.match(call.request.path)
        if found:
            region = found["what"] == "placement/region"
            call.operation = "metadataRegion" if region else "metadataCredentials"
        for name in ("x-forwarded-for", "via", "forwarded"):
            if name in call.request.headers:
                raise Refusal("proxied", 403, "HTTP_FORBIDDEN", "through a proxy")
        if "authorization" in call.request.headers:
            raise Refusal("needless_credentials", 400, "HTTP_BAD_REQUEST", "credentials sent to the metadata service")
        if not found or call.request.query or call.request.method != "GET" or call.request.body:
            raise Refusal("no_route", 404, "NOT_FOUND", "not found")

    def _metadata(self, call):
        if call.operation == "metadataRegion":
            return "cn-north-1"
        names = ("accessKey", "secretKey", "sessionToken")
        field = self.settings["metadata_expiry"]
        if self.settings["metadata_role"] is None:
            empty = dict.fromkeys(names, "")
            return Reply(200, body_of({"Code": "fail", **empty, **({} if field == "none" else {field: ""})}))
        lifetime = self.settings["metadata_lifetime_seconds"]
        session = self.node and self.vault.account(self.node)
        if session is None or session.revoked or session.expires - self.now() <= min(600, lifetime / 2):
            session = self.vault.session({"*": ["encrypt", "decrypt", "describe", "generate"]}, lifetime, self.now())
            self.node = session.access_key
        expiry = {
            "expiration": when(session.expires),
            "expireTime": when(session.expires),
            "remainingSeconds": int(session.expires - self.now()),
        }
        document = {"Code": self.settings["metadata_code"]}
        document |= dict(zip(names, (session.access_key, session.secret_key, session.token)))
        if field != "none":
            document[field] = expiry[field]
        return Reply(200, body_of(document))


def _without_nulls(value):
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return value


class Control:
    """The control port: JSON over HTTP, for tests and for curl. README.md has the table."""

    def __init__(self, cloud, authority, stop):
        self.cloud, self.authority, self.stop = cloud, authority, stop
        self.welcome = {}

    def failed(self, what):
        self.cloud.failed(what)

    def malformed(self, connection, problem):
        return Reply(problem.status, body_of({"error": str(problem)}))

    def serve(self, connection, request):
        parts = [jdcloud_signatures.unquote(part) for part in request.path.split("/") if part]
        try:
            document = json.loads(request.body, object_pairs_hook=once) if request.body else {}
            if not isinstance(document, dict):
                raise ValueError("the body is not an object")
            reply = Reply(200, body_of(self._perform(request, parts, document)))
        except Refusal as refusal:
            reply = Reply(refusal.code, body_of({"error": refusal.message}))
        except (KeyError, LookupError) as problem:
            reply = Reply(404, body_of({"error": f"there is no {problem}"}))
        except (ValueError, TypeError) as problem:
            reply = Reply(400, body_of({"error": str(problem)}))
        connection.send(reply)

    def _perform(self, request, parts, document):
        method = request.method
        match method, parts:
            case "GET", []:
                return self.welcome
            case "GET", ["counters"]:
                return self._counters()
            case "GET", ["log"]:
                after = int(dict(parse_qsl(request.query)).get("after", 0))
                return {"entries": [one for one in self.cloud.log if one["number"] > after]}
            case "GET", ["faults"]:
                return {"faults": [one.describe() for one in self.cloud.faults.active.values()]}
            case "POST", ["faults"]:
                return self._add_fault(document)
            case "DELETE", ["faults"]:
                self.cloud.faults.clear()
            case "DELETE", ["faults", number]:
                self.cloud.faults.remove(int(number))
            case "GET", ["settings"]:
                return self.cloud.settings
            case "PATCH", ["settings"]:
                return self._set(document)
            case "GET", ["keys"]:
                return {"keys": [self._describe(one) for one in self.cloud.vault.keys.values()]}
            case "POST", ["keys"]:
                key = self.cloud.vault.create(document.pop("id", None), self.cloud.now(), **document)
                return self._describe(key)
            case "POST", ["keys", key_id, verb]:
                return self._change_key(key_id, verb)
            case "POST", ["keys", key_id, "versions", version, verb]:
                return self._change_version(key_id, version, verb)
            case "POST", ["accounts"]:
                account = Account(**document)
                self.cloud.vault.accounts[account.access_key] = account
                self.cloud.vault.save()
            case "POST", ["accounts", access_key, verb]:
                self._change_account(self.cloud.vault.accounts[access_key], verb)
            case "POST", ["roles"]:
                role = Role(**document)
                self.cloud.vault.roles[role.jrn] = role
                self.cloud.vault.save()
            case "POST", ["listeners", name, verb]:
                if verb not in ("open", "pause", "close"):
                    raise LookupError(verb)
                getattr(self.cloud.listeners[name], verb)()
            case "POST", ["connections", "close"]:
                return {"closed": sum(one.close_idle() for one in self.cloud.listeners.values())}
            case "POST", ["certificate", kind]:
                self.cloud.listeners["https"].context = self.authority.contexts[kind]
            case "POST", ["reset"]:
                self._reset()
            case "POST", ["stop"]:
                self.stop()
            case _:
                raise LookupError(f"{method} {request.path}")
        return {}

    def _counters(self):
        listeners = {
            name: {
                "state": one.state,
                "accepted": one.accepted,
                "open": len(one.connections),
                "peak": one.peak,
                "tls_failures": one.tls_failures,
            }
            for name, one in self.cloud.listeners.items()
        }
        return {
            "calls": {operation: dict(outcomes) for operation, outcomes in self.cloud.calls.items()},
            "in_flight": self.cloud.in_flight,
            "peak_in_flight": self.cloud.peak_in_flight,
            "listeners": listeners,
            # Defects of the fake itself: a test run ends with none.
            "failures": self.cloud.failures,
        }

    def _add_fault(self, document):
        if document.get("kind") == "content" and document.get("variant", "html") not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}")
        return {"id": self.cloud.faults.add(document).number}

    def _set(self, document):
        for name, value in document.items():
            if name not in SETTINGS:
                raise ValueError(f"no such setting: {name}; there are {', '.join(SETTINGS)}")
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}")
        self.cloud.settings.update(document)
        return self.cloud.settings

    @staticmethod
    def _describe(key):
        versions = [
            {"version": one.version, "created": one.created, "status": one.status} for one in key.versions if one.exists
        ]
        return {"id": key.key_id, "status": key.status, "versions": versions}

    STATES = {"enable": ENABLED, "disable": DISABLED, "delete": SCHEDULED, "cancelDelete": DISABLED}

    def _put(self, what, verb):
        if verb not in self.STATES:
            raise LookupError(verb)
        what.status = self.STATES[verb]
        what.deletes = int(self.cloud.now()) + 7 * DAY if verb == "delete" else None

    def _change_key(self, key_id, verb):
        key = self.cloud.vault.keys[key_id]
        if verb == "destroy":
            self.cloud.vault.destroy(key_id)
            return {}
        if verb == "rotate":
            key.rotate(self.cloud.now())
        else:
            self._put(key, verb)
        self.cloud.vault.save()
        return self._describe(key)

    def _change_version(self, key_id, name, verb):
        key = self.cloud.vault.keys[key_id]
        version = key.find(name)
        if verb == "destroy":
            self.cloud.vault.destroy_version(version)
        else:
            self._put(version, verb)
        self.cloud.vault.save()
        return self._describe(key)

    def _change_account(self, account, verb):
        if verb == "expire":
            if account.expires is None:
                raise ValueError("this access key has no session to expire")
            account.expires = self.cloud.now() - 1
        elif verb in ("revoke", "restore"):
            account.revoked = verb == "revoke"
        else:
            raise LookupError(verb)
        self.cloud.vault.save()

    def _reset(self):
        self.cloud.faults.clear()
        self.cloud.settings.clear()
        self.cloud.settings.update(SETTINGS)
        self.cloud.clear()
        for one in self.cloud.listeners.values():
            one.open()
            one.accepted = one.tls_failures = 0
            one.peak = len(one.connections)
        self.cloud.listeners["https"].context = self.authority.contexts["good"]


def arguments():
    parser = argparse.ArgumentParser(description="A strict JD Cloud for tests: KMS, STS, instance metadata.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    for name in ("http", "https", "control", "metadata"):
        parser.add_argument(f"--{name}-port", type=int, default=0, help="default: any free one")
    parser.add_argument(
        "--state", type=pathlib.Path, help="directory of keys, accounts and authority, kept over restarts"
    )
    parser.add_argument("--name", action="append", default=[], help="another name for the certificate")
    parser.add_argument(
        "--vendor", type=pathlib.Path, default=pathlib.Path(sys.prefix) / "vendor", help="the vendor's packages"
    )
    parser.add_argument("--rate-limit", type=int, default=0, help="calls per minute and access key; 0: no limit")
    parser.add_argument("--seed", type=int, default=1, help="of jitter and probabilities")
    parser.add_argument("--ready-file", type=pathlib.Path, help="the line goes here as well, in one step")
    parser.add_argument("--ready-fd", type=int, help="the line goes here as well")
    parser.add_argument("--until-stdin-ends", action="store_true", help="end with the standard input")
    options = parser.parse_args()
    if options.until_stdin_ends:
        # What a test process left open for its children by mistake would stay open for as long as this one lives.
        kept = {0, 1, 2, options.ready_fd}
        for number in range(3, 1024):
            if number not in kept:
                with contextlib.suppress(OSError):
                    os.close(number)
    return options


def announce(options, line):
    print(line, flush=True)
    if options.ready_fd is not None:
        with os.fdopen(options.ready_fd, "w") as ready:
            ready.write(line + "\n")
    if options.ready_file is not None:
        temporary = options.ready_file.with_name(options.ready_file.name + ".new")
        temporary.write_text(line + "\n")
        os.replace(temporary, options.ready_file)


async def run(options, directory):
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if options.until_stdin_ends:
        loop.add_reader(sys.stdin, lambda: os.read(0, 4096) or stopped.set())
    vault = Vault(directory / "state.json")
    authority = fake_certificates.Authority(directory, NAMES + options.name)
    cloud = JDCloud(vault, jdcloud_signatures.Verifier(options.vendor), options.seed)
    SETTINGS["rate_limit_per_minute"] = cloud.settings["rate_limit_per_minute"] = options.rate_limit
    loop.set_exception_handler(lambda _, context: cloud.failed(context.get("exception") or context["message"]))
    control = Control(cloud, authority, stopped.set)
    for name in ("http", "https", "metadata"):
        context = authority.contexts["good"] if name == "https" else None
        port = getattr(options, f"{name}_port")
        cloud.listeners[name] = fake_http.Listener(name, cloud, cloud.now, options.host, port, context)
    controls = fake_http.Listener("control", control, time.time, options.host, options.control_port)
    for one in (*cloud.listeners.values(), controls):
        one.open()
    urls = {f"{name}_url": f"http://{options.host}:{one.port}" for name, one in cloud.listeners.items()}
    urls["https_url"] = urls["https_url"].replace("http:", "https:")
    control.welcome = {
        **{f"{name}_port": one.port for name, one in cloud.listeners.items()},
        "control_port": controls.port,
        **urls,
        "control_url": f"http://{options.host}:{controls.port}",
        "ca": str(authority.path),
        "pid": os.getpid(),
        "keys": [*vault.keys],
        "roles": [*vault.roles],
        "accounts": [
            {
                "access_key": one.access_key,
                "secret_key": one.secret_key,
                "permissions": one.permissions,
                "client": one.client,
            }
            for one in vault.accounts.values()
            if one.token is None
        ],
    }
    # A collection in the middle of a call would be latency of the fake's own.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    announce(options, json.dumps(control.welcome))
    await stopped.wait()
    for one in cloud.listeners.values():
        one.close()


def main():
    options = arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    if options.state is not None:
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        asyncio.run(run(options, options.state))
        return
    directory = pathlib.Path(tempfile.mkdtemp(prefix="jdcloud-"))
    try:
        asyncio.run(run(options, directory))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
