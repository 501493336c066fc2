"""What a job must have computed, by other means: Polars for windows, exact sums of integers for scores.

Nothing here is shared with the engine but the meaning of a job.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

Row = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(micros: int) -> str:
    """A time as the sinks write it."""
    text = (_EPOCH + timedelta(microseconds=micros)).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return text + "Z"


def with_watermarks(rows: pl.DataFrame, out_of_orderness_us: int) -> pl.DataFrame:
    """Rows of one split in their order, with the watermark that held when each came: of all rows before it."""
    highest = pl.col("time_us").cum_max().shift(1)
    return rows.with_columns(watermark_us=highest - out_of_orderness_us)


def in_windows(rows: pl.DataFrame, size_us: int) -> pl.DataFrame:
    """Rows with `start_us` of their window, and whether it was still open."""
    start = pl.col("time_us").floordiv(size_us) * size_us
    with_start = rows.with_columns(start_us=start)
    is_open = (pl.col("start_us") + size_us > pl.col("watermark_us")).fill_null(True)
    return with_start.with_columns(is_open=is_open)


def late(rows: pl.DataFrame, sizes_us: Sequence[int]) -> pl.Series:
    """Which rows (with watermarks) came after all their windows had closed."""
    open_somewhere = [in_windows(rows, size)["is_open"] for size in sizes_us]
    return ~pl.select(pl.any_horizontal(*open_somewhere)).to_series()


def aggregate(rows: pl.DataFrame, size_us: int, value: str = "x") -> dict[tuple[str, int], Row]:
    """By key and window start: what the aggregates of integers in `value` are; nulls do not count."""
    opened = in_windows(rows, size_us).filter("is_open").with_row_index("position").sort("time_us", "position")
    known = pl.col(value).drop_nulls()
    grouped = opened.group_by("key", "start_us").agg(
        n=pl.len(),
        known=known.len(),
        total=known.sum(),
        mean=known.sum() / known.len(),
        low=known.min(),
        high=known.max(),
        opening=known.first(),
        closing=known.last(),
        squares=(known * known).sum(),
    )
    found: dict[tuple[str, int], Row] = {}
    for row in grouped.iter_rows(named=True):
        count, total = row["known"], row["total"]
        # Whole numbers until the last division: as exact as a float can say it.
        row["variance"] = (count * row.pop("squares") - total * total) / (count * count) if count else None
        row["stddev"] = math.sqrt(row["variance"]) if count else None
        row["total"] = total if count else None
        row["mean"] = row["mean"] if count else None
        found[row.pop("key"), row.pop("start_us")] = row
    return found


def exactly(expected: Any, found: Any) -> bool:
    """Equal as numbers, or both null."""
    return expected == found if expected is not None and found is not None else expected is found


def closely(expected: float | None, found: float | None, relative: float = 1e-9, absolute: float = 1e-9) -> bool:
    """Equal within the stated error of floating sums."""
    if expected is None or found is None:
        return expected is found
    return math.isclose(expected, found, rel_tol=relative, abs_tol=absolute)


def differences(
    expected: Mapping[tuple[str, int], Row],
    found: Iterable[Row],
    exact: Sequence[str],
    close: Sequence[str] = (),
) -> list[str]:
    """What differs between the reference and a sink's rows; empty if nothing."""
    said: list[str] = []
    left = {(key, rfc3339(start)): row for (key, start), row in expected.items()}
    for row in found:
        wanted = left.pop((row["key"], row["window_start"]), None)
        if wanted is None:
            said.append(f"twice or never wanted: {row}")
            continue
        said += [f"{name} of {row}: {wanted[name]} expected" for name in exact if not exactly(wanted[name], row[name])]
        said += [f"{name} of {row}: {wanted[name]} expected" for name in close if not closely(wanted[name], row[name])]
    return said + [f"missing: {key} {wanted}" for key, wanted in left.items()]


class RunningStatistics:
    """Count, mean and deviation of the integers so far, exactly."""

    def __init__(self) -> None:
        self.count = self.total = self.squares = 0

    def add(self, value: int | None) -> None:
        """One more value."""
        if value is not None:
            self.count += 1
            self.total += value
            self.squares += value * value

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.count

    @property
    def stddev(self) -> float:
        """Their deviation, of the population."""
        return math.sqrt(self.count * self.squares - self.total * self.total) / self.count if self.count else math.nan

    def score(self, value: int | None, least: int = 30) -> float | None:
        """How many deviations `value` is off; None before `least` values and without a deviation."""
        if value is None or self.count < least or self.stddev == 0:
            return None
        return (value - self.mean) / self.stddev
