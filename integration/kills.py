"""When an engine is killed: at random moments, and at each step that the sources name; and how often it was."""

from __future__ import annotations

import ast
import os
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ENGINE_SOURCES = Path(__file__).parents[1] / "engine" / "crates"
DEFAULT_KILLS = 60
LEAST_KILLS = 50
"""What all tests that need no outside server do together at least, whatever random ones come too late."""
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
        self.late = 0
        self._began = time.monotonic()
        self._test = test
        print(f"{test}: STREAMJOB_SEED={number}")

    def killed(self, kill: Kill, note: str = "") -> None:
        """One more."""
        self.kills += 1
        print(f"{self._test}: kill {self.kills} {kill} {note}")

    def came_late(self, kill: Kill) -> None:
        """One that did not happen, because the job had ended."""
        self.late += 1
        print(f"{self._test}: no kill {kill}, the job has ended before")

    def done(self) -> None:
        """All of them."""
        late = f", {self.late} came too late" if self.late else ""
        print(f"{self._test}: {self.kills} kills in {time.monotonic() - self._began:.0f} s{late}")


def tests_without_servers(folder: Path) -> set[str]:
    """The kill tests that need no outside server, as `FILE::TEST`."""
    found = set()
    for path in folder.glob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        for function in ast.parse(text).body if "pytestmark = pytest.mark.servers" not in text else ():
            marks = {ast.unparse(mark) for mark in getattr(function, "decorator_list", ())}
            if "pytest.mark.kills" in marks and "pytest.mark.servers" not in marks:
                found.add(f"{path.name}::{getattr(function, 'name', '')}")
    return found


class Tally:
    """A plugin of pytest: counts the kills of a run; one of all tests without servers that killed too seldom fails."""

    def __init__(self, folder: Path) -> None:
        self._left = tests_without_servers(folder)
        self._least = min(LEAST_KILLS, kills_wanted())
        self._kills = 0

    def add(self, report: Report) -> None:
        """What one test did."""
        self._kills += report.kills

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes which tests have run."""
        if report.when == "call" and report.passed:
            file, _, name = report.location
            self._left.discard(f"{Path(file).name}::{name.partition('[')[0]}")

    def _are_too_few(self) -> bool:
        return not self._left and self._kills < self._least

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fails the run."""
        if self._are_too_few() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line."""
        if self._are_too_few():
            terminalreporter.write_line(f"kills: {self._kills}, TOO FEW: {self._least} at least are wanted", red=True)
        elif self._kills:
            part = f", of a part: {len(self._left)} kill tests without servers have not passed" if self._left else ""
            terminalreporter.write_line(f"kills: {self._kills}{part}")
