"""What is run before an uninstallation that takes the CustomResourceDefinition along, against jobs that are made up."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from chart_files import CHART

Answer = tuple[int, dict[str, Any]]
SOURCE = (CHART / "files" / "hooks" / "delete_jobs.py").read_text(encoding="utf-8")
JOBS = "/apis/streamjob.dev/v1alpha1"


def script(**constants: Any) -> dict[str, Any]:
    """The script's names, with other constants."""
    names: dict[str, Any] = {"__name__": "delete_jobs"}
    exec(compile(SOURCE, "delete_jobs.py", "exec"), names)
    names.update(constants)
    return names


class Jobs:
    """Jobs with a finalizer, an operator that takes it away `lets_go_after` seconds after the deletion, and a clock."""

    def __init__(self, *names: str, lets_go_after: float = 3) -> None:
        self.now = 0.0
        self.deleted: dict[str, float | None] = dict.fromkeys(names)
        self.lets_go_after = lets_go_after
        self.refuses: Callable[[str, str], Answer | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []

    def ask(self, path: str, method: str = "GET", accept: str = "application/json") -> Answer:
        """What an API server says."""
        self.requests.append((method, path))
        refused = self.refuses(method, path)
        if refused is not None:
            return refused
        if method == "DELETE":
            _, namespace, name = path.removeprefix(JOBS).replace("/streamjobs", "").rsplit("/", 2)
            key = f"{namespace}/{name}"
            assert self.deleted[key] is None, "it is on its way out already"
            self.deleted[key] = self.now
            return 200, {}
        query = {name: values[0] for name, values in parse_qs(urlparse(path).query).items()}
        begin, limit = int(query.get("continue", 0)), int(query["limit"])
        there = sorted(self.deleted)
        page = there[begin : begin + limit]
        more = str(begin + limit) if len(there) > begin + limit else ""
        return 200, {"items": [self.of(key) for key in page], "metadata": {"continue": more}}

    def of(self, key: str) -> dict[str, Any]:
        """A job's metadata."""
        namespace, name = key.split("/")
        gone = {} if self.deleted[key] is None else {"deletionTimestamp": "2026-03-04T12:00:00Z"}
        return {"metadata": {"namespace": namespace, "name": name, **gone}}

    def sleep(self, seconds: float) -> None:
        """Time passes, and the operator lets go what is due."""
        self.now += seconds
        self.deleted = {key: at for key, at in self.deleted.items() if at is None or self.now < at + self.lets_go_after}

    def run(self, **constants: Any) -> None:
        """The script."""
        script(**constants)["delete_all"](self, clock=lambda: self.now, sleep=self.sleep)


def test_all_jobs_are_deleted_and_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = Jobs("shop/a", "shop/b", "lab/a")
    jobs.run(PAGE=2)
    assert jobs.deleted == {}
    assert [method for method, _ in jobs.requests].count("DELETE") == 3
    assert "no StreamJobs are left" in capsys.readouterr().out


def test_there_may_be_none_and_no_definition_of_them() -> None:
    jobs = Jobs()
    jobs.run()
    jobs.refuses = lambda *_: (404, {"message": "the server could not find the requested resource"})
    jobs.run()


def test_without_an_operator_it_ends_and_says_what_is_left_and_what_to_do() -> None:
    names = script()
    jobs = Jobs(*(f"shop/{number:02}" for number in range(12)), lets_go_after=1e9)
    with pytest.raises(Exception, match=r"shop/00, shop/01.* and 2 more\. Only a running operator .*helm uninstall"):
        jobs.run()
    assert jobs.now <= names["GONE_WITHIN_S"] + names["PAUSE_S"]


def test_what_passes_is_tried_again_and_what_does_not_is_told() -> None:
    jobs = Jobs("shop/a")
    refusals = iter([(0, {"message": "no route"}), (503, {"message": "it starts"}), None, (429, {"message": "busy"})])
    jobs.refuses = lambda *_: next(refusals, None)
    jobs.run()
    assert jobs.deleted == {}
    for method in ("GET", "DELETE"):
        jobs = Jobs("shop/a")
        jobs.refuses = lambda now, _, method=method: (403, {"message": "forbidden"}) if now == method else None
        with pytest.raises(Exception, match=r"cannot be .*ed: 403 forbidden"):
            jobs.run()
    jobs = Jobs("shop/a")
    jobs.refuses = lambda *_: (0, {"message": "no route"})
    with pytest.raises(Exception, match=r"may be left \(no route\)"):
        jobs.run()


def test_answers_that_break_off_are_no_surprise() -> None:
    bodies = iter([b'{"items": []', b'{"items": [], "metadata": {}}'])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Authorization"] == "Bearer secret"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(next(bodies))

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        names = script(PAUSE_S=0)
        api = names["Api"](f"http://127.0.0.1:{server.server_port}", "secret", None)
        assert api.ask("/x")[0] == 0
        assert api.ask("/x") == (200, json.loads('{"items": [], "metadata": {}}'))
    finally:
        server.shutdown()
        server.server_close()
