"""Tests of a job on virtual time.

    from streamjob.testing import JobHarness

    def test_alerts():
        with JobHarness("job.yaml") as job:
            job.send([{"device_id": "a", "timestamp": second * 1000, "temperature": 20.0} for second in range(60)])
            job.send([{"device_id": "a", "timestamp": 61_000, "temperature": 90.0}])
            assert [row["temperature"] for row in job.events("alerts")] == [90.0]
            job.finish()
            assert len(job.windows("per_10s")) == 7

Event time comes from the events. The clock, which decides what is too far in the future and which source is idle,
stands still until `advance` moves it; it starts in the year 2100, so that no test's events lie in its future unless
`start` says otherwise. Everything is in memory, and the same input always gives the same output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from streamjob.engine import Engine, EngineMissingError, Result, Row
from streamjob.loading import JobLike
from streamjob.models import EVENTS
from streamjob.problems import suggest
from streamjob.units import parse_duration

__all__ = ["START", "EngineMissingError", "JobHarness"]

START = datetime(2100, 1, 1, tzinfo=UTC)
"""Where the clock of a harness stands at first."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JobHarness:
    """A job under test; collects all that it puts out.

    `job` is a path, YAML text, a mapping or a StreamJob, `start` the clock's first time and `base_dir` what relative
    paths are relative to. Raises JobError for an invalid job and EngineMissingError without the engine's wheel.
    """

    def __init__(self, job: JobLike, *, start: datetime = START, base_dir: str | None = None) -> None:
        self._job = job
        self._base_dir = base_dir
        self._start = start if start.tzinfo else start.replace(tzinfo=UTC)
        self._engine: Engine | None = None
        self._begin()

    def _begin(self) -> None:
        delta = self._start - _EPOCH
        self._now_us = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
        self._engine = Engine(self._job, base_dir=self._base_dir, now_us=self._now_us)
        spec = self._engine.loaded.job.spec
        self._windows: dict[str, list[Row]] = {window.name: [] for window in spec.windows}
        self._events: dict[str, list[Row]] = {sink.name: [] for sink in spec.sinks if sink.from_ == EVENTS}
        self._rows: list[Row] = []
        self._dead_letters: list[Row] = []

    def __enter__(self) -> Self:
        """The harness itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Lets go of the engine and its state."""
        self._engine = None

    @property
    def now(self) -> datetime:
        """The clock's time."""
        return datetime.fromtimestamp(self._now_us / 1_000_000, UTC)

    def send(self, rows: bytes | str | Iterable[Mapping[str, Any]]) -> Result:
        """Takes events in as one request: rows, or JSON or NDJSON text. Gives what just this request produced."""
        return self._keep(self._running().process(rows))

    def advance(self, duration: str) -> Result:
        """Moves the clock by `duration` (such as `10s`) and gives what that produced, for example the windows of a job
        with `closeWhenIdle`."""
        self._now_us += parse_duration(duration)
        engine = self._running()
        engine.set_now(self._now_us)
        return self._keep(engine.process(b"[]"))

    def finish(self) -> Result:
        """The end of all input: every open window closes."""
        return self._keep(self._running().finish())

    def windows(self, name: str, key: str | None = None) -> list[Row]:
        """All results so far of the window `name`, of one `key` or all."""
        rows = self._named(self._windows, name, "windows")
        return [row for row in rows if key is None or row["key"] == key]

    def events(self, sink: str) -> list[Row]:
        """All events so far that passed the condition of `sink`."""
        return list(self._named(self._events, sink, "sinks of events"))

    def rows(self) -> list[Row]:
        """All applied events so far with the outputs of UDFs, whatever the sinks."""
        return list(self._rows)

    def dead_letters(self) -> list[Row]:
        """All that could not be processed: `{reason, source, split, offset, row}`."""
        return list(self._dead_letters)

    def stats(self, key: str) -> Row | None:
        """The running statistics of `key`, or None if it never came."""
        return self._running().stats(key)

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("this JobHarness is closed: use it within its with block")
        return self._engine

    def _keep(self, result: Result) -> Result:
        for collected, new in ((self._windows, result.windows), (self._events, result.events)):
            for name, rows in new.items():
                collected.setdefault(name, []).extend(rows)
        self._rows += result.rows
        self._dead_letters += result.dead_letters
        return result

    @staticmethod
    def _named(collected: Mapping[str, Sequence[Row]], name: str, what: str) -> Sequence[Row]:
        if name not in collected:
            raise KeyError(f"the job has no {name} among its {what}; {suggest(name, collected, what)}")
        return collected[name]
