"""With the key file, the documents and a general crypto library, what the daemon wrote opens without the daemon."""

import os
import struct
import uuid

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import ciphertext_vectors as vectors
from daemon import eventually

SUITE = {name: number for number, name in vectors.SUITES.items()}


def unwrap(key_file, wrapped, key_id, purpose=b"local-kek"):
    """docs/local-key-file.md, last section: the 72 bytes that provider local wrapped."""
    assert wrapped[:5] == b"KWLW\x01" and wrapped[6:8] == b"\0\0"
    suite, version = wrapped[5], uuid.UUID(bytes=wrapped[8:24])
    header, salt, commitment = wrapped[:24], wrapped[24:56], wrapped[56:88]
    tag_count = vectors.TAG_COUNT[suite]
    body, tag = wrapped[88:-tag_count], wrapped[-tag_count:]
    name = key_id.encode()
    context = key_file.identity.bytes + bytes([len(purpose)]) + purpose + struct.pack(">H", len(name)) + name
    okm = HKDF(
        algorithm=hashes.SHA512() if suite == 1 else hashes.SM3(),
        length=vectors.KEY_COUNT[suite] + 32,
        salt=salt,
        info=b"kmsward/local-wrap/1\0" + vectors.suite_hash(suite, header + context),
    ).derive(key_file.key_of(version))
    assert okm[-32:] == commitment, "another key"
    associated = header + salt + commitment
    if suite == 2:
        length = struct.pack(">Q", len(associated))
        assert vectors.hmac_sm3(okm[16:48], length + associated + body) == tag
        decryptor = Cipher(algorithms.SM4(okm[:16]), modes.CTR(bytes(16))).decryptor()
    else:
        decryptor = Cipher(vectors.gcm_cipher(suite, okm[:-32]), modes.GCM(bytes(12), tag)).decryptor()
        decryptor.authenticate_additional_data(associated)
    return decryptor.update(body) + decryptor.finalize()


def local_kek(key_file, parts, cluster_context=b""):
    payload = unwrap(key_file, parts["wrapped"], parts["key_id"])
    kek = payload[40:]
    assert payload == vectors.local_kek_payload(parts["suite"], parts["key_id"], cluster_context, kek)
    return kek


@pytest.mark.parametrize("context", ["", "prod-eu-1"])
@pytest.mark.parametrize("suite", ["aes-256-gcm", "sm4-ctr-hmac-sm3"])
def test_what_the_daemon_writes_opens_without_it(start, key_file, suite, context):
    one = start(
        cluster_context=context,
        keys=[{"name": "primary", "suite": suite, "local": {"file": str(key_file.path)}}],
    )
    with one.kms() as kms:
        before = kms.status().key_id
        written = [(p, kms.encrypt(p), kms.v1_encrypt(p)) for p in (os.urandom(32) for _ in range(3))]
        key_file.add()
        key_file.activate()
        eventually(lambda: kms.status().key_id != before, "the rotation shows")
        written += [(p, kms.encrypt(p), kms.v1_encrypt(p)) for p in (os.urandom(32) for _ in range(3))]
    one.kill()
    bound = context.encode()
    for plaintext, sealed, cipher in written:
        for api, data, key_id in ((2, sealed.ciphertext, sealed.key_id), (1, cipher, "")):
            parts = vectors.parse(data)
            assert parts["suite"] == SUITE[suite]
            kek = local_kek(key_file, parts, bound)
            assert vectors.open_envelope(data, kek, api, key_id, dict(sealed.annotations), bound) == plaintext


def test_what_another_program_writes_opens_in_the_daemon(start, key_file):
    one = start()
    with one.kms() as kms:
        sample = kms.encrypt(os.urandom(32))
        parts = vectors.parse(sample.ciphertext)
        kek = local_kek(key_file, parts)
        for size in (16, 24, 32):
            plaintext = os.urandom(size)
            for api in (1, 2):
                data, annotations = vectors.seal(
                    parts["suite"], api, parts["key_id"], parts["wrapped"], kek, os.urandom(32), plaintext
                )
                opened = kms.decrypt(data, parts["key_id"], annotations) if api == 2 else kms.v1_decrypt(data)
                assert opened == plaintext


@pytest.mark.parametrize("epoch", [0, 7])
def test_the_key_id_is_the_documented_one(start, key_file, epoch):
    one = start(
        cluster_context="prod-eu-1",
        keys=[
            {"name": "primary", "suite": "aes-256-gcm", "epoch": epoch, "local": {"file": str(key_file.path)}},
        ],
    )
    version, created = key_file.active
    with one.kms() as kms:
        expected = vectors.key_id("local", str(key_file.identity), b"prod-eu-1", epoch, str(version), created)
        assert kms.status().key_id == expected
