"""When an engine is killed: at random moments, and at each step that the sources name."""

from __future__ import annotations

import os
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

ENGINE_SOURCES = Path(__file__).parents[1] / "engine" / "crates"
DEFAULT_KILLS = 60
POINT = re.compile(r'crash::point\(\s*"([^"]+)"')


def kills_wanted() -> int:
    """How many kills the tests do together."""
    return int(os.environ.get("STREAMJOB_KILLS", DEFAULT_KILLS))


def share(part: float) -> int:
    """How many of them are one test's."""
    return max(1, round(kills_wanted() * part))


def seed() -> int:
    """The seed of everything random; STREAMJOB_SEED repeats a failure as far as timing lets it."""
    return int(os.environ.get("STREAMJOB_SEED", time.time_ns() % 1_000_000_007))


def crash_points() -> list[str]:
    """Every step at which a build with crash points can end itself, as the sources have them."""
    found = {name for path in sorted(ENGINE_SOURCES.rglob("src/**/*.rs")) for name in POINT.findall(path.read_text())}
    assert found, f"no crash::point( in {ENGINE_SOURCES}"
    return sorted(found)


@dataclass(frozen=True)
class Kill:
    """At a named step for the n-th time, or (`at` is None) after some seconds."""

    at: str | None
    after_s: float = 0.0

    def __str__(self) -> str:
        """For messages."""
        return self.at or f"after {self.after_s:.2f} s"


def named(points: list[str], times: tuple[int, ...]) -> list[Kill]:
    """Each step, for the first and for later times."""
    return [Kill(f"{point}:{number}") for point in points for number in times]


def at_random(count: int, rng: random.Random, shortest_s: float, longest_s: float) -> list[Kill]:
    """Some kills at moments that nobody chose."""
    return [Kill(None, rng.uniform(shortest_s, longest_s)) for _ in range(count)]


class Report:
    """Says what a kill test does, in one line a kill, with the seed that repeats it."""

    def __init__(self, test: str, number: int) -> None:
        self.kills = 0
        self._began = time.monotonic()
        self._test = test
        print(f"{test}: STREAMJOB_SEED={number}")

    def killed(self, kill: Kill, note: str = "") -> None:
        """One more."""
        self.kills += 1
        print(f"{self._test}: kill {self.kills} {kill} {note}")

    def done(self) -> None:
        """All of them."""
        print(f"{self._test}: {self.kills} kills in {time.monotonic() - self._began:.0f} s")
