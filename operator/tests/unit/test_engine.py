"""Answers of engines that are none: a job's author chooses the image, so anything may come."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from streamjob_operator.decide.health import engine_status
from streamjob_operator.engine import MAX_ANSWER_BYTES, EngineError, Engines
from streamjob_operator.index import Index
from streamjob_operator.metrics import registry
from streamjob_operator.observe import Facts
from streamjob_operator.observed import EngineFacts
from streamjob_operator.poll import Poller
from unit.jobs import job, observed

GOOD: dict[str, Any] = {
    "name": "telemetry",
    "version": "0.1.0",
    "shards": 8,
    "queue_rows": 3,
    "rate_events_per_s": 9.6,
    "watermark": "2030-01-01T00:00:00.123456Z",
    "last_checkpoint": {"number": 7, "completed_at": "2030-01-01T00:00:00Z", "duration_s": 0.01},
    "udfs": [{"name": "z", "version": "0123456789ab"}],
    "disk_full": False,
}
WRONG = [
    json.dumps({**GOOD, **members}).encode()
    for members in (
        {"udfs": 5},
        {"udfs": [{"version": 1}]},
        {"udfs": [{"version": "x" * 1000}]},
        {"rate_events_per_s": "abc"},
        {"rate_events_per_s": float("nan")},
        {"rate_events_per_s": 1e300},
        {"last_checkpoint": {}},
        {"last_checkpoint": {"number": 1, "completed_at": "2030-99-01T00:00:00Z"}},
        {"watermark": "soon"},
        {"shards": True},
        {"queue_rows": 10**30},
        {"blocked_shards": "secret"},
    )
] + [b"[" * 200_000, b'{"udfs":' * 100_000, b"secret", b"5", b"", b"\xff", b"[" + b"1" * 10_000 + b"]"]


@dataclass
class Server:
    """An HTTP server that answers what it is told to."""

    port: int = 0
    code: int = 200
    chunks: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(**members: Any) -> Iterator[Server]:
    known = Server(**members)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            known.asked.append(self.path)
            self.send_response(known.code)
            for name, value in known.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(sum(map(len, known.chunks))))
            self.end_headers()
            for chunk in known.chunks:
                self.wfile.write(chunk)
                self.wfile.flush()

        do_POST = do_GET  # noqa: N815 - its base names it so

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()


def ask(server: Server, what: str = "status") -> Any:
    async def course() -> Any:
        engines = Engines(f"http://127.0.0.1:{server.port}")
        try:
            return await getattr(engines, what)("shop", "telemetry", "token")
        finally:
            await engines.close()

    return asyncio.run(course())


def test_an_answer_becomes_facts() -> None:
    with serving(chunks=[json.dumps(GOOD).encode()]) as server:
        facts = engine_status(observed(engine=EngineFacts(status=ask(server))))
    assert facts == {
        "version": "0.1.0",
        "shards": 8,
        "lagRows": 3,
        "rate": 10,
        "watermark": "2030-01-01T00:00:00.123456Z",
        "udfVersion": "0123456789ab",
        "lastCheckpoint": {"number": 7, "completedAt": "2030-01-01T00:00:00Z"},
    }


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_any_other_answer_is_an_error_that_cites_nothing_of_it(body: bytes) -> None:
    with serving(chunks=[body]) as server:
        for what in ("status", "checkpoint"):
            with pytest.raises(EngineError, match="cannot be read") as refused:
                ask(server, what)
            assert "secret" not in str(refused.value)


def test_one_jobs_surprise_does_not_end_the_questions_to_the_others() -> None:
    def value() -> float:
        return registry.get_sample_value("streamjob_operator_reconcile_errors_total", {"actor": "operator"}) or 0.0

    async def course() -> list[str]:
        index, asked = Index(), []
        for name in ("a", "b", "c"):
            resource = job()
            resource["metadata"]["name"] = name
            index.put_job(resource, {})

        def token(key: tuple[str, str]) -> str | None:
            asked.append(key[1])
            if key[1] == "b":
                raise TypeError("surprise")
            return None

        async def note(_key: tuple[str, str]) -> None:
            pass

        await Poller(Engines(""), index, Facts(), token, lambda _key: None, note).round()
        return sorted(asked)

    before = value()
    assert asyncio.run(course()) == ["a", "b", "c"]
    assert value() == before + 1


def test_a_redirect_is_not_followed_with_the_token() -> None:
    with (
        serving(chunks=[json.dumps(GOOD).encode()]) as other,
        serving(code=307, headers={"Location": f"http://127.0.0.1:{other.port}/"}) as server,
    ):
        for what in ("status", "checkpoint"):
            with pytest.raises(EngineError, match="answers 307"):
                ask(server, what)
    assert other.asked == []


def test_a_refusal_is_told_without_what_it_said() -> None:
    with (
        serving(code=500, chunks=[b"secret"]) as server,
        pytest.raises(EngineError, match="answers 500") as refused,
    ):
        ask(server)
    assert "secret" not in str(refused.value)


def test_what_is_no_http_is_told_without_citing_it() -> None:
    with (
        serving(headers={"Content-Encoding": "gzip"}, chunks=[b"secret secret secret"]) as server,
        pytest.raises(EngineError, match="as HTTP should") as refused,
    ):
        ask(server)
    assert "secret" not in str(refused.value)


def test_an_answer_in_many_pieces_is_read_to_its_end() -> None:
    large = json.dumps({**GOOD, "more": "x" * (MAX_ANSWER_BYTES - 1000)}).encode()
    with serving(chunks=[large[at : at + 50_000] for at in range(0, len(large), 50_000)]) as server:
        assert ask(server).shards == 8


def test_an_answer_without_end_is_none() -> None:
    with serving(chunks=[b" " * (MAX_ANSWER_BYTES + 1)]) as server, pytest.raises(EngineError, match="more than"):
        ask(server)
