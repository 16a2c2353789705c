"""Certificates made on the spot, and an authority with server certificates: one good, the others each wrong in one way."""

import datetime
import ipaddress
import os
import pathlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR, YEAR = datetime.timedelta(hours=1), datetime.timedelta(days=365)


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def certificate(subject, issuer, key, signer, *, names=None, valid=(-HOUR, HOUR)):
    """A certificate of `key` that `signer` signs in the name of `issuer`; valid from and to these times from now.

    For hosts of these names and addresses, `subject` if none is given; an authority's where `names` is empty.
    """
    names = [subject] if names is None else names
    now = datetime.datetime.now(datetime.timezone.utc)
    common = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(common(subject))
        .issuer_name(common(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + valid[0])
        .not_valid_after(now + valid[1])
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None if names else 0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
    )
    if names:
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
        builder = builder.add_extension(uses, critical=False).add_extension(alternatives, critical=False)
    else:
        uses = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(uses, critical=True)
    return builder.sign(signer, hashes.SHA256())


def _alternative(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def pem(*things, password=None):
    """Keys and certificates as text; keys under a password if there is one."""
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    encoding = serialization.Encoding.PEM
    return b"".join(
        one.public_bytes(encoding)
        if isinstance(one, x509.Certificate)
        else one.private_bytes(encoding, serialization.PrivateFormat.PKCS8, hidden)
        for one in things
    )


def write(path, data):
    """Writes a file that its owner alone may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


class Authority:
    """The authority in a directory (made there unless it exists) and one TLS context for each kind of certificate."""

    def __init__(self, directory, names):
        self.directory = pathlib.Path(directory)
        self.path = self.directory / "ca.pem"
        key_path = self.directory / "ca.key"
        if not key_path.exists():
            key = new_key()
            write(key_path, pem(key))
            write(self.path, pem(self._authority("Fake certificate authority", key)))
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        rows = {
            "good": (names, -HOUR, YEAR),
            "expired": (names, -YEAR, -HOUR),
            "not-yet-valid": (names, HOUR, YEAR),
            "ending": (names, -HOUR, HOUR),
            "wrong-name": (["kms.wrong.example"], -HOUR, YEAR),
        }
        self.contexts = {kind: self._context(kind, "Fake certificate authority", key, *row) for kind, row in rows.items()}
        stranger = ("A stranger's certificate authority", new_key())
        self.contexts["unknown-authority"] = self._context("unknown-authority", *stranger, names, -HOUR, YEAR)

    @staticmethod
    def _authority(name, key):
        return certificate(name, name, key, key, names=(), valid=(-2 * YEAR, 2 * YEAR))

    def _context(self, kind, issuer, signer, names, begins, ends):
        key = new_key()
        made = certificate(names[0], issuer, key, signer, names=names, valid=(begins, ends))
        chain, secret = self.directory / f"{kind}.pem", self.directory / f"{kind}.key"
        write(chain, pem(made))
        write(secret, pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(chain, secret)
        return context
