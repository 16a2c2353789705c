#!/usr/bin/env python3
"""Kmsward's ciphertexts, made and opened a second time.

Written from docs/ciphertext-format.md alone, with the `cryptography` package and hashlib, so that it can tell whether
the daemon and the document agree. As a module: `key_id`, `local_kek_payload`, `seal`, `open_envelope`. As a command:

    ciphertext_vectors.py --check FILE     recompute every vector in FILE; exit 1 at the first that differs
    ciphertext_vectors.py --write FILE     make the vectors again
"""

import argparse
import base64
import hashlib
import hmac
import json
import re
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as openssl_hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"\xf5kmsward"
ANNOTATION = "wrapped-kek.kmsward.internal"
SUITES = {1: "aes-256-gcm", 2: "sm4-ctr-hmac-sm3", 3: "sm4-gcm"}
KEY_COUNT = {1: 32, 2: 48, 3: 16}
TAG_COUNT = {1: 16, 2: 32, 3: 16}


class NotOurs(Exception):
    """The bytes are not an envelope that opens with what was given."""


# --- digests ---------------------------------------------------------------------------------------------------------


def sm3(data):
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


def suite_hash(suite, data):
    return hashlib.sha512(data).digest() if suite == 1 else sm3(data)


def u8(value):
    return struct.pack(">B", value)


def u16(value):
    return struct.pack(">H", value)


def u32(value):
    return struct.pack(">I", value)


# --- key_id ----------------------------------------------------------------------------------------------------------


def id_part(*items):
    """SHA-256 over every item with its length before it, cut to 16 bytes, base64url without padding."""
    data = b"".join(u32(len(item)) + item for item in items)
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()[:16]).rstrip(b"=")


def key_id(provider, identity, cluster_context, epoch, version, version_created_at):
    key = id_part(b"kmsward key 1", provider.encode(), identity.encode(), cluster_context)
    part = id_part(b"kmsward version 1", key, version.encode(), version_created_at.encode())
    return f"kw1.{key.decode()}.{epoch}.{part.decode()}"


# --- local KEK payload -----------------------------------------------------------------------------------------------


def local_kek_payload(suite, key_id_text, cluster_context, local_kek):
    name = key_id_text.encode("ascii")
    bound = b"kmsward/local-kek/1\0" + u8(len(name)) + name + u16(len(cluster_context)) + cluster_context
    binding = hashlib.sha256(bound).digest() if suite == 1 else sm3(bound)
    return b"KWLK\x01" + u8(suite) + b"\0\0" + binding + local_kek


# --- envelope --------------------------------------------------------------------------------------------------------


def derive(suite, local_kek, salt, header, cluster_context, annotation):
    context = u16(len(cluster_context)) + cluster_context + u16(len(annotation)) + annotation
    info = b"kmsward/envelope/1\0" + suite_hash(suite, header + context)
    algorithm = hashes.SHA512() if suite == 1 else hashes.SM3()
    count = KEY_COUNT[suite] + 32
    okm = HKDF(algorithm=algorithm, length=count, salt=salt, info=info).derive(local_kek)
    return okm[:-32], okm[-32:]


def gcm_cipher(suite, key):
    return algorithms.AES(key) if suite == 1 else algorithms.SM4(key)


def hmac_sm3(key, data):
    mac = openssl_hmac.HMAC(key, hashes.SM3())
    mac.update(data)
    return mac.finalize()


def seal(suite, api, key_id_text, wrapped, local_kek, salt, plaintext, cluster_context=b"", in_annotation=False):
    """Returns (ciphertext, annotations)."""
    name = key_id_text.encode("ascii")
    annotation = wrapped if in_annotation else b""
    field = suite_hash(suite, wrapped) if in_annotation else wrapped
    header = (
        MAGIC + b"\x01" + u8(suite) + u8(api) + u8(1 if in_annotation else 0)
        + u8(len(name)) + name + u16(len(field)) + field
    )
    keys, commitment = derive(suite, local_kek, salt, header, cluster_context, annotation)
    associated = header + salt + commitment
    if suite == 2:
        encryptor = Cipher(algorithms.SM4(keys[:16]), modes.CTR(bytes(16))).encryptor()
        body = encryptor.update(plaintext) + encryptor.finalize()
        tag = hmac_sm3(keys[16:], struct.pack(">Q", len(associated)) + associated + body)
    else:
        encryptor = Cipher(gcm_cipher(suite, keys), modes.GCM(bytes(12))).encryptor()
        encryptor.authenticate_additional_data(associated)
        body = encryptor.update(plaintext) + encryptor.finalize()
        tag = encryptor.tag
    annotations = {ANNOTATION: wrapped} if in_annotation else {}
    return associated + body + tag, annotations


