"""The estimate of the disk against rows as the engine keeps them."""

from __future__ import annotations

import json
import random

import pytest

from jobs import good_data
from streamjob.estimate import estimate_disk
from streamjob.loading import load_job

pyarrow = pytest.importorskip("pyarrow")
KEYS = 1_000


def estimated(aggregates: dict[str, str], **spec: object) -> tuple[float, float]:
    """Bytes of a key's state and of a closed window's row."""
    data = good_data()
    data["spec"]["windows"][0]["aggregates"] = aggregates
    data["spec"] |= spec
    estimate = estimate_disk(load_job(data).job, KEYS)
    (window,) = estimate.windows
    return estimate.state_bytes / KEYS, window.bytes / window.rows


def stored(results: dict[str, object]) -> float:
    """Bytes of a row in a chunk: hash and length of each row, then their JSON, in LZ4."""
    chance = random.Random(7)
    rows = []
    for _ in range(64):
        key = f"device-{chance.randrange(10**7):07}"
        values = {name: make(chance) for name, make in results.items()}  # type: ignore[operator]
        times = {"window_start": "2026-01-31T12:00:00Z", "window_end": "2026-01-31T12:00:10Z", "revision": 0}
        row = {"key": key, **times, **values, "_id": f"per_10s/{key}/1769860800000000/0"}
        rows.append(json.dumps(row, separators=(",", ":")).encode())
    heads = b"".join(chance.randbytes(8) + len(row).to_bytes(4, "little") for row in rows)
    return len(pyarrow.Codec("lz4_raw").compress(len(rows).to_bytes(4, "little") + heads + b"".join(rows))) / len(rows)


def count(chance: random.Random) -> int:
    return chance.randrange(5, 15)


def measured(chance: random.Random) -> float:
    return round(chance.gauss(20, 3), 2)


def computed(chance: random.Random) -> float:
    return chance.gauss(20, 3)


@pytest.mark.parametrize(
    ("aggregates", "results"),
    [
        ({"n": "count()"}, {"n": count}),
        ({"n": "count()", "mean": "mean(temperature)"}, {"n": count, "mean": computed}),
        ({"hi": "max(temperature)", "lo": "min(temperature)"}, {"hi": measured, "lo": measured}),
        (
            {"n": "count()", "mean": "avg(temperature)", "sd": "stddev(temperature)", "hi": "MAX(temperature)"},
            {"n": count, "mean": computed, "sd": computed, "hi": measured},
        ),
    ],
)
def test_a_row_of_the_history_is_as_long_as_estimated(aggregates: dict[str, str], results: dict[str, object]) -> None:
    _, row = estimated(aggregates)
    assert stored(results) == pytest.approx(row, rel=0.25)


def test_aggregates_of_one_argument_share_their_state() -> None:
    one, _ = estimated({"a": "variance(temperature)"})
    same, _ = estimated({"a": "variance(temperature)", "b": "stddev( temperature )"})
    other, _ = estimated({"a": "variance(temperature)", "b": "variance(count)"})
    assert same == one
    assert other > one


def test_a_key_that_changes_in_each_commit_waits_to_be_merged() -> None:
    seldom, _ = estimated({"n": "count()"}, checkpoint={"interval": "10ms"})
    always, _ = estimated({"n": "count()"}, checkpoint={"interval": "10s"})
    assert always == pytest.approx(5 * seldom, rel=0.01)
