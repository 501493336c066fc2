"""How long to wait before another try: a pure function, with the randomness passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

JITTER = 0.5
"""The part of each wait that is random."""
_MAX_DOUBLINGS = 31


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling waits with a cap, in seconds; the engine waits in the same way."""

    initial: float
    max: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """That of a normalised connector."""
        return cls(settings["backoff_initial_us"] / 1e6, settings["backoff_max_us"] / 1e6)

    def delay(self, failures: int, chance: float) -> float:
        """The wait after the failure number `failures` (1 is the first); `chance` is uniform in 0 to 1."""
        longest = min(self.initial * 2.0 ** min(max(failures - 1, 0), _MAX_DOUBLINGS), self.max)
        return longest * (1.0 - JITTER * min(max(chance, 0.0), 1.0))
