"""The checks of the KMS contract that hold for any plugin; each asserts, none knows which plugin it faces.

`test_conformance.py` runs them on kmsward, `test_suite_finds_defects.py` on plugins with known defects.
"""

import os
import re

import grpc

from kms import V1_PATH, V2_PATH, refusal

#: apimachinery IsFullyQualifiedDomainName: at least two lower-case RFC 1123 labels, one trailing dot tolerated.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SEMVER = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


def is_fqdn(name):
    labels = name.removesuffix(".").split(".")
    return len(name) <= 253 and len(labels) >= 2 and all(_LABEL.fullmatch(label) for label in labels)


def healthy(kms):
    """C4: what kube-apiserver demands of Status; returns the reply."""
    status = kms.status()
    assert status.healthz == "ok", f"healthz {status.healthz!r}"
    assert status.version in ("v2", "v2beta1"), f"version {status.version!r}"
    assert 1 <= len(status.key_id.encode()) <= 1024, "key_id is empty or longer than 1024 bytes"
    return status


def acceptable(sealed, key_id):
    """C6: what kube-apiserver demands of an EncryptResponse."""
    assert 1 <= len(sealed.ciphertext) <= 1024, f"ciphertext of {len(sealed.ciphertext)} bytes"
    assert sealed.key_id == key_id, "Encrypt and Status name different keys"
    for name in sealed.annotations:
        assert is_fqdn(name), f"annotation {name!r} is no FQDN"
    size = sum(len(name) + len(value) for name, value in sealed.annotations.items())
    assert size <= 32768, f"annotations of {size} bytes"


def first_round(kms):
    """C14: Status, then Encrypt, as an API server primes itself."""
    status = healthy(kms)
    acceptable(kms.encrypt(os.urandom(32), uid="first"), status.key_id)
    return status


def round_trip(kms):
    """C6, C7: 32 random bytes come back."""
    plaintext = os.urandom(32)
    sealed = kms.encrypt(plaintext, uid="round-trip")
    acceptable(sealed, kms.status().key_id)
    assert plaintext not in sealed.ciphertext, "the ciphertext contains the plaintext"
    for value in sealed.annotations.values():
        assert plaintext not in value, "an annotation contains the plaintext"
    assert kms.open(sealed) == plaintext
    return sealed


def distinct(kms, count):
    """C8: distinct plaintexts, and even the same one twice, give distinct results."""
    plaintexts = [os.urandom(32) for _ in range(count - 1)]
    plaintexts.append(plaintexts[0])
    seen = {kms.encrypt(p).ciphertext for p in plaintexts}
    assert len(seen) == count, f"{count} Encrypts gave {len(seen)} ciphertexts"


def refuses_every_flip(kms, masks=(0x01, 0x80)):
    """C10: any altered byte of the ciphertext is an error, never OK with whatever bytes."""
    sealed = kms.encrypt(os.urandom(32))
    for position in range(len(sealed.ciphertext)):
        for mask in masks:
            torn = bytearray(sealed.ciphertext)
            torn[position] ^= mask
            code, _ = refusal(kms.decrypt, bytes(torn), sealed.key_id, sealed.annotations)
            assert code is not grpc.StatusCode.UNKNOWN, f"byte {position}: UNKNOWN"


def refuses_other_lengths(kms):
    """C10: no prefix and no continuation of a ciphertext opens."""
    sealed = kms.encrypt(os.urandom(32))
    for length in range(len(sealed.ciphertext)):
        refusal(kms.decrypt, sealed.ciphertext[:length], sealed.key_id, sealed.annotations)
    for tail in (b"\0", b"\0" * 16, sealed.ciphertext):
        refusal(kms.decrypt, sealed.ciphertext + tail, sealed.key_id, sealed.annotations)


def refuses_other_annotations(kms):
    """C10: annotations are authenticated: none may be added, dropped or altered."""
    sealed = kms.encrypt(os.urandom(32))
    given = dict(sealed.annotations)
    variants = [given | {"extra.example.com": b""}, given | {"extra.example.com": b"x"}]
    for name, value in given.items():
        variants.append({k: v for k, v in given.items() if k != name})
        variants.append(given | {name: value + b"\0"})
        variants.append(given | {name: b""})
        if value:
            variants.append(given | {name: bytes([value[0] ^ 1]) + value[1:]})
    for variant in variants:
        refusal(kms.decrypt, sealed.ciphertext, sealed.key_id, variant)


def refuses_other_key_ids(kms):
    """C10, C11: the key_id of a Decrypt must be the one the data was written under."""
    sealed = kms.encrypt(os.urandom(32))
    others = ["", "1", sealed.key_id + "x", sealed.key_id[:-1], sealed.key_id.swapcase(), "arn:aws:kms:x:1:key/y"]
    flipped = [
        sealed.key_id[:i] + ("A" if c != "A" else "B") + sealed.key_id[i + 1 :] for i, c in enumerate(sealed.key_id)
    ]
    for other in others + flipped:
        code, _ = refusal(kms.decrypt, sealed.ciphertext, other, sealed.annotations)
        assert code is not grpc.StatusCode.UNKNOWN, f"key_id {other!r}: UNKNOWN"


def unknown_methods_unimplemented(kms):
    """C1: what is not served says so, whatever the service."""
    for path in (
        V2_PATH + "Nope",
        V2_PATH + "Version",
        V2_PATH + "encrypt",
        V1_PATH + "Status",
        "/v2alpha1.KeyManagementService/Status",
        "/v2.KeyManagementService2/Status",
        "/grpc.health.v1.Health/Check",
        "/x/y",
    ):
        code, _ = refusal(kms.raw, path, b"")
        assert code is grpc.StatusCode.UNIMPLEMENTED, f"{path}: {code}"


def v1_served(kms):
    """C2: Version, and a round trip of a key and of the health probe's `ping`."""
    version = kms.v1_version()
    assert version.version == "v1beta1"
    assert SEMVER.fullmatch(version.runtime_version), f"runtime_version {version.runtime_version!r} is no semver"
    for plain in (b"ping", os.urandom(32)):
        cipher = kms.v1_encrypt(plain)
        assert 1 <= len(cipher) <= 65535
        assert plain == b"ping" or plain not in cipher
        assert kms.v1_decrypt(cipher) == plain
