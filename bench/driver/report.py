"""What a run prints: a JSON line for each case on stdout, a table for people on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from driver.targets import TARGETS, Bound, met
from driver.truth import Verdict

Result = dict[str, Any]

MEMBERS = ("case", "events_per_s", "offered_per_s", "p50_us", "p99_us", "p999_us", "rss_bytes", "cpu_pct")
"""The members that every line has, before lost, duplicated, target and met; null where a case has no such figure."""


def result(case: str, verdict: Verdict | None, measured: Result, *, quick: bool = False) -> Result:
    """A case's line. `met` is null in quick runs, which are too short to say."""
    line: Result = dict.fromkeys(MEMBERS)
    line["case"] = case
    line |= {name: measured[name] for name in MEMBERS if name in measured}
    line["lost"] = verdict.lost if verdict else None
    line["duplicated"] = verdict.duplicated if verdict else None
    target = TARGETS[case]
    line["target"] = target or None
    line["met"] = None if quick else met(target, measured)
    return line | {name: value for name, value in measured.items() if name not in line}


def failed(case: str, message: str) -> Result:
    """The line of a case that could not be run or verified."""
    return result(case, None, {"error": message})


def is_bad(line: Result) -> bool:
    """Whether something was lost, came twice, or could not be verified."""
    return line["lost"] != 0 or line["duplicated"] != 0


def print_line(line: Result) -> None:
    """One JSON line."""
    print(json.dumps(line), flush=True)


def say(text: str) -> None:
    """Progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def table(lines: list[Result]) -> str:
    """All results for people."""
    head = ("case", "events/s", "p50", "p99", "p99.9", "RSS", "CPU", "lost", "twice", "target", "met")
    rows = [head, *(_row(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _row(line: Result) -> tuple[str, ...]:
    met_text = {True: "yes", False: "NO", None: "-"}[line["met"]]
    cpu = line["cpu_pct"]
    return (
        line["case"],
        count(line["events_per_s"]),
        *(microseconds(line[name]) for name in ("p50_us", "p99_us", "p999_us")),
        "-" if line["rss_bytes"] is None else f"{line['rss_bytes'] / 1e6:.0f} MB",
        "-" if cpu is None else f"{cpu:.0f} %",
        *("?" if line[name] is None else str(line[name]) for name in ("lost", "duplicated")),
        ", ".join(_bound(name, bound) for name, bound in (line["target"] or {}).items()) or "-",
        met_text,
    )


def _bound(name: str, bound: Bound) -> str:
    sign, value = (">=", bound["min"]) if "min" in bound else ("<=", bound["max"])
    if name.endswith("_us"):
        return f"{name.removesuffix('_us')} {sign} {microseconds(value)}"
    if name.endswith("_bytes"):
        return f"RSS {sign} {value / 1e6:.0f} MB"
    return f"{sign} {count(value)}/s"


def count(value: float | None) -> str:
    """A number for people: `4.21 M`, `81.0 k`."""
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value / 1e3:.1f} k" if value >= 1e3 else f"{value:.0f}"


def microseconds(value: float | None) -> str:
    """A time for people."""
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    return f"{value / 1e3:.2f} ms" if value >= 1e3 else f"{value:.0f} us"
