"""The election, carried out: reads and writes the Lease until leading, then until no more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from streamjob_operator import metrics
from streamjob_operator.cluster import Cluster, ClusterError, Object
from streamjob_operator.kinds import LEASE
from streamjob_operator.lease import RETRY_S, Election, Write

_log = structlog.get_logger("streamjob_operator.leader")


class Leader:
    """One candidate for a Lease."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._election = Election(identity)
        self.leading = asyncio.Event()
        self.lost = asyncio.Event()
        self._held: Object | None = None

    async def run(self) -> None:
        """Candidates and renews until the Lease is lost or the task is cancelled."""
        clock = asyncio.get_running_loop().time
        while not self.lost.is_set():
            started = clock()
            try:
                async with asyncio.timeout(self._election.within(started, RETRY_S * 2)):
                    await self._step(started)
            except (ClusterError, TimeoutError) as error:
                _log.warning("the Lease cannot be read or written", lease=self._name, error=str(error))
            self._election.tick(clock())
            self._show()
            if not self.lost.is_set():
                await asyncio.sleep(self._election.within(clock(), max(0.0, started + RETRY_S - clock())))

    async def _step(self, started: float) -> None:
        # Whoever leads knows the Lease: only this replica has written it since.
        known, self._held = self._held, None
        lease = known or await self._cluster.get(LEASE, self._namespace, self._name)
        write = self._election.look(lease, started, datetime.now(UTC))
        if write is None:
            return
        try:
            self._held = await self._put(write)
        except ClusterError as error:
            if error.code != 409:
                raise
            return  # another was faster
        self._election.written(started)

    async def _put(self, write: Write) -> Object:
        metadata = {"name": self._name, "namespace": self._namespace}
        manifest: Object = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": metadata,
            "spec": write.spec,
        }
        if write.version is None:
            return await self._cluster.create(manifest)
        metadata["resourceVersion"] = write.version
        return await self._cluster.replace(manifest)

    def _show(self) -> None:
        state = self._election.state
        metrics.leader.set(1 if state == "leading" else 0)
        if state == "leading" and not self.leading.is_set():
            _log.info("leads", lease=self._name, identity=self._election.identity)
            self.leading.set()
        if state == "lost":
            _log.error("no longer leads: the Lease could not be renewed", lease=self._name)
            self.lost.set()

    def holds(self) -> bool:
        """Whether this candidate may write now."""
        return self._election.holds(asyncio.get_running_loop().time())

    async def release(self) -> None:
        """Hands the Lease over, so that another leads at once."""
        try:
            async with asyncio.timeout(RETRY_S * 2):
                lease = await self._cluster.get(LEASE, self._namespace, self._name)
                write = self._election.release(lease, datetime.now(UTC))
                if write is not None:
                    await self._put(write)
                    _log.info("handed the Lease over", lease=self._name)
        except (ClusterError, TimeoutError) as error:
            _log.warning("the Lease could not be handed over; it runs out by itself", error=str(error))
        metrics.leader.set(0)
