"""The parts of the driver that need no engine: arguments, figures, targets, and above all what finds losses."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases import CASES, NEEDS_UDF
from cases.alerts import check_alerts
from driver import jobs, metrics, report, truth
from driver.engine import parse_status
from driver.live import Account
from driver.scale import BYTES_PER_EVENT, Scale, UsageError, parse_duration, parse_size
from driver.targets import TARGETS, met
from driver.truth import Verdict

START_MS = 1_700_000_000_000


def rows(*given: tuple[str, int, int]) -> pl.DataFrame:
    """Rows of (key, window, n)."""
    starts = [truth.window_start(START_MS + window * 10_000) for _, window, _ in given]
    keys, counts = [key for key, _, _ in given], [n for _, _, n in given]
    return pl.DataFrame({"key": keys, "window_start": starts, "n": counts})


def regular(frame: pl.DataFrame) -> Verdict:
    return truth.regular_windows(frame, devices=2, windows=2, per_window_key=5, start_ms=START_MS, window_ms=10_000)


COMPLETE = (("device-0", 0, 5), ("device-1", 0, 5), ("device-0", 1, 5), ("device-1", 1, 5))


def test_complete_windows_are_right() -> None:
    assert regular(rows(*COMPLETE)) == Verdict()


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (COMPLETE[:3], Verdict(lost=5)),
        ((*COMPLETE[:3], ("device-1", 1, 3)), Verdict(lost=2)),
        ((*COMPLETE, COMPLETE[1]), Verdict(duplicated=5)),
        ((*COMPLETE[:3], ("device-1", 1, 6)), Verdict(duplicated=1)),
        ((*COMPLETE[:2], ("device-0", 1, 4), ("device-1", 1, 6)), Verdict(1, 1)),
        ((*COMPLETE, ("device-0", 2, 1)), Verdict(duplicated=1)),
        ((*COMPLETE, ("other", 1, 1)), Verdict(duplicated=1)),
        (((*COMPLETE[3][:2], 5),), Verdict(lost=15)),
    ],
)
def test_a_missing_row_does_not_hide_behind_a_surplus(given: tuple, verdict: Verdict) -> None:
    assert regular(rows(*given)) == verdict


def test_nothing_at_all_is_a_loss() -> None:
    assert regular(truth.window_rows(Path("/nowhere"))) == Verdict(lost=20)


def test_counts_of_live_events() -> None:
    frame = rows(*COMPLETE)
    assert truth.counted(frame, 20) == Verdict()
    assert truth.counted(frame, 23) == Verdict(lost=3)
    assert truth.counted(frame, 18) == Verdict(duplicated=2)
    assert truth.counted(frame, 18, 25) == Verdict()
    # A window that came twice is found also where something else is missing.
    assert truth.counted(rows(*COMPLETE, COMPLETE[0]), 30) == Verdict(lost=5, duplicated=5)


def test_temporary_files_are_not_read(tmp_path: Path) -> None:
    row = {"key": "a", "window_start": "2023-11-14T22:13:20Z", "window_end": "", "revision": 0, "n": 3, "_id": "w/a"}
    (tmp_path / "part-00001-000000000001.ndjson").write_text(json.dumps(row) + "\n")
    (tmp_path / ".part-00001-000000000002.ndjson").write_text(json.dumps(row) + "\n")
    (tmp_path / "part-00002-000000000001.ndjson").write_text("")
    assert truth.window_rows(tmp_path)["n"].to_list() == [3]


def test_requests_without_an_answer_may_count_or_not() -> None:
    account = Account()
    account.add({"accepted_rows": 1000, "rejected_rows": 5, "unanswered": 2, "status_other": 1}, 100)
    account.add_rows(1)
    assert (account.accepted, account.rejected, account.perhaps) == (1001, 5, 300)
    assert check_alerts({"rows": 11, "duplicates": 0}, 10, 1) == Verdict()
    assert check_alerts({"rows": 9, "duplicates": 2}, 10, 1) == Verdict(lost=1, duplicated=2)
    assert check_alerts({"rows": 12, "duplicates": 0}, 10, 1) == Verdict(duplicated=1)


def test_metrics_are_read() -> None:
    text = """# HELP events_processed_total Rows
# TYPE events_processed_total counter
events_processed_total{outcome="applied"} 1200
events_processed_total{outcome="late"} 3

