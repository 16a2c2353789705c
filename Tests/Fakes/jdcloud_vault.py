"""What the fake JD Cloud keeps: keys with versions, accounts, sessions.

It is written to a file and read again, so that a restarted fake opens the blobs of the one before.
"""

import dataclasses
import hmac
import json
import os
import pathlib
import secrets
import time

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from jdcloud_signatures import Refusal

ENABLED, DISABLED, SCHEDULED = 0, 1, 2
DAY = 86400

#: Permissions, and which operations each allows.
PERMISSIONS = {
    "encrypt": {"encrypt"},
    "decrypt": {"decrypt"},
    "generate": {"generateDataKey"},
    "describe": {"describeKey", "describeKeyDetail", "describeKeyList"},
    "manage": {
        "createKey",
        "updateKey",
        "rotateKey",
        "enableKey",
        "disableKey",
        "deleteKey",
        "cancelDeleteKey",
        "enableKeyVersion",
        "disableKeyVersion",
        "deleteKeyVersion",
        "cancelDeleteKeyVersion",
    },
}
EVERYTHING = {"*": sorted(PERMISSIONS)}


def when(seconds):
    """A time as the KMS API writes it; empty for none."""
    return "" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def invalid(message):
    return Refusal("invalid_argument", 400, "INVALID_ARGUMENT", message)


@dataclasses.dataclass
class Version:
    version: str
    created: int
    secret: str
    status: int = ENABLED
    deletes: int | None = None

    def __post_init__(self):
        self.cipher = AESGCM(bytes.fromhex(self.secret)) if self.secret else None

    @property
    def exists(self):
        """False once destroyed; the number stays taken, so that old blobs name no other version."""
        return self.cipher is not None

    @classmethod
    def make(cls, created):
        return cls(secrets.token_hex(8), created, secrets.token_hex(32))


@dataclasses.dataclass
class Key:
    """A key and its versions, oldest first.

    A blob is nonce (12) | masked number of the version (4) | AES-256-GCM ciphertext and tag, under a key that no other
    version has. The mask is a MAC under a key the client does not have: nothing in a blob names its key or version.
    """

    key_id: str
    created: int
    mask: str
    name: str = ""
    description: str = ""
    type: int = 0
    rotation_cycle: int = 0
    status: int = ENABLED
    deletes: int | None = None
    versions: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.versions = [one if isinstance(one, Version) else Version(**one) for one in self.versions]

    def _mask(self, nonce):
        return hmac.digest(bytes.fromhex(self.mask), nonce, "sha256")[:4]

    def current(self):
        """The newest version that is enabled, or None."""
        return next((one for one in reversed(self.versions) if one.status == ENABLED), None)

    def seal(self, plaintext):
        """A blob under the newest enabled version, or None."""
        version = self.current()
        if version is None:
            return None
        nonce = os.urandom(12)
        number = self.versions.index(version).to_bytes(4, "big")
        masked = bytes(a ^ b for a, b in zip(number, self._mask(nonce)))
        return nonce + masked + version.cipher.encrypt(nonce, plaintext, None)

    def open(self, blob):
        """(version, plaintext); None when the blob is damaged or another key's."""
        if len(blob) < 32:
            return None
        nonce = blob[:12]
        number = int.from_bytes(bytes(a ^ b for a, b in zip(blob[12:16], self._mask(nonce))), "big")
        if number >= len(self.versions):
            return None
        version = self.versions[number]
        if not version.exists:
            return None
        try:
            return version, version.cipher.decrypt(nonce, blob[16:], None)
        except InvalidTag:
            return None

    def rotate(self, now):
        """Adds a version. Two versions never share their second of creation, which is all that orders them outside."""
        self.versions.append(Version.make(max(int(now), self.versions[-1].created + 1 if self.versions else 0)))
        return self.versions[-1]

    def find(self, version):
        for one in self.versions:
            if one.version == version and one.exists:
                return one
        raise Refusal("no_such_version", 404, "NOT_FOUND", f"key version {version} not found")


@dataclasses.dataclass
class Account:
    """An access key; with a token and an expiry it is a session.

    `client` is `strict`, or `vendor` for the form in which the vendor's Python clients sign: V3 leaves date and nonce
    unsigned, both send x-jdcloud-content-sha256.
    """

    access_key: str
    secret_key: str
    permissions: dict = dataclasses.field(default_factory=lambda: dict(EVERYTHING))
    client: str = "strict"
    token: str | None = None
    expires: float | None = None
    revoked: bool = False

    def __post_init__(self):
        if self.client not in ("strict", "vendor"):
            raise ValueError("client is strict or vendor")
        unknown = {one for names in self.permissions.values() for one in names} - set(PERMISSIONS)
        if unknown:
            raise ValueError(f"no such permission: {', '.join(sorted(unknown))}")

    def may(self, operation, key_id):
        names = self.permissions.get(key_id, self.permissions.get("*", ()))
        return any(operation in PERMISSIONS[name] for name in names)


