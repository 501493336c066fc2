"""The webhook's certificates in a real API server: replicas that start at once, what others take away."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kubeharness.server import Server
from streamjob_operator import certificates
from streamjob_operator.certificates import Need, Place, keep
from streamjob_operator.cluster import Cluster
from streamjob_operator.rotation import ClusterStore

NOW = datetime(2026, 3, 4, tzinfo=UTC)
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@pytest.fixture
def configuration(server: Server, namespace: str) -> str:
    """A webhook's configuration without a bundle, for a kind that nobody has."""
    service = {"name": "hook", "namespace": namespace, "path": "/streamjobs"}
    rule = {"apiGroups": ["nobody.dev"], "apiVersions": ["v1"], "resources": ["things"], "operations": ["CREATE"]}
    webhook = {
        "name": "validate.nobody.dev",
        "clientConfig": {"service": service},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    body = {"metadata": {"name": namespace}, "webhooks": [webhook, {**webhook, "name": "second.nobody.dev"}]}
    status, answer = server.call("POST", CONFIGURATIONS, body)
    assert status == 201, answer
    return namespace


def places(namespace: str, tmp_path: Path, count: int) -> list[Place]:
    """The places of so many replicas."""
    return [Place(namespace, "cert", "hook", namespace, tmp_path / str(number)) for number in range(count)]


def with_cluster(
    server: Server, monkeypatch: pytest.MonkeyPatch, work: Callable[[ClusterStore], Awaitable[None]]
) -> None:
    """Does some work with a connection."""
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(server.kubeconfig))

    async def connected() -> None:
        cluster = await Cluster.connect()
        try:
            await work(ClusterStore(cluster))
        finally:
            await cluster.close()

    asyncio.run(connected())


def bundles(server: Server, name: str) -> set[str]:
    """What each webhook of a configuration trusts."""
    _, found = server.call("GET", f"{CONFIGURATIONS}/{name}")
    return {webhook["clientConfig"].get("caBundle", "") for webhook in found["webhooks"]}


def test_replicas_that_start_at_once_agree(
    server: Server, namespace: str, configuration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = places(namespace, tmp_path, 4)

    async def work(store: ClusterStore) -> None:
        kept = await asyncio.gather(*(keep(store, place, NOW) for place in replicas))
        assert [one.decision.need for one in kept].count(Need.NOTHING) == len(replicas) - 1, "one of them made it"

    with_cluster(server, monkeypatch, work)
    assert len({(place.folder / certificates.CERTIFICATE_FILE).read_bytes() for place in replicas}) == 1
    _, secret = server.call("GET", f"/api/v1/namespaces/{namespace}/secrets/cert")
    assert bundles(server, configuration) == {secret["data"]["ca.crt"]}


def test_rotation_and_repair(
    server: Server, namespace: str, configuration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = places(namespace, tmp_path, 1)

    async def work(store: ClusterStore) -> None:
        await keep(store, place, NOW)
        first = bundles(server, configuration)
        renewed = await keep(store, place, NOW + certificates.SERVING_LIFE)
        assert renewed.decision.need is Need.SERVING
        assert bundles(server, configuration) == first
        later = NOW + certificates.AUTHORITY_LIFE - timedelta(days=1)
        assert (await keep(store, place, later)).decision.need is Need.AUTHORITY
        (both,) = bundles(server, configuration)
        assert base64.b64decode(both).count(b"BEGIN CERTIFICATE") == 2
        # Another takes the bundle away, as an apply of the chart's objects by other tools does.
        patch = [{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}]
        server.call("PATCH", f"{CONFIGURATIONS}/{configuration}", patch, "application/json-patch+json")
        assert (await keep(store, place, later)).trust_changed
        assert bundles(server, configuration) == {both}
        server.call("DELETE", f"/api/v1/namespaces/{namespace}/secrets/cert")
        assert (await keep(store, place, later)).decision.need is Need.AUTHORITY

    with_cluster(server, monkeypatch, work)
