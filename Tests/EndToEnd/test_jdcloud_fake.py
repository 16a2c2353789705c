"""The fake JD Cloud is as strict as it says, agrees with the vendor's clients and signers, and its switches work."""

import base64
import concurrent.futures
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

import jdcloud_client
from daemon import eventually
from jdcloud_client import ACCESS_KEY, KEY, SECRET_KEY, ControlError, JDCloudFake, Signature
from jdcloud_signatures import VendorSigner, _Credential

pytestmark = pytest.mark.no_binary

VENDOR = pathlib.Path(sys.prefix) / "vendor"
OTHER_KEY = "k2q9x7c4m1v8b5n3"
DEK = bytes(range(32))
ROLE = "jrn:iam::123456789012:role/kmsward"


@pytest.fixture(scope="module")
def running():
    with JDCloudFake() as one:
        yield one


@pytest.fixture
def fake(running):
    running.reset()
    return running


@pytest.fixture
def own_fake():
    """A fake of the test's own, for what outlives a reset."""
    with JDCloudFake() as one:
        yield one


@pytest.fixture
def caller(fake):
    return fake.caller()


def refused(fake, reply, code, reason, operation=None):
    """Asserts a refusal in the vendor's envelope, counted under its reason."""
    assert reply.status == code
    assert set(reply.envelope) == {"requestId", "error"}
    assert reply.error["code"] == code
    assert reply.error["status"] and reply.error["message"]
    assert reply.headers["x-jdcloud-request-id"] == reply.envelope["requestId"]
    assert fake.calls(operation, f"refused:{reason}") == 1, fake.counters()["calls"]


# Signatures: the vectors


DATE, NONCE = "20260115T083045Z", "ed558a3b-9808-4edb-8597-187bda63a4f2"
ENCRYPT_BODY = b'{"keyId": "srh6mt4lj49tnzvs", "plaintext": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}'
DECRYPT_BODY = b'{"keyId": "srh6mt4lj49tnzvs", "ciphertextBlob": "' + b"A" * 64 + b'"}'
DETAIL = "/v1/key/srh6mt4lj49tnzvs:describeKeyDetail?pageNumber=1&pageSize=100"
SIGNED = {"content-type": "application/json", "x-jdcloud-date": DATE, "x-jdcloud-nonce": NONCE}
TOKEN = {"x-jdcloud-security-token": "ZXhhbXBsZS1zZXNzaW9uLXRva2Vu"}

#: name: method, target, host, signed headers but host, body, {version: (canonical hash, signature)}
VECTORS = {
    "encrypt": (
        "POST",
        "/v1/key/srh6mt4lj49tnzvs:Encrypt",
        "kms.internal.cn-north-1.jdcloud-api.com",
        SIGNED,
        ENCRYPT_BODY,
        "55f2c9296899ffaae2268fd319a766c1ddfda53ba8f8e6c2e11c8c8c79545759",
        {
            2: "3138d1b3116d59792975c8d37f1bfa45b1f81b3d889a3281481c138d1b586482",
            3: "23b43ff35271213acc9e981951d8afe614499f43d00cd116a1b5294332eca689",
        },
    ),
    "describe with a token": (
        "GET",
        DETAIL,
        "kms.cn-north-1.jdcloud-api.com",
        {**SIGNED, **TOKEN},
        b"",
        "2daed55f013e18c44fe72a30103c1d795ec11b5061a79077bfbb440d6eba2d16",
        {
            2: "2f21d9b36f6b129e3dbfec628b8f9ff741c1d309d0095772f22d8e4a67c1416e",
            3: "7ae19a9cde4d2cc94453830121d12fef6b3925b6fc18c569f55f0bf1b2a2e733",
        },
    ),
    "decrypt with a port": (
        "POST",
        "/v1/key/srh6mt4lj49tnzvs:Decrypt",
        "127.0.0.1:18080",
        SIGNED,
        DECRYPT_BODY,
        "c1fa024596827226eb3d352ece240f211275a72eb8f524a205af5ded904f5692",
        {
            2: "7917a6c41b13a6b2ddcb1375ea7895f6ff1b3761ec4a324d1b60010e7de0efe9",
            3: "0cdbbe753ba31a161619ad07808569a1af51f249a32821dcc27f571caa1e051e",
        },
    ),
    "rotate": (
        "PATCH",
        "/v1/key/srh6mt4lj49tnzvs:rotate",
        "kms.jdcloud-api.com",
        SIGNED,
        b'{"keyId": "srh6mt4lj49tnzvs"}',
        "8030f2fe52233d8894b6d30104b3e6b3065a9368465dd0223a4b3e1508166ad5",
        {
            2: "2d554b4f5df1e00b03926b1d7b297ff67c0b1faf026ccb53ab6b151ad7e5a63d",
            3: "5279d8f0702f0b1be137230148b7f8308c72abc61a3e7b7e6dbddaf2ed198ec3",
        },
    ),
    "encrypt, algorithm signed": (
        "POST",
        "/v1/key/srh6mt4lj49tnzvs:Encrypt",
        "kms.internal.cn-north-1.jdcloud-api.com",
        {**SIGNED, "x-jdcloud-algorithm": "JDCLOUD3-HMAC-SHA256"},
        ENCRYPT_BODY,
        "fe02f45990ceffe78f69cc1f00cb4d958c11768a108339e0c1159c09d612e3f3",
        {3: "8b067c859299460ddafa561ec5fcfc05269cc879f4961b1b493405b863f8b404"},
    ),
    "encrypt as the Python client signs": (
        "POST",
        "/v1/key/srh6mt4lj49tnzvs:Encrypt",
        "kms.internal.cn-north-1.jdcloud-api.com",
        {"content-type": "application/json"},
        ENCRYPT_BODY,
        "d73a3191c2a7b3de830022bfd2e09936be98cd1b1319427f23eb010d8bbeaf6a",
        {3: "d5135d673af80562ba33500a226bdef7375e6779ce101773980cfab4d32ccd7a"},
    ),
}
ROWS = [(name, version) for name, row in VECTORS.items() for version in row[-1]]


@pytest.fixture(scope="module")
def vendor_signers():
    packages = {2: "jdcloud-sdk-core", 3: "jdcloud-sdk"}
    return {version: VendorSigner(VENDOR / package, package) for version, package in packages.items()}


@pytest.mark.parametrize("wire", [":", "%3A"])
@pytest.mark.parametrize(("name", "version"), ROWS)
def test_the_vendors_signers_give_the_vectors(vendor_signers, name, version, wire):
    method, target, host, headers, body, _, signatures = VECTORS[name]
    authorization = vendor_signers[version].authorization(
        method,
        target.replace(":", wire),
        host,
        headers,
        body.decode(),
        _Credential(ACCESS_KEY, SECRET_KEY),
        "jdcloud-api",
        "kms",
        DATE,
        NONCE,
    )
    assert authorization == (
        f"JDCLOUD{version}-HMAC-SHA256 Credential={ACCESS_KEY}/20260115/jdcloud-api/kms/jdcloud{version}_request, "
        f"SignedHeaders={';'.join(sorted({*headers, 'host'}))}, Signature={signatures[version]}"
    )


