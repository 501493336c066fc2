"""The plugin's commands against a server that speaks the part of the Kubernetes API that they use."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
import yaml

from plugin import objects
from streamjob_operator.decide.operations import DEADLINES
from streamjob_operator.engine import CHECKPOINT_TIMEOUT_S
from streamjob_operator.plugin.arguments import parse
from streamjob_operator.plugin.cli import main

JOB = "/apis/streamjob.dev/v1alpha1/namespaces/shop/streamjobs/telemetry"
CUT = "\0"
"""At the end of a body: the connection breaks there."""
COMMANDS = ("status", "explain", "logs", "query", "suspend", "resume", "restart", "checkpoint", "ui")


class Api:
    """Objects by path, and what is to happen when the job is patched."""

    def __init__(self) -> None:
        self.job = objects.job()
        self.pods = [objects.pod()]
        self.claims = [objects.claim()]
        self.events: dict[str, list[Any]] = {}
        self.log = '{"event":"job_ready","level":"info","timestamp":"2026-03-04T12:00:00Z"}\nplain text\n'
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.then: Callable[[Api, dict[str, Any]], None] | None = None
        """What the operator does in answer to a patch."""
        self.watches: list[Callable[[Api], str]] = []
        """What the next watches say; all others tell of the job as it is."""
        self.gone = False
        self.instead: str | None = None
        """What is answered in the job's place."""

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, str]:
        self.requests.append((method, path, query, body))
        if path == JOB and method == "PATCH":
            _merge(self.job, body)
            self.job["metadata"]["generation"] += 1 if "spec" in body else 0
            before = json.dumps(self.job)
            if self.then:
                self.then(self, body)
            return 200, before
        if path == JOB and not self.gone:
            return 200, json.dumps(self.job) if self.instead is None else self.instead
        if path.endswith("/streamjobs") and query.get("watch"):
            assert query["fieldSelector"] == "metadata.name=telemetry"
            assert query["resourceVersion"] == self.job["metadata"]["resourceVersion"]
            assert query["allowWatchBookmarks"] == "true"
            said = self.watches.pop(0) if self.watches else lambda api: event_line("MODIFIED", api.job)
            return 200, said(self)
        if path.endswith("/streamjobs"):
            return 200, json.dumps({"items": [self.job]})
        if path.endswith("/pods"):
            assert query["labelSelector"] == "streamjob.dev/job=telemetry"
            return 200, json.dumps({"items": self.pods})
        if path.endswith("/persistentvolumeclaims"):
            return 200, json.dumps({"items": self.claims})
        if path.endswith("/events"):
            return 200, json.dumps({"items": self.events.get(query["fieldSelector"], [])})
        if path.endswith("/pods/telemetry-0/log"):
            return 200, self.log
        if path.endswith("/streamjobs/forbidden"):
            return 403, json.dumps({"message": 'streamjobs "forbidden" is forbidden'})
        if "streamjobs" in path:
            return 404, json.dumps({"message": 'streamjobs "other" not found'})
        return 404, "404 page not found"


