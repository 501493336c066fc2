#!/usr/bin/env python3
"""The same job as plain Python, as one would write it without a stream processor.

What it does not do: it keeps nothing over a restart, writes averages at least once at best, uses one core, and has no
history to query.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import math
import signal
import time
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import fastavro
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from udfs import HISTORY

SCHEMA = fastavro.parse_schema(json.loads(Path(__file__).with_name("reading.avsc").read_text(encoding="utf-8")))
MEASURES = ("temperature", "humidity", "air_quality")
WINDOW_MS, LATE_MS = 10_000, 1_000
THRESHOLD = 12.0
BATCH = 10_000


class Running:
    """Mean and deviation of one measure of one sensor (Welford)."""

    __slots__ = ("count", "mean", "squares")

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def score(self, value: float) -> float:
        """The z-score of a value against those before it."""
        if self.count < HISTORY or self.squares <= 0:
            return 0.0
        return abs(value - self.mean) / math.sqrt(self.squares / self.count)

    def add(self, value: float) -> None:
        """Counts a value."""
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value - self.mean)


class Pipeline:
    """Windows, statistics, alerts."""

    def __init__(self, producer: Producer, averages: str) -> None:
        self._producer, self._averages = producer, averages
        self.alerts: SplitResult | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._sensors: dict[str, tuple[Running, Running, Running]] = {}
        self._windows: dict[int, dict[str, list[float]]] = {}
        self._watermark = 0
        self.events = self.windows = self.anomalies = 0

    def add(self, payload: bytes) -> None:
        """One reading."""
        row: Any = fastavro.schemaless_reader(io.BytesIO(payload), SCHEMA, None)
        sensor, at_ms = row["sensor"], int(row["timestamp"].timestamp() * 1000)
        statistics = self._sensors.get(sensor)
        if statistics is None:
            statistics = self._sensors[sensor] = (Running(), Running(), Running())
        score = 0.0
        sums = self._windows.setdefault(at_ms - at_ms % WINDOW_MS, {}).setdefault(sensor, [0.0, 0.0, 0.0, 0.0])
        sums[0] += 1
        for place, (name, running) in enumerate(zip(MEASURES, statistics, strict=True), 1):
            value = row[name]
            score = max(score, running.score(value))
            running.add(value)
            sums[place] += value
        self.events += 1
        self._watermark = max(self._watermark, at_ms - LATE_MS)
        if score > THRESHOLD:
            self.anomalies += 1
            self._post({**row, "timestamp": at_ms, "score": score, "_id": f"{sensor}:{at_ms}"})

    def close(self, watermark: float | None = None) -> None:
        """Sends windows that are over."""
        limit = self._watermark if watermark is None else watermark
        for start in sorted(start for start in self._windows if start + WINDOW_MS <= limit):
            for sensor, (count, *sums) in self._windows.pop(start).items():
                means = {name: total / count for name, total in zip(MEASURES, sums, strict=True)}
                self._produce(sensor, {"key": sensor, "window_start": start, "n": int(count), **means})

    def _produce(self, sensor: str, row: dict[str, Any]) -> None:
        self.windows += 1
        while True:
            try:
                self._producer.produce(self._averages, json.dumps(row).encode(), sensor)
                return
            except BufferError:
                self._producer.poll(0.05)

    def _post(self, row: dict[str, Any]) -> None:
        if self.alerts is None:
            return
        body = json.dumps([row]).encode()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.alerts.netloc, timeout=10)
        self._connection.request("POST", self.alerts.path or "/", body, {"Content-Type": "application/json"})
        self._connection.getresponse().read()


def main() -> None:
    """Reads a topic, to its end or until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default="localhost:9092", help="the brokers (default: %(default)s)")
    parser.add_argument("--topic", default="readings", help="the topic (default: %(default)s)")
    parser.add_argument("--averages", default="averages", help="where averages go (default: %(default)s)")
    parser.add_argument("--alerts", help="where anomalies are posted; with --go-on, those after the topic's end")
    parser.add_argument(
        "--go-on", action="store_true", help="say how it was at the topic's end, and read on until SIGTERM"
    )
    parser.add_argument("--limit-s", type=float, default=math.inf, help="read no longer than this before going on")
    arguments = parser.parse_args()
    stop: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    settings = {"bootstrap.servers": arguments.bootstrap, "group.id": "pipeline", "enable.auto.commit": False}
    consumer = Consumer({**settings, "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    partitions = consumer.list_topics(arguments.topic, 30).topics[arguments.topic].partitions
    consumer.assign([TopicPartition(arguments.topic, number, 0) for number in partitions])
    producer = Producer({"bootstrap.servers": arguments.bootstrap, "linger.ms": 5, "compression.type": "lz4"})
    pipeline = Pipeline(producer, arguments.averages)
    alerts = urlsplit(arguments.alerts) if arguments.alerts else None
    if not arguments.go_on:
        pipeline.alerts = alerts
    began, cpu = time.monotonic(), time.process_time()
    ends: set[int] = set()
    while len(ends) < len(partitions) and time.monotonic() - began < arguments.limit_s:
        ends |= _read(consumer, pipeline)
    if not arguments.go_on:
        pipeline.close(math.inf)
    producer.flush(60)
    seconds = time.monotonic() - began
    figures = {"events": pipeline.events, "windows": pipeline.windows, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**figures, "seconds": round(seconds, 3), "at_end": len(ends) == len(partitions)}), flush=True)
    pipeline.alerts = alerts
    while arguments.go_on and not stop:
        _read(consumer, pipeline, 0.05)
    producer.flush(60)
    consumer.close()


def _read(consumer: Consumer, pipeline: Pipeline, timeout_s: float = 0.2) -> set[int]:
    """Takes what is there; the partitions that are at their end."""
    ends = set()
    for message in consumer.consume(BATCH, timeout_s):
        error = message.error()
        if error is None:
            pipeline.add(message.value())
        elif error.code() == KafkaError._PARTITION_EOF:
            ends.add(message.partition())
    pipeline.close()
    return ends


if __name__ == "__main__":
    main()