@pytest.mark.parametrize(("name", "version"), ROWS)
def test_the_clients_own_signer_gives_the_vectors(name, version):
    method, target, host, headers, body, canonical, signatures = VECTORS[name]
    path, _, query = target.partition("?")
    all_headers = {**headers, "host": host}
    made = Signature(
        version, method, path, query, all_headers, body, ACCESS_KEY, SECRET_KEY, DATE, "jdcloud-api", "kms"
    )
    assert (made.canonical_hash, made.signature) == (canonical, signatures[version])


def test_the_clients_own_signer_gives_the_published_vectors():
    document = Signature(
        2,
        "POST",
        "/v1/resource:action",
        "p1=p1&p0=p0&o=%&u=u",
        {
            "x-jdcloud-date": "20190214T104514Z",
            "x-jdcloud-nonce": "testnonce",
            "x-my-header": "test",
            "x-my-header_blank": " blank",
        },
        b"body data",
        "TESTAK",
        "TESTSK",
        "20190214T104514Z",
        "cn-north-1",
        "test",
    )
    assert document.canonical_hash == "fb2e317056269590681d091f8eb22272967c0b922b2deda887312215ea4eed4c"
    assert document.key.hex() == "a4e50bcb6001be0008696b173c30172b5ce22a77db00d21c6a9d69de2ba33b7d"
    assert document.signature == "2a98f83c074e7bee260bfc8ef64f009c07595bd93f7f0c3f4e156bf6479ed9bf"
    rust = Signature(
        2,
        "GET",
        "/v1/regions/cn-north-1/instances",
        "pageNumber=2&pageSize=10",
        {
            "content-type": "application/json",
            "x-jdcloud-date": "20180405T010203Z",
            "x-jdcloud-nonce": "55f3919e-3a7d-4174-b117-f150ff25e274",
        },
        b"",
        "ak",
        "sk",
        "20180405T010203Z",
        "cn-north-1",
        "service_name",
    )
    assert rust.signature == "cea138630c57ba3de51933926e3b1657c34b4d1b6f86d360511bf40a09f63729"


# The vendor's own clients


def vendor_calls(fake, package, calls, access_key="TESTAKVENDOR", secret_key="TESTSKtestakvendor"):
    done = subprocess.run(
        [
            sys.executable,
            jdcloud_client.PROGRAM.with_name("vendor_client.py"),
            f"127.0.0.1:{fake.http_port}",
            access_key,
            secret_key,
        ],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(VENDOR / package), "PYTHONDONTWRITEBYTECODE": "1", "NO_PROXY": "*"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("package", "algorithm"),
    [("jdcloud-sdk-core", "JDCLOUD2-HMAC-SHA256"), ("jdcloud-sdk", "JDCLOUD3-HMAC-SHA256")],
)
def test_the_vendors_core_clients_work_against_the_fake(fake, package, algorithm):
    plaintext = base64.b64encode(DEK).decode()
    ((sealed, error, _),) = vendor_calls(
        fake, package, [["POST", "/key/{keyId}:Encrypt", {"keyId": KEY, "plaintext": plaintext}, "kms", None]]
    )
    assert error is None
    opened, described, detail, refusal = vendor_calls(
        fake,
        package,
        [
            ["POST", "/key/{keyId}:Decrypt", {"keyId": KEY, **sealed}, "kms", None],
            ["GET", "/key/{keyId}", {"keyId": KEY}, "kms", None],
            ["GET", "/key/{keyId}:describeKeyDetail", {"keyId": KEY, "pageNumber": 1, "pageSize": 100}, "kms", None],
            ["GET", "/key/{keyId}", {"keyId": "absent"}, "kms", None],
        ],
    )
    assert opened[0] == {"plaintext": plaintext}
    assert described[0]["keyInfo"]["keyStatus"] == 0
    assert [one["keyVersion"] for one in detail[0]["keyDetail"]["keyVersionList"]] == fake.versions(KEY)
    assert refusal[1] == 404
    assert {one["algorithm"] for one in fake.log()} == {algorithm}


def test_the_vendors_generated_clients_work_against_the_fake(own_fake):
    fake = own_fake
    plaintext = base64.b64encode(DEK).decode()
    first = fake.versions(KEY)[0]
    calls = [
        ["generated", "EncryptRequest", {"keyId": KEY, "plaintext": plaintext}, "kms", None],
        ["generated", "GenerateDataKeyRequest", {"keyId": KEY}, "kms", None],
        ["generated", "KeyRotationRequest", {"keyId": KEY}, "kms", None],
        ["generated", "DisableKeyVersionRequest", {"keyId": KEY, "version": first}, "kms", None],
        ["generated", "DescribeKeyRequest", {"keyId": KEY}, "kms", None],
        ["generated", "DescribeKeyDetailRequest", {"keyId": KEY, "pageSize": 10}, "kms", None],
        ["generated", "DescribeKeyListRequest", {}, "kms", None],
        ["generated", "ScheduleKeyDeletionRequest", {"keyId": OTHER_KEY, "delayDays": 8}, "kms", None],
        [
            "generated",
            "AssumeRoleRequest",
            {"assumeRoleInfo": {"roleJrn": ROLE, "roleSessionName": "node"}},
            "sts",
            None,
        ],
    ]
    answers = vendor_calls(fake, "jdcloud-sdk", calls)
    assert [error for _, error, _ in answers] == [None] * len(calls), answers
    detail = answers[5][0]["keyDetail"]
    assert detail["keyVersionCount"] == 2
    assert {one["keyVersion"]: one["keyStatus"] for one in detail["keyVersionList"]} == {
        first: 1,
        fake.versions(KEY)[1]: 0,
    }
    assert answers[6][0]["totalCount"] == 2
    # The blob is under the version that is disabled now; with its session the vendor's client is told so.
    session = answers[8][0]["credentials"]
    decrypt = ["generated", "DecryptRequest", {"keyId": KEY, **answers[0][0]}, "kms"]
    token = {"x-jdcloud-security-token": session["sessionToken"]}
    ((_, code, text),) = vendor_calls(
        fake, "jdcloud-sdk", [[*decrypt, token]], session["accessKey"], session["secretKey"]
    )
    assert (code, "disabled" in text) == (400, True)
    fake.version(KEY, first, "enable")
    ((opened, _, _),) = vendor_calls(
        fake, "jdcloud-sdk", [[*decrypt, token]], session["accessKey"], session["secretKey"]
    )
    assert opened == {"plaintext": plaintext}


