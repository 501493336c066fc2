"""Answers that are none of the API server's: of a proxy, of a server that ends, of something else on its port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from streamjob_operator.cluster import MALFORMED, Cluster, ClusterError
from streamjob_operator.informer import Informer
from streamjob_operator.kinds import POD_MONITOR, SECRET, SERVICE

GOOD_LIST = json.dumps({"metadata": {"resourceVersion": "7"}, "items": None}).encode()
BODIES = [b"<html>secret</html>", b"", b"[]", b"5", b'"secret"', b"\xff", b"[" * 100_000, b'{"items": [']


@contextmanager
def serving(code: int, body: bytes, *, length: int | None = None, charset: str = "") -> Iterator[str]:
    """A server with one answer to everything, which says that it has `length` bytes."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Type", f"application/json{charset}")
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def ask(url: str, question: Callable[[Cluster], Coroutine[Any, Any, Any]]) -> Any:
    async def course() -> Any:
        cluster = Cluster(ApiClient(Configuration(host=url)))
        try:
            return await question(cluster)
        finally:
            await cluster.close()

    return asyncio.run(course())


async def listed(cluster: Cluster) -> list[str]:
    return [version async for _, version in cluster.pages(SECRET, "shop")]


async def watched(cluster: Cluster) -> list[str]:
    return [event["type"] async for event in cluster.watch(SECRET, "shop", "1")]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("question", [listed, lambda cluster: cluster.get(SECRET, "shop", "a")], ids=["list", "get"])
def test_a_success_that_is_no_json_object_is_an_error_and_not_cited(body: bytes, question: Any) -> None:
    with serving(200, body) as url, pytest.raises(ClusterError) as refused:
        ask(url, question)
    assert (refused.value.code, refused.value.reason, refused.value.actor) == (200, MALFORMED, "cluster")
    assert "secret" not in str(refused.value), "it may be a part of one"


def test_an_object_that_is_no_list_is_an_error() -> None:
    for wrong in ({}, {"metadata": 1}, {"metadata": {}}):
        with serving(200, json.dumps(wrong).encode()) as url, pytest.raises(ClusterError, match="no list of secrets"):
            ask(url, listed)
    with serving(200, GOOD_LIST) as url:
        assert ask(url, listed) == ["7"]


@pytest.mark.parametrize("line", [*BODIES[2:], b"{}", b'{"type": "ADDED"}', b'{"type": "ADDED", "object": {}}', b"x"])
def test_a_line_of_a_watch_that_is_no_event_is_an_error(line: bytes) -> None:
    with serving(200, line + b"\n") as url, pytest.raises(ClusterError) as refused:
        ask(url, watched)
    assert refused.value.reason == MALFORMED
    expired = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    with serving(200, json.dumps(expired).encode() + b"\n") as url, pytest.raises(ClusterError) as refused:
        ask(url, watched)
    assert refused.value.code == 410


def test_a_refusal_is_one_whatever_its_form() -> None:
    for body in (b"<html>busy</html>", b"\xff\xfe busy", b"[]", b"", b"[" * 100_000, b'{"message": 5}'):
        with serving(503, body, charset="; charset=unknown") as url, pytest.raises(ClusterError) as refused:
            ask(url, listed)
        assert refused.value.code == 503
        assert str(refused.value), "it says something"
    with serving(429, b'{"message": "later", "reason": "TooManyRequests"}') as url, pytest.raises(ClusterError) as told:
        ask(url, lambda cluster: cluster.serves(POD_MONITOR))
    assert (told.value.code, told.value.reason, str(told.value)) == (429, "TooManyRequests", "later")


@pytest.mark.parametrize("code", [200, 500])
def test_an_answer_that_breaks_off_is_an_error(code: int) -> None:
    for question in (listed, watched):
        with serving(code, b'{"me', length=1000) as url, pytest.raises(ClusterError) as refused:
            ask(url, question)
        assert refused.value.code in (0, code)


@pytest.mark.parametrize("error", [ConfigException("empty"), FileNotFoundError("token"), ValueError("url")])
def test_a_request_that_cannot_be_sent_is_an_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unable(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ApiClient, "update_params_for_auth", unable)
    with pytest.raises(ClusterError, match="does not answer"):
        ask("http://127.0.0.1:1", listed)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b""])
def test_a_watch_survives_answers_that_are_none(body: bytes) -> None:
    waits: list[float] = []

    async def follow(cluster: Cluster) -> None:
        informer = Informer(cluster, SERVICE, "shop", lambda *_: None, list)
        enough = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                enough.set()
            await asyncio.sleep(0)

        task = asyncio.create_task(informer.run(sleep))
        ended = asyncio.create_task(enough.wait())
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert not task.done(), task
        for one in (task, ended):
            one.cancel()
        await asyncio.wait({task, ended})

    with serving(200, body) as url:
        ask(url, follow)
    assert waits[:3] == [0.5, 1.0, 2.0]
