"""The normalised jobs that the engine's tests read as well: any drift between the two sides shows here or there.

`UPDATE_GOLDEN=1 pytest sdk/tests/test_golden.py` writes them anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from streamjob.loading import load_job
from streamjob.normalise import normalise, normalised_json

GOLDEN = Path(__file__).resolve().parents[2] / "engine" / "testdata" / "normalised"
NAMES = ("telemetry", "minimal", "full")

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is not in this checkout")


def read(path: str) -> str:
    """Files of the golden folder, which for these jobs is called /job."""
    return (GOLDEN / Path(path).relative_to("/job")).read_text(encoding="utf-8")


def golden_text(name: str) -> str:
    loaded = load_job(f"/job/{name}.yaml", read=read)
    return json.dumps(normalise(loaded), indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_normalised_job_is_as_agreed(name: str) -> None:
    target = GOLDEN / f"{name}.json"
    text = golden_text(name)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        target.write_text(text, encoding="utf-8")
    assert target.read_text(encoding="utf-8") == text, "run with UPDATE_GOLDEN=1 and look at the difference"


@pytest.mark.parametrize("name", NAMES)
def test_compact_text_is_the_same_job(name: str) -> None:
    loaded = load_job(f"/job/{name}.yaml", read=read)
    assert json.loads(normalised_json(loaded)) == normalise(loaded)


def members(value: object, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path}.union(*(members(item, f"{path}.{name}") for name, item in value.items()))
    if isinstance(value, list):
        return {path}.union(*(members(item, f"{path}[]") for item in value))
    return {path}


def test_minimal_job_has_every_member_of_the_top() -> None:
    jobs = [normalise(load_job(f"/job/{name}.yaml", read=read)) for name in NAMES]
    assert [set(job) for job in jobs] == [set(jobs[0])] * len(NAMES)
    for part in ("time", "ingest", "engine", "rest", "checkpoint", "state", "history", "idempotency"):
        assert [members(job[part]) - {".cors_origins[]"} for job in jobs] == [members(jobs[0][part])] * len(NAMES)
