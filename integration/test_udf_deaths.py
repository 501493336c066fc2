"""Functions that end the engine's process: the rows that do it are alone in the dead letters, all others count once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import pytest
from harness import KILLED, Finished, Job, Row, duplicates, wait_until

SEGFAULT = -signal.SIGSEGV
SIGNAL = "(signal 11, SIGSEGV)"
ROWS = 4000

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: deaths}}
spec:
  shards: 4
  schema:
    key: device
    time: {{field: at, unit: ms}}
    fields: {{device: string, x: int64}}
  sources:
    - {{name: replay, file: {{path: data.ndjson, format: ndjson}}}}
  windows:
    - {{name: tens, tumbling: 10s, aggregates: {{n: count(), low: min(x), total: sum(doubled)}}}}
  udfs:
    - {{name: double, file: functions.py, function: double, on: event, inputs: [x], output: {{doubled: int64}}}}
    - name: half
      file: functions.py
      function: half
      on: window
      window: tens
      inputs: [low, total]
      output: {{halved: float64}}
  sinks:
    - {{name: rows, from: events, delivery: exactly-once, file: {{path: out/rows}}}}
    - {{name: tens, from: tens, delivery: exactly-once, file: {{path: out/tens}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 100ms}}
  engine: {{workerThreads: {workers}, batchRows: {batch}}}
"""

FUNCTIONS = """
import ctypes, os, time

def double(x):
    if {event}:
        {end}
    return x * 2

def half(low, total):
    if {window}:
        {end}
    return total / 2
"""


def given_a_job(
    make_job: Callable[..., Job],
    event: str = "False",
    window: str = "False",
    end: str = "ctypes.string_at(0)",
    workers: int = 2,
    batch: int = 512,
) -> Job:
    job = make_job(JOB.format(workers=workers, batch=batch))
    job.write("functions.py", FUNCTIONS.format(event=event, window=window, end=end))
    # One device a second, so that a window has ten rows, of one device each.
    lines = [f'{{"device":"d{number // 10 % 7}","at":{number * 1000},"x":{number}}}' for number in range(ROWS)]
    job.write("data.ndjson", "\n".join(lines) + "\n")
    return job


def when_it_is_started_until_it_ends_well(job: Job, died: int = SEGFAULT, most: int = 10) -> list[Finished]:
    finished: list[Finished] = []
    while not finished or finished[-1].code == died:
        assert len(finished) < most, f"it has died {most} times\n{finished[-1].stderr[-3000:]}"
        finished.append(job.start("--exit-at-end").await_exit(within_s=180))
    assert finished[-1].code == 0, finished[-1].stderr[-3000:]
    return finished


def then_all_but_these_rows_count_once(job: Job, killers: set[int], reason: str = SIGNAL) -> None:
    rows = job.rows("out/rows")
    assert not duplicates([row["_id"] for row in rows])
    assert {row["x"]: row["doubled"] for row in rows} == {x: 2 * x for x in range(ROWS) if x not in killers}
    letters = [letter for letter in job.rows("dead") if letter["source"] == "replay"]
    assert sorted(letter["row"]["x"] for letter in letters) == sorted(killers)
    assert all("udf double: the function ended the process" in letter["reason"] for letter in letters)
    assert all(reason in letter["reason"] for letter in letters)


def then_all_but_these_windows_count_once(job: Job, killers: set[int], without: set[int] = frozenset()) -> None:
    """Windows are named by their lowest `x`, rows that failed are in none."""
    wanted = Counter(x // 10 * 10 for x in range(ROWS) if x not in without)
    rows = job.rows("out/tens")
    letters: list[Row] = [letter for letter in job.rows("dead") if letter["source"] == "tens"]
    assert not duplicates([row["_id"] for row in rows])
    assert {row["low"] // 10 * 10: row["n"] for row in rows} == {x: n for x, n in wanted.items() if x not in killers}
    assert sorted(letter["row"]["low"] for letter in letters) == sorted(killers)
    assert all(SIGNAL in letter["reason"] and letter["reason"].startswith("udf half: ") for letter in letters)


@pytest.mark.kills
@pytest.mark.parametrize(
    ("end", "died", "reason"),
    [
        ("ctypes.string_at(0)", SEGFAULT, SIGNAL),
        ("os.abort()", -signal.SIGABRT, "(signal 6, SIGABRT)"),
        ("os._exit(3)", 3, "(exit code 3)"),
    ],
)
def test_a_row_that_ends_the_process_ends_it_once(
    make_job: Callable[..., Job], end: str, died: int, reason: str
) -> None:
    job = given_a_job(make_job, event="(x == 1234).any()", end=end)
    runs = when_it_is_started_until_it_ends_well(job, died)
    assert [run.code for run in runs] == [died, 0]
    then_all_but_these_rows_count_once(job, {1234}, reason)
    then_all_but_these_windows_count_once(job, set(), without={1234})
    assert "the process died while these functions ran" in runs[1].stderr
    assert "rows were called in a process of their own, which they have ended" in runs[1].stderr
    assert not (job.state_dir / "udf-calls" / "suspects.json").exists(), "commits have passed them"


@pytest.mark.kills
def test_a_window_that_ends_the_process_ends_it_once(make_job: Callable[..., Job]) -> None:
    job = given_a_job(make_job, window="(low == 1230).any()")
    runs = when_it_is_started_until_it_ends_well(job)
    assert [run.code for run in runs] == [SEGFAULT, 0]
    then_all_but_these_rows_count_once(job, set())
    then_all_but_these_windows_count_once(job, {1230})
    assert not (job.state_dir / "udf-calls" / "suspects.json").exists(), "commits have passed them"


@pytest.mark.kills
def test_a_function_that_ends_it_on_many_rows_gets_to_the_end(make_job: Callable[..., Job]) -> None:
    job = given_a_job(make_job, event="(x % 50 == 7).any()", workers=1, batch=256)
    runs = when_it_is_started_until_it_ends_well(job)
    assert len(runs) > 1
    killers = set(range(7, ROWS, 50))
    then_all_but_these_rows_count_once(job, killers)
    then_all_but_these_windows_count_once(job, set(), without=killers)


@pytest.mark.kills
def test_a_kill_from_outside_isolates_rows_that_are_fine(make_job: Callable[..., Job]) -> None:
    waiting = "open('waiting', 'w').close() or time.sleep(60)"
    job = given_a_job(make_job, event="(x == 1234).any() and not os.path.exists('waiting')", end=waiting)
    running = job.start("--exit-at-end")
    wait_until("the call", (job.folder / "waiting").exists)
    running.process.kill()
    assert running.await_exit().code == KILLED
    finished = job.start("--exit-at-end").await_success()
    assert "rows were called in a process of their own, which has lived" in finished.stderr
    then_all_but_these_rows_count_once(job, set())
    then_all_but_these_windows_count_once(job, set())


def test_a_job_without_functions_notes_nothing(make_job: Callable[..., Job]) -> None:
    before, _, after = JOB.format(workers=1, batch=512).partition("  udfs:")
    job = make_job((before + after[after.index("  sinks:") :]).replace(", total: sum(doubled)", ""))
    job.write("data.ndjson", '{"device":"d","at":1000,"x":1}\n')
    job.run_to_end()
    assert not (job.state_dir / "udf-calls").exists()
