"""The webhook's certificates where no one else makes them: an authority, a serving certificate, and their rotation.

A Secret holds what all replicas share; each of them keeps it right: read, decide, write, hand on. Two that write at
the same time find out by the Secret's resource version, and the later one reads again. The API server learns of an
authority before anyone serves with it, and trusts the one before until it ends, so that no replica is refused while
another has already gone on.

`decide` and what it calls are pure: times come as arguments. `keep` does what was decided, through a `Store`.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=5 * 365)
AUTHORITY_RENEWED = timedelta(days=365)
"""An authority that ends sooner is replaced; the old one stays trusted until it ends."""
SERVING_LIFE = timedelta(days=90)
SERVING_RENEWED = timedelta(days=30)
"""A serving certificate that ends sooner is replaced."""
CLOCK_SKEW = timedelta(hours=1)
"""Certificates begin so long ago, for clocks that are behind."""
CHECK_INTERVAL = timedelta(minutes=10)
"""How often a replica looks: so long after one has rotated, the others follow."""
MAX_AUTHORITIES = 3
"""The most that the API server is told to trust."""
MAX_ATTEMPTS = 5
"""Writes that other replicas may come before, in one go."""

CERTIFICATE_FILE, KEY_FILE = "tls.crt", "tls.key"
_AUTHORITY, _AUTHORITY_KEY = "ca.crt", "ca.key"


class CertificateError(RuntimeError):
    """The certificates cannot be kept: what is wrong, and what to do."""


class Need(Enum):
    """What has to be made."""

    NOTHING = "nothing"
    SERVING = "serving certificate"
    AUTHORITY = "authority and serving certificate"


@dataclass(frozen=True, slots=True)
class Held:
    """What the Secret holds: trusted authorities (newest first), the newest one's key, what is served with; all PEM."""

    authorities: tuple[bytes, ...]
    authority_key: bytes
    certificate: bytes
    key: bytes

    @property
    def bundle(self) -> bytes:
        """What the API server trusts."""
        return b"".join(self.authorities)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is needed and, for the log, why."""

    need: Need
    reason: str


def names_of(service: str, namespace: str) -> tuple[str, ...]:
    """The names by which the API server may call a Service; the first is the one it uses."""
    return (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local")


def decide(held: Held | None, names: Sequence[str], now: datetime) -> Decision:
    """What must be made so that `names` are served with a certificate that is trusted and does not end soon."""
    if held is None:
        return Decision(Need.AUTHORITY, "there is none")
    try:
        authority = x509.load_pem_x509_certificate(held.authorities[0])
        authority_key = _private_key(held.authority_key)
    except (ValueError, TypeError, IndexError):
        return Decision(Need.AUTHORITY, "the authority cannot be read")
    if not _same_key(authority, authority_key):
        return Decision(Need.AUTHORITY, "the authority and its key do not belong together")
    if authority.not_valid_after_utc - now < AUTHORITY_RENEWED:
        return Decision(Need.AUTHORITY, f"the authority ends at {authority.not_valid_after_utc:%Y-%m-%d}")
    return Decision(*_decide_serving(held, authority, names, now))


def _decide_serving(held: Held, authority: x509.Certificate, names: Sequence[str], now: datetime) -> tuple[Need, str]:
    try:
        serving = x509.load_pem_x509_certificate(held.certificate)
        key = _private_key(held.key)
    except (ValueError, TypeError):
        return Need.SERVING, "the serving certificate cannot be read"
    if not _same_key(serving, key):
        return Need.SERVING, "the serving certificate and its key do not belong together"
    try:
        serving.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return Need.SERVING, "the serving certificate is of another authority"
    if serving.not_valid_after_utc - now < SERVING_RENEWED:
        return Need.SERVING, f"the serving certificate ends at {serving.not_valid_after_utc:%Y-%m-%d}"
    missing = set(names) - _alternatives(serving)
    if missing:
        return Need.SERVING, f"the serving certificate does not cover {', '.join(sorted(missing))}"
    return Need.NOTHING, "all is valid"


def _alternatives(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return set(found.get_values_for_type(x509.DNSName))


def make(held: Held | None, need: Need, names: Sequence[str], now: datetime) -> Held:
    """What is held after `need` was met. Random keys apart, a function of its arguments."""
    if need is Need.NOTHING and held is not None:
        return held
    if need is Need.AUTHORITY or held is None:
        key = ec.generate_private_key(ec.SECP256R1())
        authority = _authority(key, now)
        trusted = [_pem(authority), *_unexpired(held.authorities if held else (), now)][:MAX_AUTHORITIES]
        return _serving(tuple(trusted), authority, key, names, now)
    authority = x509.load_pem_x509_certificate(held.authorities[0])
    return _serving(held.authorities, authority, _private_key(held.authority_key), names, now)


def _unexpired(authorities: Sequence[bytes], now: datetime) -> list[bytes]:
    kept = []
    for pem in authorities:
        try:
            if x509.load_pem_x509_certificate(pem).not_valid_after_utc > now:
                kept.append(pem)
        except ValueError:
            continue
    return kept


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not a key of an elliptic curve")
    return key


def _same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    return certificate.public_key() == key.public_key()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(text: str) -> x509.Name:
    # A common name has at most 64 characters; who calls looks at the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # Each authority has a name of its own: one bundle holds several.
    name = _name(f"streamjob-operator {now:%Y-%m-%dT%H:%M:%S}")
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _serving(
    authorities: tuple[bytes, ...],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    now: datetime,
) -> Held:
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(names[0]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(min(now + SERVING_LIFE, authority.not_valid_after_utc))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return Held(authorities, _key_pem(authority_key), _pem(certificate), _key_pem(key))


# ------------------------------------------------------------------------------------------- the Secret and the webhook


def from_secret(secret: dict[str, Any]) -> Held | None:
    """What a Secret holds; None where a member is missing or is no Base64."""
    data = secret.get("data") or {}
    try:
        parts = [base64.b64decode(data[name], validate=True) for name in _members()]
    except (KeyError, ValueError, TypeError):
        return None
    end = b"-----END CERTIFICATE-----\n"
    authorities = tuple(part + end for part in parts[0].split(end) if part.strip())
    return Held(authorities, *parts[1:])


def to_data(held: Held) -> dict[str, str]:
    """The `data` of a Secret that holds this."""
    parts = (held.bundle, held.authority_key, held.certificate, held.key)
    return {name: base64.b64encode(part).decode() for name, part in zip(_members(), parts, strict=True)}


def _members() -> tuple[str, ...]:
    return (_AUTHORITY, _AUTHORITY_KEY, CERTIFICATE_FILE, KEY_FILE)


def trust_patch(configuration: dict[str, Any], held: Held) -> list[dict[str, Any]]:
    """A JSON patch that makes every webhook of a configuration trust the authorities; empty where they all do."""
    bundle = base64.b64encode(held.bundle).decode()
    return [
        {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": bundle}
        for index, webhook in enumerate(configuration.get("webhooks") or [])
        if (webhook.get("clientConfig") or {}).get("caBundle") != bundle
    ]


class Store(Protocol):
    """What is asked of the cluster. `False` says that someone else was first: read again."""

    async def read_secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The Secret, or None if there is none."""

    async def create_secret(self, secret: dict[str, Any]) -> bool:
        """Creates it; False if there is one."""

    async def replace_secret(self, secret: dict[str, Any]) -> bool:
        """Replaces it; False if its resourceVersion is no longer the newest, or if it has gone."""

    async def read_webhook(self, name: str) -> dict[str, Any] | None:
        """The ValidatingWebhookConfiguration, or None if there is none."""

    async def patch_webhook(self, name: str, patch: list[dict[str, Any]]) -> None:
        """Applies a JSON patch to it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is: the Secret, the Service it is for, the configuration that trusts it, the folder to serve
    from."""

    namespace: str
    secret: str
    service: str
    configuration: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Kept:
    """What one look did: what was made and why, whether the API server and the files had to learn of it, and when to
    look again."""

    decision: Decision
    trust_changed: bool
    files_changed: bool
    next_look: datetime