def parse(envelope):
    """The public fields of an envelope, strictly read."""
    position = 0

    def take(count):
        nonlocal position
        if len(envelope) - position < count:
            raise NotOurs("too short")
        position += count
        return envelope[position - count : position]

    if take(8) != MAGIC or take(1) != b"\x01":
        raise NotOurs("no envelope of format 1")
    suite, api, flags = take(3)
    if suite not in SUITES or api not in (1, 2) or flags not in (0, 1) or (api == 1 and flags):
        raise NotOurs("unknown suite, api or flags")
    name = take(take(1)[0])
    if not re.fullmatch(rb"kw1\.[A-Za-z0-9_-]{22}\.(0|[1-9][0-9]{0,9})\.[A-Za-z0-9_-]{22}", name):
        raise NotOurs("no key_id of ours")
    name = name.decode("ascii")
    wrapped = take(struct.unpack(">H", take(2))[0])
    if not wrapped or (flags and len(wrapped) != len(suite_hash(suite, b""))):
        raise NotOurs("wrapped key of an impossible length")
    header = envelope[:position]
    salt, commitment = take(32), take(32)
    body_count = len(envelope) - position - TAG_COUNT[suite]
    if body_count < 1:
        raise NotOurs("too short")
    body, tag = take(body_count), take(TAG_COUNT[suite])
    return {
        "suite": suite, "api": api, "flags": flags, "key_id": name, "wrapped": wrapped, "header": header,
        "salt": salt, "commitment": commitment, "body": body, "tag": tag,
    }


def open_envelope(envelope, local_kek, api, request_key_id="", annotations=None, cluster_context=b""):
    """The plaintext; raises NotOurs for everything that was not sealed so."""
    parts = parse(envelope)
    suite, annotations = parts["suite"], annotations or {}
    if parts["api"] != api:
        raise NotOurs("written through the other API")
    if request_key_id != (parts["key_id"] if api == 2 else ""):
        raise NotOurs("another key_id")
    annotation = b""
    if parts["flags"]:
        if set(annotations) != {ANNOTATION}:
            raise NotOurs("other annotations")
        annotation = annotations[ANNOTATION]
        if suite_hash(suite, annotation) != parts["wrapped"]:
            raise NotOurs("other annotations")
    elif annotations:
        raise NotOurs("other annotations")
    keys, commitment = derive(suite, local_kek, parts["salt"], parts["header"], cluster_context, annotation)
    if not hmac.compare_digest(commitment, parts["commitment"]):
        raise NotOurs("another key")
    associated = parts["header"] + parts["salt"] + commitment
    if suite == 2:
        expected = hmac_sm3(keys[16:], struct.pack(">Q", len(associated)) + associated + parts["body"])
        if not hmac.compare_digest(expected, parts["tag"]):
            raise NotOurs("damaged")
        decryptor = Cipher(algorithms.SM4(keys[:16]), modes.CTR(bytes(16))).decryptor()
        return decryptor.update(parts["body"]) + decryptor.finalize()
    decryptor = Cipher(gcm_cipher(suite, keys), modes.GCM(bytes(12), parts["tag"])).decryptor()
    decryptor.authenticate_additional_data(associated)
    try:
        return decryptor.update(parts["body"]) + decryptor.finalize()
    except InvalidTag:
        raise NotOurs("damaged") from None


# --- vectors ---------------------------------------------------------------------------------------------------------


def key_id_vector(provider, identity, cluster_context, epoch, version, created):
    return {
        "provider": provider, "identity": identity, "cluster_context": cluster_context, "epoch": epoch,
        "version": version, "version_created_at": created,
        "key_id": key_id(provider, identity, cluster_context.encode(), epoch, version, created),
    }


def payload_vector(suite, name, cluster_context, local_kek):
    return {
        "suite": suite, "key_id": name, "cluster_context": cluster_context, "local_kek": local_kek.hex(),
        "payload": local_kek_payload(suite, name, cluster_context.encode(), local_kek).hex(),
    }


def envelope_vector(name, suite, api, name_of_key, wrapped, plaintext, cluster_context="", in_annotation=False):
    local_kek, salt = bytes(range(0x00, 0x20)), bytes(range(0x20, 0x40))
    ciphertext, annotations = seal(
        suite, api, name_of_key, wrapped, local_kek, salt, plaintext, cluster_context.encode(), in_annotation)
    return {
        "name": name, "suite": suite, "api": api, "key_id": name_of_key, "cluster_context": cluster_context,
        "wrapped": wrapped.hex(), "in_annotation": in_annotation, "local_kek": local_kek.hex(), "salt": salt.hex(),
        "plaintext": plaintext.hex(), "commitment": parse(ciphertext)["commitment"].hex(),
        "ciphertext": ciphertext.hex(), "ciphertext_sha256": hashlib.sha256(ciphertext).hexdigest(),
        "annotations": {key: value.hex() for key, value in annotations.items()},
    }


