"""An operator of NATS with an account and its users, as `nsc` would make them: keys, signed claims, credentials files.

Keys are Ed25519 in the text form of NATS: a prefix for the kind, the key, a CRC-16, all in base 32. Claims are JSON Web
Tokens.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED, OPERATOR, ACCOUNT, USER = 18 << 3, 14 << 3, 0, 20 << 3
NO_LIMIT = -1
CREDENTIALS = """-----BEGIN NATS USER JWT-----
{claims}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


def _text(data: bytes) -> str:
    check = binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(data + check).decode().rstrip("=")


def _token(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


class Identity:
    """A key of some kind, and what it signs."""

    def __init__(self, kind: int) -> None:
        """A new key; `kind` is its prefix."""
        self._kind = kind
        self._key = Ed25519PrivateKey.generate()

    @property
    def public(self) -> str:
        """What others know it by."""
        return _text(bytes([self._kind]) + self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """What it signs with."""
        return _text(bytes([SEED | self._kind >> 5, (self._kind & 31) << 3]) + self._key.private_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """The signature of some bytes."""
        return self._key.sign(data)

    def claims(self, subject: Identity, name: str, **says: Any) -> str:
        """A token that says something about another, or about itself."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {"jti": name, "iat": 1, "iss": self.public, "name": name, "sub": subject.public, "nats": says}
        text = ".".join(_token(json.dumps(part).encode()) for part in (header, body))
        return f"{text}.{_token(self.sign(text.encode()))}"


class Operator:
    """An operator with one account that may use JetStream, and the account that servers want for themselves."""

    def __init__(self) -> None:
        """Makes keys for all of them."""
        self._own, self._system, self._account = Identity(OPERATOR), Identity(ACCOUNT), Identity(ACCOUNT)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a server must know."""
        system = {"type": "operator", "version": 2, "system_account": self._system.public}
        limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), NO_LIMIT)
        stores = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), NO_LIMIT)
        account = {"type": "account", "version": 2, "default_permissions": {"pub": {}, "sub": {}}}
        return {
            "operator": self._own.claims(self._own, "operator", **system),
            "system_account": self._system.public,
            "resolver": "MEMORY",
            "resolver_preload": {
                self._system.public: self._own.claims(
                    self._system, "system", **account, limits={**limits, "wildcards": True}
                ),
                self._account.public: self._own.claims(
                    self._account, "account", **account, limits={**limits, **stores, "wildcards": True}
                ),
            },
        }

    def user(self, name: str) -> tuple[Identity, str]:
        """A user of the account, and what the account says of them."""
        user = Identity(USER)
        says = {"pub": {}, "sub": {}, "subs": NO_LIMIT, "data": NO_LIMIT, "payload": NO_LIMIT}
        return user, self._account.claims(user, name, **says, type="user", version=2)

    def client(self, name: str) -> Mapping[str, Any]:
        """How a client of the tests' own is that user."""
        user, claims = self.user(name)
        return {
            "user_jwt_cb": lambda: claims.encode(),
            "signature_cb": lambda nonce: base64.b64encode(user.sign(nonce.encode())),
        }

    def credentials(self, name: str) -> str:
        """The same as the text of a file."""
        user, claims = self.user(name)
        return CREDENTIALS.format(claims=claims, seed=user.seed)
