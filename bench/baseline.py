#!/usr/bin/env python3
"""The file case in plain Python, for comparison: 10 s tumbling windows for each device over an NDJSON file.

Count, sum, mean, min, max and population standard deviation of the temperature, written as NDJSON when a later event
closes a window. orjson reads and writes; everything else is what one would write by hand. The input is sorted by time,
as `streamjob-bench generate-file` makes it; events of a window that is closed already are counted as late.

Prints one line of JSON, as the benchmarks do.
"""

import argparse
import json
import math
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson

WINDOW_MS = 10_000

Panes = dict[str, list[float]]
"""For each device: count, sum, min, max, the first value, and sum and sum of squares of the distances from that."""


def add(panes: Panes, key: str, value: float) -> None:
    """Adds one value; distances from the first value keep the squares small, so that they cancel less."""
    pane = panes.get(key)
    if pane is None:
        panes[key] = [1, value, value, value, value, 0.0, 0.0]
        return
    pane[0] += 1
    pane[1] += value
    if value < pane[2]:
        pane[2] = value
    if value > pane[3]:
        pane[3] = value
    distance = value - pane[4]
    pane[5] += distance
    pane[6] += distance * distance


def rfc3339(ms: int) -> str:
    """A time in milliseconds since the epoch, as text."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def close(panes: Panes, start: int, out: BinaryIO) -> int:
    """Writes a window's rows; returns how many."""
    window = {"window_start": rfc3339(start), "window_end": rfc3339(start + WINDOW_MS)}
    lines = []
    for key, (count, total, low, high, _, distances, squares) in panes.items():
        variance = max(0.0, squares / count - (distances / count) ** 2)
        row = {"key": key, **window, "n": int(count), "sum": total, "mean": total / count}
        lines.append(orjson.dumps({**row, "min": low, "max": high, "stddev": math.sqrt(variance)}))
    out.write(b"\n".join(lines) + b"\n")
    return len(lines)


def run(source: BinaryIO, out: BinaryIO) -> tuple[int, int, int]:
    """Reads everything; returns the numbers of events, of rows written and of late events."""
    events = rows = late = 0
    panes: Panes = {}
    start = None
    loads = orjson.loads
    for line in source:
        event = loads(line)
        events += 1
        timestamp = event["timestamp"]
        window = timestamp - timestamp % WINDOW_MS
        if window != start:
            if start is not None and window < start:
                late += 1
                continue
            if start is not None:
                rows += close(panes, start, out)
            panes, start = {}, window
        add(panes, event["device_id"], event["temperature"])
    if start is not None:
        rows += close(panes, start, out)
    return events, rows, late


def main() -> None:
    """Runs the case on the files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="NDJSON file, sorted by time")
    parser.add_argument("--out", type=Path, required=True, help="NDJSON file for the windows; it is replaced")
    arguments = parser.parse_args()
    started, cpu_before = time.perf_counter(), time.process_time()
    with arguments.input.open("rb", buffering=1 << 20) as source, arguments.out.open("wb", buffering=1 << 20) as out:
        events, rows, late = run(source, out)
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_before
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    summary = {"case": "file-python", "events": events, "windows": rows, "late": late, "seconds": round(seconds, 3)}
    rates = {"events_per_s": round(events / seconds), "events_per_cpu_s": round(events / cpu_seconds)}
    json.dump({**summary, **rates, "rss_bytes": rss}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
