"""Real lines of the log against their schema, and the configurations that ship them against it, too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from chart_files import ROOT

SCHEMA = json.loads((ROOT / "docs" / "log-line.schema.json").read_text(encoding="utf-8"))
LINE = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
LOGS = ROOT / "examples" / "kubernetes" / "logs"
JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: logs}
spec:
  schema: {key: id, time: {field: at, unit: ms}, fields: {id: string, value: float64}}
  sources: [{name: in, file: {path: rows.ndjson, format: ndjson}}]
  windows: [{name: w, tumbling: 10s, aggregates: {n: count()}}]
  sinks:
    - {name: nobody, from: events, http: {url: "http://127.0.0.1:9/"}}
"""


def lines_of(text: str) -> list[dict[str, Any]]:
    """The lines of a log, each of which must be JSON that the schema takes."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        LINE.validate(line)
    return lines


def run(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The log of an engine that runs the job above for a second."""
    pytest.importorskip("streamjob_engine", reason="the engine's wheel is not installed: make setup")
    command = [
        sys.executable,
        "-m",
        "streamjob",
        "run",
        "job.yaml",
        "--listen",
        "127.0.0.1:0",
        "--for",
        "1s",
        *arguments,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return lines_of(done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job with rows for a webhook that nobody serves."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    rows = [json.dumps({"id": "a", "at": number, "value": 1.5}) for number in range(100)]
    (tmp_path / "rows.ndjson").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_lines_of_a_job_that_runs(folder: Path) -> None:
    # Long enough to make all shards, read the file and fail to deliver.
    lines = run(folder, "--for", "8s")
    assert {"job_ready"} <= {line.get("event") for line in lines}
    assert any(line.get("sink") == "nobody" and line["level"] == "WARN" for line in lines)


def test_lines_of_a_job_that_fails(folder: Path) -> None:
    run(folder)
    (folder / "job.yaml").write_text(JOB.replace("{name: logs}", "{name: other}"), encoding="utf-8")
    failed = run(folder, "--state-dir", ".streamjob/logs")[-1]
    assert (failed["event"], failed["level"], failed["actor"]) == ("job_failed", "error", "user")


def test_lines_of_the_operator(tmp_path: Path) -> None:
    """Without a cluster it says so, again and again; told to stop, it stops."""
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    config = {"clusters": [cluster], "users": [{"name": "u", "user": {}}], "contexts": [context]}
    (tmp_path / "config").write_text(yaml.safe_dump({**config, "current-context": "x"}), encoding="utf-8")
    command = [sys.executable, "-m", "streamjob_operator", "run", "--metrics-port=0", "--health-port=0"]
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "config")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.terminate()
        rest = process.stderr.read()
    lines = lines_of(first + rest)
    assert lines[0]["level"] == "WARNING"
    assert "API server" in lines[0]["message"]


def test_lines_that_tell_an_exception_are_lines() -> None:
    script = (
        "import logging, structlog; from streamjob_operator.logs import configure; configure('debug')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError as error: structlog.get_logger('a').error('ended', exc_info=error, job='x')\n"
        "logging.getLogger('kopf').warning('of a library %s', 7)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = lines_of(done.stderr)
    assert "ZeroDivisionError" in first["exception"]
    assert second["message"] == "of a library 7"


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"timestamp": "2026-03-04T12:00:00Z", "level": "info"},
        {"timestamp": "yesterday", "level": "info", "event": "x"},
        {"timestamp": "2026-03-04T12:00:00Z", "level": "loud", "event": "x"},
        {"timestamp": "2026-03-04T12:00:00Z", "level": "info", "event": "x", "more": {"a": 1}},
        {"timestamp": "2026-03-04T12:00:00Z", "level": "info", "event": "x", "shard": "3"},
    ],
)
def test_what_is_no_line(line: dict[str, Any]) -> None:
    assert not LINE.is_valid(line)


def test_lines_of_the_document_are_lines() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "logs.md").read_text(encoding="utf-8"), re.DOTALL)
    assert [len(lines_of(block)) for block in blocks] == [2]


def test_the_document_names_every_member_that_all_lines_share() -> None:
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in ("timestamp", "level", "event", "message", "actor", "retryable"))


def test_elastic_has_a_type_for_every_member() -> None:
    template = json.loads((LOGS / "elastic" / "index-template.json").read_text(encoding="utf-8"))
    mapped = template["template"]["mappings"]["properties"]["streamjob"]["properties"]
    fitting = {
        "integer": {"long"},
        "number": {"double"},
        "boolean": {"boolean"},
        "string": {"keyword", "text", "date"},
        None: {"keyword"},
    }
    assert set(mapped) == set(SCHEMA["properties"])
    for name, member in SCHEMA["properties"].items():
        assert mapped[name]["type"] in fitting[member.get("type")], name


def test_elastic_reads_members_that_lines_have() -> None:
    pipeline = (LOGS / "elastic" / "ingest-pipeline.json").read_text(encoding="utf-8")
    named = set(re.findall(r"streamjob\??\.(\w+)", pipeline))
    assert named
    assert named <= set(SCHEMA["properties"])
    name = json.loads((LOGS / "elastic" / "index-template.json").read_text(encoding="utf-8"))["template"]["settings"]
    assert name["index.default_pipeline"] in (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    settings = yaml.safe_load((LOGS / "elastic" / "filebeat.yml").read_text(encoding="utf-8"))
    assert settings["output.elasticsearch"]["index"].startswith("logs-streamjob-")


def test_loki_reads_members_that_lines_have() -> None:
    text = (LOGS / "loki" / "config.alloy").read_text(encoding="utf-8")
    read = re.search(r"expressions = \{(.*?)\}", text, re.DOTALL)
    assert read is not None
    named = set(re.findall(r"= \"(\w+)\"", read[1]))
    assert named <= set(SCHEMA["properties"])
    used = set(re.findall(r"^ +(\w+) = \"\",", text, re.MULTILINE)) | set(re.findall(r'source += "(\w+)"', text))
    assert used <= named, "what is used must be read"
