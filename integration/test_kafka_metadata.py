"""What Kafka knows of a message beside its value, as fields of its row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Job
from kafka_broker import Broker, encoded, flush, produce
from test_formats import BASE_MS

pytestmark = pytest.mark.servers

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: metadata}}
spec:
  shards: 4
  schema:
    key: device
    time: {{field: at, unit: s}}
    fields: {{device: string, tenant: string, part: int64, place: int64, made: int64, x: int64}}
  sources:
    - name: in
      kafka:
        bootstrapServers: "{address}"
        topic: {topic}
        metadata:
          {{device: key, tenant: {{header: tenant}}, part: partition, place: offset, made: timestamp, at: timestamp}}
  windows: [{{name: w, tumbling: 10s, aggregates: {{n: count(), total: sum(x)}}}}]
  sinks:
    - {{name: events, from: events, file: {{path: events}}}}
    - {{name: windows, from: w, file: {{path: windows}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 100ms}}
"""


def test_keys_headers_timestamps_and_places_are_fields(broker: Broker, make_job: Callable[..., Job]) -> None:
    topic = "with-metadata"
    # By their timestamps the messages are older than what a topic keeps.
    broker.create(topic, 2, retention_ms="-1")
    producer = broker.producer()
    for number in range(40):
        produce(
            producer,
            topic,
            # Members of those names count for nothing, whatever they are.
            encoded({"x": number, "device": "another", "at": "never"}),
            number % 2,
            key=f"d{number % 4}",
            timestamp=BASE_MS + number * 500,
            headers=[("tenant", "first"), ("tenant", f"t{number % 3}")] if number % 5 else [],
        )
    for key in (None, b"\xff"):
        produce(producer, topic, encoded({"x": 0}), 0, key=key, timestamp=BASE_MS)
    flush(producer)
    job = make_job(JOB.format(address=broker.address, topic=topic))
    finished = job.run_to_end()
    assert (finished.totals["applied"], finished.totals["rejected"]) == (40, 2)
    rows = {row["x"]: row for row in job.rows("events")}
    assert len(rows) == 40
    for number, row in rows.items():
        made_ms = BASE_MS + number * 500
        assert (row["device"], row["part"], row["place"]) == (f"d{number % 4}", number % 2, number // 2)
        assert (row["tenant"], row["made"]) == (f"t{number % 3}" if number % 5 else None, made_ms)
    # The event time is the message's: 20 s of four keys.
    windows = job.rows("windows")
    assert sorted(row["n"] for row in windows) == [5] * 8
    letters = sorted((letter["offset"], letter["reason"]) for letter in job.rows("dead"))
    assert letters == [(20, "device: the key is missing"), (21, "device: not valid UTF-8 at byte 0")]
