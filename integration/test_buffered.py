"""`durability: buffered`: what was answered outlives the process, wherever in a write that is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from harness import KILLED, Job, Running

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: buffered}
spec:
  shards: 2
  schema:
    key: device
    time: {field: at, unit: s}
    fields: {device: string, x: int64}
  sources: [{name: in, http: {}}]
  ingest: {durability: buffered}
  windows: [{name: per_10s, tumbling: 10s, aggregates: {n: count()}}]
"""
WRITES = 5


def post_until_killed(running: Running) -> int:
    """How many rows were answered."""
    for number in range(1000):
        try:
            answer = running.post([{"device": "a", "at": number, "x": number}])
        except httpx.TransportError:
            return number
        assert answer.status_code == 202
    pytest.fail("it was not killed")


@pytest.mark.parametrize("step", ["journal-before-write", "journal-after-write", "journal-after-sync"])
def test_a_kill_loses_nothing_that_was_answered(step: str, make_job: Callable[..., Job], crash_engine: Path) -> None:
    job = make_job(JOB, engine=crash_engine)
    running = job.start(crash_at=f"{step}:{WRITES}").await_ready()
    answered = post_until_killed(running)
    assert running.await_exit().code == KILLED
    if step == "journal-before-write":
        assert answered == WRITES - 1, "no answer comes before its write"
    again = job.start().await_ready()
    stats = again.get("/v1/keys/a/stats")
    again.await_processed(answered)
    assert stats.status_code == (200 if answered else 404)
    again.stop()