streamjob_sink_pending_rows{sink="a"} 2
streamjob_sink_pending_rows{sink="b"} 5
events_received_total 1203
x_bucket{le="+Inf"} 1e3
"""
    samples = metrics.parse(text)
    assert metrics.outcomes(samples) == {"applied": 1200, "late": 3}
    assert metrics.total(samples, "streamjob_sink_pending_rows") == 7
    assert metrics.total(samples, "streamjob_sink_pending_rows", 'sink="b"') == 5
    assert metrics.total(samples, "events_received_total") == 1203
    assert samples['x_bucket{le="+Inf"}'] == 1000


def test_memory_is_read_in_bytes() -> None:
    assert parse_status("Name:\tx\nVmHWM:\t    2048 kB\nRssAnon:\t 1 kB\nThreads:\t3\n") == {
        "VmHWM": 2 * 2**20,
        "RssAnon": 1024,
    }


def test_values_with_units() -> None:
    assert (parse_duration("30s"), parse_duration("500ms"), parse_duration("2m")) == (30.0, 0.5, 120.0)
    assert (parse_size("4G"), parse_size("512Mi"), parse_size("100")) == (4 * 10**9, 2**29, 100)
    for wrong in ("30", "0s", "-1s", "s", "3h"):
        with pytest.raises(UsageError):
            parse_duration(wrong)
    with pytest.raises(UsageError):
        parse_size("4X")


def test_files_have_whole_windows_and_fit_the_disk() -> None:
    assert Scale(30, max_disk=10**12).file_events(10_000_000, 1_000_000) == 100_000_000
    limited = Scale(30, max_disk=4 * 10**9).file_events(10_000_000, 1_000_000)
    assert limited % 1_000_000 == 0
    assert 2.5e9 < limited * BYTES_PER_EVENT < 4e9
    assert Scale(1, max_disk=1).file_events(1, 1_000_000) == 1_000_000
    assert Scale(3, quick=True).devices(500_000) == 20_000
    assert Scale(3, quick=True).file_events(10_000_000, 1_000_000) <= 2_000_000


def test_targets() -> None:
    assert set(TARGETS) == set(CASES)
    assert set(CASES) > NEEDS_UDF
    http = TARGETS["http-500k"]
    assert met(http, {"events_per_s": 2_000_000, "rss_bytes": 400_000_000}) is True
    assert met(http, {"events_per_s": 2_000_000, "rss_bytes": 400_000_001}) is False
    assert met(http, {"events_per_s": 1_999_999, "rss_bytes": 1}) is False
    assert met(TARGETS["alert"], {"p99_us": None}) is False
    assert met({}, {}) is None


def test_a_line_has_every_member_and_extra_ones() -> None:
    line = report.result("file", Verdict(0, 0), {"events_per_s": 10_000_000, "ratio_to_python_baseline": 9.5})
    assert list(line)[:12] == [*report.MEMBERS, "lost", "duplicated", "target", "met"]
    assert line["met"] is True
    assert line["p99_us"] is None
    assert line["ratio_to_python_baseline"] == 9.5
    assert not report.is_bad(line)
    assert report.result("file", Verdict(), {"events_per_s": 1}, quick=True)["met"] is None
    assert report.is_bad(report.result("file", Verdict(lost=1), {}))
    assert report.is_bad(report.result("file", Verdict(duplicated=1), {}))
    assert report.is_bad(report.failed("file", "it did not start"))


def test_the_table_is_for_people() -> None:
    line = report.result("alert", Verdict(), {"p99_us": 1500, "rss_bytes": 150_000_000, "cpu_pct": 61.2})
    text = report.table([line, report.failed("http", "…")])
    assert "1.50 ms" in text
    assert "p99 <= 2.00 ms" in text
    assert ">= 4.00 M/s" in text
    assert [report.count(n) for n in (None, 5, 81_000, 4_210_000)] == ["-", "5", "81.0 k", "4.21 M"]


def test_every_job_is_valid(tmp_path: Path) -> None:
    loading = pytest.importorskip("streamjob.loading")
    job = jobs.spec([{"name": "in", "http": {}}], 5, sent_us=True)
    jobs.add_windows(job)
    jobs.add_zscore(job)
    jobs.add_alerts(job, "at-least-once", {"http": {"url": "http://127.0.0.1:9/alerts"}})
    loaded = loading.load_job(str(jobs.write(job, tmp_path)))
    assert [sink.name for sink in loaded.job.spec.sinks] == ["windows", "alerts"]
