"""Jobs from HTTP or a file through windows into a sink, their events, and what the sink must hold."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from typing import Any, Protocol

import httpx
import kills
import polars as pl
import reference
from harness import KILLED, Job, Row, Running, duplicates, wait_until

SIZE_US = 10_000_000
EXACT = ("n", "total", "low", "high", "opening", "closing")
MAX_POSTED = 5000
PATIENCE_S = 60.0

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: {name}}}
spec:
  shards: 5
  schema:
    key: device
    time: {{field: at, unit: us}}
    fields: {{device: string, x: int64}}
  sources: [{{name: in, {source}}}]
  windows:
    - name: w
      tumbling: 10s
      aggregates: {{n: count(), total: sum(x), low: min(x), high: max(x), opening: first(x), closing: last(x)}}
  sinks:
    - {{name: out, from: {out}, delivery: {delivery}, {sink}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 200ms}}
  engine: {{workerThreads: 2}}
"""

HTTP = "http: {}"
FILE = "file: {path: events.ndjson, format: ndjson}"


def job_text(name: str, sink: str, source: str = HTTP, delivery: str = "exactly-once", out: str = "w") -> str:
    """The job with this sink and source."""
    return JOB.format(name=name, sink=sink, source=source, delivery=delivery, out=out)


class Events:
    """Events in order of time; the time goes on from call to call."""

    def __init__(self, rng: random.Random, keys: int = 40) -> None:
        self.all: list[dict[str, Any]] = []
        self._rng, self._keys = rng, keys
        self._now_us = 0
        self._posts = 0
        self._unanswered: tuple[str, list[Row]] | None = None

    def more(self, count: int, span_us: int = 20_000_000) -> list[Row]:
        """The next events."""
        rows = []
        for number in range(count):
            at = self._now_us + span_us * number // count
            row = {"device": f"d{self._rng.randrange(self._keys)}", "at": at, "x": self._rng.randrange(-100, 100)}
            rows.append(row)
            self.all.append({"key": row["device"], "time_us": at, "x": row["x"]})
        self._now_us += span_us
        return rows

    def post(self, running: Running, count: int) -> None:
        """Makes some and posts them."""
        rows = self.more(count)
        for first in range(0, count, MAX_POSTED):
            part = rows[first : first + MAX_POSTED]
            answer = running.post(part)
            assert (answer.status_code, answer.json()["accepted"]) == (202, len(part)), answer.text

    def post_surely(self, running: Running, count: int) -> bool:
        """Posts the next part, or the one that has no answer yet, under its key; false if the engine ends meanwhile."""
        if self._unanswered is None:
            self._posts += 1
            self._unanswered = (f"part-{self._posts}", self.more(count))
        key, rows = self._unanswered
        try:
            answer = running.post(rows, Idempotency_Key=key)
        except httpx.TransportError:
            return False
        # Also while the state is opened anew it says so, and takes nothing.
        assert answer.status_code in (202, 503), answer.text
        if answer.status_code == 202:
            self._unanswered = None
        return True

    def post_all(self, running: Running) -> None:
        """Posts what has no answer yet."""
        while self._unanswered is not None:
            assert self.post_surely(running, 0), f"the engine has ended\n{running.stderr[-2000:]}"

    def write(self, job: Job, count: int, span_us: int) -> None:
        """Makes some and writes them to the file that the job reads."""
        job.write("events.ndjson", "".join(json.dumps(row) + "\n" for row in self.more(count, span_us)))

    def windows(self) -> dict[tuple[str, int], Row]:
        """What all windows must hold."""
        return windows_of(self.all)


def windows_of(events: list[dict[str, Any]]) -> dict[tuple[str, int], Row]:
    """The windows of events with `key`, `time_us` and `x`."""
    schema = {"key": pl.String, "time_us": pl.Int64, "x": pl.Int64}
    rows = pl.DataFrame(events, schema=schema).with_columns(watermark_us=pl.lit(None, pl.Int64))
    return reference.aggregate(rows, SIZE_US)


def post_until_taken(running: Running, rows: list[Row]) -> None:
    """Posts them under a key: connections are cut where the state is opened anew, and no row must count twice."""

    def are_taken() -> bool:
        try:
            return running.post(rows, Idempotency_Key="until-taken").status_code == 202
        except httpx.TransportError:
            assert running.process.poll() is None, f"the engine has ended\n{running.stderr[-2000:]}"
            return False

    wait_until("that they are taken", are_taken)


class HasWindows(Protocol):
    """Events that know their windows."""

    def windows(self) -> dict[tuple[str, int], Row]:
        """What all windows must hold."""


def then_each_window_is_there_once(events: HasWindows, rows: Sequence[Row]) -> None:
    """Nothing is lost or there twice."""
    assert not duplicates([row["_id"] for row in rows])[:10]
    assert not reference.differences(events.windows(), rows, EXACT)[:10]


def survive(job: Job, events: Events, planned: Sequence[kills.Kill], report: kills.Report) -> None:
    """Starts the job again and again, gives it events until it is killed, and lets it end well at last."""
    for kill in planned:
        running = job.start(crash_at=kill.at)
        if running.becomes_ready():
            until = time.monotonic() + (kill.after_s if kill.at is None else PATIENCE_S)
            while running.process.poll() is None and time.monotonic() < until:
                events.post_surely(running, 500)
        if kill.at is None:
            running.process.kill()
        assert running.await_exit().code == KILLED, f"{kill} did not happen\n{running.stderr[-2000:]}"
        report.killed(kill)
    running = job.run()
    events.post_all(running)
    running.stop()
    job.run_to_end()


class Server(Protocol):
    """A server of the tests that can be taken away and comes back."""

    def start(self) -> object:
        """Starts it."""

    def stop(self) -> None:
        """Ends it."""

    def kill(self) -> None:
        """SIGKILL."""

    def pause(self) -> None:
        """SIGSTOP."""

    def resume(self) -> None:
        """SIGCONT."""


def connected(running: Running) -> bool:
    """Whether the sink's server answers."""
    return running.metrics().sum("streamjob_connected", kind="sink", connector="out") == 1


def survive_outages(job: Job, events: Events, server: Server) -> None:
    """Kills, pauses and stops the sink's server while events come, and lets the job end well at last."""
    running = job.run()
    for how in ("kill", "pause", "stop"):
        events.post(running, 3000)
        running.await_metric("streamjob_sink_rows_total", 1, sink="out")
        server.pause() if how == "pause" else server.kill() if how == "kill" else server.stop()
        events.post(running, 3000)
        wait_until("that the server is seen to be away", lambda: not connected(running), within_s=60)
        server.resume() if how == "pause" else server.start()
        wait_until("that it is there again", lambda: connected(running), within_s=60)
    assert running.metrics().sum("streamjob_connection_errors_total", connector="out") >= 3
    running.stop()
    job.run_to_end()
