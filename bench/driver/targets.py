"""What each case is meant to reach on two cores, load generator included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Bound = dict[str, float]
"""`min` or `max` of one measured member."""

TARGETS: dict[str, dict[str, Bound]] = {
    "baseline": {},
    "file": {"events_per_s": {"min": 10_000_000}},
    "file-500k": {"events_per_s": {"min": 6_000_000}},
    "http": {"events_per_s": {"min": 4_000_000}},
    "http-500k": {"events_per_s": {"min": 2_000_000}, "rss_bytes": {"max": 400_000_000}},
    "http-single": {"events_per_s": {"min": 80_000}},
    "udf": {"events_per_s": {"min": 3_000_000}},
    "alert": {"p99_us": {"max": 2_000}},
    "alert-eo": {"p99_us": {"max": 500_000}},
    "recovery": {"recovery_us": {"max": 1_000_000}},
    "kafka": {"events_per_s": {"min": 1_000_000}},
    "telemetry": {"p99_us": {"max": 500_000}},
}


def met(target: Mapping[str, Bound], measured: Mapping[str, Any]) -> bool | None:
    """Whether all bounds hold; None without a target, False where something was not measured."""
    if not target:
        return None
    return all(_holds(bound, measured.get(name)) for name, bound in target.items())


def _holds(bound: Bound, value: Any) -> bool:
    if value is None:
        return False
    return bound.get("min", float("-inf")) <= value <= bound.get("max", float("inf"))
