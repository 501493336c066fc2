"""The normalised job that a start leaves for the next: used only while nothing that it was made from has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import GOOD, UDFS, write_job
from streamjob.cli.prepared import PreparedJob, prepare, recall, remember
from test_cli import streamjob


def prepared(path: Path) -> PreparedJob:
    made = prepare(str(path))
    assert made is not None
    return made[1]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[str, str, PreparedJob]:
    """The path of a job, a state directory that remembers it, and what it remembers."""
    path = str(write_job(tmp_path))
    state = tmp_path / "state"
    state.mkdir()
    job = prepared(Path(path))
    remember(job, path, str(state))
    return path, str(state), job


def test_a_restart_validates_nothing(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    totals = []
    for _ in range(2):
        result = streamjob("run", path, fake=True, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stderr)["event"] == "job_ready"
        totals.append(json.loads(result.stdout.splitlines()[-1]))
    assert "pydantic" in totals[0].pop("imported")
    assert totals[1].pop("imported") == []
    assert totals[0] == totals[1]
    (tmp_path / "udfs.py").write_text(UDFS + "# changed\n")
    changed = json.loads(streamjob("run", path, fake=True, cwd=tmp_path).stdout.splitlines()[-1])
    assert "pydantic" in changed["imported"]
    assert changed["source"].endswith("# changed\n")


def test_what_was_kept_is_found(kept: tuple[str, str, PreparedJob]) -> None:
    path, state, job = kept
    assert recall(path, state) == job
    assert os.stat(os.path.join(state, "prepared-job.json")).st_mode & 0o777 == 0o600
    assert os.listdir(state) == ["prepared-job.json"]


def test_a_default_directory_is_found_by_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_job(tmp_path)
    other = write_job(_folder(tmp_path / "other"), GOOD.replace("name: telemetry", "name: alpha"))
    monkeypatch.chdir(tmp_path)
    for file, name in ((other, "alpha"), (path, "telemetry"), (path, "zcopy")):
        remember(prepared(file), str(file), str(_folder(tmp_path / ".streamjob" / name)))
    found = recall("job.yaml", None)
    assert found is not None
    assert found.name == "telemetry"


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _rewrite(file: str, change: Callable[[str], str]) -> None:
    text = Path(file).read_text()
    assert change(text) != text
    Path(file).write_text(change(text))


def _entry(state: str) -> str:
    return os.path.join(state, "prepared-job.json")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, state: _rewrite(path, lambda text: text + "# a comment\n"),
        lambda path, state: _rewrite(path.replace("job.yaml", "udfs.py"), lambda text: text + "\n"),
        lambda path, state: os.remove(path.replace("job.yaml", "udfs.py")),
        lambda path, state: os.remove(path),
        lambda path, state: _rewrite(_entry(state), lambda text: text[: len(text) // 2]),
        lambda path, state: _rewrite(_entry(state), lambda text: text.replace("10000000", "20000000")),
        lambda path, state: _rewrite(_entry(state), lambda text: text.replace('"format": 1', '"format": 2')),
        lambda path, state: _rewrite(_entry(state), lambda text: "[]"),
    ],
)
def test_anything_that_changed_is_validated_again(
    kept: tuple[str, str, PreparedJob], spoil: Callable[[str, str], None]
) -> None:
    path, state, _ = kept
    spoil(path, state)
    assert recall(path, state) is None


def test_another_version_of_the_package_validates_again(
    kept: tuple[str, str, PreparedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state, _ = kept
    monkeypatch.setattr("streamjob.__version__", "0.1.1")
    assert recall(path, state) is None


def test_a_directory_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    remember(prepared(path), str(path), str(tmp_path / "nowhere"))
    assert recall(str(path), str(tmp_path / "nowhere")) is None