def event_line(kind: str, thing: dict[str, Any]) -> str:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": thing}) + "\n"


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    for name, value in patch.items():
        if isinstance(value, dict):
            _merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server, and a kubeconfig that names it and the namespace shop."""
    api = Api()

    class Handler(http.server.BaseHTTPRequestHandler):
        def respond(self) -> None:
            parts = urlparse(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if self.command == "PATCH":
                assert self.headers["Content-Type"] == "application/merge-patch+json"
            assert self.headers["Authorization"] == "Bearer secret"
            status, text = api.answer(self.command, parts.path, query, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.removesuffix(CUT).encode())

        do_GET = do_PATCH = respond  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "current-context": "x",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(path))
    # The client has read the variable when it was imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    yield api
    server.shutdown()
    server.server_close()


def set_status(**status: Any) -> Callable[[Api, dict[str, Any]], None]:
    """What an operator does that looks at once."""

    def then(api: Api, _: dict[str, Any]) -> None:
        api.job["status"].update(observedGeneration=api.job["metadata"]["generation"], **status)

    return then


def test_status_of_one_and_of_all(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.events["involvedObject.name=telemetry"] = [
        objects.event("Rolling", "spec.image changed", "2026-03-04T11:00:00Z", kind="StreamJob", name="telemetry")
    ]
    api.events["involvedObject.name=telemetry-0"] = [objects.event("Pulled", "there", "2026-03-04T11:00:01Z")]
    assert main(["status", "telemetry"]) == 0
    shown = capsys.readouterr().out
    assert "shop/telemetry   Running" in shown
    assert "Rolling" in shown
    assert "Pulled" in shown
    assert main(["status", "telemetry", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "Running"
    assert main(["status"]) == 0
    assert "telemetry   Running" in capsys.readouterr().out
    assert main(["status", "-A"]) == 0
    assert "NAMESPACE" in capsys.readouterr().out
    assert api.requests[-1][1] == "/apis/streamjob.dev/v1alpha1/streamjobs"


def test_explain(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    del api.job["status"]
    assert main(["explain", "telemetry", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["about"] == "The operator"
    assert main(["explain", "telemetry"]) == 0
    assert "watchNamespaces" in capsys.readouterr().out


def test_logs(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "telemetry", "--tail", "5", "--since", "10m", "-p"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("INFO  job_ready")
    query = api.requests[-1][2]
    assert query == {"container": "engine", "previous": "true", "tailLines": "5", "sinceSeconds": "600"}
    assert main(["logs", "telemetry", "-o", "json"]) == 0
    assert capsys.readouterr().out == api.log


@pytest.mark.parametrize(("command", "phase", "value"), [("suspend", "Suspended", True), ("resume", "Running", False)])
def test_suspend_and_resume(
    api: Api, capsys: pytest.CaptureFixture[str], command: str, phase: str, value: bool
) -> None:
    api.then = set_status(phase=phase)
    assert main([command, "telemetry", "--wait"]) == 0
    assert "done" in capsys.readouterr().out
    assert api.job["spec"]["suspend"] is value
    assert [request[0] for request in api.requests] == ["PATCH", "GET"]


def test_an_invalid_job_is_suspended_once_its_pod_has_stopped(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Its phase tells of the spec."""
    condition = {"type": "Suspended", "status": "False"}
    api.then = set_status(phase="Invalid", conditions=[condition])
    assert main(["suspend", "telemetry", "--wait", "--timeout", "1s"]) == 3
    api.then = set_status(phase="Invalid", conditions=[{**condition, "status": "True"}])
    assert main(["suspend", "telemetry", "--wait", "--timeout", "20s"]) == 0
    assert "done" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["a: [b", "just text", "clusters: 1", "\x00"])
