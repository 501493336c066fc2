"""A topic through windows into a topic, exactly once, with the broker on the same machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl

from driver import jobs, truth
from driver.bench import Bench, Outcome
from driver.engine import BenchError
from driver.report import say
from driver.truth import Verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "integration"))

START_MS = 1_700_000_000_000
WINDOW_MS = jobs.WINDOW_S * 1000
PARTITIONS = 4
EXPECTED_RATE = 1_000_000
END_TIMEOUT_S = 600
FLUSH_S = 120
_COLUMNS = {"key": pl.String, "window_start": pl.String, "n": pl.Int64, "_id": pl.String}


def kafka(bench: Bench) -> Outcome:
    """10,000 devices, 100 events of each in each window, JSON in four partitions."""
    try:
        import kafka_broker
    except ModuleNotFoundError as error:
        raise BenchError(f"{error.name} is not installed; make setup installs it") from None
    reason = kafka_broker.missing()
    if reason:
        raise BenchError(reason)
    devices, per_window_key = bench.scale.devices(10_000), 100
    events = bench.scale.file_events(EXPECTED_RATE, devices * per_window_key)
    path = bench.folder / "events.ndjson"
    summary = bench.tool.generate_file(path, devices=devices, events=events, per_window_key=per_window_key)
    broker = kafka_broker.Broker(bench.folder / "kafka").start()
    try:
        for topic in ("events", "windows"):
            broker.create(topic, PARTITIONS, retention_ms="-1")
        say(f"putting {events:,} events into a topic")
        _fill(broker, path)
        path.unlink()
        _warm_up(broker)
        alone = _alone(broker, kafka_broker.jars(), events)
        with bench.start(_job(bench, broker.address), exit_at_end=True) as engine:
            seconds = engine.wait_exit(END_TIMEOUT_S) - engine.ready
            cpu = engine.cpu_seconds() - engine.cpu_at_ready
            usage = engine.usage
        rows = pl.DataFrame([json.loads(message.value()) for message in broker.messages("windows")], schema=_COLUMNS)
    finally:
        broker.stop()
    verdict = truth.regular_windows(
        rows,
        devices=devices,
        windows=summary["windows"],
        per_window_key=per_window_key,
        start_ms=START_MS,
        window_ms=WINDOW_MS,
    )
    measured = {
        "events_per_s": round(events / seconds),
        "rss_bytes": usage.rss_peak,
        "cpu_pct": round(100 * cpu / seconds, 1),
        "events_per_cpu_s": round(events / cpu),
        "events": events,
        "devices": devices,
        "window_rows": rows.height,
        "seconds": round(seconds, 3),
        "broker_alone_events_per_s": alone,
    }
    return verdict.worst(Verdict(0, rows.height - rows["_id"].n_unique())), measured


def _job(bench: Bench, address: str) -> jobs.Spec:
    connection = {"bootstrapServers": address}
    job = jobs.spec([{"name": "in", "kafka": {**connection, "topic": "events"}}], bench.scale.checkpoint_s)
    jobs.add_windows(job)
    job["sinks"] = [{"name": "windows", "from": "per_10s", "kafka": {**connection, "topic": "windows"}}]
    return job


def _fill(broker: Any, path: Path) -> None:
    """The lines of a file, one after the other to each partition."""
    producer = broker.producer(linger_ms=50, compression_type="lz4", batch_size=1_000_000)
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            while True:
                try:
                    producer.produce("events", line, partition=number % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.05)
    if producer.flush(FLUSH_S):
        raise BenchError("the broker did not take all events")


def _warm_up(broker: Any) -> None:
    """The first transaction of a broker makes its topic of transactions, which takes a second or two."""
    producer = broker.producer(transactional_id="warm-up")
    producer.init_transactions(FLUSH_S)


def _alone(broker: Any, jars: Path, events: int) -> int:
    """What Kafka's own consumer reads from this broker, which does nothing with it."""
    consumer = ["org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", broker.address, "--topic", "events"]
    # The settings of the engine's reader: many messages a fetch.
    command = ["java", "-Xmx512m", "-cp", f"{jars}/*", *consumer, "--num-records", str(events), "--hide-header"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    if done.returncode != 0:
        command[command.index("--num-records")] = "--messages"
        done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    cells = [cell.strip() for cell in (done.stdout.strip().splitlines() or [""])[-1].split(",")]
    if len(cells) < 10:
        raise BenchError(f"Kafka's consumer did not say how fast it was: {done.stdout[-300:]}{done.stderr[-300:]}")
    # fetch.nMsg.sec: without the time to join the group.
    return round(float(cells[9]))