def test_other_versions_of_the_vendors_packages_are_not_accepted(tmp_path):
    done = subprocess.run(
        [sys.executable, jdcloud_client.PROGRAM, "--vendor", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "wanted 1.3.3" in done.stderr


def test_a_fake_that_does_not_start_says_why_and_leaves_nothing(tmp_path):
    fake = JDCloudFake("--vendor", tmp_path)
    with pytest.raises(RuntimeError, match="wanted 1.3.3"), fake:
        pass
    assert not fake.directory.exists()


# What is refused


def of_other_generation(authorization):
    """With the scope's terminator of V3 in V2, and the other way round."""
    return re.sub("jdcloud([23])_request", lambda found: f"jdcloud{5 - int(found[1])}_request", authorization)


REFUSALS = {
    # reason: (code, how the request is signed, changes to the header fields afterwards)
    "no_authorization": (401, {}, {"authorization": None}),
    "malformed_authorization": (401, {}, {"authorization": lambda value: value.replace(", ", ",")}),
    "unknown_algorithm": (401, {}, {"authorization": lambda value: re.sub("^JDCLOUD.", "JDCLOUD9", value)}),
    "malformed_scope": (401, {}, {"authorization": of_other_generation}),
    "wrong_service": (401, {"service": "vm"}, {}),
    "scope_date": (401, {}, {"x-jdcloud-date": lambda _: "20200101T000000Z"}),
    "unknown_access_key": (401, {}, {"authorization": lambda value: value.replace(ACCESS_KEY, "TESTAKNOBODY")}),
    "lacks_date": (401, {}, {"x-jdcloud-date": None}),
    "lacks_nonce": (401, {}, {"x-jdcloud-nonce": None}),
    "malformed_date": (401, {}, {"x-jdcloud-date": lambda value: value + "0"}),
    "malformed_nonce": (401, {"nonce": "ED558A3B-9808-4EDB-8597-187BDA63A4F2"}, {}),
    "unsigned_body": (401, {"extra": {"x-jdcloud-content-sha256": "0" * 64}}, {}),
    "unsigned_header: date": (401, {"unsigned": ["x-jdcloud-date"]}, {}),
    "unsigned_header: nonce": (401, {"unsigned": ["x-jdcloud-nonce"]}, {}),
    "unsigned_header: type": (401, {"unsigned": ["content-type"]}, {}),
    "unsigned_header: host": (401, {"unsigned": ["host"]}, {}),
    "unsigned_header: token": (
        401,
        {"extra": {"x-jdcloud-security-token": "dG9rZW4="}, "unsigned": ["x-jdcloud-security-token"]},
        {},
    ),
    "never_signed_header": (401, {"extra": {"user-agent": "test"}}, {}),
    "absent_signed_header": (401, {"extra": {"x-extra": "1"}}, {"x-extra": None}),
    "unsorted_signed_headers": (
        401,
        {},
        {"authorization": lambda value: value.replace("content-type;host", "host;content-type")},
    ),
    "wrong_algorithm_header": (401, {"extra": {"x-jdcloud-algorithm": "JDCLOUD9-HMAC-SHA256"}}, {}),
    "wrong_signature: changed": (401, {}, {"authorization": lambda value: value[:-64] + "0" * 64}),
    "wrong_signature: another host": (401, {}, {"host": lambda _: "kms.jdcloud-api.com"}),
    "malformed_host": (401, {"extra": {"host": "[::1"}}, {}),
    "needless_session_token": (401, {"extra": {"x-jdcloud-security-token": "dG9rZW4="}}, {}),
    "invalid_argument: content type": (400, {"extra": {"content-type": "application/json; charset=utf-8"}}, {}),
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("case", REFUSALS)
def test_each_defect_of_a_signature_is_refused(fake, case, version):
    code, signing, changes = REFUSALS[case]
    caller = fake.caller(version=version)
    target, body = f"/v1/key/{KEY}:Encrypt", ENCRYPT_BODY
    headers = caller.signed("POST", target, body, **signing)
    for name, change in changes.items():
        if change is None:
            del headers[name]
        else:
            headers[name] = change(headers[name])
    refused(fake, caller.send("POST", target, body, headers), code, case.partition(":")[0], "encrypt")


def test_a_changed_body_is_refused(fake, caller):
    target = f"/v1/key/{KEY}:Encrypt"
    headers = caller.signed("POST", target, ENCRYPT_BODY)
    refused(fake, caller.send("POST", target, ENCRYPT_BODY.replace(b" ", b""), headers), 401, "wrong_signature")


def test_a_changed_query_is_refused(fake, caller):
    headers = caller.signed("GET", DETAIL)
    refused(fake, caller.send("GET", DETAIL.replace("100", "10"), b"", headers), 401, "wrong_signature")


def test_a_wrong_secret_is_refused(fake, caller):
    caller.secret_key += "x"
    refused(fake, caller.encrypt(DEK), 401, "wrong_signature")


def test_a_nonce_serves_once(fake, caller):
    target = f"/v1/key/{KEY}:Encrypt"
    headers = caller.signed("POST", target, ENCRYPT_BODY)
    assert caller.send("POST", target, ENCRYPT_BODY, headers).status == 200
    refused(fake, caller.send("POST", target, ENCRYPT_BODY, headers), 401, "reused_nonce")


def test_a_request_with_a_wrong_signature_uses_up_no_nonce(fake, caller):
    target = f"/v1/key/{KEY}:Encrypt"
    headers = caller.signed("POST", target, ENCRYPT_BODY)
    forged = {**headers, "authorization": headers["authorization"][:-64] + "0" * 64}
    assert caller.send("POST", target, ENCRYPT_BODY, forged).status == 401
    assert caller.send("POST", target, ENCRYPT_BODY, headers).status == 200


def stamp(minutes):
    moment = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
    return moment.strftime("%Y%m%dT%H%M%SZ")


@pytest.mark.parametrize(("minutes", "status"), [(-20, 401), (-10, 200), (10, 200), (20, 401)])
def test_a_date_may_be_fifteen_minutes_off(fake, caller, minutes, status):
    reply = caller.encrypt(DEK, date=stamp(minutes))
    assert reply.status == status
    if status == 401:
        refused(fake, reply, 401, "skewed_date")
        assert "date is expired" in reply.error["message"]


def test_the_allowed_skew_is_a_setting(fake, caller):
    fake.settings(skew_seconds=60)
    refused(fake, caller.encrypt(DEK, date=stamp(-5)), 401, "skewed_date")


def test_a_clock_that_is_off_shows_in_the_date_field(fake, caller):
    fake.settings(clock_offset_seconds=3600)
    reply = caller.encrypt(DEK)
    refused(fake, reply, 401, "skewed_date")
    theirs = datetime.datetime.strptime(reply.headers["date"], "%a, %d %b %Y %H:%M:%S GMT")
    ahead = theirs - datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    assert datetime.timedelta(minutes=55) < ahead < datetime.timedelta(minutes=65)
    assert caller.encrypt(DEK, date=stamp(60)).status == 200


def test_only_an_account_of_the_vendors_client_may_sign_as_that_does(fake):
    loose = {"unsigned": ["x-jdcloud-date", "x-jdcloud-nonce"]}
    assert fake.caller("TESTAKVENDOR", version=3).encrypt(DEK, **loose).status == 200
    refused(fake, fake.caller(version=3).encrypt(DEK, **loose), 401, "unsigned_header")
    wrong_hash = {"extra": {"x-jdcloud-content-sha256": "0" * 64}}
    refused(fake, fake.caller("TESTAKVENDOR").encrypt(DEK, **wrong_hash), 401, "wrong_body_hash")


def b64(data):
    return base64.b64encode(data).decode()


BODIES = {
    "no object": [1],
    "no keyId": {"plaintext": b64(DEK)},
    "another keyId": {"keyId": OTHER_KEY, "plaintext": b64(DEK)},
    "no plaintext": {"keyId": KEY},
    "a member more": {"keyId": KEY, "plaintext": b64(DEK), "encryptionContext": {}},
    "null": {"keyId": KEY, "plaintext": None},
    "a number": {"keyId": KEY, "plaintext": 7},
    "no base64": {"keyId": KEY, "plaintext": "%%%%"},
    "no padding": {"keyId": KEY, "plaintext": b64(DEK).rstrip("=")},
    "base64 of the URL alphabet": {"keyId": KEY, "plaintext": base64.urlsafe_b64encode(b"\xff" * 33).decode()},
    "stray bits in base64": {"keyId": KEY, "plaintext": "AAF="},
    "an empty plaintext": {"keyId": KEY, "plaintext": ""},
    "a plaintext of 4 KiB": {"keyId": KEY, "plaintext": b64(bytes(4096))},
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_not_as_documented_is_refused(fake, caller, case):
    refused(fake, caller.call("POST", f"/v1/key/{KEY}:Encrypt", BODIES[case]), 400, "invalid_argument", "encrypt")


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"keyId":"srh6mt4lj49tnzvs","plaintext":"AAAA","plaintext":"AAAA"}', b"[" * 100_000]
)
def test_a_body_that_is_no_proper_json_is_refused(fake, caller, body):
    target = f"/v1/key/{KEY}:Encrypt"
    reply = caller.send("POST", target, body, caller.signed("POST", target, body))
    refused(fake, reply, 400, "invalid_argument", "encrypt")


@pytest.mark.parametrize("wrong", [{}, {"version": "other"}, {"version": 1}])
def test_a_body_repeats_the_version_of_the_path(fake, caller, wrong):
    path = f"/v1/key/{KEY}/version/{fake.versions(KEY)[0]}:disable"
    refused(fake, caller.call("PATCH", path, {"keyId": KEY, **wrong}), 400, "invalid_argument", "disableKeyVersion")


def test_a_body_with_get_is_refused(fake, caller):
    refused(fake, caller.call("GET", f"/v1/key/{KEY}", {"keyId": KEY}), 400, "invalid_argument", "describeKey")


@pytest.mark.parametrize(
    "query",
    ["pageSize=9", "pageSize=101", "pageNumber=0", "pageSize=x", "page=1", "pageSize=10&pageSize=10", "pageSize"],
)
def test_a_query_that_is_not_as_documented_is_refused(fake, caller, query):
    refused(fake, caller.describe(query=query), 400, "invalid_argument", "describeKeyDetail")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/v1/key/{KEY}:encrypt"),
        ("POST", f"/v1/key/{KEY}:decrypt"),
        ("GET", f"/v1/key/{KEY}:Encrypt"),
        ("GET", f"/v1/key/{KEY}:DescribeKeyDetail"),
        ("POST", f"/v2/key/{KEY}:Encrypt"),
        ("POST", f"/v1/key/{KEY}:Encrypt/"),
        ("POST", f"//v1/key/{KEY}:Encrypt"),
    ],
)
def test_a_wrong_path_or_case_is_not_found(fake, caller, method, path):
    document = {"keyId": KEY, "plaintext": b64(DEK)} if method == "POST" else None
    refused(fake, caller.call(method, path, document), 404, "no_route", "unknown")


