"""A job from topic to topic, its events, and what it must have written."""

from __future__ import annotations

import random
from typing import Any

from harness import Row
from kafka_broker import Broker, encoded, flush, produce
from sink_jobs import windows_of

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: {name}}}
spec:
  shards: 5
  schema:
    key: device
    time: {{field: at, unit: us}}
    fields: {{device: string, x: int64}}
  sources:
    - {{name: in, kafka: {{bootstrapServers: "{address}", topic: {topic}{source}}}}}
  time: {{idleTimeout: {idle}}}
  windows:
    - name: w
      tumbling: 10s
      aggregates: {{n: count(), total: sum(x), low: min(x), high: max(x), opening: first(x), closing: last(x)}}
  sinks:
    - {{name: out, from: w, delivery: {delivery}, kafka: {{bootstrapServers: "{address}", topic: {out}{sink}}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 200ms}}
  engine: {{workerThreads: 2}}
"""


def job_text(broker: Broker, topic: str, out: str, **more: str) -> str:
    """The job; `source` and `sink` are further members of its two topics."""
    given = {"name": topic, "source": "", "sink": "", "idle": "10m", "delivery": "exactly-once", **more}
    given["source"] = f", {given['source']}" if given["source"] else ""
    given["sink"] = f", {given['sink']}" if given["sink"] else ""
    return JOB.format(address=broker.address, topic=topic, out=out, **given)


def topics(broker: Broker, name: str, partitions: int = 3, **config: str) -> tuple[str, str]:
    """A topic for events and one for results."""
    broker.create(name, partitions, **config)
    broker.create(f"{name}-out", 2)
    return name, f"{name}-out"


class Events:
    """Events in order of time, each key in one partition; the time goes on from call to call."""

    def __init__(self, rng: random.Random, partitions: int = 3, keys: int = 40) -> None:
        self.all: list[dict[str, Any]] = []
        self._rng, self._partitions, self._keys = rng, partitions, keys
        self._now_us = 0

    def more(self, count: int, span_us: int = 20_000_000) -> list[tuple[int, Row]]:
        """The next events, with their partitions. Each partition gets one at the end, so that none stays behind."""
        rows = []
        for number in range(count):
            at = self._now_us + span_us * number // count
            rows.append((self._rng.randrange(self._keys), at))
        self._now_us += span_us
        rows += [(partition, self._now_us) for partition in range(self._partitions)]
        made = []
        for key, at in rows:
            row = {"device": f"d{key}", "at": at, "x": self._rng.randrange(-100, 100)}
            self.all.append({"key": row["device"], "time_us": at, "x": row["x"]})
            made.append((key % self._partitions, row))
        return made

    def send(self, broker: Broker, topic: str, count: int, **settings: Any) -> None:
        """Makes some and puts them into the topic."""
        producer = broker.producer(**settings)
        for partition, row in self.more(count):
            produce(producer, topic, encoded(row), partition)
        flush(producer)

    def windows(self) -> dict[tuple[str, int], Row]:
        """What all windows must hold."""
        return windows_of(self.all)
