"""The webhook's certificates: what is decided, what is made, and that a real TLS client trusts it at every moment."""

from __future__ import annotations

import asyncio
import base64
import itertools
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from streamjob_operator import certificates as c

NOW = datetime(2026, 3, 4, tzinfo=UTC)
NAMES = c.names_of("hook", "ops")


class FakeStore:
    """A Secret and a configuration with the API server's rules; `races` writes of another replica come first."""

    def __init__(self, races: int = 0) -> None:
        self.secret: dict[str, Any] | None = None
        self.webhook: dict[str, Any] | None = {"webhooks": [{"clientConfig": {}}, {"clientConfig": {}}]}
        self.calls: list[str] = []
        self.races = races
        self._versions = itertools.count(1)

    async def read_secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        return None if self.secret is None else {**self.secret, "metadata": dict(self.secret["metadata"])}

    async def create_secret(self, secret: dict[str, Any]) -> bool:
        return self._write(secret, exists=False)

    async def replace_secret(self, secret: dict[str, Any]) -> bool:
        return self._write(secret, exists=True)

    def _write(self, secret: dict[str, Any], *, exists: bool) -> bool:
        if self.races:
            self.races -= 1
            other = self.secret or {"metadata": {"name": "s", "namespace": "ops"}, "data": {}}
            self.secret = {**other, "metadata": {**other["metadata"], "resourceVersion": str(next(self._versions))}}
        if exists != (self.secret is not None):
            return False
        if self.secret and secret["metadata"].get("resourceVersion") != self.secret["metadata"]["resourceVersion"]:
            return False
        self.secret = {**secret, "metadata": {**secret["metadata"], "resourceVersion": str(next(self._versions))}}
        self.calls.append("secret")
        return True

    async def read_webhook(self, name: str) -> dict[str, Any] | None:
        return self.webhook

    async def patch_webhook(self, name: str, patch: list[dict[str, Any]]) -> None:
        assert self.webhook is not None
        for step in patch:
            index = int(step["path"].split("/")[2])
            self.webhook["webhooks"][index]["clientConfig"]["caBundle"] = step["value"]
        self.calls.append("trust")

    def trusted(self) -> bytes:
        assert self.webhook is not None
        bundles = {one["clientConfig"].get("caBundle", "") for one in self.webhook["webhooks"]}
        assert len(bundles) == 1
        return base64.b64decode(bundles.pop())


def keep(store: FakeStore, where: c.Place, now: datetime) -> c.Kept:
    """One look."""
    return asyncio.run(c.keep(store, where, now))


def place(tmp_path: Path) -> c.Place:
    return c.Place("ops", "hook-cert", "hook", "ops-hook", tmp_path / "serving")


def handshake(folder: Path, trusted: bytes, name: str = NAMES[0]) -> None:
    """Serves from `folder` and calls as the API server does; raises where that fails.

    Time is the machine's own: use certificates of now.
    """
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / c.CERTIFICATE_FILE, folder / c.KEY_FILE)
    client = ssl.create_default_context(cadata=trusted.decode())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join()


def test_nothing_is_there_and_everything_is_made(tmp_path: Path) -> None:
    store, where = FakeStore(), place(tmp_path)
    kept = keep(store, where, datetime.now(UTC))
    assert kept.decision.need is c.Need.AUTHORITY
    assert kept.trust_changed
    assert kept.files_changed
    assert store.calls == ["secret", "trust"]
    handshake(where.folder, store.trusted())


def test_a_second_look_does_nothing(tmp_path: Path) -> None:
    store, where = FakeStore(), place(tmp_path)
    keep(store, where, NOW)
    kept = keep(store, where, NOW + timedelta(days=1))
    assert (kept.decision.need, kept.trust_changed, kept.files_changed) == (c.Need.NOTHING, False, False)
    assert store.calls == ["secret", "trust"]


def test_another_replica_takes_what_the_first_has_made(tmp_path: Path) -> None:
    store = FakeStore()
    first, second = place(tmp_path / "a"), place(tmp_path / "b")
    keep(store, first, NOW)
    kept = keep(store, second, NOW)
    assert kept.decision.need is c.Need.NOTHING
    assert kept.files_changed
    for name in (c.CERTIFICATE_FILE, c.KEY_FILE):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_the_serving_certificate_is_renewed_in_time_under_the_same_authority(tmp_path: Path) -> None:
    store, where = FakeStore(), place(tmp_path)
    keep(store, where, NOW)
    before = store.trusted()
    late = NOW + c.SERVING_LIFE - c.SERVING_RENEWED
    assert keep(store, where, late - timedelta(minutes=1)).decision.need is c.Need.NOTHING
    kept = keep(store, where, late + timedelta(minutes=1))
    assert kept.decision.need is c.Need.SERVING
    assert kept.files_changed
    assert not kept.trust_changed
    assert store.trusted() == before


