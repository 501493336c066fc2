"""Avro messages of a topic, with schemas that are in a registry or in the job, and the case study that uses them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Job, Row, free_port, run_command, wait_until
from kafka_broker import Broker
from receiver import receiving
from schema_registry import Registry
from test_formats import BASE_MS, SCHEMA, confluent, readings, record, single_object

pytestmark = pytest.mark.servers

CASE_STUDY = Path(__file__).parents[1] / "examples" / "case-study"
JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: avro-topic}}
spec:
  shards: 4
  schema:
    key: device
    time: {{field: at, unit: ms}}
    fields: {{device: string, x: float64, n: int64}}
  sources:
    - {{name: in, kafka: {{bootstrapServers: "{address}", topic: {topic}, format: {{avro: {avro}}}}}}}
  time: {{maxOutOfOrderness: 1h}}
  sinks:
    - {{name: events, from: events, delivery: exactly-once, file: {{path: events}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 100ms}}
  engine: {{workerThreads: 2}}
"""
OLD = {**SCHEMA, "fields": [field for field in SCHEMA["fields"] if field["name"] != "n"]}


def told(rows: list[Row]) -> list[str]:
    """The rows in an order of their own, nulls included."""
    return sorted(repr((row["at"], row["device"], row["x"], row["n"])) for row in rows)


def letters(job: Job) -> list[tuple[int, str]]:
    """Offset and reason of the dead letters, whose rows are the messages."""
    return sorted((letter["offset"], letter["reason"]) for letter in job.rows("dead"))


def test_messages_wait_for_a_registry_and_poison_is_named_with_its_place(
    broker: Broker, make_job: Callable[..., Job]
) -> None:
    broker.create("confluent", 2)
    rows = readings(40)
    old = [{name: value for name, value in row.items() if name != "n"} for row in rows[:20]]
    broker.send("confluent", [confluent(3, row, OLD) for row in old], 0)
    poison = [b"\x01 no magic", confluent(404, rows[0]), confluent(5, rows[0])[:-1], b"", None]
    good = [confluent(5, row) for row in rows[20:]]
    broker.send("confluent", [*good[:10], *poison, *good[10:]], 1)
    port = free_port()
    avro = f"{{framing: confluent, registry: {{url: 'http://127.0.0.1:{port}'}}}}"
    job = make_job(JOB.format(address=broker.address, topic="confluent", avro=avro))
    running = job.start("--exit-at-end")
    running.await_ready()
    wait_until("that the registry was missed", lambda: "schema registry gives no schema" in running.stderr)
    registry = Registry(port=port)
    try:
        registry.register(3, OLD)
        registry.register(5, SCHEMA)
        registry.failures = [503]
        finished = running.await_success()
        tried = run_command("check", "--connect", job.path, cwd=job.folder)
        assert tried.code == 0, tried
        assert "the schema registry http://127.0.0.1" in tried.stdout
    finally:
        registry.close()
    assert (finished.totals["applied"], finished.totals["rejected"]) == (40, 5)
    expected = [{**row, "n": None} for row in rows[:20]] + rows[20:]
    assert told(job.rows("events")) == told(expected)
    found = letters(job)
    assert [offset for offset, _ in found] == [10, 11, 12, 13, 14]
    assert "has no schema 404" in found[1][1]
    assert "tombstone" in found[4][1]
    for letter in job.rows("dead"):
        assert letter["split"].startswith("in/confluent@")
        assert letter["split"].endswith("/1")
        if letter["row"]:
            assert base64.b64decode(letter["row"].removeprefix("base64:")) == poison[letter["offset"] - 10]
    # Each number is asked for once, however many messages name it.
    assert [path for path, status in registry.requests if status == 200].count("/schemas/ids/5") == 1
    tried = run_command("check", "--connect", job.path, cwd=job.folder)
    assert tried.code == 1
    assert "format.avro.registry" in tried.stderr


@pytest.mark.parametrize("framing", ["plain", "single-object"])
def test_schemas_of_the_job_read_what_older_writers_wrote(
    broker: Broker, make_job: Callable[..., Job], framing: str
) -> None:
    topic = f"avro-{framing}"
    broker.create(topic, 1)
    rows = readings(20)
    frame = record if framing == "plain" else single_object
    old = [{name: value for name, value in row.items() if name != "n"} for row in rows]
    values = [frame(row, OLD) for row in old]
    if framing == "single-object":
        values += [frame(row) for row in rows]
    broker.send(topic, values)
    avro = f"{{framing: {framing}, schema: {{file: new.avsc}}, writers: [{{file: old.avsc}}]}}"
    job = make_job(JOB.format(address=broker.address, topic=topic, avro=avro))
    job.write("new.avsc", json.dumps(SCHEMA))
    job.write("old.avsc", json.dumps(OLD))
    job.run_to_end()
    expected = [{**row, "n": None} for row in rows] + (rows if framing == "single-object" else [])
    assert told(job.rows("events")) == told(expected)


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """One of the case study's programs."""
    command = [sys.executable, str(CASE_STUDY / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_the_case_study_runs(broker: Broker, make_job: Callable[..., Job]) -> None:
    for topic in ("air", "air-averages", "averages-python"):
        broker.create(topic, 2)
    with receiving(0) as receiver:
        receiver.fails = False
        text = (CASE_STUDY / "job.yaml").read_text(encoding="utf-8")
        text = text.replace("localhost:9092", broker.address).replace("http://127.0.0.1:9000", receiver.url)
        text = text.replace("topic: readings", "topic: air").replace("topic: averages", "topic: air-averages")
        job = make_job(text)
        for name in ("reading.avsc", "udfs.py"):
            shutil.copy(CASE_STUDY / name, job.folder / name)
        start_ms = BASE_MS // 10_000 * 10_000
        to_air = ("--bootstrap", broker.address, "--topic", "air", "--sensors", 200)
        script("produce.py", *to_air, "--events", 2400, "--start-ms", start_ms, "--per-ms", 0.2)
        running = job.run()
        sent = json.loads(script("produce.py", *to_air, "--events", 1000, "--rate", 1000, "--spikes", 20).stdout)
        assert sent["spikes"] == 20
        anomalies = receiver.of("/anomalies")
        rows = wait_until("anomalies", lambda: found if len(found := anomalies.rows) >= 20 else None)
        assert {row["temperature"] for row in rows} == {95.0}
        assert len(rows) == 20 == len({row["sensor"] for row in rows})
        window = wait_until(
            "averages",
            lambda: [row for row in broker.rows("air-averages") if row["n"] == 10] or None,
        )
        assert len({row["key"] for row in window}) == 200
        running.stop()
        python = script("pipeline.py", "--bootstrap", broker.address, "--topic", "air", "--averages", "averages-python")
    figures = json.loads(python.stdout)
    assert figures["at_end"]
    assert figures["events"] == 3400
    # Both see the same: the averages of the first window, sensor by sensor.
    ours = {row["key"]: row["temperature"] for row in window}
    theirs = {row["key"]: row for row in broker.rows("averages-python") if row["window_start"] == start_ms}
    assert ours.keys() == theirs.keys()
    assert all(abs(ours[key] - theirs[key]["temperature"]) < 1e-9 for key in ours)
