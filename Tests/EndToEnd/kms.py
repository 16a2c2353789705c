"""The KMS API as kube-apiserver calls it: stubs made at run time from the repository's .proto files."""

import importlib
import pathlib
import re
import sys
import tempfile

import grpc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
#: kube-apiserver's default `timeout` is 3 s; a loaded test machine gets more.
TIMEOUT = 10.0


def _compile_protos():
    """Compiles every .proto of the wire room; returns {package: pb2 module}."""
    import grpc_tools
    from grpc_tools import protoc

    root = REPOSITORY / "Sources" / "KMSWire"
    sources = sorted(root.rglob("*.proto"))
    include = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    modules = {}
    # Once imported, their files are not needed any more.
    with tempfile.TemporaryDirectory(prefix="kw-pb-") as out:
        code = protoc.main(["protoc", f"-I{root}", f"-I{include}", f"--python_out={out}", *map(str, sources)])
        if code != 0 or not sources:
            raise RuntimeError(f"protoc failed for {[str(s) for s in sources]}")
        sys.path.insert(0, out)
        for source in sources:
            package = re.search(r"^package\s+([\w.]+)\s*;", source.read_text(), re.M).group(1)
            name = ".".join(source.relative_to(root).with_suffix("").parts).replace("-", "_")
            modules[package] = importlib.import_module(name + "_pb2")
        sys.path.remove(out)
    return modules


_modules = _compile_protos()
v1 = _modules["v1beta1"]
v2 = _modules["v2"]

V2_PATH = "/v2.KeyManagementService/"
V1_PATH = "/v1beta1.KeyManagementService/"


class KMS:
    """One connection to a plugin, both APIs. Errors come as `grpc.RpcError`."""

    def __init__(self, address, timeout=TIMEOUT, options=()):
        """`address` is a gRPC target such as `unix:/run/kms.sock` or `unix-abstract:name`."""
        self.timeout = timeout
        # Each object is its own connection, as each provider entry of an API server is.
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.default_authority", "localhost"),
                *options,
            ],
        )
        self._status = self._method(V2_PATH + "Status", v2.StatusResponse)
        self._encrypt = self._method(V2_PATH + "Encrypt", v2.EncryptResponse)
        self._decrypt = self._method(V2_PATH + "Decrypt", v2.DecryptResponse)
        self._v1_version = self._method(V1_PATH + "Version", v1.VersionResponse)
        self._v1_encrypt = self._method(V1_PATH + "Encrypt", v1.EncryptResponse)
        self._v1_decrypt = self._method(V1_PATH + "Decrypt", v1.DecryptResponse)

    def _method(self, path, response):
        return self.channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _call(self, method, request, timeout=None):
        return method(request, timeout=timeout or self.timeout, wait_for_ready=True)

    def raw(self, path, body, timeout=None):
        """Sends `body` as it is and returns the reply's bytes."""
        method = self.channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        return method(body, timeout=timeout or self.timeout, wait_for_ready=True)

    def status(self, **kwargs):
        return self._call(self._status, v2.StatusRequest(), **kwargs)

    def encrypt(self, plaintext, uid="", **kwargs):
        return self._call(self._encrypt, v2.EncryptRequest(plaintext=plaintext, uid=uid), **kwargs)

    def decrypt(self, ciphertext, key_id, annotations=None, uid="", **kwargs):
        request = v2.DecryptRequest(ciphertext=ciphertext, key_id=key_id, uid=uid, annotations=dict(annotations or {}))
        return self._call(self._decrypt, request, **kwargs).plaintext

    def open(self, sealed, **kwargs):
        """Decrypts an EncryptResponse as it was given."""
        return self.decrypt(sealed.ciphertext, sealed.key_id, sealed.annotations, **kwargs)

    def v1_version(self, version="v1beta1", **kwargs):
        return self._call(self._v1_version, v1.VersionRequest(version=version), **kwargs)

    def v1_encrypt(self, plain, version="v1beta1", **kwargs):
        return self._call(self._v1_encrypt, v1.EncryptRequest(version=version, plain=plain), **kwargs).cipher

    def v1_decrypt(self, cipher, version="v1beta1", **kwargs):
        return self._call(self._v1_decrypt, v1.DecryptRequest(version=version, cipher=cipher), **kwargs).plain


def refusal(call, *args, **kwargs):
    """Runs a call that must fail; returns its (code, details)."""
    try:
        reply = call(*args, **kwargs)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError(f"answered OK with a {type(reply).__name__} where an error was due")
