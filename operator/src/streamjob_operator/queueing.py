"""The work queue with a clock and somebody who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamjob_operator import metrics
from streamjob_operator.index import Key
from streamjob_operator.workqueue import WorkQueue


class Work:
    """Jobs to look at, for workers of one event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._queue: WorkQueue[Key] = WorkQueue()
        self._clock = clock
        self._changed = asyncio.Event()
        self.started: dict[Key, float] = {}

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Asks for a look soon; an urgent one comes before others."""
        self._queue.add(key, self._clock(), urgent=urgent)
        self._note()

    def add_in(self, key: Key, seconds: float) -> None:
        """Asks for a look later."""
        self._queue.add_at(key, self._clock() + seconds)
        self._note()

    def _note(self) -> None:
        self._changed.set()
        metrics.queue_depth.set(len(self._queue))
        metrics.queue_refused.set(self._queue.refused)

    async def take(self) -> Key:
        """Waits for the next job."""
        while True:
            now = self._clock()
            taken = self._queue.take(now)
            if taken is not None:
                metrics.queue_wait.observe(taken[1])
                metrics.queue_depth.set(len(self._queue))
                self.started[taken[0]] = now
                return taken[0]
            self._changed.clear()
            due = self._queue.next_time()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - now)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: Key, *, failed: bool) -> None:
        """The look is over."""
        self.started.pop(key, None)
        self._queue.done(key, self._clock(), failed=failed)
        self._note()

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._queue.forget(key)

    def longest(self) -> float:
        """Seconds of the longest look under way; asked from another thread, while looks begin and end."""
        now = self._clock()
        return max((now - since for since in list(self.started.values())), default=0.0)