def make():
    sample = "kw1." + "A" * 22 + ".0." + "B" * 22
    uuid = "4a1c6f0e-8f0b-4c53-9f6c-0d5b7a9d2e11"
    real = key_id("local", uuid, b"prod-eu-1", 7, "3", "2026-01-15T08:30:45Z")
    dek, wrapped = bytes(range(0x40, 0x60)), bytes(range(100))
    long = bytes(index * 7 % 256 for index in range(900))
    envelopes = []
    for suite in SUITES:
        envelopes += [
            envelope_vector(f"suite {suite}, v2", suite, 2, sample, wrapped, dek),
            envelope_vector(f"suite {suite}, v1, cluster context", suite, 1, real, wrapped, dek, "prod-eu-1"),
            envelope_vector(f"suite {suite}, v2, one byte", suite, 2, real, b"\xa0", b"\x2a", "prod-eu-1"),
            envelope_vector(f"suite {suite}, v2, annotation", suite, 2, real, long, dek, "prod-eu-1", True),
        ]
    return {
        "key_ids": [
            key_id_vector("local", uuid, "", 0, "1", ""),
            key_id_vector("local", uuid, "prod-eu-1", 7, "3", "2026-01-15T08:30:45Z"),
            key_id_vector("example", "sch\u00fcssel/\u94a5\u5319", "", 4294967295, "", ""),
        ],
        "local_kek_payloads": [
            payload_vector(suite, name, context, bytes(range(32)))
            for suite in SUITES for name, context in ((sample, ""), (real, "prod-eu-1"))
        ],
        "envelopes": envelopes,
    }


def check(vectors):
    """Every way in which `vectors` are not what this file computes or cannot be opened."""
    wrong = []
    for vector in vectors["key_ids"]:
        again = key_id_vector(*(vector[field] for field in (
            "provider", "identity", "cluster_context", "epoch", "version", "version_created_at")))
        if again != vector:
            wrong.append(f"key_id {vector['key_id']}: computed {again['key_id']}")
    for vector in vectors["local_kek_payloads"]:
        again = payload_vector(
            vector["suite"], vector["key_id"], vector["cluster_context"], bytes.fromhex(vector["local_kek"]))
        if again != vector:
            wrong.append(f"local KEK payload of suite {vector['suite']} and {vector['key_id']}")
    for vector in vectors["envelopes"]:
        octets = {field: bytes.fromhex(vector[field]) for field in (
            "wrapped", "local_kek", "salt", "plaintext", "ciphertext", "commitment")}
        context = vector["cluster_context"].encode()
        ciphertext, annotations = seal(
            vector["suite"], vector["api"], vector["key_id"], octets["wrapped"], octets["local_kek"],
            octets["salt"], octets["plaintext"], context, vector["in_annotation"])
        if (
            ciphertext != octets["ciphertext"]
            or {key: value.hex() for key, value in annotations.items()} != vector["annotations"]
            or parse(ciphertext)["commitment"] != octets["commitment"]
            or hashlib.sha256(ciphertext).hexdigest() != vector["ciphertext_sha256"]
        ):
            wrong.append(f"envelope {vector['name']}: sealing gives another result")
        try:
            opened = open_envelope(
                octets["ciphertext"], octets["local_kek"], vector["api"],
                vector["key_id"] if vector["api"] == 2 else "",
                {key: bytes.fromhex(value) for key, value in vector["annotations"].items()}, context)
            if opened != octets["plaintext"]:
                wrong.append(f"envelope {vector['name']}: opens to another plaintext")
        except NotOurs as error:
            wrong.append(f"envelope {vector['name']}: does not open: {error}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", metavar="FILE")
    action.add_argument("--write", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.write:
        with open(arguments.write, "w", encoding="utf-8") as file:
            json.dump(make(), file, indent=2, ensure_ascii=False)
            file.write("\n")
        return 0
    with open(arguments.check, encoding="utf-8") as file:
        vectors = json.load(file)
    wrong = check(vectors)
    for line in wrong:
        print(line, file=sys.stderr)
    count = sum(len(group) for group in vectors.values())
    print(f"{count} vectors, {len(wrong)} wrong")
    return 1 if wrong or not count else 0


if __name__ == "__main__":
    sys.exit(main())
