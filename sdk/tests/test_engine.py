"""A job in process and in the harness; only with the engine's wheel."""

from __future__ import annotations

import pytest

from jobs import good_data
from streamjob.testing import JobHarness

pytest.importorskip("streamjob_engine", reason="the engine's wheel (streamjob-engine) is not installed")


def row(second: float, temperature: float | None, device: str = "a") -> dict[str, object]:
    return {"device_id": device, "timestamp": round(second * 1000), "temperature": temperature, "count": 1, "ok": True}


def test_windows_close_as_event_time_advances() -> None:
    with JobHarness(good_data()) as job:
        job.send([row(0, 1.0), row(5, 2.0), row(9.999, 3.0)])
        assert job.windows("per_10s") == []
        job.send([row(10, 4.0)])
        (window,) = job.windows("per_10s")
        assert (window["key"], window["n"], window["mean"]) == ("a", 3, 2.0)
        job.finish()
        assert [window["n"] for window in job.windows("per_10s", "a")] == [3, 1]


def test_udfs_see_the_statistics_before_their_row() -> None:
    with JobHarness(good_data()) as job:
        job.send([row(0, 1.0), row(1, 2.0), row(2, 10.0)])
        assert [item["score"] for item in job.rows()] == [None, 1.0, 8.5]
        assert [item["temperature"] for item in job.events("alerts")] == [10.0]
        stats = job.stats("a")
        assert stats is not None
        assert job.stats("b") is None


def test_rejected_and_late_rows_are_dead_letters() -> None:
    with JobHarness(good_data()) as job:
        result = job.send(b'{"device_id": "a"}\n{"device_id": "a", "timestamp": 100000, "temperature": 1}')
        assert (result.accepted, result.rejected) == (1, 1)
        job.send([row(1, 1.0)])
        assert len(job.dead_letters()) == 2


def test_unknown_names_are_told() -> None:
    with JobHarness(good_data()) as job, pytest.raises(KeyError, match='did you mean "per_10s"'):
        job.windows("per_1s")
