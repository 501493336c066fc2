"""/metrics: each row counted once, over restarts and kills; the series that others rely on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from harness import Job, Metrics, Running

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: metrics}
spec:
  shards: 4
  schema:
    key: device
    time: {field: at, unit: s}
    fields: {device: string, x: int64}
  where: x <> 50
  sources: [{name: in, http: {}}]
  time: {maxOutOfOrderness: 5s}
  windows:
    - {name: per_10s, tumbling: 10s, aggregates: {n: count()}}
  udfs:
    - name: careful
      code:
        inline: |
          import numpy as np

          def careful(x):
              if (x == 13).any():
                  raise ValueError("thirteen")
              return x * 2.0
      function: careful
      on: event
      inputs: [x]
      output: {twice: float64}
  sinks:
    - {name: windows, from: per_10s, file: {path: out}}
    - {name: high, from: events, where: twice > 150, file: {path: high}}
  checkpoint: {interval: 200ms}
  engine: {workerThreads: 2}
"""
QUARTER = 15


def given_bodies(count: int, rows: int) -> tuple[list[bytes], dict[str, int]]:
    """Requests sent one after the other, and what becomes of their rows.

    Every second quarter ends with a kill and has no late rows: those are judged again by the replay, whose watermark is
    that of the last commit.
    """
    rng = random.Random(3)
    truth = dict.fromkeys(("applied", "filtered", "late", "rejected", "failed", "duplicate"), 0)
    bodies = []
    for request in range(count):
        lines = []
        for row in range(rows):
            if rng.random() < 0.05:
                lines.append('{"device":"a"}')
                truth["rejected"] += 1
                continue
            late = request // QUARTER % 2 == 0 and request % QUARTER > 10 and rng.random() < 0.2
            x = rng.choice([13, 50, rng.randrange(100)])
            at = request * 10 + row / rows - (100 if late else 0)
            lines.append(json.dumps({"device": f"d{rng.randrange(10)}", "at": round(at, 3), "x": x}))
            truth["late" if late and x != 50 else "filtered" if x == 50 else "failed" if x == 13 else "applied"] += 1
        bodies.append("\n".join(lines).encode())
    return bodies, truth


def check_sums(metrics: Metrics) -> None:
    received = metrics.sum("events_received_total")
    assert received == sum(metrics.ledger().values()) + metrics.sum("streamjob_queue_rows")
    starting = {name for name in metrics.names() if name.startswith("events_processed_total")}
    assert starting == {"events_processed_total"}


def test_the_ledger_counts_each_row_once_over_kills_and_restarts(make_job: Callable[..., Job]) -> None:
    job = make_job(JOB)
    bodies, truth = given_bodies(60, 50)
    running = job.run()
    seen: dict[str, int] = dict.fromkeys(truth, 0)
    sent = 0
    for number, body in enumerate(bodies):
        response = running.post(body, Content_Type="application/x-ndjson", Idempotency_Key=str(number))
        assert response.status_code == 202
        sent += body.count(b"\n") + 1
        if number % QUARTER == QUARTER - 1:
            metrics = running.await_processed(sent)
            check_sums(metrics)
            assert metrics.sum("events_received_total") == sent
            assert all(metrics.ledger()[outcome] >= count for outcome, count in seen.items())
            seen = metrics.ledger()
            running.kill() if number // QUARTER % 2 else running.stop()
            running = job.run()
            again = running.await_processed(sent)
            assert again.ledger() == seen
            assert again.sum("events_received_total") == sent
    assert seen == truth
    high = running.metrics().sum("streamjob_anomalies_total")
    totals = running.stop().totals
    assert totals == {
        "received": sent,
        "applied": truth["applied"],
        "late": truth["late"],
        "rejected": truth["rejected"],
        "windows": len(job.rows("out")),
        "anomalies": high,
        "resumed": True,
    }
    assert len(job.rows("high")) == high > 0


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Running:
    job = Job(tmp_path_factory.mktemp("metrics"), JOB)
    running = job.run()
    body = "\n".join(json.dumps({"device": "a", "at": at, "x": at % 100}) for at in range(200)).encode()
    assert running.post(body, Content_Type="application/x-ndjson").status_code == 202
    running.await_processed(200)
    running.await_metric("streamjob_commits_total", 1)
    yield running
    running.stop()


@pytest.mark.parametrize(
    "name",
    [
        "events_received_total",
        "streamjob_ingest_rate_events_per_second",
        "streamjob_queue_rows",
        "streamjob_event_time_lag_seconds",
        "streamjob_watermark_timestamp_seconds",
        "streamjob_checkpoint_duration_seconds",
        "streamjob_checkpoint_lag_seconds",
        "streamjob_commits_total",
        "streamjob_commit_bytes_total",
        "streamjob_hot_keys",
        "streamjob_rocksdb_sst_bytes",
        "udf_latency_seconds_count",
    ],
)
def test_series_that_a_dashboard_shows_are_there(fed: Running, name: str) -> None:
    assert name in fed.metrics().names()


def test_figures_are_plausible(fed: Running) -> None:
    metrics = fed.metrics()
    assert metrics.sum("streamjob_watermark_timestamp_seconds") == 194
    assert metrics.sum("streamjob_hot_keys") == 1
    assert metrics.sum("streamjob_commit_bytes_total") > 0
    assert metrics.sum("udf_latency_seconds_count") >= 1
    assert 0 < metrics.sum("udf_latency_seconds_sum") < 60
    assert metrics.sum("udf_errors_total") >= 1


def test_every_family_says_what_it_is(fed: Running) -> None:
    text = fed.metrics().text
    described = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP ")}
    typed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert typed <= described
    assert fed.get("/metrics").headers["Content-Type"].startswith("text/plain; version=0.0.4")