def test_a_colon_may_be_encoded(caller):
    document = {"keyId": KEY, "plaintext": b64(DEK)}
    assert caller.call("POST", f"/v1/key/{KEY}%3AEncrypt", document).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        b"GET http://kms.example/v1/key HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/key HTTP/1.1\r\n\r\n",
        b"GET /v1/key HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET /v1/key HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /v1/key HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"POST /v1/key:create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/key:create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/key:create HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
        b"GET /v1/" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/key HTTP/1.1\r\nX: " + b"x" * 70_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_malformed_http_is_refused_and_the_connection_ended(fake, raw):
    answer = exchange(fake, raw)
    assert answer.split(b" ")[1] in (b"400", b"413", b"414")
    assert fake.calls(None, "refused:malformed_http") == 1


def exchange(fake, raw, port=None):
    """Sends bytes and reads to the end of the connection; a reset raises ConnectionResetError."""
    with socket.create_connection(("127.0.0.1", port or fake.http_port), timeout=30) as peer:
        peer.sendall(raw)
        pieces = []
        while piece := peer.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)


# Keys


@pytest.mark.parametrize("version", [2, 3])
def test_what_was_encrypted_decrypts(fake, version):
    caller = fake.caller(version=version)
    for size in (1, 16, 32, 4095):
        plaintext = os.urandom(size)
        assert caller.opened(caller.sealed(plaintext)) == plaintext


def test_blobs_name_neither_key_nor_version_and_never_repeat(caller):
    blobs = {caller.sealed(DEK) for _ in range(8)} | {caller.sealed(DEK, OTHER_KEY) for _ in range(8)}
    assert len(blobs) == 16
    assert {len(blob) for blob in blobs} == {64}
    # No octet is the same in all blobs of one key.
    assert not any(len({blob[index] for blob in blobs}) == 1 for index in range(64))


def test_a_foreign_or_damaged_blob_is_refused(fake, caller):
    blob = caller.sealed(DEK)
    bad = [blob[:index] + bytes([blob[index] ^ 1]) + blob[index + 1 :] for index in range(len(blob))]
    for one in [*bad, blob[:-1], blob + b"\0", b"x"]:
        assert caller.decrypt(one).status == 400
    assert caller.decrypt(blob, OTHER_KEY).status == 400
    assert fake.calls("decrypt", "refused:foreign_blob") == len(bad) + 4


def test_a_data_key_comes_with_its_blob(caller):
    result = caller.call("GET", f"/v1/key/{KEY}:GenerateDataKey").result
    assert caller.opened(base64.b64decode(result["ciphertextBlob"])) == base64.b64decode(result["plaintext"])


def test_rotation_keeps_old_blobs_and_shows_in_the_detail(own_fake):
    caller = own_fake.caller()
    old = caller.sealed(DEK)
    assert caller.call("PATCH", f"/v1/key/{KEY}:rotate", {"keyId": KEY}).result == {}
    new = caller.sealed(DEK)
    assert caller.opened(old) == caller.opened(new) == DEK
    first, second = own_fake.versions(KEY)
    rows = {one["keyVersion"]: one for one in caller.describe().result["keyDetail"]["keyVersionList"]}
    assert max(rows, key=lambda name: rows[name]["createTime"]) == second
    assert (
        caller.call("PATCH", f"/v1/key/{KEY}/version/{first}:disable", {"keyId": KEY, "version": first}).status == 200
    )
    refused(own_fake, caller.decrypt(old), 400, "key_disabled")
    assert caller.opened(new) == DEK
    own_fake.version(KEY, first, "destroy")
    refused(own_fake, caller.decrypt(old), 400, "foreign_blob")
    assert list(own_fake.versions(KEY)) == [second]


