"""A gRPC server of another make, behind TLS: echoes on /t.T/Echo until its standard input ends.

Writes a certificate authority and a client certificate of its making into the directory given, then prints its port.
`mutual` as second argument: it asks for the client's certificate.
"""

import pathlib
import sys
from concurrent import futures

import grpc

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "Fakes"))
from fake_certificates import certificate, new_key, pem, write  # noqa: E402


def main(folder, mutual):
    ca_key, server_key, client_key = (new_key() for _ in range(3))
    ca = certificate("test authority", "test authority", ca_key, ca_key, names=())
    server = certificate("kms.test", "test authority", server_key, ca_key, names=["kms.test", "127.0.0.1"])
    client = certificate("client.test", "test authority", client_key, ca_key)
    for file, content in {"ca.pem": ca, "client.pem": client, "client.key": client_key}.items():
        write(f"{folder}/{file}", pem(content))
    echo = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    rpc = grpc.server(futures.ThreadPoolExecutor(2))
    rpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Echo": echo}),))
    credentials = grpc.ssl_server_credentials(
        [(pem(server_key), pem(server))],
        root_certificates=pem(ca) if mutual else None,
        require_client_auth=mutual,
    )
    port = rpc.add_secure_port("127.0.0.1:0", credentials)
    rpc.start()
    print(port, flush=True)
    sys.stdin.read()
    rpc.stop(None)


main(sys.argv[1], sys.argv[2:] == ["mutual"])
