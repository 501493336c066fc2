"""The jobs of these tests: their objects, and a handle for one in a cluster."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from cluster import Object
from events import ROUND_S, WINDOW_S, Sender

FUNCTIONS = "functions"
"""The ConfigMap with the code of the jobs' function."""
WINDOW = f"per_{WINDOW_S}s"

_JOB: Object = {
    "apiVersion": "streamjob.dev/v1alpha1",
    "kind": "StreamJob",
    "metadata": {"name": "machines"},
    "spec": {
        "shards": 8,
        "schema": {
            "key": "device",
            "time": {"field": "at", "unit": "s"},
            "fields": {"device": "string", "x": "int64", "id": "string"},
        },
        "sources": [{"name": "in", "http": {}}],
        "time": {"maxOutOfOrderness": f"{ROUND_S}s"},
        "windows": [
            {
                "name": WINDOW,
                "tumbling": f"{WINDOW_S}s",
                "aggregates": {"n": "count()", "total": "sum(x)", "low": "min(x)", "high": "max(x)"},
            }
        ],
        "udfs": [
            {
                "name": "score",
                "function": "score",
                "inputs": ["x"],
                "output": {"score": "int64"},
                "code": {"configMap": {"name": FUNCTIONS, "key": "score.py"}},
            }
        ],
        "sinks": [
            {"name": "windows", "from": WINDOW, "delivery": "exactly-once", "file": {"path": "out/windows"}},
            {"name": "events", "from": "events", "delivery": "exactly-once", "file": {"path": "out/events"}},
        ],
        "checkpoint": {"interval": "500ms"},
        "state": {"memory": "64Mi"},
        "storage": {"size": "1Gi"},
        "podTemplate": {
            "spec": {"containers": [{"name": "engine", "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}]}
        },
    },
}


def job(name: str = "machines", **spec: Any) -> Object:
    """A StreamJob; members of `spec` replace those of the usual one, None takes one away."""
    made = copy.deepcopy(_JOB)
    made["metadata"]["name"] = name
    made["spec"] = {key: value for key, value in {**made["spec"], **spec}.items() if value is not None}
    return made


def functions(version: int) -> Object:
    """The ConfigMap: a score that tells which version of the code made it."""
    code = f"def score(x):\n    return x * 0 + {version}\n"
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": FUNCTIONS}, "data": {"score.py": code}}


@dataclass
class Job:
    """A job in a cluster, and who sends events to it."""

    name: str
    namespace: str
    sender: Sender

    @property
    def url(self) -> str:
        """Where its Service is, for who is in the cluster."""
        return f"http://{self.name}.{self.namespace}.svc:8080"

    @property
    def pod(self) -> str:
        """Its pod."""
        return f"{self.name}-0"

    @property
    def claim(self) -> str:
        """The claim of its volume."""
        return f"state-{self.name}-0"
