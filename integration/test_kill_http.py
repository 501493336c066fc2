"""Events over HTTP through a function into files and webhooks, exactly once, however often the engine is killed."""

from __future__ import annotations

import graphlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kills
import polars as pl
import pytest
import reference
from clients import RetryingClient
from harness import KILLED, Job, Row, duplicates, wait_until
from receiver import Receiver, Taken, receiving

SECOND = 1_000_000
SHARDS = 3
CONNECTIONS = 4
ROUND_S = 2
LEAST = 30
SWEPT_KEYS = 8_000
POISON = 13
ALARM = 2.0
STEP_WITHIN_S = 90.0
# A commit is written as a file only if it is large: these steps need many keys at once.
LARGE_COMMIT = ("commit-before-file", "commit-after-file", "commit-after-file-sync", "commit-after-ingest")

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: kill-http}}
spec:
  shards: 3
  schema:
    key: device
    time: {{field: at, unit: s}}
    fields: {{device: string, x: int64, id: string}}
  sources: [{{name: in, http: {{}}}}]
  time: {{maxOutOfOrderness: 2s}}
  windows:
    - {{name: per_10s, tumbling: 10s, aggregates: {{n: count(), total: sum(x), low: min(x), high: max(x)}}}}
  udfs:
    - name: z
      file: functions.py
      function: anomaly_score
      on: event
      inputs: [x, stats.x.mean, stats.x.stddev, stats.x.count]
      output: {{score: float64, seen: int64}}
  sinks:
    - {{name: events, from: events, delivery: exactly-once, file: {{path: out/events}}}}
    - {{name: windows, from: per_10s, delivery: exactly-once, file: {{path: out/windows}}}}
    - name: once
      from: events
      where: abs(score) > {alarm}
      delivery: exactly-once
      http: {{url: "{url}/once", maxBatchRows: 20, timeout: 5s, backoff: &soon {{initial: 10ms, max: 100ms}}}}
    - name: now
      from: events
      where: abs(score) > {alarm}
      delivery: at-least-once
      http: {{url: "{url}/now", timeout: 5s, backoff: *soon}}
    - name: totals
      from: per_10s
      delivery: exactly-once
      http: {{url: "{url}/windows", timeout: 5s, backoff: *soon}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 200ms}}
  engine: {{workerThreads: 2}}
"""

FUNCTIONS = f"""
import numpy as np

def anomaly_score(x, mean, stddev, count):
    if (x == {POISON}).any():
        raise ValueError("poisoned")
    known = (count >= {LEAST}) & (stddev > 0)
    score = np.where(known, (x - mean) / np.where(known, stddev, 1.0), np.nan)
    return score, np.nan_to_num(count).astype(np.int64)
