"""A file through windows to files, and the same in plain Python for comparison."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from driver import jobs, truth
from driver.bench import Bench, Outcome
from driver.engine import BenchError
from driver.report import say
from driver.truth import Verdict

START_MS = 1_700_000_000_000
WINDOW_MS = jobs.WINDOW_S * 1000
END_TIMEOUT_S = 600
BASELINE_RATE = 800_000
"""What plain Python does, about; only to choose the size of its file."""


def file(bench: Bench) -> Outcome:
    """10,000 devices, 100 events of each in each window."""
    verdict, measured = _replay(bench, devices=10_000, per_window_key=100, expected_rate=10_000_000)
    python = bench.shared.get("baseline")
    if python is None:
        _, python = baseline(bench)
    ratio = measured["events_per_s"] / python["events_per_s"]
    cpu_ratio = measured["events_per_cpu_s"] / python["events_per_cpu_s"]
    say(f"file: {ratio:.1f} times the plain Python baseline, {cpu_ratio:.1f} times for the same processor time")
    ratios = {"ratio_to_python_baseline": round(ratio, 2), "cpu_ratio_to_python_baseline": round(cpu_ratio, 2)}
    return verdict, {**measured, **ratios}


def file_500k(bench: Bench) -> Outcome:
    """500,000 devices, 20 events of each in each window: every row touches another key."""
    return _replay(bench, devices=500_000, per_window_key=20, expected_rate=6_000_000)


def baseline(bench: Bench) -> Outcome:
    """The file case in plain Python, `bench/baseline.py`, for a few seconds."""
    devices, per_window_key = 10_000, 100
    path = bench.folder / "baseline.ndjson"
    per_window = devices * per_window_key
    windows = 1 if bench.scale.quick else max(1, round(BASELINE_RATE * min(bench.scale.seconds, 10) / 2 / per_window))
    bench.tool.generate_file(path, devices=devices, events=windows * per_window, per_window_key=per_window_key)
    script = Path(__file__).resolve().parent.parent / "baseline.py"
    command = [sys.executable, str(script), str(path), "--out", str(bench.folder / "baseline.out")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"the baseline ended with {done.returncode}")
    summary = json.loads(done.stdout)
    path.unlink()
    bench.shared["baseline"] = summary
    verdict = truth.between(summary["windows"], windows * devices)
    names = ("events_per_s", "events_per_cpu_s", "rss_bytes", "seconds", "events")
    return verdict, {name: summary[name] for name in names}


def _replay(bench: Bench, *, devices: int, per_window_key: int, expected_rate: int) -> Outcome:
    devices = bench.scale.devices(devices)
    per_window = devices * per_window_key
    events = bench.scale.file_events(expected_rate, per_window)
    path = bench.folder / "events.ndjson"
    say(f"writing {events:,} events")
    summary = bench.tool.generate_file(path, devices=devices, events=events, per_window_key=per_window_key)
    job = jobs.spec([{"name": "in", "file": {"path": path.name, "format": "ndjson"}}], bench.scale.checkpoint_s)
    jobs.add_windows(job)
    with bench.start(job, exit_at_end=True) as engine:
        seconds = engine.wait_exit(END_TIMEOUT_S) - engine.ready
        cpu = engine.cpu_seconds() - engine.cpu_at_ready
        usage, startup = engine.usage, engine.ready - engine.started
    path.unlink()
    rows = truth.window_rows(bench.folder / "windows")
    windows = summary["windows"]
    verdict = truth.regular_windows(
        rows, devices=devices, windows=windows, per_window_key=per_window_key, start_ms=START_MS, window_ms=WINDOW_MS
    )
    repeated_ids = rows.height - rows["_id"].n_unique()
    measured = {
        "events_per_s": round(events / seconds),
        "rss_bytes": usage.rss_peak,
        "cpu_pct": round(100 * cpu / seconds, 1),
        "events_per_cpu_s": round(events / cpu),
        "events": events,
        "devices": devices,
        "window_rows": rows.height,
        "seconds": round(seconds, 3),
        "startup_s": round(startup, 3),
        "rss_anonymous_bytes": usage.anonymous_peak,
    }
    return verdict.worst(Verdict(0, repeated_ids)), measured