def test_a_new_authority_is_trusted_beside_the_old_one(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    began = now - (c.AUTHORITY_LIFE - c.AUTHORITY_RENEWED) - timedelta(hours=2)
    store, ahead, behind = FakeStore(), place(tmp_path / "a"), place(tmp_path / "b")
    keep(store, ahead, began)
    # A serving certificate of the old authority that is still valid.
    keep(store, ahead, now - timedelta(hours=3))
    keep(store, behind, now - timedelta(hours=3))
    kept = keep(store, ahead, now)
    assert kept.decision.need is c.Need.AUTHORITY
    assert kept.trust_changed
    assert (ahead.folder / c.CERTIFICATE_FILE).read_bytes() != (behind.folder / c.CERTIFICATE_FILE).read_bytes()
    handshake(ahead.folder, store.trusted())
    handshake(behind.folder, store.trusted())


def test_trust_comes_before_serving(tmp_path: Path) -> None:
    """Where the API server cannot be told, nobody serves with what it does not know."""
    store, where = FakeStore(), place(tmp_path)
    store.webhook = None
    with pytest.raises(c.CertificateError, match="install the chart"):
        keep(store, where, NOW)
    assert not where.folder.exists()


@pytest.mark.parametrize("races", range(c.MAX_ATTEMPTS))
def test_who_comes_second_reads_again(tmp_path: Path, races: int) -> None:
    store = FakeStore(races)
    keep(store, place(tmp_path), NOW)
    assert store.secret is not None
    assert c.from_secret(store.secret) is not None


def test_a_secret_that_never_holds_still_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(c.CertificateError, match="changed by others"):
        keep(FakeStore(c.MAX_ATTEMPTS), place(tmp_path), NOW)


def test_a_bundle_that_an_upgrade_took_away_comes_back(tmp_path: Path) -> None:
    store, where = FakeStore(), place(tmp_path)
    keep(store, where, NOW)
    before = store.trusted()
    store.webhook = {"webhooks": [{"clientConfig": {}}]}
    assert keep(store, where, NOW).trust_changed
    assert store.trusted() == before


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_service_is_served_and_no_other(tmp_path: Path, name: str) -> None:
    store, where = FakeStore(), place(tmp_path)
    keep(store, where, datetime.now(UTC))
    handshake(where.folder, store.trusted(), name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(where.folder, store.trusted(), "other.ops.svc")


def test_another_service_gets_another_certificate() -> None:
    held = c.make(None, c.Need.AUTHORITY, NAMES, NOW)
    decision = c.decide(held, c.names_of("renamed", "ops"), NOW)
    assert decision.need is c.Need.SERVING
    assert "renamed.ops.svc" in decision.reason


def test_a_certificate_without_any_name_is_replaced() -> None:
    """As `openssl x509 -req` makes it by default."""
    held = c.make(None, c.Need.AUTHORITY, NAMES, NOW)
    authority = x509.load_pem_x509_certificate(held.authorities[0])
    key = serialization.load_pem_private_key(held.key, None)
    signer = serialization.load_pem_private_key(held.authority_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    nameless = (
        x509.CertificateBuilder()
        .subject_name(authority.subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + c.SERVING_LIFE)
        .sign(signer, hashes.SHA256())
    )
    found = replace(held, certificate=nameless.public_bytes(serialization.Encoding.PEM))
    assert c.decide(found, NAMES, NOW).need is c.Need.SERVING


def test_files_are_readable_by_their_owner_alone_and_old_ones_go(tmp_path: Path) -> None:
    first = c.make(None, c.Need.AUTHORITY, NAMES, NOW)
    second = c.make(first, c.Need.SERVING, NAMES, NOW)
    for held in (first, second, second):
        c.write_files(tmp_path, held)
    assert (tmp_path / c.KEY_FILE).stat().st_mode & 0o077 == 0
    assert (tmp_path / c.KEY_FILE).read_bytes() == second.key
    assert len([path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()]) == 1


HELD = c.make(None, c.Need.AUTHORITY, NAMES, NOW)
OTHER = c.make(None, c.Need.AUTHORITY, NAMES, NOW)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.sampled_from([HELD, OTHER, None]), min_size=4, max_size=4),
    days=st.integers(0, 6 * 365),
)
def test_one_step_always_leads_to_a_state_that_needs_nothing(parts: list[c.Held | None], days: int) -> None:
    """From any mixture of good, foreign and damaged members, at any time."""
    members = [
        source.__getattribute__(name) if source else (() if name == "authorities" else b"damaged")
        for source, name in zip(parts, ("authorities", "authority_key", "certificate", "key"), strict=True)
    ]
    held, now = c.Held(*members), NOW + timedelta(days=days)
    made = c.make(held, c.decide(held, NAMES, now).need, NAMES, now)
    assert c.decide(made, NAMES, now).need is c.Need.NOTHING
    assert c.from_secret({"data": c.to_data(made)}) == made
    assert len(made.authorities) <= c.MAX_AUTHORITIES


@pytest.mark.parametrize("data", [{}, {"ca.crt": "x"}, dict.fromkeys(("ca.crt", "ca.key", "tls.crt", "tls.key"), "%")])
def test_a_secret_that_holds_something_else_counts_as_empty(data: dict[str, str]) -> None:
    assert c.from_secret({"data": data}) is None
