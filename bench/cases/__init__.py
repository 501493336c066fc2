"""The cases, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from cases.alerts import alert, alert_eo
from cases.file import baseline, file, file_500k
from cases.http import http, http_500k, http_single, udf
from cases.kafka import kafka
from cases.recovery import recovery
from cases.telemetry import telemetry
from driver.bench import Bench, Outcome

CASES: dict[str, Callable[[Bench], Outcome]] = {
    "baseline": baseline,
    "file": file,
    "file-500k": file_500k,
    "http": http,
    "http-500k": http_500k,
    "http-single": http_single,
    "udf": udf,
    "alert": alert,
    "alert-eo": alert_eo,
    "recovery": recovery,
    "kafka": kafka,
    "telemetry": telemetry,
}

NEEDS_UDF = {"udf", "alert", "alert-eo", "recovery", "telemetry"}
"""These cannot run on an engine without Python."""
