"""The case study: half a million sensors as Avro from a topic, averages to a topic, anomalies as POSTs.

Beside it the same as plain Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from driver import live, metrics, truth
from driver.bench import Bench, Outcome
from driver.broker import broker
from driver.engine import BenchError, Engine, Usage
from driver.report import say
from driver.tool import Summary
from driver.truth import Verdict

CASE_STUDY = Path(__file__).resolve().parents[2] / "examples" / "case-study"
SENSORS = 500_000
ROUNDS = 12
"""Readings of each sensor in the topic, one a second: a whole window, and enough behind it to close it."""
RATE, PYTHON_RATE = 100_000, 20_000
"""Readings a second while the age of alerts is measured. Python gets the lower one, and the engine both."""
SPIKES_PER_S = 20
END_TIMEOUT_S = 600
PYTHON_LIMIT_S = 300
SETTLE_S = 3.0
_AGO_MS = 120_000
_LATENCIES = ("p50_us", "p99_us", "p999_us", "max_us")


@dataclass(frozen=True, slots=True)
class Fill:
    """What is in the topic before anything reads it."""

    sensors: int
    events: int
    start_ms: int


def telemetry(bench: Bench) -> Outcome:
    """500,000 sensors, 12 readings of each, as fast as they go; then readings at a rate, with anomalies among them."""
    sensors = bench.scale.devices(SENSORS)
    fill = Fill(sensors, sensors * ROUNDS, (time.time_ns() // 1_000_000 - _AGO_MS) // 10_000 * 10_000)
    with broker(bench, ("readings", "averages", "averages-python")) as running:
        say(f"putting {fill.events:,} readings into a topic")
        more = ("--start-ms", fill.start_ms, "--per-ms", sensors / 1000)
        produced = _produce(running.address, fill, fill.events, *more)
        verdict, measured = _engine(bench, running, fill)
        python = _python(bench, running, fill)
    measured |= {"record_bytes": produced["record_bytes"], "sensors": sensors, "events": fill.events, **python}
    ratios = {
        "ratio_to_python": measured["events_per_s"] / measured["python_events_per_s"],
        "cpu_ratio_to_python": measured["events_per_cpu_s"] / measured["python_events_per_cpu_s"],
        "rss_ratio_to_python": measured["rss_bytes"] / measured["python_rss_bytes"],
    }
    if measured["python_p99_us"]:
        ratios["p99_ratio_to_python"] = measured["p99_us_at_python_rate"] / measured["python_p99_us"]
    return verdict, measured | {name: round(ratio, 3) for name, ratio in ratios.items()}


def _engine(bench: Bench, running: Any, fill: Fill) -> Outcome:
    with bench.tool.receive() as first:
        with _start(bench, running.address, first.url) as engine:

            def done() -> bool:
                samples = engine.metrics()
                rows = metrics.total(samples, "streamjob_sink_rows_total", 'sink="averages"')
                pending = metrics.total(samples, "streamjob_sink_pending_rows", 'sink="averages"')
                applied = sum(metrics.outcomes(samples).values())
                return applied >= fill.events and rows >= fill.sensors and pending == 0

            if not live.wait_until(done, END_TIMEOUT_S):
                raise BenchError("the engine did not get to the end of the topic")
            seconds, cpu = time.perf_counter() - engine.ready, engine.cpu_seconds() - engine.cpu_at_ready
            low = _alerts(running.address, fill, bench, PYTHON_RATE, seed=8)
            _wait_alerts(engine, low["spikes"])
            _check_history(engine.url)
            engine.stop()
            usage = engine.usage
        at_low = first.stop()
    # A receiver of its own for each rate, since it measures all that it gets.
    with bench.tool.receive() as second:
        with _start(bench, running.address, second.url) as engine, engine.cpu() as busy:
            high = _alerts(running.address, fill, bench, RATE, seed=9)
            _wait_alerts(engine, high["spikes"])
            engine.stop()
        at_high = second.stop()
    verdict = _windows(running, fill)
    verdict += truth.between(at_low["rows"], low["spikes"]) + Verdict(0, at_low["duplicates"])
    verdict += truth.between(at_high["rows"], high["spikes"]) + Verdict(0, at_high["duplicates"])
    return verdict, {
        "events_per_s": round(fill.events / seconds),
        "events_per_cpu_s": round(fill.events / cpu),
        "cpu_pct": round(100 * cpu / seconds, 1),
        "rss_bytes": usage.rss_peak,
        "seconds": round(seconds, 3),
        "offered_per_s": RATE,
        **{name: at_high[name] for name in _LATENCIES},
        "cpu_pct_at_rate": busy[0] if busy else None,
        "alerts": at_high["rows"] + at_low["rows"],
        "p99_us_at_python_rate": at_low["p99_us"],
    }


def _python(bench: Bench, running: Any, fill: Fill) -> dict[str, Any]:
    """The same topic from its beginning, with the readings that came while the engine was measured."""
    with bench.tool.receive() as receiver:
        more = ("--averages", "averages-python", "--alerts", f"{receiver.url}/anomalies")
        command = _script("pipeline.py", running.address, *more, "--limit-s", PYTHON_LIMIT_S, "--go-on")
        with _process(command) as pipeline:
            usage = Usage(pipeline.pid)
            say("the same as plain Python")
            assert pipeline.stdout is not None
            figures = json.loads(pipeline.stdout.readline() or "{}")
            if not figures:
                raise BenchError("the pipeline in Python ended early")
            caught_up = figures["at_end"]
            sent = _alerts(running.address, fill, bench, PYTHON_RATE, seed=10) if caught_up else None
            usage.stop()
            pipeline.terminate()
            pipeline.wait(60)
        received = receiver.stop()
    events, seconds, cpu = figures["events"], figures["seconds"], figures["cpu_s"]
    return {
        "python_events_per_s": round(events / seconds),
        "python_events_per_cpu_s": round(events / cpu),
        "python_cpu_pct": round(100 * cpu / seconds, 1),
        "python_rss_bytes": usage.rss_peak,
        "python_offered_per_s": PYTHON_RATE,
        "python_p99_us": received["p99_us"] if sent else None,
        "python_alerts": received["rows"],
    }


def _alerts(address: str, fill: Fill, bench: Bench, rate: int, seed: int) -> Summary:
    """Readings at a rate, the first seconds without anomalies: windows that are long over close then."""
    seconds = bench.scale.part(0.3, at_least=3.0)
    _produce(address, fill, int(rate * SETTLE_S), "--rate", rate, "--seed", seed)
    return _produce(address, fill, int(rate * seconds), "--rate", rate, "--seed", seed, "--spikes", SPIKES_PER_S)


def _wait_alerts(engine: Engine, alerts: int) -> None:
    def delivered() -> bool:
        samples = engine.metrics()
        return metrics.total(samples, "streamjob_sink_rows_total", 'sink="anomalies"') >= alerts

    live.wait_until(delivered, 30)


def _produce(address: str, fill: Fill, events: int, *more: object) -> Summary:
    command = _script("produce.py", address, "--sensors", fill.sensors, "--events", events, *more)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"produce.py ended with {done.returncode}")
    return json.loads(done.stdout)


def _script(name: str, address: str, *more: object) -> list[str]:
    return [sys.executable, str(CASE_STUDY / name), "--bootstrap", address, *(str(argument) for argument in more)]


@contextmanager
def _process(command: list[str]) -> Iterator[psutil.Popen]:
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _start(bench: Bench, address: str, url: str) -> Engine:
    """The engine with the job of the example, which has other addresses here."""
    text = (CASE_STUDY / "job.yaml").read_text(encoding="utf-8")
    places = {"localhost:9092": address, "http://127.0.0.1:9000": url}
    places |= {f"file: {name}": f"file: {CASE_STUDY / name}" for name in ("reading.avsc", "udfs.py")}
    for old, new in places.items():
        if old not in text:
            raise BenchError(f"{CASE_STUDY}/job.yaml says no {old} any more")
        text = text.replace(old, new)
    path = bench.folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return Engine(path, bench.folder)


def _check_history(url: str) -> None:
    with urllib.request.urlopen(f"{url}/v1/keys/sensor-000000/windows?window=per_10s", timeout=30) as answer:
        if not json.load(answer)["items"]:
            raise BenchError("a sensor has no history")


def _windows(running: Any, fill: Fill) -> Verdict:
    """The first window of each sensor, in which it has ten readings, is there once."""
    columns = {"key": pl.String, "window_start": pl.String, "n": pl.Int64, "_id": pl.String}
    rows = pl.DataFrame([json.loads(message.value()) for message in running.messages("averages")], schema=columns)
    first = rows.filter(pl.col("window_start").str.replace(r"\.0+Z$", "Z") == truth.window_start(fill.start_ms))
    lost = max(0, fill.sensors - first["key"].n_unique()) + first.filter(pl.col("n") != 10).height
    return Verdict(lost, rows.height - rows["_id"].n_unique())