def test_versions_of_one_second_still_differ_in_their_time(own_fake):
    for _ in range(24):
        own_fake.key(KEY, "rotate")
    pages = [own_fake.caller().describe(query=f"pageNumber={page}&pageSize=10").result for page in (1, 2, 3, 4)]
    lists = [page["keyDetail"]["keyVersionList"] for page in pages]
    assert [len(one) for one in lists] == [10, 10, 5, 0]
    assert {page["keyDetail"]["keyVersionCount"] for page in pages} == {25}
    rows = [row for one in lists for row in one]
    assert {row["keyVersion"] for row in rows} == set(own_fake.versions(KEY))
    assert len({row["createTime"] for row in rows}) == 25
    assert len(own_fake.caller().describe().result["keyDetail"]["keyVersionList"]) == 10
    for order, reverse in (("oldest", False), ("newest", True)):
        own_fake.settings(version_order=order)
        shown = own_fake.caller().describe(query="pageSize=100").result["keyDetail"]["keyVersionList"]
        assert [row["createTime"] for row in shown] == sorted((r["createTime"] for r in shown), reverse=reverse)


def test_a_disabled_or_scheduled_key_neither_encrypts_nor_decrypts(own_fake):
    caller = own_fake.caller()
    blob = caller.sealed(DEK)
    path = f"/v1/key/{KEY}"
    for method, verb, status, reason, document in (
        ("PATCH", "disable", 1, "key_disabled", {"keyId": KEY}),
        ("PATCH", "enable", 0, None, {"keyId": KEY}),
        ("DELETE", "delete?delayDays=8", 2, "key_scheduled_for_deletion", None),
        ("PATCH", "cancelDelete", 1, "key_disabled", {"keyId": KEY}),
    ):
        own_fake.reset()
        assert caller.call(method, f"{path}:{verb}", document).status == 200
        info = caller.describe(detail=False).result["keyInfo"]
        assert info["keyStatus"] == status
        assert bool(info["deleteTime"]) == (status == 2)
        replies = caller.encrypt(DEK), caller.decrypt(blob), caller.call("GET", f"{path}:GenerateDataKey")
        assert [one.status for one in replies] == [200 if reason is None else 400] * 3
        assert own_fake.calls(None, f"refused:{reason}") == (0 if reason is None else 3)
    own_fake.settings(key_state_error={"code": 403, "status": "KEY_DISABLED"})
    assert (caller.encrypt(DEK).status, caller.encrypt(DEK).error["status"]) == (403, "KEY_DISABLED")


def test_a_scheduled_key_is_gone_when_its_day_comes(own_fake):
    caller = own_fake.caller()
    assert caller.call("DELETE", f"/v1/key/{KEY}:delete").status == 200
    assert caller.call("PATCH", f"/v1/key/{KEY}:enable", {"keyId": KEY}).status == 400
    own_fake.settings(clock_offset_seconds=8 * 86400)
    later = stamp(8 * 24 * 60)
    assert caller.describe(detail=False, date=later).status == 404
    assert caller.call("GET", "/v1/key", date=later).result["totalCount"] == 1


def test_create_update_and_list(own_fake):
    caller = own_fake.caller()
    names = {"keyName": "cluster-c", "keyDesc": "", "keyType": 0}
    made = caller.call("POST", "/v1/key:create", {"keyCfg": {"keyDescCfg": names}}).result["keyId"]
    assert caller.opened(caller.sealed(DEK, made), made) == DEK
    change = {"keyDescCfg": {**names, "keyName": "d"}, "keyRotateCfg": {"autoRotate": True, "rotationCycle": 90}}
    assert caller.call("PATCH", f"/v1/key/{made}", {"keyId": made, "keyCfg": change}).status == 200
    info = caller.describe(made, detail=False).result["keyInfo"]
    assert (info["keyName"], info["rotationCycle"]) == ("d", 90)
    assert caller.call("GET", "/v1/key?pageSize=10").result["totalCount"] == 3
    rsa = {"keyDescCfg": {**names, "keyType": 1}}
    refused(own_fake, caller.call("POST", "/v1/key:create", {"keyCfg": rsa}), 400, "invalid_argument")


@pytest.mark.parametrize(
    ("access_key", "allowed"),
    [
        ("TESTAKENCRYPTONLY", {"encrypt", "describe"}),
        ("TESTAKDECRYPTONLY", {"decrypt", "describe"}),
        ("TESTAKNODESCRIBE", {"encrypt", "decrypt"}),
        ("TESTAKNOTHING", set()),
    ],
)
def test_permissions_are_those_of_the_access_key(fake, access_key, allowed):
    blob = fake.caller().sealed(DEK)
    caller = fake.caller(access_key)
    replies = {
        "encrypt": caller.encrypt(DEK),
        "decrypt": caller.decrypt(blob),
        "describe": caller.describe(),
        "manage": caller.call("PATCH", f"/v1/key/{KEY}:rotate", {"keyId": KEY}),
    }
    assert {name: one.status for name, one in replies.items()} == {
        name: 200 if name in allowed else 403 for name in replies
    }
    assert replies["manage"].error["status"] == "HTTP_FORBIDDEN"


def test_permissions_may_differ_by_key(own_fake):
    rights = {KEY: ["encrypt"], OTHER_KEY: ["decrypt"]}
    own_fake.control("POST", "/accounts", {"access_key": "AK2", "secret_key": "SK2", "permissions": rights})
    caller = jdcloud_client.Caller(own_fake.http_url, "AK2", "SK2")
    assert [caller.encrypt(DEK, KEY).status, caller.encrypt(DEK, OTHER_KEY).status] == [200, 403]
    own_fake.account("AK2", "revoke")
    refused(own_fake, caller.encrypt(DEK), 401, "revoked_access_key")
    own_fake.account("AK2", "restore")
    assert caller.encrypt(DEK).status == 200


def test_an_absent_key_is_not_found(fake, caller):
    refused(fake, caller.encrypt(DEK, "absent"), 404, "no_such_key")


def test_keys_and_accounts_outlive_a_crash(own_fake):
    caller = own_fake.caller()
    old = caller.sealed(DEK)
    own_fake.key(KEY, "rotate")
    new = caller.sealed(DEK)
    versions, authority = own_fake.versions(KEY), pathlib.Path(own_fake.ca).read_bytes()
    own_fake.stop(signal.SIGKILL)
    own_fake.start()
    assert caller.opened(old) == caller.opened(new) == DEK
    assert own_fake.versions(KEY) == versions
    assert pathlib.Path(own_fake.ca).read_bytes() == authority


# Temporary credentials


def assume(caller, **info):
    info = {"roleJrn": ROLE, "roleSessionName": "node-1", **info}
    return caller.call("POST", "/v1/sessionToken:assumeRole", {"assumeRoleInfo": info}, service="sts")


def session(fake, credentials, version=2):
    names = credentials["accessKey"], credentials["secretKey"]
    return jdcloud_client.Caller(fake.http_url, *names, version=version, token=credentials["sessionToken"])


@pytest.mark.parametrize("version", [2, 3])
def test_a_role_gives_a_session_that_works_until_it_expires(fake, version):
    credentials = assume(fake.caller(version=version), durationSeconds=3600).result["credentials"]
    assert set(credentials) == {"accessKey", "secretKey", "sessionToken", "expiration"}
    datetime.datetime.strptime(credentials["expiration"], "%Y-%m-%d %H:%M:%S")
    caller = session(fake, credentials, version)
    assert caller.opened(caller.sealed(DEK)) == DEK
    fake.account(credentials["accessKey"], "expire")
    reply = caller.encrypt(DEK)
    refused(fake, reply, 401, "expired_session_token")
    assert "expired" in reply.error["message"]


