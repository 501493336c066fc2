"""A file through windows into files, exactly once, however often the engine is killed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kills
import polars as pl
import pytest
import reference
from harness import KILLED, Finished, Job, Row, duplicates

SECOND = 1_000_000
OUT_OF_ORDERNESS_US = 2 * SECOND
SIZES = {"per_5s": 5 * SECOND, "per_minute": 60 * SECOND}
EXACT = ("n", "known", "total", "mean", "low", "high", "opening", "closing")
CLOSE = ("variance", "stddev")
DEVICES = [f"device-{number}" for number in range(40)] + ["Zürich ☃", 'quo"te', "back\\slash", "a" * 80]
BASE_US = -30 * SECOND  # so that windows lie on both sides of 1970

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: kill-file}}
spec:
  shards: 5
  schema:
    key: device
    time: {{field: at, unit: ms}}
    fields: {{device: string, x: int64}}
  sources:
    - {{name: replay, file: {{path: data.ndjson, format: ndjson, speed: {speed}}}}}
  time: {{maxOutOfOrderness: 2s}}
  windows:
    - name: per_5s
      tumbling: 5s
      aggregates: &all
        {{n: count(), known: count(x), total: sum(x), mean: mean(x), low: min(x), high: max(x),
          opening: first(x), closing: last(x), variance: variance(x), stddev: stddev(x)}}
    - {{name: per_minute, tumbling: 1m, aggregates: *all}}
  sinks:
    - {{name: fives, from: per_5s, delivery: exactly-once, file: {{path: out/per_5s}}}}
    - {{name: minutes, from: per_minute, delivery: exactly-once, file: {{path: out/per_minute}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 200ms}}
  engine: {{workerThreads: 2}}
"""

MALFORMED = (
    '{"device":"device-1","at":%d,"x":',
    '{"device":null,"at":%d,"x":1}',
    '{"at":%d,"x":1}',
    '{"device":"device-1","x":1,"then":%d}',
    '{"device":"device-1","at":"%d","x":1}',
    '{"device":"device-1","at":%d,"x":1.5}',
    '{"device":"device-1","at":%d000000000000000000,"x":1}',
    "[%d]",
    "%d",
)


