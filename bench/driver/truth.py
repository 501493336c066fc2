"""What should have come out, compared with what did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

_SCHEMA = {"key": pl.String, "window_start": pl.String, "revision": pl.Int64, "n": pl.Int64, "_id": pl.String}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Events (or alerts) that are missing and that count more than once."""

    lost: int = 0
    duplicated: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.lost + other.lost, self.duplicated + other.duplicated)

    def worst(self, other: Verdict) -> Verdict:
        """Of two views of the same events: what either found."""
        return Verdict(max(self.lost, other.lost), max(self.duplicated, other.duplicated))


def between(found: int, least: int, most: int | None = None) -> Verdict:
    """`found` should be from `least` to `most`: what was acknowledged, and what may have come in unacknowledged."""
    return Verdict(max(0, least - found), max(0, found - (least if most is None else most)))


def window_rows(folder: Path) -> pl.DataFrame:
    """All rows of a file sink; temporary files, whose names begin with a dot, are not read."""
    files = sorted(path for path in folder.glob("part-*.ndjson") if path.stat().st_size > 0)
    if not files:
        return pl.DataFrame(schema=_SCHEMA)
    frames = [pl.read_ndjson(path, schema=_SCHEMA) for path in files]
    return pl.concat(frames)


def window_start(ms: int) -> str:
    """As the file sink writes times."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def regular_windows(
    rows: pl.DataFrame, *, devices: int, windows: int, per_window_key: int, start_ms: int, window_ms: int
) -> Verdict:
    """A generated file's windows: each device has `per_window_key` events in each, and each pair comes once."""
    pairs = rows.group_by("key", "window_start").agg(pl.col("n").sum())
    expected_starts = [window_start(start_ms + window * window_ms) for window in range(windows)]
    known = pl.col("window_start").str.replace(r"\.0+Z$", "Z").is_in(expected_starts)
    known &= pl.col("key").str.contains(r"^device-\d+$")
    expected = pairs.filter(known)
    lost = expected.select((per_window_key - pl.col("n")).clip(lower_bound=0).sum()).item() or 0
    lost += max(0, devices * windows - expected.height) * per_window_key
    more = expected.select((pl.col("n") - per_window_key).clip(lower_bound=0).sum()).item() or 0
    unknown = pairs.filter(~known).select(pl.col("n").sum()).item() or 0
    return Verdict(int(lost), int(more + unknown))


def counted(rows: pl.DataFrame, least: int, most: int | None = None) -> Verdict:
    """Windows of live events: their counts add up to what was applied, and no (key, window) comes twice."""
    n = pl.col("n")
    pairs = rows.group_by("key", "window_start").agg(n.sum(), n.max().alias("most"), pl.len().alias("rows"))
    repeated = pairs.filter(pl.col("rows") > 1).select((n - pl.col("most")).sum()).item() or 0
    total = rows.select(n.sum()).item() or 0
    return between(int(total), least, most).worst(Verdict(0, int(repeated)))