def test_a_session_lasts_as_long_as_it_says(fake, caller):
    credentials = assume(caller, durationSeconds=7200).result["credentials"]
    fake.settings(clock_offset_seconds=7100)
    assert session(fake, credentials).encrypt(DEK, date=stamp(7100 / 60)).status == 200
    fake.settings(clock_offset_seconds=7300)
    refused(fake, session(fake, credentials).encrypt(DEK, date=stamp(7300 / 60)), 401, "expired_session_token")


def test_the_session_token_must_be_sent_encoded_and_right(fake, caller):
    credentials = assume(caller).result["credentials"]
    for reason, token in (("no_session_token", None), ("wrong_session_token", "other")):
        refused(fake, session(fake, {**credentials, "sessionToken": token}).encrypt(DEK), 401, reason)
    raw = {"extra": {"x-jdcloud-security-token": credentials["sessionToken"]}}
    refused(fake, session(fake, credentials).encrypt(DEK, **raw), 401, "malformed_session_token")
    fake.settings(raw_tokens=True)
    assert session(fake, credentials).encrypt(DEK, **raw).status == 200
    refused(
        fake, session(fake, credentials).encrypt(DEK, unsigned=["x-jdcloud-security-token"]), 401, "unsigned_header"
    )


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"durationSeconds": 3599}, 400),
        ({"durationSeconds": 43201}, 400),
        ({"durationSeconds": "3600"}, 400),
        ({"roleSessionName": "a b"}, 400),
        ({"policy": "x" * 2049}, 400),
        ({"externalId": "x"}, 400),
        ({"roleJrn": "jrn:iam::1:role/absent"}, 404),
    ],
)
def test_a_malformed_assume_role_is_refused(caller, info, code):
    assert assume(caller, **info).status == code


def test_a_role_trusts_some_access_keys_alone(fake):
    refused(fake, assume(fake.caller("TESTAKENCRYPTONLY")), 403, "no_permission", "assumeRole")


def test_sts_is_signed_for_sts(fake, caller):
    info = {"assumeRoleInfo": {"roleJrn": ROLE, "roleSessionName": "node-1"}}
    refused(fake, caller.call("POST", "/v1/sessionToken:assumeRole", info), 401, "wrong_service")


def fetch(fake, path, headers=None):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(fake.metadata_url + path, headers=headers or {}), timeout=30) as reply:
        return reply.read()


@pytest.mark.parametrize("root", ["/metadata/latest", "/jcs-metadata/latest"])
def test_the_instance_role_gives_credentials_that_work(fake, root):
    path = root + "/iam/instance-role-security-credentials"
    document = json.loads(fetch(fake, path))
    assert document["Code"] == "success"
    assert session(fake, document).encrypt(DEK).status == 200
    assert json.loads(fetch(fake, path))["accessKey"] == document["accessKey"]
    fake.account(document["accessKey"], "expire")
    assert json.loads(fetch(fake, path))["accessKey"] != document["accessKey"]
    assert fetch(fake, root + "/placement/region") == b"cn-north-1"
    for field in ("expireTime", "remainingSeconds"):
        fake.settings(metadata_expiry=field)
        assert field in json.loads(fetch(fake, path))
    fake.settings(metadata_role=None)
    assert json.loads(fetch(fake, path)) == {
        "Code": "fail",
        "accessKey": "",
        "secretKey": "",
        "sessionToken": "",
        "remainingSeconds": "",
    }


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/metadata/latest/iam", {}, 404),
        ("/metadata/latest/placement/region", {"X-Forwarded-For": "10.0.0.1"}, 403),
        ("/metadata/latest/placement/region", {"Authorization": "JDCLOUD2-HMAC-SHA256 x"}, 400),
    ],
)
def test_the_metadata_service_refuses_proxies_and_credentials(fake, path, headers, code):
    with pytest.raises(urllib.error.HTTPError) as raised:
        fetch(fake, path, headers)
    raised.value.close()
    assert raised.value.code == code


# TLS


def trusting(fake):
    return ssl.create_default_context(cafile=fake.ca)


@pytest.fixture
def tls_caller(fake):
    return jdcloud_client.Caller(fake.https_url, ACCESS_KEY, SECRET_KEY, context=trusting(fake))


def test_https_under_its_own_authority(tls_caller):
    assert tls_caller.opened(tls_caller.sealed(DEK)) == DEK


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", "certificate has expired"),
        ("not-yet-valid", "not yet valid"),
        ("wrong-name", "not valid for '127.0.0.1'"),
        ("unknown-authority", "self-signed|unable to get local issuer"),
    ],
)
def test_a_bad_certificate_is_served_on_demand(fake, tls_caller, kind, words):
    fake.certificate(kind)
    with pytest.raises(ssl.SSLCertVerificationError, match=words.replace("'", ".")):
        tls_caller.encrypt(DEK)
    eventually(lambda: fake.counters()["listeners"]["https"]["tls_failures"] == 1, "the handshake is counted")
    fake.certificate("good")
    assert tls_caller.encrypt(DEK).status == 200


def test_a_plain_http_client_fails_on_the_https_port(fake):
    with contextlib.suppress(ConnectionResetError):
        assert not exchange(fake, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", fake.https_port).startswith(b"HTTP")
    eventually(lambda: fake.counters()["listeners"]["https"]["tls_failures"] == 1, "the handshake is counted")


# Rates, listeners, connections


def test_the_rate_limit_is_per_access_key(fake, caller):
    fake.settings(rate_limit_per_minute=3, retry_after=True)
    statuses = [caller.encrypt(DEK).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    reply = caller.encrypt(DEK)
    assert reply.error["status"] == "HTTP_RATE_LIMIT_EXCEEDED"
    assert 1 <= int(reply.headers["retry-after"]) <= 61
    assert fake.caller("TESTAKNODESCRIBE").encrypt(DEK).status == 200
    fake.settings(rate_window_seconds=0, retry_after=False)
    assert caller.encrypt(DEK).status == 200


@pytest.mark.parametrize("name", ["http", "https"])
def test_a_closed_listener_refuses_and_comes_back_on_its_port(fake, caller, tls_caller, name):
    client = caller if name == "http" else tls_caller
    with contextlib.closing(client.connect()) as connection:
        assert client.encrypt(DEK, connection=connection).status == 200
        fake.listener(name, "close")
        with pytest.raises((ConnectionError, ssl.SSLError, http.client.HTTPException)):
            client.encrypt(DEK, connection=connection)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            client.encrypt(DEK)
    fake.listener(name, "open")
    assert client.encrypt(DEK).status == 200


def test_a_paused_listener_leaves_callers_waiting(fake, caller):
    fake.listener("http", "pause")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(caller.encrypt, DEK)
        # The control port serves the whole time, so nothing but the pause holds the call.
        assert fake.counters()["listeners"]["http"]["state"] == "paused"
        assert fake.calls("encrypt") == 0
        fake.listener("http", "open")
        assert waiting.result(30).status == 200


def test_idle_connections_are_closed_on_demand(fake, caller):
    with contextlib.closing(caller.connect()) as connection:
        assert caller.encrypt(DEK, connection=connection).status == 200
        assert caller.encrypt(DEK, connection=connection).status == 200
        assert fake.counters()["listeners"]["http"]["accepted"] == 1
        assert fake.control("POST", "/connections/close", {}) == {"closed": 1}
        assert connection.sock.recv(1) == b""


def test_two_hundred_connections_at_once(fake, caller):
    with fake.fault("hang"), contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(200))
        calls = [pool.submit(caller.encrypt, os.urandom(32)) for _ in range(200)]
        eventually(lambda: fake.counters()["in_flight"] == 200, "all are held")
        fake.control("DELETE", "/faults")
        assert [one.result(30).status for one in calls] == [200] * 200
    counters = fake.counters()
    assert counters["peak_in_flight"] == 200
    assert counters["listeners"]["http"]["peak"] >= 200


def test_pipelined_requests_are_answered_in_order(fake, caller):
    raw = b""
    for index in range(5):
        target = f"/v1/key/absent-{index}"
        headers = caller.signed("GET", target)
        raw += f"GET {target} HTTP/1.1\r\n".encode()
        raw += b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items()) + b"\r\n"
    with fake.fault("latency", ms=5), socket.create_connection(("127.0.0.1", fake.http_port), timeout=30) as peer:
        peer.sendall(raw)
        answer = b""
        while answer.count(b"not found") < 5:
            piece = peer.recv(65536)
            assert piece, answer
            answer += piece
    assert [answer.index(b"absent-%d" % index) for index in range(5)] == sorted(
        answer.index(b"absent-%d" % index) for index in range(5)
    )


