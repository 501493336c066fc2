"""Lines of results and what they are meant to reach."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

Line = dict[str, Any]
_RSS = {"operator_rss_bytes": 150_000_000}

TARGETS: dict[str, dict[str, float]] = {
    "statefulsets": {},
    "converge": _RSS,
    "steady": {**_RSS, "calls_per_reconcile": 0},
    "facts": {**_RSS, "calls_per_reconcile": 0, "facts_per_job_minute": 1},
    "edits": {**_RSS, "p99_ms": 1000},
    "restart": _RSS,
}
"""The most of a member that is meant to be, on two cores that the whole cluster shares."""


def result(case: str, measured: Mapping[str, Any], *, quick: bool) -> Line:
    """A case's line; `met` is null where there is no target, or where too little was measured to say."""
    target = TARGETS[case]
    met = all(measured[name] <= limit for name, limit in target.items())
    return {"case": case, **measured, "target": target, "met": met if target and not quick else None}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: round(percentile(seconds, share) * 1000, 1) for name, share in shares.items()}


def print_line(line: Line) -> None:
    """One result on stdout."""
    print(json.dumps(line), flush=True)


def say(text: str) -> None:
    """Progress, for people."""
    print(f"bench-operator: {text}", file=sys.stderr, flush=True)