@dataclasses.dataclass
class Role:
    """What assumeRole hands out, and to which access keys."""

    jrn: str
    trusted: list
    permissions: dict = dataclasses.field(default_factory=lambda: dict(EVERYTHING))
    longest: int = 43200


class Vault:
    """Keys, accounts and roles, and the rules of their states."""

    def __init__(self, path=None):
        self.path = None if path is None else pathlib.Path(path)
        self.keys, self.accounts, self.roles = {}, {}, {}
        if self.path is not None and self.path.exists():
            document = json.loads(self.path.read_text())
            self.keys = {one["key_id"]: Key(**one) for one in document["keys"]}
            self.accounts = {one["access_key"]: Account(**one) for one in document["accounts"]}
            self.roles = {one["jrn"]: Role(**one) for one in document["roles"]}
        else:
            self._first_world()

    def _first_world(self):
        now = int(time.time()) - DAY
        for key_id, name in (("srh6mt4lj49tnzvs", "cluster-a"), ("k2q9x7c4m1v8b5n3", "cluster-b")):
            self.create(key_id, now, name=name)
        for access_key, names, client in (
            ("TESTAK0123456789", sorted(PERMISSIONS), "strict"),
            ("TESTAKENCRYPTONLY", ["encrypt", "describe"], "strict"),
            ("TESTAKDECRYPTONLY", ["decrypt", "describe"], "strict"),
            ("TESTAKNODESCRIBE", ["encrypt", "decrypt"], "strict"),
            ("TESTAKNOTHING", [], "strict"),
            ("TESTAKVENDOR", sorted(PERMISSIONS), "vendor"),
        ):
            secret = "TESTSKabcdefghijklmnop" if access_key == "TESTAK0123456789" else "TESTSK" + access_key.lower()
            self.accounts[access_key] = Account(access_key, secret, {"*": names}, client)
        jrn = "jrn:iam::123456789012:role/kmsward"
        self.roles[jrn] = Role(jrn, ["TESTAK0123456789", "TESTAKVENDOR"])
        self.save()

    def save(self):
        """Writes everything, if there is a file to write to; replaces it in one step."""
        if self.path is None:
            return
        rows = {"keys": self.keys, "accounts": self.accounts, "roles": self.roles}
        document = {name: [dataclasses.asdict(one) for one in table.values()] for name, table in rows.items()}
        temporary = self.path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file)
        os.replace(temporary, self.path)

    # Accounts

    def account(self, access_key):
        return self.accounts.get(access_key)

    def session(self, permissions, lifetime, now, client="strict"):
        """A new session with a token; old ones that ended a day ago are forgotten."""
        for one in [*self.accounts.values()]:
            if one.expires is not None and one.expires < now - DAY:
                del self.accounts[one.access_key]
        account = Account(
            "TMP" + secrets.token_hex(10).upper(),
            secrets.token_urlsafe(24),
            permissions,
            client,
            token="session." + secrets.token_urlsafe(48),
            expires=now + lifetime,
        )
        self.accounts[account.access_key] = account
        self.save()
        return account

    # Keys

    def create(self, key_id, now, name="", description="", type=0, rotation_cycle=0):
        key_id = key_id or "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(16))
        key = Key(key_id, int(now), secrets.token_hex(32), name, description, type, rotation_cycle)
        key.rotate(now)
        self.keys[key_id] = key
        self.save()
        return key

    def find(self, key_id, now):
        """The key, with the states that time has changed brought up to date."""
        key = self.keys.get(key_id)
        if key is not None and key.deletes is not None and key.deletes <= now:
            self.destroy(key_id)
            key = None
        if key is None:
            raise Refusal("no_such_key", 404, "NOT_FOUND", f"key {key_id} not found")
        for version in key.versions:
            if version.deletes is not None and version.deletes <= now:
                self.destroy_version(version)
        return key

    def destroy(self, key_id):
        del self.keys[key_id]
        self.save()

    def destroy_version(self, version):
        version.secret, version.cipher, version.status, version.deletes = "", None, SCHEDULED, None
        self.save()
