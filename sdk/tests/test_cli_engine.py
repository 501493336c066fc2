"""`streamjob engine` and `streamjob control`, as their own processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jobs import GOOD, load_text
from streamjob.normalise import normalise
from test_cli import streamjob


def write_normalised(folder: Path) -> Path:
    """The good job, normalised, with the text of its UDF in a folder beside it, as a pod finds both."""
    job = normalise(load_text(GOOD))
    (folder / "udfs").mkdir()
    for udf in job["udfs"]:
        (folder / "udfs" / f"{udf['name']}.py").write_text(udf.pop("source"))
        udf["source"] = ""
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def test_engine_puts_the_code_in_and_hands_the_token_on(tmp_path: Path) -> None:
    job = write_normalised(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    arguments = ("engine", "--job", job, "--udfs", tmp_path / "udfs", "--state-dir", tmp_path / "state")
    result = streamjob(*arguments, fake=True, STREAMJOB_CONTROL_TOKEN_FILE=str(tmp_path / "token"))
    assert result.returncode == 0, result.stderr
    first, last = result.stdout.splitlines()
    assert first == "READY http://127.0.0.1:8080"
    totals = json.loads(last)
    assert totals["control_token"] == "secret"
    assert totals["control_token_file"] == str(tmp_path / "token"), "it may change"
    assert totals["sources"] == ["def score(temperature, mean):\n    return temperature - mean\n"]
    assert totals["asked"][1] == str(tmp_path / "state")


def test_engine_says_what_is_missing(tmp_path: Path) -> None:
    job = write_normalised(tmp_path)
    arguments = ("engine", "--job", job, "--udfs", tmp_path, "--state-dir", tmp_path / "state")
    result = streamjob(*arguments, fake=True)
    assert result.returncode == 2
    line = json.loads(result.stderr)
    assert line["event"] == "job_invalid"
    assert "the code of the UDF z cannot be read" in line["message"]
    arguments = ("engine", "--job", job, "--udfs", tmp_path / "udfs", "--state-dir", tmp_path / "state")
    result = streamjob(*arguments, fake=True, STREAMJOB_CONTROL_TOKEN_FILE=str(tmp_path / "none"))
    assert "none: the control token cannot be read" in json.loads(result.stderr)["message"]


class Engine(BaseHTTPRequestHandler):
    """Answers as the control interface of an engine does."""

    def _answer(self, method: str) -> None:
        known = {("GET", "/v1/control/status"): {"phase": "running"}, ("POST", "/v1/control/checkpoint"): {"number": 7}}
        allowed = self.headers["Authorization"] == "Bearer secret"
        body = known[method, self.path] if allowed else {"error": "send the token"}
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def engine_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Engine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_control_asks_with_the_token(engine_url: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    env = {"STREAMJOB_CONTROL_TOKEN_FILE": str(token)}
    assert json.loads(streamjob("control", "checkpoint", "--url", engine_url, **env).stdout) == {"number": 7}
    assert json.loads(streamjob("control", "status", "--url", engine_url, **env).stdout) == {"phase": "running"}
    token.write_text("guess")
    result = streamjob("control", "status", "--url", engine_url, **env)
    assert result.returncode == 1
    assert "answered 401: send the token" in result.stderr


def test_control_says_what_is_missing(tmp_path: Path) -> None:
    result = streamjob("control", "status", STREAMJOB_CONTROL_TOKEN_FILE="")
    assert result.returncode == 2
    assert "name the file with the control token" in result.stderr
