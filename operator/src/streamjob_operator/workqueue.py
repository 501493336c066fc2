"""The work queue: which jobs are to be looked at, each once, by one worker at a time. The clock is passed in.

What somebody has asked for comes before what is looked at again, but for one in URGENT_IN_A_ROW + 1 looks.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_KEYS = 100_000
"""Jobs in the queue; one that finds no room is found again by the next resync."""
URGENT_IN_A_ROW = 4
"""Urgent looks, after which one comes that is not, if one waits."""
BACKOFF_INITIAL_S = 0.5
BACKOFF_MAX_S = 300.0


@dataclass
class WorkQueue(Generic[K]):
    """A deduplicating queue with delays and growing waits after failures; times are seconds of one clock."""

    limit: int = MAX_KEYS
    refused: int = 0
    _urgent: dict[K, float] = field(default_factory=dict)
    _plain: dict[K, float] = field(default_factory=dict)
    _in_a_row: int = 0
    _working: set[K] = field(default_factory=set)
    _dirty: dict[K, bool] = field(default_factory=dict)
    _later: dict[K, float] = field(default_factory=dict)
    _timers: list[tuple[float, int, K]] = field(default_factory=list)
    _failures: dict[K, int] = field(default_factory=dict)
    _sequence: int = 0

    def add(self, key: K, now: float, *, urgent: bool = False) -> bool:
        """Asks for a look at `key` soon; False where the queue is full. A key that is worked on comes again after."""
        if key in self._working:
            self._dirty[key] = urgent or self._dirty.get(key, False)
            return True
        if key in self._urgent or (key in self._plain and not urgent):
            return True
        since = self._plain.pop(key, None)
        if since is None and len(self) >= self.limit:
            self.refused += 1
            return False
        (self._urgent if urgent else self._plain)[key] = now if since is None else since
        return True

    def add_at(self, key: K, time: float) -> None:
        """Asks for a look at `key` at a time; the earliest that is asked for counts."""
        known = self._later.get(key)
        if known is not None and known <= time:
            return
        self._later[key] = time
        self._sequence += 1
        heapq.heappush(self._timers, (time, self._sequence, key))

    def take(self, now: float) -> tuple[K, float] | None:
        """The next key and how long it has waited, or None. The caller says `done` later."""
        self._due(now)
        turn = self._plain if self._in_a_row >= URGENT_IN_A_ROW and self._plain else self._urgent or self._plain
        if not turn:
            return None
        self._in_a_row = self._in_a_row + 1 if turn is self._urgent else 0
        key = next(iter(turn))
        self._working.add(key)
        return key, now - turn.pop(key)

    def done(self, key: K, now: float, *, failed: bool = False) -> None:
        """The look at `key` is over; after a failure it comes again, later each time.

        What was asked for meanwhile is looked at without that wait: it may be the very correction.
        """
        self._working.discard(key)
        again = self._dirty.pop(key, None)
        count = self._failures.get(key, 0)
        if failed:
            self._failures[key] = count + 1
        else:
            self._failures.pop(key, None)
        if again is not None:
            self.add(key, now, urgent=again)
        elif failed:
            self.add_at(key, now + min(BACKOFF_INITIAL_S * 2.0 ** min(count, 20), BACKOFF_MAX_S))

    def forget(self, key: K) -> None:
        """The job is gone: no timer and no count of failures stays."""
        self._failures.pop(key, None)
        self._later.pop(key, None)
        self._dirty.pop(key, None)

    def next_time(self) -> float | None:
        """When the next timer is due."""
        while self._timers and self._later.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)  # one that an earlier time or `forget` has replaced
        return self._timers[0][0] if self._timers else None

    def _due(self, now: float) -> None:
        while (time := self.next_time()) is not None and time <= now:
            key = heapq.heappop(self._timers)[2]
            del self._later[key]
            self.add(key, now)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._plain)