# Faults


def test_latency_delays_the_true_answer(fake, caller):
    with fake.fault("latency", ms=200, jitter_ms=50):
        begun = time.monotonic()
        assert caller.encrypt(DEK).status == 200
        assert time.monotonic() - begun >= 0.19
    assert fake.log()[-1]["outcome"] == "ok"


def test_a_hung_call_holds_nobody_else_and_goes_on_when_released(fake, caller):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with fake.fault("hang", operation="encrypt"):
            held = pool.submit(caller.encrypt, DEK)
            eventually(lambda: fake.counters()["in_flight"] == 1, "the call is held")
            assert caller.describe().status == 200
            assert not held.done()
        assert held.result(30).status == 200


def test_a_caller_that_leaves_is_counted_as_abandoned(fake, caller):
    with fake.fault("hang"):
        target = f"/v1/key/{KEY}"
        headers = caller.signed("GET", target)
        raw = f"GET {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection(("127.0.0.1", fake.http_port)) as peer:
            peer.sendall(raw.encode() + b"\r\n")
            eventually(lambda: fake.counters()["in_flight"] == 1, "the call is held")
        eventually(lambda: fake.calls("describeKey", "abandoned") == 1, "it is counted")
        assert fake.counters()["in_flight"] == 0


def raw_encrypt(caller):
    target = f"/v1/key/{KEY}:Encrypt"
    headers = {**caller.signed("POST", target, ENCRYPT_BODY), "content-length": str(len(ENCRYPT_BODY))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode() + ENCRYPT_BODY


def read_all(fake, raw):
    """(bytes before the end, whether the end was a reset)."""
    received = b""
    with socket.create_connection(("127.0.0.1", fake.http_port), timeout=30) as peer:
        peer.sendall(raw)
        try:
            while piece := peer.recv(65536):
                received += piece
        except ConnectionResetError:
            return received, True
    return received, False


@pytest.mark.parametrize("at", ["before", "headers", "body"])
def test_a_reset_before_or_amid_the_reply(fake, caller, at):
    with fake.fault("reset", at=at):
        received, was_reset = read_all(fake, raw_encrypt(caller))
    assert was_reset
    head, _, body = received.partition(b"\r\n\r\n")
    # What was on its way may be lost with the reset; more than it was cannot arrive.
    assert not received or (at != "before" and head.startswith(b"HTTP/1.1 200"))
    assert not body or at == "body"
    assert fake.calls("encrypt", "fault:reset") == 1


def test_a_connection_closed_without_an_answer(fake, caller):
    with fake.fault("close"):
        assert read_all(fake, raw_encrypt(caller)) == (b"", False)


@pytest.mark.parametrize("url", ["http_url", "https_url"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_truncated_body(fake, url, chunked):
    fake.settings(chunked=chunked)
    caller = jdcloud_client.Caller(getattr(fake, url), ACCESS_KEY, SECRET_KEY, context=trusting(fake))
    assert caller.encrypt(DEK).status == 200
    with fake.fault("truncate", bytes=40), pytest.raises(http.client.IncompleteRead) as raised:
        caller.encrypt(DEK)
    assert len(raised.value.partial) <= 40


def test_a_slow_drip_arrives_whole(fake, caller):
    with fake.fault("drip", bytes=50, interval_ms=1):
        assert caller.encrypt(DEK).status == 200
    assert fake.calls("encrypt", "fault:drip") == 1


def test_a_burst_of_errors_ends_after_its_number(fake, caller):
    with fake.fault("error", code=503, times=2, skip=1):
        assert [caller.encrypt(DEK).status for _ in range(4)] == [200, 503, 503, 200]
    with fake.fault("error", code=500, times=1, retry_after=7, message="overloaded"):
        reply = caller.encrypt(DEK)
    assert (reply.error["status"], reply.error["message"]) == ("HTTP_INTERNAL_SERVER_ERROR", "overloaded")
    assert reply.headers["retry-after"] == "7"


def test_a_fault_ends_after_its_seconds(fake, caller):
    fake.control("POST", "/faults", {"kind": "error", "seconds": 0})
    assert caller.encrypt(DEK).status == 200
    fake.control("POST", "/faults", {"kind": "error", "seconds": 3600})
    assert caller.encrypt(DEK).status == 500


def test_a_fault_hits_what_its_filters_name(fake, caller):
    other = fake.caller("TESTAKNODESCRIBE")
    for filters, statuses in (
        ({"operation": "decrypt"}, [200, 200, 200]),
        ({"operation": ["encrypt", "decrypt"]}, [500, 500, 500]),
        ({"access_key": "TESTAKNODESCRIBE"}, [200, 200, 500]),
        ({"key_id": OTHER_KEY}, [200, 500, 200]),
        ({"listener": "https"}, [200, 200, 200]),
        ({"probability": 0}, [200, 200, 200]),
    ):
        with fake.fault("error", **filters):
            calls = caller.encrypt(DEK), caller.encrypt(DEK, OTHER_KEY), other.encrypt(DEK)
            assert [one.status for one in calls] == statuses, filters


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("expired_token", 401, "token has expired"),
        ("clock_skew", 401, "date is expired"),
        ("throttle", 429, "rate limit exceeded"),
    ],
)
def test_named_errors(fake, caller, kind, code, words):
    with fake.fault(kind):
        reply = caller.encrypt(DEK)
    assert (reply.status, words in reply.error["message"]) == (code, True)
    assert fake.calls("encrypt", f"fault:{kind}") == 1


def test_a_redirect_is_offered(fake, caller):
    with fake.fault("redirect", location="http://127.0.0.1:1/"):
        reply = caller.encrypt(DEK)
    assert (reply.status, reply.headers["location"]) == (307, "http://127.0.0.1:1/")


def test_no_fault_hides_a_wrong_signature(fake, caller):
    caller.secret_key += "x"
    with fake.fault("error", code=503), fake.fault("latency", ms=1):
        refused(fake, caller.encrypt(DEK), 401, "wrong_signature")


def is_json(body):
    with contextlib.suppress(ValueError):
        json.loads(body)
        return True
    return False


CONTENT = {
    "html": lambda reply: reply.headers["content-type"] == "text/html" and b"<html>" in reply.body,
    "empty": lambda reply: reply.body == b"",
    "no_content": lambda reply: reply.status == 204 and reply.body == b"",
    "not_json": lambda reply: not is_json(reply.body),
    "not_utf8": lambda reply: b"\xff\xfe" in reply.body and not is_json(reply.body),
    "array": lambda reply: isinstance(reply.envelope, list),
    "no_result": lambda reply: set(reply.envelope) == {"requestId"},
    "null_result": lambda reply: reply.result is None,
    "list_result": lambda reply: isinstance(reply.result, list),
    "wrong_types": lambda reply: set(reply.result.values()) == {7},
    "null_fields": lambda reply: set(reply.result.values()) == {None},
    "missing_fields": lambda reply: reply.result == {},
    "error_in_200": lambda reply: reply.error["code"] == 500 and "result" not in reply.envelope,
    "bad_base64": lambda reply: set(reply.result.values()) == {"%%%not base64%%%"},
    "unpadded_base64": lambda reply: "=" not in next(iter(reply.result.values())),
    "huge": lambda reply: len(reply.body) > 32 << 20,
}


@pytest.mark.parametrize("operation", ["encrypt", "decrypt"])
@pytest.mark.parametrize("variant", CONTENT)
def test_wrong_content_with_a_good_status(fake, caller, variant, operation):
    blob = caller.sealed(DEK)
    with fake.fault("content", variant=variant):
        reply = caller.encrypt(DEK) if operation == "encrypt" else caller.decrypt(blob)
    assert reply.status in (200, 204)
    assert CONTENT[variant](reply)
    assert fake.calls(operation, f"fault:content:{variant}") == 1


def test_another_keys_plaintext(fake, caller):
    other, blob = caller.sealed(b"o" * 32), caller.sealed(DEK)
    assert caller.opened(other) == b"o" * 32
    with fake.fault("content", variant="other_plaintext"):
        assert caller.opened(blob) == b"o" * 32
        long = caller.sealed(bytes(100))
        assert len(caller.opened(long)) == 100 and caller.opened(long) != bytes(100)
    with fake.fault("content", variant="short_plaintext"):
        assert caller.opened(blob) == DEK[:-1]


@pytest.mark.parametrize("variant", ["foreign_blob", "damaged_blob"])
def test_a_blob_that_nobody_opens(fake, caller, variant):
    with fake.fault("content", variant=variant):
        blob = caller.sealed(DEK)
    assert len(blob) == 64
    refused(fake, caller.decrypt(blob), 400, "foreign_blob")


def test_every_variant_is_tested():
    import jdcloud

    tested = {*CONTENT, "other_plaintext", "short_plaintext", "foreign_blob", "damaged_blob"}
    assert tested == set(jdcloud.VARIANTS)


def test_faults_reach_sts_and_metadata(fake, caller):
    with fake.fault("error", operation=["assumeRole", "metadataCredentials"]):
        assert assume(caller).status == 500
        with pytest.raises(urllib.error.HTTPError) as raised:
            fetch(fake, "/metadata/latest/iam/instance-role-security-credentials")
        raised.value.close()
    with fake.fault("content", variant="wrong_types", listener="metadata"):
        assert set(json.loads(fetch(fake, "/metadata/latest/iam/instance-role-security-credentials")).values()) == {7}


# The control port


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("POST", "/faults", {"kind": "nonsense"}),
        ("POST", "/faults", {"kind": "latency", "milliseconds": 5}),
        ("POST", "/faults", {"kind": "content", "variant": "nonsense"}),
        ("POST", "/faults", {"kind": "reset", "at": "lunch"}),
        ("DELETE", "/faults/999", None),
        ("PATCH", "/settings", {"nonsense": 1}),
        ("PATCH", "/settings", {"version_order": "nonsense"}),
        ("POST", "/keys/absent/rotate", {}),
        ("POST", f"/keys/{KEY}/nonsense", {}),
        ("POST", f"/accounts/{ACCESS_KEY}/expire", {}),
        ("POST", "/listeners/http/nonsense", {}),
        ("POST", "/certificate/nonsense", {}),
        ("POST", "/accounts", {"access_key": "a", "secret_key": "b", "permissions": {"*": ["fly"]}}),
        ("GET", "/nonsense", None),
    ],
)
def test_the_control_port_refuses_what_it_does_not_know(fake, method, path, document):
    with pytest.raises(ControlError):
        fake.control(method, path, document)


