"""A certificate authority made on the spot, with server certificates: one good, the others each wrong in one way."""

import datetime
import ipaddress
import os
import pathlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KINDS = ("good", "expired", "not-yet-valid", "wrong-name", "unknown-authority")


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(path, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _pem(key):
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(serialization.Encoding.PEM, *form)


class Authority:
    """The authority in a directory (made there unless it exists) and one TLS context for each kind of certificate."""

    def __init__(self, directory, names):
        self.directory = pathlib.Path(directory)
        self.path = self.directory / "ca.pem"
        key_path = self.directory / "ca.key"
        if not key_path.exists():
            key, certificate = self._authority("Fake certificate authority")
            _write(key_path, _pem(key))
            _write(self.path, certificate.public_bytes(serialization.Encoding.PEM))
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
        hour, year = datetime.timedelta(hours=1), datetime.timedelta(days=365)
        stranger = self._authority("A stranger's certificate authority")
        rows = {
            "good": (names, -hour, year, (key, certificate)),
            "expired": (names, -year, -hour, (key, certificate)),
            "not-yet-valid": (names, hour, year, (key, certificate)),
            "wrong-name": (["kms.wrong.example"], -hour, year, (key, certificate)),
            "unknown-authority": (names, -hour, year, stranger),
        }
        self.contexts = {kind: self._context(kind, *row) for kind, row in rows.items()}

    @staticmethod
    def _authority(common_name):
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(_name(common_name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=800))
            .not_valid_after(now + datetime.timedelta(days=800))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .sign(key, hashes.SHA256())
        )
        return key, certificate

    def _context(self, kind, names, begins, ends, authority):
        authority_key, issuer = authority
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        alternatives = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        chain, secret = self.directory / f"{kind}.pem", self.directory / f"{kind}.key"
        _write(chain, certificate.public_bytes(serialization.Encoding.PEM))
        _write(secret, _pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(chain, secret)
        return context
