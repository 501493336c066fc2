"""What is applied: StreamJobs, and the same StatefulSets without an operator."""

from __future__ import annotations

from typing import Any

from streamjob_operator.builders import Inputs
from streamjob_operator.builders.statefulset import stateful_set
from streamjob_operator.validation import InvalidJob, check

Object = dict[str, Any]
Key = tuple[str, str]
"""(namespace, name)."""
IMAGE = "engine:1"
NAMESPACES = 10
SETS = "/apis/apps/v1/statefulsets"
JOBS = "/apis/streamjob.dev/v1alpha1/streamjobs"
_CODE = """\
def score(temperature, mean, stddev):
    return (temperature - mean) / stddev
"""


def keys(count: int) -> list[Key]:
    """So many names, spread over the namespaces."""
    return [(f"fleet-{number % NAMESPACES}", f"job-{number:05}") for number in range(count)]


def place(collection: str, key: Key) -> str:
    """The path of one object of a collection."""
    root, _, plural = collection.rpartition("/")
    return f"{root}/namespaces/{key[0]}/{plural}/{key[1]}"


def job(key: Key) -> Object:
    """A job of a usual size: three fields, two windows, a function, two sinks, resources of its own."""
    inputs = ["temperature", "stats.temperature.mean", "stats.temperature.stddev"]
    spec = {
        "schema": {
            "key": "device",
            "time": {"field": "timestamp", "unit": "ms"},
            "fields": {"device": "string", "temperature": "float64", "humidity": "float64"},
        },
        "sources": [{"name": "in", "http": {}}],
        "windows": windows(10),
        "udfs": [
            {
                "name": "z",
                "code": {"inline": _CODE},
                "function": "score",
                "inputs": inputs,
                "output": {"score": "float64"},
            }
        ],
        "sinks": [
            {"name": "aggregates", "from": "short", "file": {"path": "out"}},
            {"name": "spikes", "from": "events", "where": "abs(score) > 3", "file": {"path": "spikes"}},
        ],
        "podTemplate": {"spec": {"containers": [{"name": "engine", "resources": {"limits": {"memory": "1Gi"}}}]}},
    }
    return {
        "apiVersion": "streamjob.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"namespace": key[0], "name": key[1]},
        "spec": spec,
    }


def windows(seconds: int) -> list[Object]:
    """The windows, the first of them so long: another length is what an edit changes."""
    aggregates = {"n": "count()", "mean": "mean(temperature)", "hi": "max(temperature)"}
    return [
        {"name": "short", "tumbling": f"{seconds}s", "aggregates": aggregates},
        {"name": "long", "tumbling": "1h", "aggregates": aggregates},
    ]


def plain_set(key: Key) -> Object:
    """The StatefulSet that the operator makes of `job`, owned by nobody."""
    checked = check(job(key), {})
    assert not isinstance(checked, InvalidJob), checked.message
    inputs = Inputs(key[1], key[0], "", checked, IMAGE, 10 << 30, None, pod_monitors=False)
    manifest: Object = stateful_set(inputs)
    del manifest["metadata"]["ownerReferences"]
    return manifest
