"""What two watches show of the jobs and their StatefulSets, and whoever waits for something to show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fleet.client import Api
from fleet.objects import JOBS, SETS, Key


@dataclass
class View:
    """The newest of one job that the watches have shown."""

    phase: str | None = None
    generation: int = 0
    observed: int = 0
    set_generation: int = 0
    set_ready: int = 0

    def runs(self) -> bool:
        """Whether the job runs as its newest spec says, and says so."""
        return self.phase == "Running" and 0 < self.generation == self.observed


Holds = Callable[[View], bool]


@dataclass
class Seen:
    """The views of all jobs."""

    views: dict[Key, View] = field(default_factory=dict)
    _waiting: dict[Key, list[tuple[Holds, asyncio.Future[float]]]] = field(default_factory=dict)

    def view(self, key: Key) -> View:
        """The view of a job."""
        return self.views.setdefault(key, View())

    def expect(self, key: Key, holds: Holds) -> asyncio.Future[float]:
        """The time, by the monotonic clock, at which something is first seen to hold for a job."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((holds, future))
        self._check(key)
        return future

    def _check(self, key: Key) -> None:
        view, left = self.view(key), []
        for holds, future in self._waiting.pop(key, []):
            if future.done():
                continue
            if holds(view):
                future.set_result(time.monotonic())
            else:
                left.append((holds, future))
        if left:
            self._waiting[key] = left

    async def follow_jobs(self, api: Api) -> None:
        """Watches the StreamJobs until it is cancelled."""
        async for event in api.watch(JOBS):
            thing, key = event["object"], _key(event)
            view, status = self.view(key), thing.get("status", {})
            view.generation, view.phase = thing["metadata"]["generation"], status.get("phase")
            view.observed = status.get("observedGeneration", 0)
            self._check(key)

    async def follow_sets(self, api: Api) -> None:
        """Watches the StatefulSets until it is cancelled."""
        async for event in api.watch(SETS):
            thing, key = event["object"], _key(event)
            view = self.view(key)
            view.set_generation = thing["metadata"]["generation"]
            view.set_ready = thing.get("status", {}).get("readyReplicas", 0)
            self._check(key)


def _key(event: dict[str, Any]) -> Key:
    metadata = event["object"]["metadata"]
    return metadata["namespace"], metadata["name"]
