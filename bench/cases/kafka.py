"""A topic through windows into a topic, exactly once, with the broker on the same machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import polars as pl

from driver import flink, jobs, truth
from driver.bench import Bench, Outcome
from driver.broker import FLUSH_S, PARTITIONS, broker, jars
from driver.engine import BenchError
from driver.report import say
from driver.truth import Verdict

START_MS = 1_700_000_000_000
WINDOW_MS = jobs.WINDOW_S * 1000
EXPECTED_RATE = 1_000_000
END_TIMEOUT_S = 600
_COLUMNS = {"key": pl.String, "window_start": pl.String, "n": pl.Int64, "_id": pl.String}


def kafka(bench: Bench) -> Outcome:
    """10,000 devices, 100 events of each in each window, JSON in four partitions."""
    devices, per_window_key = bench.scale.devices(10_000), 100
    events = bench.scale.file_events(EXPECTED_RATE, devices * per_window_key)
    path = bench.folder / "events.ndjson"
    summary = bench.tool.generate_file(path, devices=devices, events=events, per_window_key=per_window_key)
    with broker(bench, ("events", "windows", "windows-flink")) as running:
        say(f"putting {events:,} events into a topic")
        _fill(running, path)
        path.unlink()
        alone = _alone(running, events)
        with bench.start(_job(bench, running.address), exit_at_end=True) as engine:
            seconds = engine.wait_exit(END_TIMEOUT_S) - engine.ready
            cpu = engine.cpu_seconds() - engine.cpu_at_ready
            usage = engine.usage
        rows = pl.DataFrame([json.loads(message.value()) for message in running.messages("windows")], schema=_COLUMNS)
        beside = _flink(running, events, rows.height)
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
        **beside,
    }
    if "flink_events_per_s" in beside:
        measured["ratio_to_flink"] = round(measured["events_per_s"] / beside["flink_events_per_s"], 2)
        measured["cpu_ratio_to_flink"] = round(measured["events_per_cpu_s"] / beside["flink_events_per_cpu_s"], 2)
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


def _flink(running: Any, events: int, windows: int) -> dict[str, Any]:
    """The same on Flink, from the same topic to another one."""
    if reason := flink.missing():
        say(reason)
        return {}
    say("the same on Flink")
    figures = flink.run(running.address, "events", "windows-flink", END_TIMEOUT_S)
    there = len(running.messages("windows-flink"))
    if there != windows:
        raise BenchError(f"Flink wrote {there} windows and the engine {windows}")
    return {
        "flink_events_per_s": round(events / figures["seconds"]),
        "flink_events_per_cpu_s": round(events / figures["cpu_s"]),
        "flink_rss_bytes": figures["rss_bytes"],
    }


def _alone(broker: Any, events: int) -> int:
    """What Kafka's own consumer reads from this broker, which does nothing with it."""
    consumer = ["org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", broker.address, "--topic", "events"]
    # The settings of the engine's reader: many messages a fetch.
    command = ["java", "-Xmx512m", "-cp", f"{jars()}/*", *consumer, "--num-records", str(events), "--hide-header"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    if done.returncode != 0:
        command[command.index("--num-records")] = "--messages"
        done = subprocess.run(command, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False)
    cells = [cell.strip() for cell in (done.stdout.strip().splitlines() or [""])[-1].split(",")]
    if len(cells) < 10:
        raise BenchError(f"Kafka's consumer did not say how fast it was: {done.stdout[-300:]}{done.stderr[-300:]}")
    # fetch.nMsg.sec: without the time to join the group.
    return round(float(cells[9]))
