"""The client against a scripted server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from streamjob.client import Client, ClientError, IngestResult

Handler = Callable[[httpx.Request], httpx.Response]
ACCEPTED = {"accepted": 2, "rejected": 0, "errors": []}


def client(handler: Handler, waits: list[float] | None = None, **options: Any) -> Client:
    return Client(transport=httpx.MockTransport(handler), sleep=(waits if waits is not None else []).append, **options)


def test_ingest_posts_lines_with_a_key() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json=ACCEPTED)

    with client(handler, token="t") as job:
        assert job.ingest([{"a": 1}, {"a": None}], idempotency_key="k") == IngestResult(2, 0, [])
        assert job.ingest([]) == IngestResult(0, 0, [])
    (request,) = seen
    assert request.content == b'{"a":1}\n{"a":null}'
    assert request.headers["Idempotency-Key"] == "k"
    assert request.headers["Content-Type"] == "application/x-ndjson"
    assert request.headers["Authorization"] == "Bearer t"


def test_ingest_waits_and_repeats_with_the_same_key() -> None:
    keys: list[str] = []
    waits: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            return httpx.Response(429, headers={"Retry-After": "7"})
        if len(keys) == 2:
            return httpx.Response(503)
        if len(keys) == 3:
            raise httpx.ReadError("cut off", request=request)
        return httpx.Response(202, json=ACCEPTED)

    assert client(handler, waits).ingest([{}, {}]).accepted == 2
    assert len(set(keys)) == 1
    assert len(keys) == 4
    assert waits[0] == 7
    assert waits[1] < waits[2]


def test_ingest_gives_up_in_the_end() -> None:
    with pytest.raises(ClientError, match="503") as caught:
        client(lambda _: httpx.Response(503, text="the disk is full"), patience=0).ingest([{}])
    assert caught.value.status == 503


def test_rows_that_are_all_rejected_are_no_error() -> None:
    body = {"accepted": 0, "rejected": 1, "errors": [{"row": 0, "field": "a", "reason": "missing"}]}
    assert client(lambda _: httpx.Response(400, json=body)).ingest([{}]).errors == body["errors"]


@pytest.mark.parametrize(
    ("status", "fix"), [(401, "bearer token"), (413, "fewer rows"), (422, "new key"), (500, "500")]
)
def test_refusals_say_what_to_do(status: int, fix: str) -> None:
    with pytest.raises(ClientError, match=fix) as caught:
        client(lambda _: httpx.Response(status, text="no")).ingest([{}])
    assert caught.value.status == status


def test_queries_page_and_escape() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url.raw_path.decode()))
        cursor = request.url.params.get("cursor")
        limit = int(request.url.params["limit"])
        items = [{"n": n} for n in range(min(limit, 2))]
        return httpx.Response(200, json={"items": items, "next": None if cursor == "b" else "b" if cursor else "a"})

    job = client(handler)
    assert len(job.windows("a/b c", "w", start=datetime(2020, 1, 1, tzinfo=UTC))) == 6
    assert seen[0] == "/v1/keys/a%2Fb%20c/windows?window=w&from=2020-01-01T00%3A00%3A00Z&limit=1000"
    assert seen[1].endswith("cursor=a")
    assert job.latest(limit=3) == [{"n": 0}, {"n": 1}, {"n": 0}]
    page = job.window_page("a", limit=3)
    assert (len(page.rows), page.next) == (3, "b")
    assert job.window_page("a", limit=3, cursor="b") == ([{"n": 0}, {"n": 1}], None)


def test_unknown_keys() -> None:
    job = client(lambda _: httpx.Response(404, json={}))
    assert job.stats("x") is None
    assert job.windows("x") == []


def test_stats() -> None:
    body = {"key": "a", "fields": {"x": {"count": 1}}}
    assert client(lambda _: httpx.Response(200, content=json.dumps(body))).stats("a") == body


def test_nobody_there() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(ClientError, match="does not answer"):
        client(handler).stats("x")


def test_a_window_must_be_named_where_there_are_several() -> None:
    said = {"error": "window: name one of the job's windows (a, b)"}
    for ask in (lambda job: job.latest(), lambda job: job.windows("x")):
        with pytest.raises(ClientError, match="name one of the job's windows") as caught:
            ask(client(lambda _: httpx.Response(400, json=said)))
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://[::1", r"\(Invalid port: ':1'\): write for example http://127.0.0.1:8080"),
        ("127.0.0.1:8080", r"write http://127\.0\.0\.1:8080$"),
        ("localhost:8080", r"write http://localhost:8080$"),
        ("ftp://127.0.0.1:8080", "write for example http://127.0.0.1:8080"),
        ("http://127.0.0.1:99999", "write for example"),
        ("http://xn--", "write for example"),
        ("http:///jobs", "write for example"),
        ("", "write for example"),
    ],
)
def test_a_url_that_nobody_can_serve_is_refused_at_once(url: str, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        Client(url)


@pytest.mark.parametrize("text", ["tökén", "a\nb", "a\x7f", " a"])
def test_what_no_header_can_hold_is_refused_at_once(text: str) -> None:
    with pytest.raises(ClientError, match="the token has a character that no header can hold"):
        Client(token=text)
    with pytest.raises(ClientError, match="the idempotency key has a character"):
        client(lambda _: httpx.Response(202, json=ACCEPTED)).ingest([{}], idempotency_key=text)


@pytest.mark.parametrize("key", ["x" * 70_000, "\udcff"])
def test_a_key_that_no_path_can_hold_is_refused_at_once(key: str) -> None:
    with pytest.raises(ClientError):
        client(lambda _: httpx.Response(200, json={})).stats(key)


def test_a_window_that_no_query_can_hold_is_refused_at_once() -> None:
    with pytest.raises(ClientError):
        client(lambda _: httpx.Response(200, json={})).latest("\udcff")


class _Server(HTTPServer):
    """Notes the paths as they come."""

    paths: list[str]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("key", "part"),
    [(".", "%2E"), ("..", "%2E%2E"), ("...", "..."), ("a.b", "a.b"), ("../x", "..%2Fx"), ("%2E", "%252E")],
)
def test_a_key_arrives_as_one_part_of_the_path(server: _Server, key: str, part: str) -> None:
    with Client(f"http://127.0.0.1:{server.server_port}/") as job:
        job.stats(key)
    assert server.paths == [f"/v1/keys/{part}/stats"]
