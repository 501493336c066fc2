#!/usr/bin/env python3
"""Puts readings of many sensors into a topic, as fast as it goes or at a rate, and says at the end what it has sent."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from confluent_kafka import Producer
from readings import Readings, rows

CHUNK = 20_000
"""Readings that are encoded at once."""
TICK_S = 0.01
"""With a rate, readings leave this often."""
FLUSH_S = 120.0


def main() -> None:
    """Sends what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", default="localhost:9092", help="the brokers (default: %(default)s)")
    parser.add_argument("--topic", default="readings", help="the topic (default: %(default)s)")
    parser.add_argument("--sensors", type=int, default=500_000, help="how many there are (default: %(default)s)")
    parser.add_argument("--events", type=int, default=1_000_000, help="readings in all (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="readings a second; default: as fast as it goes")
    parser.add_argument("--spikes", type=float, default=0.0, help="anomalies a second, with a rate (default: none)")
    parser.add_argument(
        "--start-ms", type=int, help="time of the first reading, 1 ms for each --per-ms; default: now, as time goes"
    )
    parser.add_argument(
        "--per-ms", type=float, default=500.0, help="readings in a millisecond of event time (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=7, help="of the readings (default: %(default)s)")
    arguments = parser.parse_args()
    settings = {"linger.ms": 5, "compression.type": "lz4", "batch.size": 1_000_000, "partitioner": "murmur2_random"}
    producer = Producer(
        {"bootstrap.servers": arguments.bootstrap, **settings, "queue.buffering.max.messages": 1_000_000}
    )
    readings = Readings(arguments.sensors, arguments.seed)
    began = time.monotonic()
    sent = _at_rate(producer, readings, arguments) if arguments.rate else _at_once(producer, readings, arguments)
    left = producer.flush(FLUSH_S)
    if left:
        raise SystemExit(f"the broker did not take {left} readings")
    seconds = round(time.monotonic() - began, 3)
    print(
        json.dumps(
            {"events": sent, "spikes": readings.spikes, "seconds": seconds, "record_bytes": readings.record_bytes}
        )
    )


def _at_once(producer: Producer, readings: Readings, arguments: argparse.Namespace) -> int:
    for first in range(0, arguments.events, CHUNK):
        count = min(CHUNK, arguments.events - first)
        now_us = time.time_ns() // 1000
        times = np.full(count, now_us // 1000, np.int64)
        if arguments.start_ms is not None:
            times = arguments.start_ms + ((first + np.arange(count)) / arguments.per_ms).astype(np.int64)
        _send(producer, arguments.topic, readings.encode(times, now_us))
    return int(arguments.events)


def _at_rate(producer: Producer, readings: Readings, arguments: argparse.Namespace) -> int:
    """Each tick's readings say when they should leave: a producer that is late makes them no younger."""
    began_us, sent, spikes, tick = time.time_ns() // 1000, 0, 0, 0
    while sent < arguments.events:
        due_us = began_us + int(tick * TICK_S * 1e6)
        # It comes back early where the broker has answered.
        while (wait_s := (due_us - time.time_ns() // 1000) / 1e6) > 0:
            producer.poll(wait_s)
        tick += 1
        count = min(round(arguments.rate * tick * TICK_S), arguments.events) - sent
        if count > 0:
            due_spikes = int(arguments.spikes * tick * TICK_S)
            times = np.full(count, due_us // 1000, np.int64)
            _send(producer, arguments.topic, readings.encode(times, due_us, due_spikes - spikes))
            sent, spikes = sent + count, due_spikes
    return sent


def _send(producer: Producer, topic: str, encoded: tuple[Any, Any]) -> None:
    records, names = encoded
    for record, name in zip(rows(records), rows(names), strict=True):
        while True:
            try:
                producer.produce(topic, record, name)
                break
            except BufferError:
                producer.poll(0.05)
    producer.poll(0)


if __name__ == "__main__":
    main()
