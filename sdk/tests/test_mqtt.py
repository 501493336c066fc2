"""MQTT in a job: what is refused, and what the engine gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamjob.loading import load_job
from streamjob.normalise import normalise
from streamjob.problems import JobError

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: j}}
spec:
  schema:
    key: device
    time: {{field: at, unit: ms}}
    fields: {{device: string, x: int64, inner: {{type: string, path: a.b}}}}
  sources: [{{name: in, mqtt: {{host: broker, topics: {topics}{more}}}}}]
"""


def text(more: str = "", topics: str = "['site/+/t/#']") -> str:
    """The job with further members of its source."""
    return JOB.format(more=more and f", {more}", topics=topics)


@pytest.mark.parametrize(
    ("job", "path", "message"),
    [
        (text(topics="['a/#/b']"), ".topics[0]", "is no filter"),
        (text(topics="[ok, 'a+/b']"), ".topics[1]", "is no filter"),
        (text(topics="[]"), ".topics", ""),
        (text("levels: {nothing: 1}"), ".levels.nothing", "no field"),
        (text("levels: {x: 1}"), ".levels.x", "a level is string"),
        (text("levels: {inner: 1}"), ".levels.inner", "is read from a path"),
        (text("levels: {device: 0}"), ".levels.device", ""),
        (text("username: u"), "", "has no password"),
        (text("keepAlive: 1s"), ".keepAlive", "from 5s"),
        (text("tls: {keyFile: k}"), ".tls", "has no certificateFile"),
        (text("username: u, password: {secretRef: {}}"), ".password.secretRef", "needs one of env, file"),
        (text("backoff: {initial: 1m, max: 1s}"), ".backoff.max", "shorter than initial"),
        (text("levels: {at: 1}"), ".levels.at", "which a level is not"),
    ],
)
def test_what_is_wrong_is_named(job: str, path: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job)
    found = caught.value.problems
    wanted = f"spec.sources[0].mqtt{path}"
    assert any(problem.path == wanted and message in problem.message for problem in found), found


def test_names_that_the_job_does_not_give_follow_from_it() -> None:
    source: dict[str, Any] = normalise(load_job(text("levels: {device: 2}"), base_dir="/job"))["sources"][0]["mqtt"]
    assert source["connection"]["client_id"] == "streamjob-j-in"
    assert source["levels"] == [{"field": "device", "level": 2}]
    assert (source["format"], source["retained"]) == ("json", "skip")


def test_an_avro_schema_need_not_have_what_topics_have() -> None:
    inner = {"type": "record", "name": "A", "fields": [{"name": "b", "type": "string"}]}
    members = {"at": "long", "x": "long", "a": inner}
    schema = {"type": "record", "name": "R", "fields": [{"name": name, "type": of} for name, of in members.items()]}
    avro = json.dumps({"avro": {"framing": "plain", "schema": {"inline": json.dumps(schema)}}})
    load_job(text(f"levels: {{device: 2}}, format: {avro}"))
    with pytest.raises(JobError) as caught:
        load_job(text(f"format: {avro}"))
    assert "has no member device" in caught.value.problems[0].message


@pytest.mark.parametrize("topic", ["#", "+", "a", "/a//b", "a/+/b/#", "$share/group/a/#"])
def test_filters_are_taken(topic: str) -> None:
    load_job(text(topics=f"['{topic}']"))