class Input:
    """Lines in and out of order, late ones, malformed ones, and what each of them is."""

    def __init__(self, rng: random.Random, events: int, span_s: int) -> None:
        self.lines: list[str] = []
        self.valid: list[dict[str, Any]] = []
        self.rejected: dict[int, str] = {}
        offset = 0
        for number in range(events):
            now_us = BASE_US + span_s * SECOND * number // events
            for line, row in self._at(rng, now_us):
                if row is None:
                    self.rejected[offset] = line
                elif row:
                    self.valid.append(row | {"offset": offset})
                self.lines.append(line)
                offset += len(line.encode()) + 1

    def _at(self, rng: random.Random, now_us: int) -> Iterator[tuple[str, dict[str, Any] | None]]:
        if rng.random() < 0.01:
            yield rng.choice(MALFORMED) % (abs(now_us) // 1000 + 1), None
        if rng.random() < 0.005:
            yield "  ", {}
        how = rng.random()
        back_us = rng.randrange(OUT_OF_ORDERNESS_US) if how < 0.3 else rng.randrange(120 * SECOND) if how < 0.33 else 0
        at_ms = (now_us - back_us) // 1000
        device, x = rng.choice(DEVICES), rng.randrange(-1000, 1000) if rng.random() < 0.95 else None
        line = json.dumps({"device": device, "at": at_ms, "x": x}, ensure_ascii=rng.random() < 0.5)
        yield line, {"key": device, "time_us": at_ms * 1000, "x": x}

    def content(self) -> str:
        """The file; its last line lacks an end."""
        return "\n".join(self.lines)


class Expected:
    """The reference's answer."""

    def __init__(self, given: Input) -> None:
        schema = {"key": pl.String, "time_us": pl.Int64, "x": pl.Int64, "offset": pl.Int64}
        rows = reference.with_watermarks(pl.DataFrame(given.valid, schema=schema), OUT_OF_ORDERNESS_US)
        is_late = reference.late(rows, list(SIZES.values()))
        applied = rows.filter(~is_late)
        self.late = {row["offset"]: row for row in rows.filter(is_late).iter_rows(named=True)}
        self.rejected = given.rejected
        self.windows = {name: reference.aggregate(applied, size) for name, size in SIZES.items()}
        self.totals = {
            "received": len(given.valid) + len(given.rejected),
            "applied": applied.height,
            "late": len(self.late),
            "rejected": len(given.rejected),
            "windows": sum(map(len, self.windows.values())),
            "anomalies": 0,
        }


@pytest.mark.kills
def test_a_paced_file_survives_kills_at_random_moments(
    make_job: Callable[..., Job], report: kills.Report, seed: int
) -> None:
    rng = random.Random(seed)
    given = Input(rng, events=20_000, span_s=600)
    job = given_a_job(make_job, given, speed=60)
    for kill in kills.at_random(kills.share(0.25), rng, 0.0, 1.2):
        when_it_runs_until(job, kill, report)
    then_the_output_is_that_of_one_undisturbed_run(job, Expected(given), job.run_to_end(within_s=120), resumed=True)


@pytest.mark.kills
def test_a_file_at_full_speed_survives_kills_at_random_moments(
    make_job: Callable[..., Job], report: kills.Report, seed: int
) -> None:
    rng = random.Random(seed + 1)
    given = Input(rng, events=150_000, span_s=1800)
    job = given_a_job(make_job, given, speed=0)
    for kill in kills.at_random(kills.share(0.1), rng, 0.0, 0.25):
        when_it_runs_until(job, kill, report)
    then_the_output_is_that_of_one_undisturbed_run(job, Expected(given), job.run_to_end())


@pytest.mark.kills
def test_a_file_survives_kills_at_every_step_of_a_commit(
    make_job: Callable[..., Job], report: kills.Report, seed: int, crash_engine: Path
) -> None:
    rng = random.Random(seed + 2)
    given = Input(rng, events=30_000, span_s=1200)
    job = given_a_job(make_job, given, speed=60, engine=crash_engine)
    # Commits of this job are small: their files are for the test with more state.
    steps = [point for point in kills.crash_points() if not point.startswith("journal-") and "-file" not in point]
    steps = [point for point in steps if "ingest" not in point and point.startswith("commit-")]
    for kill in kills.named(steps, (1, rng.randrange(2, 12))):
        running = job.start("--exit-at-end", crash_at=kill.at)
        assert running.await_exit().code == KILLED, f"the step {kill} was not passed"
        report.killed(kill)
    then_the_output_is_that_of_one_undisturbed_run(job, Expected(given), job.run_to_end(within_s=120))


def given_a_job(make_job: Callable[..., Job], given: Input, speed: float, engine: Path | None = None) -> Job:
    job = make_job(JOB.format(speed=speed), engine=engine)
    job.write("data.ndjson", given.content())
    return job


def when_it_runs_until(job: Job, kill: kills.Kill, report: kills.Report) -> None:
    running = job.run("--exit-at-end")
    if running.lives_for(kill.after_s) and running.kill_unless_ended():
        report.killed(kill)
    else:
        report.came_late(kill)


def then_the_output_is_that_of_one_undisturbed_run(
    job: Job, expected: Expected, finished: Finished, resumed: bool | None = None
) -> None:
    totals = finished.totals
    was_resumed = totals.pop("resumed")
    assert totals == expected.totals
    assert was_resumed is resumed or resumed is None
    for name, wanted in expected.windows.items():
        rows = job.rows(f"out/{name}")
        assert not duplicates([row["_id"] for row in rows])
        assert all(row["_id"] == f"{name}/{row['key']}/{row['window_start']}/{row['revision']}" for row in rows)
        assert not reference.differences(wanted, rows, EXACT, CLOSE)[:10]
    then_dead_letters_are_the_late_and_the_rejected(job.rows("dead"), expected)


def then_dead_letters_are_the_late_and_the_rejected(letters: list[Row], expected: Expected) -> None:
    assert not duplicates([(letter["split"], letter["offset"]) for letter in letters])
    late = {letter["offset"]: letter for letter in letters if letter["reason"].startswith("late")}
    rejected = {letter["offset"]: letter for letter in letters if letter["offset"] not in late}
    assert {letter["source"] for letter in letters} <= {"replay"}
    assert sorted(late) == sorted(expected.late)
    assert {offset: letter["row"] for offset, letter in rejected.items()} == expected.rejected
    for offset, letter in late.items():
        wanted = expected.late[offset]
        assert letter["row"] == {"device": wanted["key"], "x": wanted["x"], "at": wanted["time_us"] // 1000}
