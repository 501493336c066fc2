"""The figures of a running job, made readable: pure functions on the engine's progress."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamjob.loading import LoadedJob

Progress = Mapping[str, Any]
END_OF_TIME_US = 2**62
"""A watermark above this says that nothing follows."""

_SPARK = "▁▂▃▄▅▆▇█"
_SAMPLES = 60
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ViewJob:
    """What the view needs to know of a job: `interesting` are an event's columns in the order of their worth.

    `time_unit` is how many of the time field's units make a second, None where it is a text.
    """

    name: str
    time_field: str
    time_unit: int | None
    interesting: tuple[str, ...]
    scores: frozenset[str]
    anomalies: bool


def view_job(loaded: LoadedJob) -> ViewJob:
    """The view's knowledge of `loaded`."""
    from streamjob.models import EVENTS

    spec = loaded.job.spec
    event_udfs = [udf for udf in loaded.udfs if udf.on == "event"]
    inputs = [name for udf in event_udfs for name in udf.inputs or () if name in spec.schema_.fields]
    outputs = [name for udf in event_udfs for name in udf.outputs or ()]
    key = [spec.schema_.key.field] if spec.schema_.key.field else []
    columns = [spec.schema_.time.field, *key, *inputs, *outputs, *spec.schema_.fields]
    anomalies = any(sink.from_ == EVENTS and sink.where for sink in spec.sinks)
    time = spec.schema_.time
    unit = _UNITS.get(time.unit or "")
    return ViewJob(
        loaded.job.metadata.name, time.field, unit, tuple(dict.fromkeys(columns)), frozenset(outputs), anomalies
    )


@dataclass
class History:
    """The recent rates, for the sparkline and a calm figure."""

    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    smooth: float | None = None

    def add(self, progress: Progress) -> None:
        """Notes one more sample."""
        rate = float(progress.get("rate_events_per_s") or 0)
        self.rates.append(rate)
        # A figure that jumps four times a second cannot be read.
        self.smooth = rate if self.smooth is None else 0.7 * self.smooth + 0.3 * rate

    def sparkline(self, width: int) -> str:
        """The newest rates as bars."""
        rates = list(self.rates)[-width:]
        top = max(rates, default=0)
        if top <= 0:
            return _SPARK[0] * len(rates)
        return "".join(_SPARK[min(7, int(rate / top * 7.999))] for rate in rates)


def count_text(number: float) -> str:
    """1234567 as `1,234,567`."""
    return f"{number:,.0f}"


def rate_text(rate: float) -> str:
    """Events a second, short: `217`, `4.21 M`."""
    if rate >= 1_000_000:
        return f"{rate / 1_000_000:.2f} M"
    if rate >= 10_000:
        return f"{rate / 1000:.1f} k"
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def time_text(microseconds: int) -> str:
    """A time in UTC, `2013-07-01 12:00:00`."""
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError:
        return "end of time" if microseconds > 0 else "before all time"


def span_text(seconds: float) -> str:
    """A length of time in its two largest units: `3m 20s`, `12y 145d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    units = (("y", 31_557_600), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    rest = int(seconds)
    for name, length in units:
        count, rest = divmod(rest, length)
        if count or parts:
            parts.append(f"{count}{name}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0"))


def behind_text(watermark_us: int | None, now_us: int | None = None) -> str:
    """How far event time is behind the clock."""
    if watermark_us is None:
        return "waiting for events"
    now = time.time_ns() // 1000 if now_us is None else now_us
    if watermark_us > END_OF_TIME_US:
        return "all sources finished"
    behind = (now - watermark_us) / 1_000_000
    return f"{span_text(behind)} behind now" if behind >= 0 else f"{span_text(-behind)} ahead of now"


def with_time(row: Mapping[str, Any], job: ViewJob) -> Mapping[str, Any]:
    """An event with its time as a text, where it is a number."""
    value = row.get(job.time_field)
    if job.time_unit is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return row
    return {**row, job.time_field: time_text(round(value * 1_000_000 / job.time_unit))}


def column_texts(values: Sequence[Any]) -> list[str]:
    """The cells of one column; of numbers, all have two decimals or none has."""
    floats = [value for value in values if isinstance(value, float)]
    usual = all(value == 0 or 0.01 <= abs(value) < 1e6 for value in floats)
    if floats and usual and not all(value.is_integer() for value in floats):
        return [f"{value:,.2f}" if isinstance(value, float) else value_text(value) for value in values]
    return [value_text(value) for value in values]


def value_text(value: Any) -> str:
    """One cell: times without their T and Z, numbers with four digits that matter."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return f"{value:,.0f}"
        return f"{value:,.2f}" if 0.01 <= abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    if len(text) >= 20 and text[4:5] == "-" and text[10:11] == "T" and text.endswith("Z"):
        short = text[:10] + " " + text[11:19]
        return short.removesuffix(" 00:00:00")
    return text


def window_groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows by window, told from their `_id` (`window/key/start/revision`), in the order they come."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = str(row.get("window") or row.get("_id", "").partition("/")[0] or "windows")
        groups.setdefault(name, []).append(row)
    return groups


def plain_line(progress: Progress) -> str:
    """All figures in one line, for where nothing can be drawn."""
    watermark = progress.get("watermark_us")
    shown = behind_text(watermark)
    if watermark is not None and watermark <= END_OF_TIME_US:
        shown = f"{time_text(watermark)}Z ({shown})"
    pending = sum(sink["pending_rows"] for sink in progress.get("sinks", ()))
    parts = [
        f"{rate_text(progress['rate_events_per_s'])}/s",
        f"received {count_text(progress['received'])}",
        f"applied {count_text(progress['applied'])}",
        f"late {count_text(progress['late'])}",
        f"rejected {count_text(progress['rejected'])}",
        f"windows {count_text(progress['windows'])}",
        f"anomalies {count_text(progress['anomalies'])}",
        f"queue {count_text(progress['queue_rows'])}",
        f"pending {count_text(pending)}",
        f"watermark {shown}",
    ]
    message = progress.get("message")
    return f"{span_text(progress['uptime_us'] / 1e6)}  " + "  ".join(parts) + (f"  {message}" if message else "")
