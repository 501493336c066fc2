"""Addresses and headers of webhooks: what `check` says is what a run says. The engine's tests read the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import GOOD, load_text, problems_of
from streamjob.normalise import normalise

CASES = Path(__file__).resolve().parents[2] / "engine" / "testdata" / "webhooks" / "cases.json"
KNOWN: list[dict[str, Any]] = json.loads(CASES.read_text(encoding="utf-8")) if CASES.is_file() else []

pytestmark = pytest.mark.skipif(not CASES.is_file(), reason=f"{CASES} is not in this checkout")


def job(case: dict[str, Any]) -> str:
    sink = json.dumps({"url": case["url"], "headers": case["headers"]})
    return GOOD.replace('http: {url: "http://127.0.0.1:9000/alerts"}', f"http: {sink}")


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: json.dumps([case["url"], *case["headers"]]))
def test_check_refuses_what_a_run_refuses(case: dict[str, Any]) -> None:
    problems = problems_of(job(case))
    if case["valid"]:
        assert problems == []
        assert normalise(load_text(job(case)))["sinks"][1]["http"]["url"] == case["url"]
        return
    (problem,) = problems
    assert problem.path.startswith("spec.sinks[1].http."), str(problem)
    assert problem.fix


def test_a_password_or_a_header_is_not_quoted() -> None:
    url = {"url": "http://user:hunter2@example.com/", "headers": {}}
    header = {"url": "http://example.com/", "headers": {"Authorization": "hunter2\u00e9"}}
    for case in (url, header):
        (problem,) = problems_of(job(case))
        assert "hunter2" not in str(problem)
