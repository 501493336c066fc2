"""A start after a kill stands where the killed process stood: its journal says all that it knew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Job, wait_until

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: restart}
spec:
  shards: 2
  schema:
    key: device
    time: {field: at, unit: s}
    fields: {device: string, x: int64}
  sources: [{name: in, http: {}}]
  time: {idleTimeout: 1s}
  windows:
    - {name: per_10s, tumbling: 10s, aggregates: {n: count()}}
  deadLetters: {file: {path: dead}}
  checkpoint: {interval: 1h}    # the journal is all that a kill leaves
"""


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(JOB)


def rows(*times: int) -> list[dict[str, object]]:
    return [{"device": f"d{number % 4}", "at": at, "x": 1} for number, at in enumerate(times)]


def test_windows_that_had_closed_close_again(job: Job) -> None:
    running = job.run()
    assert running.post(rows(*range(0, 100, 3))).status_code == 202
    closed = running.await_processed(34).sum("streamjob_windows_closed_total")
    assert closed > 20
    running.kill()
    again = job.run()
    again.await_processed(34)
    again.await_metric("streamjob_windows_closed_total", closed)


def test_a_row_that_was_late_is_late_again(job: Job) -> None:
    running = job.run()
    assert running.post(rows(*range(0, 100, 3))).status_code == 202
    assert running.post(rows(1)).status_code == 202
    ledger = running.await_processed(35).ledger()
    assert ledger["late"] == 1
    running.kill()
    assert job.run().await_processed(35).ledger() == ledger


def test_a_row_after_the_restart_is_late_if_it_was_before(job: Job) -> None:
    running = job.run()
    assert running.post(rows(*range(0, 100, 3))).status_code == 202
    running.await_processed(34)
    running.kill()
    again = job.run()
    again.await_processed(34)
    assert again.post(rows(1)).status_code == 202
    assert again.await_processed(35).ledger()["late"] == 1


def test_order_is_kept_over_kills(job: Job) -> None:
    """Rows that one client sent one after the other reach the statistics so, however many journals they lie in."""
    running = job.run()
    for x in range(24):
        assert running.post({"device": "a", "at": 1, "x": x}).status_code == 202
        if x % 4 == 3:
            running.kill()
            running = job.run()
    running.await_processed(24)
    last = wait_until("the statistics", lambda: running.get("/v1/keys/a/stats").json()["fields"]["x"])
    assert (last["count"], last["last"]) == (24, 23)
