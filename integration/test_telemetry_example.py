"""The telemetry example on real data: what its score finds, and that every number is what other means compute."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import reference
from conftest import skip_or_fail
from harness import Job, Row, duplicates

EXAMPLE = Path(__file__).parents[1] / "examples" / "telemetry"
SERIES = "machine_temperature_system_failure.csv"
LEAST = 30
MACHINE = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: machine}
spec:
  shards: 4
  schema:
    key: {const: machine}
    time: {field: timestamp, format: "%Y-%m-%d %H:%M:%S"}
    fields: {value: float64}
  sources:
    - {name: series, file: {path: data.ndjson, speed: 0}}
  time: {maxOutOfOrderness: 55m}    # the series has one step back
  windows:
    - {name: hourly, tumbling: 1h, aggregates: {n: count(), low: min(value), high: max(value), mean: mean(value)}}
  udfs:
    - name: z
      file: udfs.py
      function: anomaly_score
      on: event
      inputs: [value, stats.value.mean, stats.value.stddev, stats.value.count]
      output: {score: float64}
  sinks:
    - {name: events, from: events, file: {path: out/events}}
    - {name: anomalies, from: events, where: abs(score) > 3, file: {path: out/anomalies}}
    - {name: hourly, from: hourly, file: {path: out/hourly}}
"""


def scores_of(values: np.ndarray) -> np.ndarray:
    """The z-score of each value against those before it; NaN where there is none."""
    shifted = values - values.mean()  # so that squares lose no digits
    count = np.arange(len(values))
    total, squares = (np.concatenate([[0.0], np.cumsum(column)[:-1]]) for column in (shifted, shifted**2))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return np.where((count >= LEAST) & (deviation > 0), (shifted - mean) / deviation, np.nan)


def number_or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "")).replace(tzinfo=UTC)


