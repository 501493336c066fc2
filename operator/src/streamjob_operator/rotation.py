"""Keeps the webhook's certificates while the process runs: `certificates.keep` on a real cluster, again and again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from streamjob_operator.certificates import CertificateError, Need, Place, keep
from streamjob_operator.cluster import Cluster, ClusterError
from streamjob_operator.kinds import SECRET, VALIDATING_WEBHOOK
from streamjob_operator.settings import Settings

RETRY = timedelta(seconds=15)
"""After a look that failed, the next one comes so soon."""
_CONFLICT = (404, 409)

_log = structlog.get_logger("streamjob_operator.rotation")


class ClusterStore:
    """The Secret and the webhook's configuration of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def read_secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The Secret, or None if there is none."""
        return await self._cluster.get(SECRET, namespace, name)

    async def create_secret(self, secret: dict[str, Any]) -> bool:
        """Creates it; False if there is one."""
        try:
            await self._cluster.create(secret)
        except ClusterError as error:
            if error.code == 409:
                return False
            raise
        return True

    async def replace_secret(self, secret: dict[str, Any]) -> bool:
        """Replaces it; False if another was first."""
        try:
            await self._cluster.replace(secret)
        except ClusterError as error:
            if error.code in _CONFLICT:
                return False
            raise
        return True

    async def read_webhook(self, name: str) -> dict[str, Any] | None:
        """The configuration, or None if there is none."""
        return await self._cluster.get(VALIDATING_WEBHOOK, None, name)

    async def patch_webhook(self, name: str, patch: list[dict[str, Any]]) -> None:
        """Applies a JSON patch to it."""
        await self._cluster.patch(VALIDATING_WEBHOOK, None, name, patch)


def place_of(settings: Settings, namespace: str) -> Place | None:
    """Where this operator's certificates are; None where somebody else keeps them, or nobody needs any."""
    if not settings.webhook_secret or not settings.webhook_cert_dir:
        return None
    return Place(
        namespace=namespace,
        secret=settings.webhook_secret,
        service=settings.webhook_service,
        configuration=settings.webhook_configuration,
        folder=Path(settings.webhook_cert_dir),
    )


async def rotate(cluster: Cluster, place: Place) -> None:
    """Looks after the certificates until it is cancelled; what fails is told and tried again."""
    store = ClusterStore(cluster)
    while True:
        now = datetime.now(UTC)
        try:
            kept = await keep(store, place, now)
        except (CertificateError, ClusterError, OSError) as error:
            _log.warning("the webhook's certificates cannot be kept", error=str(error), wait_s=RETRY.total_seconds())
            await asyncio.sleep(RETRY.total_seconds())
            continue
        if kept.decision.need is not Need.NOTHING:
            _log.info("made a certificate", what=kept.decision.need.value, reason=kept.decision.reason)
        if kept.trust_changed:
            _log.info("told the API server which authorities to trust", configuration=place.configuration)
        await asyncio.sleep((kept.next_look - now).total_seconds())
