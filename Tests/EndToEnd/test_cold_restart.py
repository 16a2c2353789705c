"""What a cold restart costs the key-management service: ops/drill/cold-restart in small, where only the calls are counted."""

import concurrent.futures
import json
import os

import pytest

from daemon import free_port

KEYS, REPLICAS, RESTARTS = 300, 3, 4
#: What a restart may ask for all told, whatever there is to read.
BOUND = 20


@pytest.fixture
def replicas(on_jdcloud, folder):
    """Daemons as on hosts of their own, whose probes do not count: replicas(format)."""

    def make(write_format):
        return [
            on_jdcloud(
                changes={
                    "name": f"r{number}",
                    "socket": {"path": str(folder / f"r{number}.sock")},
                    "state_directory": str(folder / f"r{number}"),
                    "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                    "rotation": {"observe_every": "10m", "settle": "0s"},
                },
                key={"write_format": write_format},
            )
            for number in range(REPLICAS)
        ]

    return make


def written(daemon):
    keys = [os.urandom(32) for _ in range(KEYS // REPLICAS)]
    with daemon.kms() as kms, concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(zip(keys, pool.map(kms.v1_encrypt, keys)))


def calls_to_read(fake, daemon, everything):
    """Calls of the service while all of it is read, one by one, as for a LIST of API v1."""
    before = fake.calls()
    with daemon.kms() as kms:
        for key, ciphertext in everything:
            assert kms.v1_decrypt(ciphertext) == key
    return fake.calls() - before


def distinct_keks(daemons):
    found = set()
    for one in daemons:
        with open(os.path.join(one.configuration["state_directory"], "keyring.json")) as file:
            found |= {kek["wrapped"] for kek in json.load(file)["local_keks"]}
    return len(found)


def test_envelopes_cost_a_restart_a_handful_of_calls_with_and_without_its_state(replicas, fake):
    made = replicas("envelope")
    everything = []
    for _ in range(RESTARTS):
        for one in made:
            everything += written(one)
            one.restart()
    reader = made[0]
    reader.stop()
    before = fake.calls()
    reader.start()
    calls_to_read(fake, reader, everything)
    assert fake.calls() - before <= BOUND
    assert calls_to_read(fake, reader, everything) == 0
    reader.stop()
    assert distinct_keks(made) == REPLICAS, "a restart takes up the local KEK that is there"
    os.remove(os.path.join(reader.configuration["state_directory"], "keyring.json"))
    before = fake.calls()
    reader.start()
    calls_to_read(fake, reader, everything)
    assert fake.calls() - before <= BOUND


def test_compatible_costs_a_restart_a_call_for_each_key_and_then_none(replicas, fake):
    made = replicas("compatible")
    everything = [pair for one in made for pair in written(one)]
    reader = made[0]
    reader.restart()
    assert calls_to_read(fake, reader, everything) == len(everything)
    assert calls_to_read(fake, reader, everything) == 0


def test_the_first_decrypts_after_a_restart_wait_for_no_look_at_the_key(on_jdcloud, fake):
    """The service answers nothing but the one unwrap that they all wait for."""
    one = on_jdcloud(changes={"rotation": {"observe_every": "10m", "settle": "0s"}})
    keys = [os.urandom(32) for _ in range(50)]
    with one.kms() as kms:
        sealed = [kms.encrypt(key) for key in keys]
    one.stop()
    before = fake.calls("decrypt")
    with fake.fault("hang", operation=["describeKey", "describeKeyDetail", "encrypt"]):
        one.launch()
        with one.kms() as kms, concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
            assert list(pool.map(kms.open, sealed)) == keys
        assert fake.calls("decrypt") - before == 1
    one.discard()


@pytest.mark.parametrize("version, looks", [("observed", 2), ("static", 0)])
def test_the_first_decrypts_after_a_restart_cost_one_unwrap(on_jdcloud, fake, version, looks):
    """All at once, before READY, under one local KEK, of a slow service; the looks at the key go on beside."""
    one = on_jdcloud(changes={"rotation": {"observe_every": "10m", "settle": "0s"}}, version=version)
    keys = [os.urandom(32) for _ in range(50)]
    with one.kms() as kms:
        sealed = [kms.encrypt(key) for key in keys]
    one.stop()
    before = fake.calls(), fake.calls("decrypt")
    with fake.fault("latency", ms=500):
        one.launch()
        with one.kms() as kms, concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
            assert list(pool.map(kms.open, sealed)) == keys
        # A call that has not ended by now was waited for by nobody.
        unwraps = fake.calls("decrypt") - before[1]
        assert unwraps <= 1 and fake.calls() - before[0] <= unwraps + looks, fake.counters()["calls"]
    one.stop()
