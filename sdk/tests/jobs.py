"""Jobs for tests: a good one, and ways to spoil it."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path
from typing import Any

from streamjob.loading import LoadedJob, load_job
from streamjob.problems import JobError, Problem

GOOD = """\
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: telemetry}
spec:
  schema:
    key: device_id
    time: {field: timestamp, unit: ms}
    fields:
      device_id: string
      temperature: float64
      count: int64
      ok: bool
  sources:
    - name: in
      http: {}
  windows:
    - name: per_10s
      tumbling: 10s
      aggregates:
        n: count()
        mean: mean(temperature)
  udfs:
    - name: z
      file: udfs.py
      function: score
      inputs: [temperature, stats.temperature.mean]
      output: {score: float64}
  sinks:
    - name: out
      from: per_10s
      file: {path: out}
    - name: alerts
      from: events
      where: abs(score) > 3
      http: {url: "http://127.0.0.1:9000/alerts"}
"""
UDFS = "def score(temperature, mean):\n    return temperature - mean\n"


def read_udfs(path: str) -> str:
    """The module udfs.py in the folder /job, and nothing else."""
    if path != "/job/udfs.py":
        raise FileNotFoundError(2, "No such file or directory", path)
    return UDFS


def load_text(text: str, files: dict[str, str] | None = None) -> LoadedJob:
    """The job of `text`, as if it stood in /job/job.yaml beside `files`."""
    known = {"/job/udfs.py": UDFS, **(files or {}), "/job/job.yaml": text}

    def read(path: str) -> str:
        if path not in known:
            raise FileNotFoundError(2, "No such file or directory", path)
        return known[path]

    return load_job("/job/job.yaml", read=read)


def problems_of(text: str, files: dict[str, str] | None = None) -> list[Problem]:
    """What is wrong with a job."""
    try:
        load_text(text, files)
    except JobError as error:
        return error.problems
    return []


def spoilt(old: str, new: str) -> tuple[str, int]:
    """GOOD with `old` replaced, and the line of the replacement."""
    assert GOOD.count(old) == 1, f"{old!r} stands {GOOD.count(old)} times in the job"
    return GOOD.replace(old, new), GOOD[: GOOD.index(old)].count("\n") + 1


def good_data() -> dict[str, Any]:
    """GOOD as data, without its UDF's file."""
    from streamjob.source import parse_yaml

    source, _ = parse_yaml(GOOD, "job.yaml")
    assert source is not None
    data = copy.deepcopy(source.data)
    udf = data["spec"]["udfs"][0]
    del udf["file"]
    udf["code"] = {"inline": UDFS}
    return data  # type: ignore[no-any-return]


def write_job(folder: Path, text: str = GOOD) -> Path:
    """A job's file with its UDFs in `folder`."""
    (folder / "udfs.py").write_text(UDFS, encoding="utf-8")
    path = folder / "job.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path
