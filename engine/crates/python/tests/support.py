"""Jobs and calls that the tests share."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import streamjob_engine

FILENAME = "/jobs/functions.py"


def udf(source: str, inputs: list[str], outputs: dict[str, str], function: str = "f", **more: Any) -> dict[str, Any]:
    """A function as the normalised job has it."""
    return {
        "name": "u",
        "source": textwrap.dedent(source),
        "filename": FILENAME,
        "function": function,
        "on": "event",
        "window": None,
        "inputs": inputs,
        "outputs": [{"name": name, "type": kind} for name, kind in outputs.items()],
        **more,
    }


def probe(source: str, columns: list[tuple[str, list[Any]]], outputs: dict[str, str], **options: Any) -> dict[str, Any]:
    """Calls the function `f` of `source` as a worker does; outputs come as lists."""
    definition = udf(source, [f"column{number}" for number in range(len(columns))], outputs)
    result = streamjob_engine._probe(json.dumps([definition]), columns, **options)
    result["outputs"] = [json.loads(column) for column in result["outputs"]]
    return result


def job(**changes: Any) -> dict[str, Any]:
    """A normalised job: temperatures by device, ten-second windows."""
    job: dict[str, Any] = {
        "api_version": "streamjob.dev/v1alpha1",
        "name": "test",
        "shards": 4,
        "schema": {
            "key": {"field": "device_id"},
            "time": {"field": "timestamp", "unit": "ms", "format": None, "timezone": "UTC"},
            "fields": [
                {"name": "device_id", "type": "string"},
                {"name": "temperature", "type": "float64"},
                {"name": "count", "type": "int64"},
                {"name": "ok", "type": "bool"},
            ],
        },
        "where": None,
        "sources": [{"name": "in", "http": {}, "file": None}],
        "time": {
            "max_out_of_orderness_us": 0,
            "idle_timeout_us": 5_000_000,
            "allowed_lateness_us": 0,
            "max_ahead_us": 86_400_000_000,
            "close_when_idle": False,
        },
        "windows": [
            {
                "name": "per_10s",
                "tumbling": {"size_us": 10_000_000},
                "aggregates": [
                    {"name": "n", "function": "count", "argument": None},
                    {"name": "mean", "function": "mean", "argument": column("temperature")},
                ],
            }
        ],
        "udfs": [],
        "sinks": [],
        "dead_letters": None,
        "checkpoint": {"interval_us": 5_000_000},
        "ingest": {"durability": "fsync", "max_wait_us": 10_000_000, "max_body_bytes": 67_108_864},
        "idempotency": {"retention_us": 86_400_000_000},
        "engine": {"worker_threads": 1, "pin_cores": False, "batch_rows": 8192, "batch_linger_us": 1000},
        "state": {"memory_bytes": 268_435_456},
        "history": {"raw_us": 2_592_000_000_000},
        "rest": {"bearer_token": None, "cors_origins": []},
    }
    return job | changes


def column(name: str) -> dict[str, Any]:
    """An expression that reads a column."""
    return {"kind": "column", "name": name}


def above(name: str, limit: float) -> dict[str, Any]:
    """The expression `name > limit`."""
    return {"kind": "call", "function": "gt", "args": [column(name), {"kind": "literal", "value": limit}]}


def sink(
    name: str, source: str, where: Any = None, delivery: str = "exactly-once", kind: str = "http"
) -> dict[str, Any]:
    """A sink of any kind."""
    http = {
        "url": "http://127.0.0.1:1/",
        "headers": {},
        "max_batch_rows": 2,
        "timeout_us": 1,
        "backoff_initial_us": 1,
        "backoff_max_us": 1,
    }
    kinds = {"http": http, "file": {"path": "/out", "format": "ndjson"}, "stdout": {}}
    return {
        "name": name,
        "from": source,
        "where": where,
        "delivery": delivery,
        **{known: value if known == kind else None for known, value in kinds.items()},
    }


class Run:
    """A session that speaks Python."""

    def __init__(self, now_s: float = 1e9, **changes: Any) -> None:
        self.session = streamjob_engine.Session(json.dumps(job(**changes)), int(now_s * 1e6))

    def process(self, body: bytes | list[dict[str, Any]]) -> dict[str, Any]:
        """Takes rows or a body."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return strict(self.session.process(body))

    def finish(self) -> dict[str, Any]:
        """Closes all windows."""
        return strict(self.session.finish())

    def stats(self, key: str) -> dict[str, Any] | None:
        """A key's statistics."""
        text = self.session.stats(key)
        return None if text is None else strict(text)


def strict(text: str) -> Any:
    """Reads JSON that has no NaN and no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def row(second: float, temperature: float | None, device: str = "a", **more: Any) -> dict[str, Any]:
    """One event."""
    return {"device_id": device, "timestamp": round(second * 1000), "temperature": temperature} | more
