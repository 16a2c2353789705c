"""A small plugin with one chosen defect (or none), so that the suite itself can be tested."""

import os
from concurrent import futures

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kms import v1, v2

ANNOTATION = "version.flawed.example"


class FlawedPlugin:
    """AES-256-GCM in memory; key_id and annotations are authenticated unless the defect says otherwise."""

    def __init__(self, path, defect=None):
        self.defect = defect
        self.key = AESGCM.generate_key(256)
        self.key_id = "flawed-1"
        self.polls = 0
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        unary = grpc.unary_unary_rpc_method_handler
        dump = lambda message: message.SerializeToString()
        rows = {
            "v2": {
                "Status": unary(self.status, v2.StatusRequest.FromString, dump),
                "Encrypt": unary(self.encrypt, v2.EncryptRequest.FromString, dump),
                "Decrypt": unary(self.decrypt, v2.DecryptRequest.FromString, dump),
            },
            "v1beta1": {
                "Version": unary(self.v1_version, v1.VersionRequest.FromString, dump),
                "Encrypt": unary(self.v1_encrypt, v1.EncryptRequest.FromString, dump),
                "Decrypt": unary(self.v1_decrypt, v1.DecryptRequest.FromString, dump),
            },
        }
        handlers = [
            grpc.method_handlers_generic_handler(f"{package}.KeyManagementService", methods)
            for package, methods in rows.items()
        ]
        if defect == "answers unknown methods":
            handlers.append(_CatchAll())
        self.server.add_generic_rpc_handlers(tuple(handlers))
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def stop(self):
        self.server.stop(None)

    def _seal(self, plaintext, bound):
        nonce = bytes(12) if self.defect == "deterministic" else os.urandom(12)
        if self.defect == "unauthenticated":
            return nonce + self._ctr(nonce, plaintext)
        return nonce + AESGCM(self.key).encrypt(nonce, plaintext, bound)

    def _ctr(self, nonce, data):
        context = Cipher(algorithms.AES(self.key), modes.CTR(nonce + bytes(4))).encryptor()
        return context.update(data) + context.finalize()

    def _open(self, sealed, bound, context):
        if self.defect == "unauthenticated":
            return self._ctr(sealed[:12], sealed[12:])
        try:
            return AESGCM(self.key).decrypt(sealed[:12], sealed[12:], bound)
        except (InvalidTag, ValueError):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "damaged or foreign")

    def _bound(self, key_id, annotations):
        parts = [] if self.defect == "ignores key_id" else [key_id.encode()]
        if self.defect != "ignores annotations":
            parts += [k.encode() + b"=" + v for k, v in sorted(annotations.items())]
        return b"\0".join(parts)

    def status(self, _, __):
        self.polls += 1
        key_id = self.key_id
        if self.defect == "status lags behind" and self.polls == 1:
            key_id = "flawed-0"
        healthz = "err" if self.defect == "healthz err" else "ok"
        version = "v1" if self.defect == "wrong version" else "v2beta1"
        return v2.StatusResponse(version=version, healthz=healthz, key_id=key_id)

    def encrypt(self, request, context):
        annotations = {ANNOTATION: b"1"}
        if self.defect == "annotation is no FQDN":
            annotations["Version_1"] = b"1"
        if self.defect == "leaks in annotation":
            annotations["hint.flawed.example"] = request.plaintext
        sealed = self._seal(request.plaintext, self._bound(self.key_id, annotations))
        if self.defect == "ciphertext too long":
            sealed += bytes(1024)
        return v2.EncryptResponse(ciphertext=sealed, key_id=self.key_id, annotations=annotations)

    def decrypt(self, request, context):
        if self.defect != "ignores key_id" and request.key_id != self.key_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown key_id")
        bound = self._bound(request.key_id, request.annotations)
        return v2.DecryptResponse(plaintext=self._open(request.ciphertext, bound, context))

    def v1_version(self, _, __):
        runtime = "latest" if self.defect == "runtime version is no semver" else "1.0.0"
        return v1.VersionResponse(version="v1beta1", runtime_name="flawed", runtime_version=runtime)

    def v1_encrypt(self, request, context):
        if self.defect == "refuses ping" and len(request.plain) != 32:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a key")
        return v1.EncryptResponse(cipher=self._seal(request.plain, b"v1"))

    def v1_decrypt(self, request, context):
        return v1.DecryptResponse(plain=self._open(request.cipher, b"v1", context))


class _CatchAll(grpc.GenericRpcHandler):
    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