def test_a_kubeconfig_that_is_none_is_told_in_a_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    assert main(["status", "--kubeconfig", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kubectl streamjob: ")
    assert "--kubeconfig" in line


def test_a_status_of_an_older_spec_is_not_the_answer(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The phase was Suspended before, and the operator has not looked again."""
    api.job["status"]["phase"] = "Suspended"
    assert main(["suspend", "telemetry", "--wait", "--timeout", "1s"]) == 3
    assert "not done after 1s" in capsys.readouterr().err


def test_without_waiting_nothing_is_watched(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suspend", "telemetry", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] is False
    assert [request[0] for request in api.requests] == ["PATCH"]


def done_after(said: str) -> Callable[[Api], str]:
    """A watch that says so much and ends; what was asked for is done while none is there to tell of it."""

    def then(api: Api) -> str:
        set_status(phase="Suspended")(api, {})
        return said

    return then


BOOKMARK = event_line("BOOKMARK", {"metadata": {"resourceVersion": "12"}})
EXPIRED = event_line("ERROR", {"code": 410, "message": "too old resource version: 10 (12)"})


@pytest.mark.parametrize(
    "said",
    ["", CUT, event_line("MODIFIED", objects.job())[:40], BOOKMARK, EXPIRED],
    ids=["at once", "connection breaks", "in a line", "after a bookmark", "too old"],
)
def test_who_waits_goes_on_when_a_watch_ends(api: Api, capsys: pytest.CaptureFixture[str], said: str) -> None:
    api.watches = [done_after(said)]
    assert main(["suspend", "telemetry", "--wait", "--timeout", "20s"]) == 0
    assert "done" in capsys.readouterr().out
    assert [request[0] for request in api.requests] == ["PATCH", "GET", "GET"]


def test_a_watch_that_may_not_be_is_not_tried_again(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.watches = [lambda _: event_line("ERROR", {"code": 403, "message": "streamjobs is forbidden"})]
    assert main(["suspend", "telemetry", "--wait", "--timeout", "20s"]) == 1
    assert "the watch ended: streamjobs is forbidden" in capsys.readouterr().err


@pytest.mark.parametrize("told", ["by the watch", "by nobody", "by another job of its name"])
def test_who_waits_for_a_job_that_is_deleted_is_told_so(
    api: Api, capsys: pytest.CaptureFixture[str], told: str
) -> None:
    def deleted(api: Api) -> str:
        if told == "by the watch":
            return event_line("DELETED", api.job)
        if told == "by nobody":
            api.gone = True
        else:
            api.job["metadata"]["uid"] = "2"
        return ""

    api.watches = [deleted]
    assert main(["suspend", "telemetry", "--wait", "--timeout", "20s"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "streamjob/telemetry was deleted meanwhile" in said.err


def test_who_waits_while_nothing_answers_is_told_so_at_the_end(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.watches, api.instead = [lambda _: CUT] * 10, CUT
    assert main(["suspend", "telemetry", "--wait", "--timeout", "1s"]) == 1
    assert "the connection to the API server broke" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "body"), [("status", CUT), ("status", '{"metadata":'), ("logs", "a line" + CUT)])
def test_an_answer_that_breaks_off_is_told(
    api: Api, capsys: pytest.CaptureFixture[str], command: str, body: str
) -> None:
    if command == "logs":
        api.log = body
    else:
        api.instead = body
    assert main([command, "telemetry"]) == 1
    assert "try again" in capsys.readouterr().err


def test_a_checkpoint_is_done_when_this_request_was_answered(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    def then(api: Api, patch: dict[str, Any]) -> None:
        set_status(checkpointRequest=patch["metadata"]["annotations"]["streamjob.dev/checkpoint"])(api, patch)

    api.then = then
    assert main(["checkpoint", "telemetry", "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["done"] is True
    assert answer["lastCheckpoint"]["number"] == 412
    api.then = set_status(checkpointRequest="another")
    assert main(["checkpoint", "telemetry", "--timeout", "1s"]) == 3


def test_who_waits_for_a_checkpoint_waits_longer_than_the_operator_takes_to_answer() -> None:
    last_question = timedelta(seconds=CHECKPOINT_TIMEOUT_S)
    assert timedelta(seconds=parse(["checkpoint", "x"]).timeout) > DEADLINES["Checkpoint"] + last_question
    assert parse(["checkpoint", "x", "--timeout", "5s"]).timeout == 5
    assert parse(["restart", "x"]).timeout == 120


def test_a_checkpoint_that_failed_is_not_done(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    def then(api: Api, patch: dict[str, Any]) -> None:
        asked = patch["metadata"]["annotations"]["streamjob.dev/checkpoint"]
        set_status(checkpointRequest=asked, checkpointProblem="the engine does not answer")(api, patch)

    api.then = then
    assert main(["checkpoint", "telemetry", "-o", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["done"], answer["problem"]) == (False, "the engine does not answer")
    assert main(["checkpoint", "telemetry"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "checkpoint failed: the engine does not answer" in said.err


def test_a_restart_is_done_when_there_is_another_pod_and_it_is_ready(api: Api) -> None:
    assert main(["restart", "telemetry", "--wait", "--timeout", "1s"]) == 3
    for ready, code in ((False, 3), (True, 0)):

        def then(api: Api, patch: dict[str, Any], ready: bool = ready) -> None:
            assert patch["metadata"]["annotations"]["streamjob.dev/restart"]
            api.pods = [objects.pod(ready=ready)]
            api.pods[0]["metadata"]["uid"] = f"new-{ready}"

        api.then = then
        assert main(["restart", "telemetry", "--wait", "--timeout", "1s"]) == code


@pytest.mark.parametrize("command", ["query", "ui"])
def test_who_needs_a_pod_says_why_there_is_none(api: Api, capsys: pytest.CaptureFixture[str], command: str) -> None:
    arguments = [command, "telemetry", *(["key"] if command == "query" else [])]
    api.pods = [objects.pod(ready=False)]
    assert main(arguments) == 1
    assert "no pod that is ready" in capsys.readouterr().err
    api.pods, api.job["spec"]["suspend"] = [], True
    assert main(arguments) == 1
    assert "it is suspended" in capsys.readouterr().err


def test_failures_say_what_to_do(api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["status", "other"]) == 1
    assert "not found" in capsys.readouterr().err
    assert main(["status", "forbidden"]) == 1
    assert "ask for the role edit" in capsys.readouterr().err
    assert main(["status", "--kubeconfig", "/nowhere"]) == 1
    assert "--kubeconfig or --context" in capsys.readouterr().err
    assert main(["status", "--context", "nowhere"]) == 1
    assert "--context" in capsys.readouterr().err


def test_the_namespace_of_the_command_line_wins(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", "-n", "lab"])
    assert api.requests[-1][1].endswith("/namespaces/lab/streamjobs")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_complete(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--namespace", "--context", "--kubeconfig", "--output"):
        assert flag in shown
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert f"    {command} " in capsys.readouterr().out.replace("\n", " \n")


@pytest.mark.parametrize(
    "wrong",
    [[], ["status", "-o", "yaml"], ["suspend"], ["logs", "x", "--tail", "0"], ["restart", "x", "--timeout", "0s"]],
)
def test_wrong_command_lines_end_with_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong)
    assert ended.value.code == 2
