"""Kafka in a job: what is refused, and what the engine gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from streamjob.loading import load_job
from streamjob.normalise import normalise
from streamjob.problems import JobError, Problem
from streamjob.validation.kafka import RESERVED_PROPERTIES

CLIENT = Path(__file__).parents[2] / "engine" / "crates" / "connectors" / "src" / "kafka" / "client.rs"
JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: j}}
spec:
  schema:
    key: {key}
    time: {{field: at, unit: ms}}
    fields: {{device: string, x: int64}}
  sources: [{{name: in, kafka: {{bootstrapServers: "a:1", topic: t{source}}}}}]
  windows: [{{name: w, tumbling: 1s, aggregates: {{n: count(), m: mean(x)}}}}]
  sinks: [{{name: out, from: {out}, kafka: {{bootstrapServers: "a:1,b:2", topic: u{sink}}}}}]
"""


def text(source: str = "", sink: str = "", key: str = "device", out: str = "w") -> str:
    """The job with further members of its topics."""
    return JOB.format(source=source and f", {source}", sink=sink and f", {sink}", key=key, out=out)


def problems(job: str) -> list[Problem]:
    """What is wrong with it."""
    with pytest.raises(JobError) as caught:
        load_job(job)
    return caught.value.problems


def normalised(job: str) -> dict[str, Any]:
    """What the engine gets."""
    return normalise(load_job(job, base_dir="/job"))


@pytest.mark.parametrize(
    ("source", "sink", "path", "message"),
    [
        ("properties: {group.id: g}", "", "spec.sources[0].kafka.properties.group.id", "set by the engine"),
        (
            "properties: {ssl.truststore.password: s3cret}",
            "",
            "spec.sources[0].kafka.properties",
            "would hold a secret",
        ),
        ("startFrom: never", "", "spec.sources[0].kafka.startFrom", "must be one of earliest, latest"),
        ("startFrom: {time: 1}", "", "spec.sources[0].kafka.startFrom", "unknown field"),
        ("metadata: {device: colour}", "", "spec.sources[0].kafka.metadata.device", "must be one of"),
        ("startFrom: {timestamp: '2026-01-01'}", "", "spec.sources[0].kafka.startFrom", "no time with an offset"),
        ("format: xml", "", "spec.sources[0].kafka.format", ""),
        ("format: {avro: {}}", "", "spec.sources[0].kafka.format.avro", "needs a schema"),
        (
            "format: {avro: {schema: {file: not-there.avsc}}}",
            "",
            "spec.sources[0].kafka.format.avro.schema.file",
            "does not exist",
        ),
        (
            "format: {avro: {framing: confluent, registry: {url: 'http://r', token: s3cret}}}",
            "",
            "spec.sources[0].kafka.format.avro.registry.token",
            "",
        ),
        ("metadata: {y: key}", "", "spec.sources[0].kafka.metadata.y", "no field"),
        ("metadata: {x: key}", "", "spec.sources[0].kafka.metadata.x", "has the type int64, a key is string"),
        ("metadata: {device: offset}", "", "spec.sources[0].kafka.metadata.device", "an offset is int64"),
        ("metadata: {device: {header: ''}}", "", "spec.sources[0].kafka.metadata.device", ""),
        ("metadata: {at: key}", "", "spec.sources[0].kafka.metadata.at", "is the event time, which a key is not"),
        ("refresh: 1ms", "", "spec.sources[0].kafka.refresh", "at least 1s"),
        ("tls: {keyFile: a.pem}", "", "spec.sources[0].kafka.tls", "has no certificateFile"),
        (
            "sasl: {mechanism: PLAIN, username: u, password: {secretRef: {}}}",
            "",
            "spec.sources[0].kafka.sasl.password.secretRef",
            "needs one of env, file",
        ),
        ("", "key: nothing", "spec.sinks[0].kafka.key", "is no column"),
        ("", "key: key, keyless: true", "spec.sinks[0].kafka.key", "beside keyless"),
        ("", "partition: m", "spec.sinks[0].kafka.partition", "a partition is int64"),
        ("", "progressTopic: u", "spec.sinks[0].kafka.progressTopic", "is the topic of the rows"),
        ("", "transactionTimeout: 1h", "spec.sinks[0].kafka.transactionTimeout", "from 1s to 15m"),
        ("", "backoff: {initial: 1m, max: 1s}", "spec.sinks[0].kafka.backoff.max", "shorter than initial"),
    ],
)
def test_what_is_wrong_is_named(source: str, sink: str, path: str, message: str) -> None:
    found = problems(text(source, sink))
    assert any(problem.path.startswith(path) and message in problem.message for problem in found), found
    assert "s3cret" not in "".join(map(str, found))


def test_a_secret_in_plain_text_is_refused_and_not_quoted() -> None:
    found = problems(text("sasl: {mechanism: PLAIN, username: u, password: s3cret}"))
    assert found[0].path == "spec.sources[0].kafka.sasl.password"
    assert "s3cret" not in "".join(map(str, found))


def test_the_engine_gets_where_a_secret_is() -> None:
    job = normalised(text("sasl: {mechanism: PLAIN, username: u, password: {secretRef: {file: secret.txt}}}"))
    assert job["sources"][0]["kafka"]["connection"]["sasl"]["password"] == {"file": "/job/secret.txt"}


@pytest.mark.parametrize(
    ("job", "key"),
    [
        (text(), "key"),
        (text(out="events"), "device"),
        (text(out="events", key="{const: all}"), None),
        (text(key="{const: all}"), "key"),
        (text(sink="keyless: true"), None),
        (text(sink="key: n"), "n"),
    ],
)
def test_the_key_of_a_message_is_that_of_its_row(job: str, key: str | None) -> None:
    assert normalised(job)["sinks"][0]["kafka"]["key"] == key


def test_names_that_the_job_does_not_give_follow_from_it() -> None:
    job = normalised(text())
    assert job["sources"][0]["kafka"]["group_id"] == "streamjob-j-in"
    assert job["sinks"][0]["kafka"]["progress_topic"] == "streamjob-progress-j-out"
    assert job["sinks"][0]["delivery"] == "exactly-once"


def test_both_sides_refuse_the_same_properties() -> None:
    found = re.search(r"RESERVED_PROPERTIES: \[&str; \d+\] = \[(.*?)\];", CLIENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert set(re.findall(r'"([^"]+)"', found[1])) == set(RESERVED_PROPERTIES)


def test_fields_may_come_from_beside_the_value() -> None:
    job = normalised(text("metadata: {device: key, x: offset, at: timestamp}"))
    assert job["sources"][0]["kafka"]["metadata"] == [
        {"field": "device", "from": "key"},
        {"field": "x", "from": "offset"},
        {"field": "at", "from": "timestamp"},
    ]
    job = normalised(text("metadata: {device: {header: sensor}}"))
    assert job["sources"][0]["kafka"]["metadata"] == [{"field": "device", "from": {"header": "sensor"}}]
