"""Sources and sinks in Python in a job: what is refused, and what the engine gets. Their code is never run."""

from __future__ import annotations

from typing import Any

import pytest

from streamjob.loading import LoadedJob, load_job
from streamjob.normalise import local_problems, normalise
from streamjob.problems import JobError, Problem

CODE = """raise RuntimeError("this code is run")

async def readings(context, position=None):
    yield b""

class Writer:
    pass
"""
JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: j}}
spec:
  schema:
    key: device
    time: {{field: at, unit: ms}}
    fields: {{device: string, x: int64}}
  sources: [{{name: in, python: {{{source}}}}}]
  sinks: [{{name: out, from: events{delivery}, python: {{{sink}}}}}]
"""
SOURCE = "file: connectors.py, function: readings"
SINK = "file: connectors.py, class: Writer"


def load(source: str = SOURCE, sink: str = SINK, delivery: str = "") -> LoadedJob:
    """The job with these members of its source and sink, and connectors.py beside it."""

    def read(path: str) -> str:
        if path != "/job/connectors.py":
            raise FileNotFoundError(2, "No such file or directory", path)
        return CODE

    job = JOB.format(source=source, sink=sink, delivery=delivery and f", delivery: {delivery}")
    return load_job(job, base_dir="/job", read=read)


def problems(*arguments: str) -> list[Problem]:
    """What is wrong with it."""
    with pytest.raises(JobError) as caught:
        load(*arguments)
    return caught.value.problems


@pytest.mark.parametrize(
    ("source", "sink", "delivery", "path", "message"),
    [
        ("function: readings", SINK, "", "spec.sources[0].python", "needs one of file, code"),
        (f"{SOURCE}, code: {{inline: x}}", SINK, "", "spec.sources[0].python.code", "only one of file, code"),
        ("code: {}, function: readings", SINK, "", "spec.sources[0].python.code", "needs one of inline, configMap"),
        ("file: gone.py, function: f", SINK, "", "spec.sources[0].python.file", "file does not exist"),
        ("file: connectors.py, function: reading", SINK, "", "spec.sources[0].python.function", "is not defined"),
        ("code: {inline: 'def f('}, function: f", SINK, "", "spec.sources[0].python.code.inline", "syntax error"),
        (f"{SOURCE}, queue: 0", SINK, "", "spec.sources[0].python.queue", "at least 1"),
        (f"{SOURCE}, format: {{avro: {{}}}}", SINK, "", "spec.sources[0].python.format.avro", "needs a schema"),
        (f"{SOURCE}, secrets: {{p: s3cret}}", SINK, "", "spec.sources[0].python.secrets.p", "not the secret"),
        (f"{SOURCE}, secrets: {{p: {{secretRef: {{}}}}}}", SINK, "", "spec.sources[0].python.secrets.p", "needs one"),
        (f"{SOURCE}, config: {{password: s3cret}}", SINK, "", "spec.sources[0].python.config.password", "secret"),
        (f"{SOURCE}, backoff: {{initial: 1m, max: 1s}}", SINK, "", "spec.sources[0].python.backoff.max", "shorter"),
        (SOURCE, "file: connectors.py, class: Writers", "", "spec.sinks[0].python.class", "is not defined"),
        (SOURCE, "file: connectors.py", "", "spec.sinks[0].python.class", "is missing"),
        (SOURCE, SINK, "exactly-once", "spec.sinks[0].delivery", "written twice under one key"),
        (SOURCE, f"{SINK}, maxBatchRows: 0", "", "spec.sinks[0].python.maxBatchRows", "at least 1"),
    ],
)
def test_what_is_wrong_is_named(source: str, sink: str, delivery: str, path: str, message: str) -> None:
    found = problems(source, sink, delivery)
    assert any(problem.path.startswith(path) and message in problem.message for problem in found), found
    assert "s3cret" not in "".join(map(str, found))


def test_a_config_that_is_too_long_is_refused() -> None:
    found = problems(f"{SOURCE}, config: {{x: '{'y' * 70_000}'}}")
    assert [problem.path for problem in found] == ["spec.sources[0].python.config"]


def test_the_engine_gets_the_code_and_where_secrets_are() -> None:
    job = normalise(
        load(f"{SOURCE}, positions: true, config: {{a: [1, {{b: null}}]}}, secrets: {{p: {{secretRef: {{file: s}}}}}}")
    )
    source: dict[str, Any] = job["sources"][0]["python"]
    assert source["code"]["source"] == CODE
    assert source["code"]["filename"] == "/job/connectors.py"
    assert source["code"]["config"] == {"a": [1, {"b": None}]}
    assert source["code"]["secrets"] == {"p": {"file": "/job/s"}}
    assert (source["positions"], source["queue"], source["format"]) == (True, 10_000, "json")


@pytest.mark.parametrize(
    ("sink", "delivery", "expected"),
    [
        (SINK, "", "at-least-once"),
        (f"{SINK}, idempotent: true", "", "exactly-once"),
        (f"{SINK}, idempotent: true", "at-least-once", "at-least-once"),
    ],
)
def test_exactly_once_is_the_default_of_what_knows_repeats(sink: str, delivery: str, expected: str) -> None:
    assert normalise(load(SOURCE, sink, delivery))["sinks"][0]["delivery"] == expected


def test_code_in_a_configmap_is_for_kubernetes() -> None:
    loaded = load("code: {configMap: {name: c, key: k.py}}, function: readings")
    assert [problem.path for problem in local_problems(loaded)] == ["spec.sources[0].python.code.configMap"]
    with pytest.raises(ValueError, match="needs Kubernetes"):
        normalise(loaded)
