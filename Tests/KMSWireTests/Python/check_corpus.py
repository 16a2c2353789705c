"""Reads our messages with Python's protobuf, and makes messages for us to read.

check_corpus.py PROTO_DIR INPUT OUTPUT SEED COUNT

INPUT has lines `MESSAGE HEX`. OUTPUT gets, in this order: a line `method PATH REQUEST RESPONSE` for every method; a line
`read VALUES HEX` or `refused` for each input line, HEX being the message written again; and COUNT lines
`made MESSAGE HEX VALUES` per message, VALUES being `refused` where Python cannot read its own damaged work. The two
.proto files are compiled afresh, so they are what is tested.
"""

import importlib
import pathlib
import random
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

V1_REQUESTS = {"v1beta1.VersionRequest", "v1beta1.EncryptRequest", "v1beta1.DecryptRequest"}


def compile_protos(folder, target):
    well_known = str(pathlib.Path(grpc_tools.__file__).parent / "_proto")
    status = protoc.main(
        ["protoc", f"-I{folder}", f"-I{well_known}", f"--python_out={target}", "v1beta1.proto", "v2.proto"]
    )
    if status != 0:
        sys.exit("the .proto files do not compile")
    sys.path.insert(0, target)
    return [importlib.import_module(name) for name in ("v1beta1_pb2", "v2_pb2")]


def raw(value):
    return value.encode() if isinstance(value, str) else value


def values(name, message):
    fields, entries = [], []
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None:
            entries = sorted(f"{raw(key).hex()}:{value[key].hex()}" for key in value)
        elif value and not (field.name == "version" and name in V1_REQUESTS):
            fields.append(f"{field.name}={raw(value).hex()}")
    return ";".join(sorted(fields) + ["{" + ",".join(entries) + "}"])


def fill(rng, message):
    alphabet = "abcXYZ019-./:_ äß€鍵🔑"
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            for _ in range(rng.randrange(4)):
                getattr(message, field.name)[f"x{rng.randrange(9)}.example"] = rng.randbytes(rng.randrange(200))
        elif field.name == "version":
            message.version = rng.choice(["v1beta1", ""])
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, "".join(rng.choices(alphabet, k=rng.randrange(1, 50))))
        else:
            setattr(message, field.name, rng.randbytes(rng.choice([1, 4, 32, 127, 128, 300, 1024])))
    return message


def damage(rng, data):
    data = bytearray(data)
    for _ in range(rng.randrange(3)):
        place = rng.randrange(min(len(data), 40) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            data.insert(place, rng.randrange(256))
        elif place < len(data):
            data[place] ^= 1 << rng.randrange(8)
    return bytes(data)


def main():
    folder, source, target, seed, count = sys.argv[1:]
    rng = random.Random(int(seed))
    with tempfile.TemporaryDirectory() as scratch, open(target, "w") as out:
        modules = compile_protos(folder, scratch)
        types = {
            descriptor.full_name: getattr(module, short)
            for module in modules
            for short, descriptor in module.DESCRIPTOR.message_types_by_name.items()
        }
        for module in modules:
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    path = f"/{service.full_name}/{method.name}"
                    print("method", path, method.input_type.full_name, method.output_type.full_name, file=out)
        for line in open(source):
            name, _, data = line.rstrip("\n").partition(" ")
            try:
                message = types[name].FromString(bytes.fromhex(data))
            except Exception:
                print("refused", file=out)
                continue
            print("read", values(name, message), message.SerializeToString().hex(), file=out)
        for name, kind in sorted(types.items()):
            for _ in range(int(count)):
                data = damage(rng, fill(rng, kind()).SerializeToString())
                try:
                    verdict = values(name, kind.FromString(data))
                except Exception:
                    verdict = "refused"
                print("made", name, data.hex(), verdict, file=out)


main()
