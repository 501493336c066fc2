"""Jobs and observations for tests."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from streamjob_operator import names
from streamjob_operator.observed import Observed

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CODE = "def score(v):\n    return v\n"


def job(**spec: Any) -> dict[str, Any]:
    """A StreamJob of the cluster, held by the operator's finalizer; `spec` replaces members."""
    full: dict[str, Any] = {
        "shards": 8,
        "schema": {
            "key": "device",
            "time": {"field": "ts", "unit": "ms"},
            "fields": {"device": "string", "v": "float64"},
        },
        "sources": [{"name": "in", "http": {}}],
        "windows": [{"name": "per_10s", "tumbling": "10s", "aggregates": {"n": "count()"}}],
        "udfs": [
            {"name": "z", "code": {"inline": CODE}, "function": "score", "inputs": ["v"], "output": {"s": "float64"}}
        ],
        "sinks": [{"name": "out", "from": "per_10s", "file": {"path": "out"}}],
    }
    metadata = {
        "name": "telemetry",
        "namespace": "shop",
        "uid": "uid-1",
        "generation": 1,
        "resourceVersion": "1",
        "finalizers": [names.FINALIZER],
    }
    body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": {**full, **spec}}
    return copy.deepcopy(body)


def observed(resource: dict[str, Any] | None = None, **members: Any) -> Observed:
    """What is observed of a job."""
    return Observed(**{"job": resource or job(), "now": NOW, **members})
