"""What the plugin shows, compared with screens that were looked at. UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from plugin import objects
from streamjob_operator.plugin import text
from streamjob_operator.plugin.explain import explain, explanation_json, explanation_text
from streamjob_operator.plugin.logs import readable
from streamjob_operator.plugin.status import jobs_table, status_json, status_screen

GOLDEN = Path(__file__).parent / "golden"
LINES = 45
"""A screen."""


def compare(name: str, shown: str) -> None:
    """Fails where `shown` is not what the golden file holds."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8"), f"{name} differs: look at it, then UPDATE_GOLDEN=1 pytest"


@pytest.mark.parametrize("scene", objects.SCENES)
def test_status_is_one_screen(scene: str) -> None:
    shown = status_screen(objects.SCENES[scene]())
    compare(f"status_{scene}.txt", shown)
    assert len(shown.splitlines()) <= LINES


@pytest.mark.parametrize("scene", objects.SCENES)
def test_explain(scene: str) -> None:
    compare(f"explain_{scene}.txt", explanation_text(explain(objects.SCENES[scene]())))


@pytest.mark.parametrize("scene", objects.SCENES)
def test_json_says_the_same(scene: str) -> None:
    seen = objects.SCENES[scene]()
    both = {"status": status_json(seen), "explain": explanation_json(explain(seen))}
    compare(f"{scene}.json", json.dumps(both, indent=2) + "\n")


def test_all_jobs_in_a_table() -> None:
    jobs = [objects.job(), objects.unseen().job, objects.job("a-job-with-a-longer-name", phase="Invalid")]
    compare("jobs.txt", jobs_table(jobs, objects.NOW, with_namespace=False))
    compare("jobs_everywhere.txt", jobs_table(jobs, objects.NOW, with_namespace=True))
    assert jobs_table([], objects.NOW, with_namespace=False) == "There are no StreamJobs.\n"


def test_old_trouble_is_not_told_of_a_job_that_runs() -> None:
    assert "yesterday" not in explanation_text(explain(objects.running()))


def test_the_events_of_a_busy_namespace_are_cut() -> None:
    seen = objects.running()
    events = [objects.event(f"E{n}", "x", f"2026-03-04T11:{n:02}:00Z") for n in range(60)]
    many = type(seen)(seen.job, seen.pods, seen.claims, events, seen.now)
    shown = status_screen(many)
    assert "E59" in shown
    assert "E51" not in shown
    assert len(shown.splitlines()) <= LINES


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (61, "1m1s"),
        (3600, "1h"),
        (7260, "2h1m"),
        (86_401, "1d"),
        (1e6, "11d13h"),
    ],
)
def test_spans(seconds: float, shown: str) -> None:
    assert text.span(seconds) == shown


def test_times_without_a_sense_are_a_dash() -> None:
    for wrong in (None, "", "yesterday", 17):
        assert text.since(wrong, objects.NOW) == "-"


def test_sizes_and_numbers() -> None:
    assert [text.size(value) for value in (0, 1023, 1536, 300 << 20, None)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "300 MiB",
        "-",
    ]
    assert [text.number(value) for value in (0, 1234567.8, None, True)] == ["0", "1,234,568", "-", "-"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"job":"telemetry","url":"http://0.0.0.0:8080","event":"job_ready","level":"info","timestamp":"2026-03-04T12:00:00.123456Z"}',
            "2026-03-04 12:00:00.123 INFO  job_ready job=telemetry url=http://0.0.0.0:8080",
        ),
        (
            (
                '{"timestamp":"2026-03-04T12:00:00.1Z","level":"WARN",'
                '"message":"a delivery failed","shard":3,"reason":"no route","target":"streamjob"}'
            ),
            '2026-03-04 12:00:00.1Z  WARN  a delivery failed shard=3 reason="no route"',
        ),
        (
            (
                '{"event":"job_failed","message":"the disk is full",'
                '"actor":"outside","level":"error","timestamp":"2026-03-04T12:00:00Z"}'
            ),
            "2026-03-04 12:00:00Z    ERROR job_failed: the disk is full actor=outside",
        ),
        ("thread 'main' panicked", "thread 'main' panicked"),
        ("[1, 2]", "[1, 2]"),
        ('{"received": 1}', '{"received": 1}'),
    ],
)
def test_log_lines(line: str, shown: str) -> None:
    assert readable(line) == shown
