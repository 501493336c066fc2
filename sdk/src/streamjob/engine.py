"""A job in process: the same pipeline on an in-memory state, without files, threads or network."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamjob.loading import JobLike, LoadedJob, load_job
from streamjob.native import EngineMissingError, engine_json, engine_module

__all__ = ["Engine", "EngineMissingError", "Result"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What one call produced.

    `accepted` and `rejected` count the rows of the call and `errors` says of rejected ones why. `rows` are all applied
    rows with the outputs of UDFs, `events` those that passed the condition of each sink of events, `windows` the
    results of closed windows by window, `dead_letters` what could not be processed
    (`{reason, source, split, offset, row}`).
    """

    accepted: int = 0
    rejected: int = 0
    errors: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    events: dict[str, list[Row]] = field(default_factory=dict)
    windows: dict[str, list[Row]] = field(default_factory=dict)
    dead_letters: list[Row] = field(default_factory=list)


class Engine:
    """Runs a job on bytes.

        engine = Engine("job.yaml")
        result = engine.process(b'{"device_id": "a", "timestamp": 0, "temperature": 20.5}')
        result = engine.finish()

    `job` is a path, YAML text, a mapping or a StreamJob; `base_dir` is what its relative paths are relative to and
    `now_us` the time that decides which events are too far in the future (microseconds since 1970, default: now).
    Raises JobError for an invalid job and EngineMissingError without the engine's wheel.
    """

    def __init__(self, job: JobLike, *, base_dir: str | None = None, now_us: int | None = None) -> None:
        self.loaded: LoadedJob = load_job(job, base_dir=base_dir)
        text = engine_json(self.loaded)
        now = time.time_ns() // 1000 if now_us is None else now_us
        self._session = engine_module().Session(text, now)

    def process(self, body: bytes | str | Iterable[Mapping[str, Any]]) -> Result:
        """Takes events in as one request: JSON or NDJSON, or rows that are made into it."""
        return _result(self._session.process(_body(body)))

    def finish(self) -> Result:
        """The end of all input: every open window closes."""
        return _result(self._session.finish())

    def stats(self, key: str) -> Row | None:
        """The running statistics of `key`, or None if it never came."""
        text = self._session.stats(key)
        return None if text is None else json.loads(text)

    def set_now(self, now_us: int) -> None:
        """Moves the clock (microseconds since 1970)."""
        self._session.set_now(now_us)


def _body(body: bytes | str | Iterable[Mapping[str, Any]]) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    if isinstance(body, str):
        return body.encode()
    rows = list(body)
    if not rows:
        return b"[]"
    return "\n".join(json.dumps(row, allow_nan=False) for row in rows).encode()


def _result(text: str) -> Result:
    data = json.loads(text)
    events = dict(data["events"])
    rows = events.pop("*", [])
    return Result(
        accepted=data["accepted"],
        rejected=data["rejected"],
        errors=data["errors"],
        rows=rows,
        events=events,
        windows=data["windows"],
        dead_letters=data["dead_letters"],
    )