async def keep(store: Store, place: Place, now: datetime) -> Kept:
    """Makes the Secret, the API server's trust and the served files right, in this order: see the module.

    Raises CertificateError where other replicas were first `MAX_ATTEMPTS` times, or the configuration is missing.
    """
    held, decision = await _keep_secret(store, place, now)
    configuration = await store.read_webhook(place.configuration)
    if configuration is None:
        raise CertificateError(f"there is no ValidatingWebhookConfiguration {place.configuration}: install the chart")
    patch = trust_patch(configuration, held)
    if patch:
        await store.patch_webhook(place.configuration, patch)
    files_changed = write_files(place.folder, held)
    return Kept(decision, bool(patch), files_changed, now + CHECK_INTERVAL)


async def _keep_secret(store: Store, place: Place, now: datetime) -> tuple[Held, Decision]:
    names = names_of(place.service, place.namespace)
    for _ in range(MAX_ATTEMPTS):
        secret = await store.read_secret(place.namespace, place.secret)
        held = from_secret(secret) if secret else None
        decision = decide(held, names, now)
        if held is not None and decision.need is Need.NOTHING:
            return held, decision
        made = make(held, decision.need, names, now)
        if secret is None:
            written = await store.create_secret(_new_secret(place, made))
        else:
            written = await store.replace_secret({**secret, "data": {**(secret.get("data") or {}), **to_data(made)}})
        if written:
            return made, decision
    raise CertificateError(f"the Secret {place.namespace}/{place.secret} was changed by others {MAX_ATTEMPTS} times")


def _new_secret(place: Place, held: Held) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "streamjob-operator", "app.kubernetes.io/part-of": "streamjob"}
    metadata = {"name": place.secret, "namespace": place.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": to_data(held)}


def write_files(folder: Path, held: Held) -> bool:
    """Puts certificate and key where they are served from; False where they are there already.

    Both change at once, as the kubelet does it: a link is turned to a new folder with both.
    """
    certificate, key = folder / CERTIFICATE_FILE, folder / KEY_FILE
    if _content(certificate) == held.certificate and _content(key) == held.key:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    for name, content in ((CERTIFICATE_FILE, held.certificate), (KEY_FILE, held.key)):
        with open(os.open(fresh / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    current = folder / "..data"
    before = folder / os.readlink(current) if current.is_symlink() else None
    _link(current, fresh.name)
    for path in (certificate, key):
        _link(path, f"..data/{path.name}")
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return True


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _link(path: Path, target: str) -> None:
    """Makes `path` a link to `target`, in one step."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