"""


class Source:
    """Makes requests: rows of a round lie within its two seconds of event time."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.keys = 40
        self.rows = 15
        self.sweeps = False

    def __call__(self, round_: int, connection: int) -> list[Row]:
        rng = random.Random(f"{self._number}/{round_}/{connection}")
        sweeps, keys = self.sweeps, self.keys
        return [
            {
                # A sweep goes through its part of the keys, so that all of them change at once.
                "device": f"key-{number * CONNECTIONS + connection if sweeps else rng.randrange(keys):05}",
                "at": round(round_ * ROUND_S + rng.randrange(ROUND_S * 1000) / 1000, 3),
                "x": POISON if rng.random() < 0.002 else rng.choice((rng.randrange(-50, 50), rng.randrange(-5, 5))),
                "id": f"{round_}/{connection}/{number}",
            }
            for number in range(SWEPT_KEYS // CONNECTIONS if sweeps else self.rows)
        ]

    @contextmanager
    def sweeping(self, sweeps: bool) -> Iterator[None]:
        """Meanwhile a round brings every one of thousands of keys."""
        self.sweeps = sweeps
        yield
        self.sweeps = False


@pytest.mark.kills
def test_http_survives_kills_at_random_moments_and_at_every_step(
    make_job: Callable[..., Job], report: kills.Report, seed: int, crash_engine: Path
) -> None:
    rng = random.Random(seed + 10)
    with receiving(seed) as receiver:
        job = make_job(JOB.format(url=receiver.url, alarm=ALARM), engine=crash_engine)
        job.write("functions.py", FUNCTIONS)
        source = Source(seed)
        client = RetryingClient(job.port, source, CONNECTIONS, seed)
        with client:
            for kill in planned_kills(rng):
                when_it_is_killed(job, kill, client, source, report)
            with_the_engine_up(job, client)
        finished = when_everything_is_flushed(job, receiver)
        then_every_acknowledged_row_counts_once(job, client, finished)
        then_scores_are_those_of_the_rows_in_order(job)
        then_webhooks_got_what_they_were_promised(job, receiver, client)


def planned_kills(rng: random.Random) -> list[kills.Kill]:
    steps = [point for point in kills.crash_points() if point.startswith(("commit-", "journal-"))]
    planned = kills.named(steps, (1, rng.randrange(2, 9)))
    planned += kills.at_random(max(kills.share(0.65) - len(planned), 3), rng, 0.0, 0.8)
    rng.shuffle(planned)
    return planned


def when_it_is_killed(job: Job, kill: kills.Kill, client: RetryingClient, source: Source, report: kills.Report) -> None:
    running = job.start(crash_at=kill.at)
    large = kill.at is not None and kill.at.rpartition(":")[0] in LARGE_COMMIT
    with source.sweeping(large):
        if running.becomes_ready():
            client.goes_up()
            if kill.at is None:
                assert running.lives_for(kill.after_s), running.stderr[-3000:]
                running.kill()
            else:
                wait_until(f"the step {kill}", lambda: running.process.poll() is not None, STEP_WITHIN_S)
        finished = running.await_exit()
        assert finished.code == KILLED, f"{kill}: exit code {finished.code}\n{finished.stderr[-3000:]}"
        client.goes_down()
    client.check()
    report.killed(kill, f"(round {client.rounds}, {len(client.rows)} rows)")


def with_the_engine_up(job: Job, client: RetryingClient) -> None:
    """The last start that takes rows: it stops cleanly once the client is done."""
    running = job.run()
    client.goes_up()
    client.ends()
    running.stop()


def when_everything_is_flushed(job: Job, receiver: Receiver) -> Row:
    receiver.fails = False
    return job.run_to_end(within_s=60).totals


def then_every_acknowledged_row_counts_once(job: Job, client: RetryingClient, totals: Row) -> None:
    events, letters = job.rows("out/events"), job.rows("dead")
    sent = {row["id"]: row for row in client.rows}
    poisoned = {row["id"] for row in client.rows if row["x"] == POISON}
    failed = [letter["row"]["id"] for letter in letters]
    print(
        f"{len(sent)} rows in {client.rounds} rounds, {client.attempts} attempts of which {client.cut} were cut, "
        f"{client.answered_twice} repeated after their answer, {len(poisoned)} poisoned"
    )
    assert not duplicates([row["_id"] for row in events])
    assert not duplicates([row["id"] for row in events])[:5]
    assert not duplicates(failed)
    assert all(letter["reason"].startswith("udf z: ") for letter in letters)
    assert set(failed) == poisoned
    assert {row["id"] for row in events} == sent.keys() - poisoned
    for row in events:
        assert sent[row["id"]] == {name: row[name] for name in ("device", "at", "x", "id")}
    applied = len(sent) - len(poisoned)
    assert totals.pop("windows") == len(job.rows("out/windows"))
    assert totals == {
        "received": len(sent),
        "applied": applied,
        "late": 0,
        "rejected": 0,
        # Rows that pass the where of a sink count once, however many sinks they pass.
        "anomalies": sum(row["score"] is not None and abs(row["score"]) > ALARM for row in events),
        "resumed": True,
    }
    assert not reference.differences(
        expected_windows(client.rows), job.rows("out/windows"), ("n", "total", "low", "high")
    )


def expected_windows(sent: list[Row]) -> dict[tuple[str, int], Row]:
    applied = [row for row in sent if row["x"] != POISON]
    rows = pl.DataFrame(
        {
            "key": [row["device"] for row in applied],
            "time_us": [round(row["at"] * SECOND) for row in applied],
            "x": [row["x"] for row in applied],
            "watermark_us": [None] * len(applied),
        },
        schema={"key": pl.String, "time_us": pl.Int64, "x": pl.Int64, "watermark_us": pl.Int64},
    )
    return reference.aggregate(rows, 10 * SECOND)


def then_scores_are_those_of_the_rows_in_order(job: Job) -> None:
    """Each row saw its key's statistics as they stood just before it, in the order of splits and offsets."""
    by_key: dict[str, list[tuple[str, int, Row]]] = defaultdict(list)
    for row in job.rows("out/events"):
        split, _, offset = row["_id"].rpartition(":")
        by_key[row["device"]].append((split, int(offset), row))
    for letter in job.rows("dead"):
        by_key[letter["row"]["device"]].append((letter["split"], letter["offset"], letter["row"]))
    rank = splits_in_order(by_key)
    for rows in by_key.values():
        statistics = reference.RunningStatistics()
        for split, offset, row in sorted(rows, key=lambda at: (rank[at[0]], at[1])):
            if "score" in row:
                assert row["seen"] == statistics.count, f"{split}:{offset} {row}: {statistics.count} rows came before"
                assert reference.closely(statistics.score(row["x"], LEAST), row["score"]), (split, offset, row)
            statistics.add(row["x"])


def splits_in_order(by_key: dict[str, list[tuple[str, int, Row]]]) -> dict[str, int]:
    """Each start has a split of its own; how many rows of its key each row saw tells which came first."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for rows in by_key.values():
        scored = sorted((row["seen"], split) for split, _, row in rows if "seen" in row)
        for (_, before), (_, after) in itertools.pairwise(scored):
            sorter.add(after, *([before] if before != after else []))
        for split, _, _ in rows:
            sorter.add(split)
    return {split: number for number, split in enumerate(sorter.static_order())}


def then_webhooks_got_what_they_were_promised(job: Job, receiver: Receiver, client: RetryingClient) -> None:
    alarms = {
        row["_id"]: row for row in job.rows("out/events") if row["score"] is not None and abs(row["score"]) > ALARM
    }
    once, now, windows = receiver.of("/once"), receiver.of("/now"), receiver.of("/windows")
    for name, taken in (("once", once), ("now", now), ("windows", windows)):
        print(f"{name}: {len(taken.rows)} rows, {taken.repeats} repeats, {taken.refused} refusals")
        assert not taken.wrong[:3]
    assert alarms, "the data has no alarms: the test would prove nothing"
    assert not duplicates([row["_id"] for row in once.rows])[:5]
    assert {row["_id"]: row for row in once.rows} == alarms
    then_at_least_once_means_all_and_nothing_invented(now, alarms, client)
    assert sorted(row["_id"] for row in windows.rows) == sorted(row["_id"] for row in job.rows("out/windows"))


def then_at_least_once_means_all_and_nothing_invented(
    now: Taken, alarms: dict[str, Row], client: RetryingClient
) -> None:
    got: dict[str, Any] = {row["_id"]: row for row in now.rows}
    assert alarms.keys() <= got.keys()
    assert all(got[id_] == row for id_, row in alarms.items())
    # A row whose request was lost with the process before its fsync may have been alerted: its client sent it again.
    sent = {row["id"] for row in client.rows}
    assert {row["id"] for row in now.rows} <= sent


def test_the_steps_of_the_sources_are_known() -> None:
    assert set(LARGE_COMMIT) <= set(kills.crash_points())
