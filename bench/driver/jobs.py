"""The jobs that the cases run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

UDF_FILE = Path(__file__).resolve().parent.parent / "jobs" / "zscore.py"
WINDOW_S = 10
SPIKE = 99.99
"""The temperature of the load generator's spikes."""

SPIKE_ALERTS = "abs(score) > 6 and temperature > 90"
"""Spikes and nothing else: a key's first few values may lie close together, and a usual one then has a large score."""

Spec = dict[str, Any]


def spec(sources: list[Spec], checkpoint_s: int, *, sent_us: bool = False) -> Spec:
    """A job's spec without windows, UDFs and sinks."""
    fields = {"device_id": "string", "temperature": "float64", "humidity": "float64"}
    if sent_us:
        fields["sent_us"] = "int64"
    return {
        "schema": {"key": "device_id", "time": {"field": "timestamp", "unit": "ms"}, "fields": fields},
        "sources": sources,
        "time": {"maxOutOfOrderness": "1s"},
        "windows": [],
        "udfs": [],
        "sinks": [],
        "checkpoint": {"interval": f"{checkpoint_s}s"},
        "ingest": {"durability": "fsync"},
    }


def add_windows(job: Spec) -> None:
    """10 s tumbling windows with the six aggregates, to files, exactly once."""
    aggregates = {"n": "count()"}
    for function in ("sum", "mean", "min", "max", "stddev"):
        aggregates[function] = f"{function}(temperature)"
    job["windows"].append({"name": "per_10s", "tumbling": f"{WINDOW_S}s", "aggregates": aggregates})
    file = {"path": "windows", "format": "ndjson"}
    job["sinks"].append({"name": "windows", "from": "per_10s", "delivery": "exactly-once", "file": file})


def add_zscore(job: Spec) -> None:
    """The z-score of each event."""
    inputs = ["temperature", "stats.temperature.mean", "stats.temperature.stddev"]
    output = {"score": "float64"}
    udf = {"name": "zscore", "file": str(UDF_FILE), "function": "zscore", "inputs": inputs, "output": output}
    job["udfs"].append({**udf, "on": "event"})


def add_alerts(job: Spec, delivery: str, sink: Spec) -> None:
    """Spikes, to `sink`."""
    job["sinks"].append({"name": "alerts", "from": "events", "where": SPIKE_ALERTS, "delivery": delivery, **sink})


def write(job: Spec, folder: Path) -> Path:
    """The job's file in `folder`."""
    whole = {"apiVersion": "streamjob.dev/v1alpha1", "kind": "StreamJob", "metadata": {"name": "bench"}, "spec": job}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return path