@pytest.fixture
def machine(make_job: Callable[..., Job], test_data: Path) -> tuple[Job, list[Row]]:
    with (test_data / SERIES).open(newline="") as file:
        rows: list[Row] = [row | {"value": float(row["value"])} for row in csv.DictReader(file)]
    job = make_job(MACHINE)
    job.write("data.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(EXAMPLE / "udfs.py", job.folder)
    return job, rows


def test_the_score_finds_all_labelled_failures(machine: tuple[Job, list[Row]], test_data: Path) -> None:
    job, rows = machine
    totals = job.run_to_end().totals
    anomalies = job.rows("out/anomalies")
    assert totals["anomalies"] == len(anomalies)
    assert (totals["received"], totals["applied"]) == (len(rows), len(rows))
    flagged = [utc(row["timestamp"]) for row in anomalies]
    labelled = json.loads((test_data / "anomaly_windows.json").read_text())[SERIES]
    assert len(labelled) == 4
    for begin, end in labelled:
        inside = sum(utc(begin) <= at <= utc(end) for at in flagged)
        print(f"{begin} to {end}: {inside} rows flagged")
        assert inside > 0
    print(f"{len(flagged)} of {len(rows)} rows flagged")


def test_every_score_and_window_is_what_numpy_and_polars_compute(machine: tuple[Job, list[Row]]) -> None:
    job, rows = machine
    job.run_to_end()
    events = sorted(job.rows("out/events"), key=lambda row: int(row["_id"].rpartition(":")[2]))
    assert [(utc(row["timestamp"]), row["value"]) for row in events] == [
        (utc(row["timestamp"]), row["value"]) for row in rows
    ]
    scores = scores_of(np.array([row["value"] for row in rows]))
    for row, score in zip(events, scores, strict=True):
        assert reference.closely(number_or_none(score), row["score"], relative=1e-7), row
    flagged = [row["_id"] for row in events if row["score"] is not None and abs(row["score"]) > 3]
    assert sorted(row["_id"] for row in job.rows("out/anomalies")) == sorted(flagged)
    hourly = hours_of(rows)
    assert not duplicates([row["_id"] for row in job.rows("out/hourly")])
    assert not reference.differences(hourly, job.rows("out/hourly"), ("n", "low", "high"), ("mean",))[:5]


def hours_of(rows: list[Row]) -> dict[tuple[str, int], Row]:
    frame = pl.DataFrame(rows).with_columns(at=pl.col("timestamp").str.to_datetime(time_unit="us"))
    found = frame.group_by(pl.col("at").dt.truncate("1h").cast(pl.Int64)).agg(
        n=pl.len(), low=pl.col("value").min(), high=pl.col("value").max(), mean=pl.col("value").mean()
    )
    return {("machine", row.pop("at")): row for row in found.iter_rows(named=True)}


@pytest.fixture
def weather(make_job: Callable[..., Job]) -> tuple[Job, pl.DataFrame]:
    data = EXAMPLE / "data" / "weather.ndjson"
    if not data.exists():
        skip_or_fail(f"{data} is not there; `make run` or examples/telemetry/prepare.py makes it")
    text = (EXAMPLE / "job.yaml").read_text()
    assert "speed: 259200" in text
    job = make_job(text.replace("speed: 259200", "speed: 0"))
    shutil.copy(EXAMPLE / "udfs.py", job.folder)
    (job.folder / "data").mkdir()
    (job.folder / "data" / "weather.ndjson").symlink_to(data)
    frame = pl.read_ndjson(data, infer_schema_length=None).with_columns(
        at=pl.col("time_hour").str.to_datetime(time_unit="us", time_zone="UTC")
    )
    return job, frame


def test_the_example_computes_what_polars_does(weather: tuple[Job, pl.DataFrame]) -> None:
    job, frame = weather
    totals = job.run_to_end().totals
    daily, anomalies = job.rows("out/daily"), job.rows("out/anomalies")
    expected = anomalies_of(frame)
    assert {(row["origin"], utc(row["time_hour"])) for row in anomalies} == expected.keys()
    for row in anomalies:
        assert reference.closely(expected[row["origin"], utc(row["time_hour"])], row["score"], relative=1e-7)
    exact = ("hours", "temp_low", "temp_high", "wind_high")
    close = ("temp_mean", "wind_mean", "wind_stddev", "rain")
    days = days_of(frame)
    assert not reference.differences(days, daily, exact, close)[:5]
    assert totals == {
        "received": frame.height,
        "applied": frame.height,
        "late": 0,
        "rejected": 0,
        "windows": len(days),
        "anomalies": len(expected),
        "resumed": False,
    }
    print(f"{frame.height} rows, {len(days)} days, {len(expected)} anomalies")


def anomalies_of(frame: pl.DataFrame) -> dict[tuple[str, datetime], float]:
    found: dict[tuple[str, datetime], float] = {}
    for (origin,), rows in frame.group_by("origin", maintain_order=True):
        known = rows.drop_nulls("wind_speed")
        scores = scores_of(known["wind_speed"].to_numpy())
        found |= {
            (str(origin), at): float(score)
            for at, score in zip(known["at"], scores, strict=True)
            if not np.isnan(score) and abs(score) > 3
        }
    return found


def days_of(frame: pl.DataFrame) -> dict[tuple[str, int], Row]:
    temp, wind = pl.col("temp"), pl.col("wind_speed")
    found = frame.group_by("origin", pl.col("at").dt.truncate("1d").cast(pl.Int64)).agg(
        hours=pl.len(),
        temp_mean=temp.mean(),
        temp_low=temp.min(),
        temp_high=temp.max(),
        wind_mean=wind.mean(),
        wind_stddev=wind.std(ddof=0),
        wind_high=wind.max(),
        rain=pl.when(pl.col("precip").count() > 0).then(pl.col("precip").sum()),
    )
    return {(row.pop("origin"), row.pop("at")): row for row in found.iter_rows(named=True)}
