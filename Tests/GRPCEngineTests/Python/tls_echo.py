"""A gRPC server of another make, behind TLS: echoes on /t.T/Echo until its standard input ends.

Writes a certificate authority and a client certificate of its making into the directory given, then prints its port.
`mutual` as second argument: it asks for the client's certificate.
"""

import datetime
import ipaddress
import os
import sys
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# What a test process left open for its children by mistake would stay open for as long as this one lives.
os.closerange(3, 65536)

NOW = datetime.datetime.now(datetime.timezone.utc)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(subject, issuer, key, signer, *, authority=False):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(hours=1))
        .not_valid_after(NOW + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        names = [x509.DNSName(subject), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def main(folder, mutual):
    ca_key, server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ca = certificate("test authority", "test authority", ca_key, ca_key, authority=True)
    server = certificate("kms.test", "test authority", server_key, ca_key)
    client = certificate("client.test", "test authority", client_key, ca_key)
    encoded = serialization.Encoding.PEM
    for file, content in {
        "ca.pem": ca.public_bytes(encoded),
        "client.pem": client.public_bytes(encoded),
        "client.key": pem(client_key),
    }.items():
        with open(f"{folder}/{file}", "wb") as out:
            out.write(content)
    echo = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    rpc = grpc.server(futures.ThreadPoolExecutor(2))
    rpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Echo": echo}),))
    credentials = grpc.ssl_server_credentials(
        [(pem(server_key), server.public_bytes(encoded))],
        root_certificates=ca.public_bytes(encoded) if mutual else None,
        require_client_auth=mutual,
    )
    port = rpc.add_secure_port("127.0.0.1:0", credentials)
    rpc.start()
    os.write(1, b"%d\n" % port)  # at once: the reader takes one piece, and goes
    sys.stdin.read()
    rpc.stop(None)


main(sys.argv[1], sys.argv[2:] == ["mutual"])