def test_the_log_holds_no_secret(fake, caller):
    credentials = assume(caller).result["credentials"]
    plaintext = os.urandom(32)
    blob = session(fake, credentials).sealed(plaintext)
    session(fake, credentials).opened(blob)
    caller.secret_key += "x"
    caller.encrypt(plaintext)
    shown = json.dumps([fake.log(), fake.counters(), fake.control("GET", "/keys")]).encode()
    shown += (fake.directory / "fake.log").read_bytes()
    assert len(fake.log()) == 4
    for secret in (
        SECRET_KEY.encode(),
        credentials["secretKey"].encode(),
        credentials["sessionToken"].encode(),
        plaintext,
    ):
        for form in (secret, base64.b64encode(secret), secret.hex().encode()):
            assert form not in shown


def test_the_log_and_counters_agree(fake, caller):
    caller.encrypt(DEK)
    caller.describe("absent")
    mark = fake.log()[-1]["number"]
    caller.encrypt(DEK, OTHER_KEY)
    assert [(one["operation"], one["key_id"], one["status"]) for one in fake.log()] == [
        ("encrypt", KEY, 200),
        ("describeKeyDetail", "absent", 404),
        ("encrypt", OTHER_KEY, 200),
    ]
    assert [one["key_id"] for one in fake.log(mark)] == [OTHER_KEY]
    assert fake.counters()["calls"] == {"encrypt": {"ok": 2}, "describeKeyDetail": {"refused:no_such_key": 1}}


def test_it_says_where_it_is_and_ends_with_its_input(tmp_path):
    ready = tmp_path / "ready.json"
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, jdcloud_client.PROGRAM, "--until-stdin-ends", f"--ready-fd={writing}", "--ready-file", ready],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[writing],
    )
    os.close(writing)
    with process, os.fdopen(reading) as pipe:
        facts = json.loads(pipe.readline())
        assert json.loads(process.stdout.readline()) == facts
        eventually(ready.exists, "the file is there")
        assert json.loads(ready.read_text()) == facts
        assert facts["keys"] == [KEY, OTHER_KEY]
        process.stdin.close()
        assert process.wait(30) == 0
    assert not pathlib.Path(facts["ca"]).exists()
