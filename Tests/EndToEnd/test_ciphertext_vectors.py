"""The published vectors are what an independent implementation computes, and it opens nothing else."""

import json
import pathlib

import ciphertext_vectors
import pytest

pytestmark = pytest.mark.no_binary

VECTORS = json.loads((pathlib.Path(__file__).parent.parent / "Vectors" / "ciphertext.json").read_text("utf-8"))


def test_every_vector_is_computed_again_and_opens():
    assert ciphertext_vectors.check(VECTORS) == []
    assert ciphertext_vectors.make() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["envelopes"], ids=lambda vector: vector["name"])
def test_no_byte_of_an_envelope_can_change(vector):
    envelope = bytes.fromhex(vector["ciphertext"])
    arguments = (
        bytes.fromhex(vector["local_kek"]), vector["api"], vector["key_id"] if vector["api"] == 2 else "",
        {key: bytes.fromhex(value) for key, value in vector["annotations"].items()},
        vector["cluster_context"].encode())
    assert ciphertext_vectors.open_envelope(envelope, *arguments) == bytes.fromhex(vector["plaintext"])
    for index in range(len(envelope)):
        altered = bytearray(envelope)
        altered[index] ^= 1
        with pytest.raises(ciphertext_vectors.NotOurs):
            ciphertext_vectors.open_envelope(bytes(altered), *arguments)
