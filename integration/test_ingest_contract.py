"""POST /ingest as the contract has it: formats, encodings, statuses, repeats."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
import harness
import pytest
import zstandard
from harness import Job, Running, strict_json

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: ingest}
spec:
  shards: 4
  schema:
    key: device
    time: {field: at, unit: ms}
    fields: {device: string, x: float64, n: int64, ok: bool}
  sources: [{name: in, http: {}}]
  time: {maxOutOfOrderness: 1h, maxAhead: 1h}
  windows:
    - {name: per_10s, tumbling: 10s, aggregates: {n: count(), total: sum(x)}}
  sinks:
    - {name: windows, from: per_10s, delivery: exactly-once, file: {path: out}}
  deadLetters: {file: {path: dead}}
  checkpoint: {interval: 200ms}
  ingest: {maxBody: 64Ki}
  engine: {workerThreads: 2}
"""
GOOD = {"device": "a", "at": 1000, "x": 1.5, "n": 1, "ok": True}
NDJSON = {"Content_Type": "application/x-ndjson"}


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(JOB)


@pytest.fixture
def running(job: Job) -> Running:
    """An engine of the test's own."""
    return job.run()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An engine for tests that only look at how much more it has."""
    running = Job(tmp_path_factory.mktemp("ingest"), JOB).run()
    yield running
    running.stop()


@contextmanager
def counted(running: Running, **outcomes: int) -> Iterator[None]:
    """Meanwhile so many rows come in, by outcome, and no other."""
    before = running.metrics().ledger()
    yield
    # One row more is behind all that came: once it is processed, so are they.
    assert running.post(GOOD).status_code == 202
    more = {"applied": 1 + outcomes.pop("applied", 0)} | outcomes
    expected = {outcome: count + more.pop(outcome, 0) for outcome, count in before.items()}
    assert running.await_processed(sum(expected.values())).ledger() == expected


def accepted(number: int) -> tuple[int, dict[str, object]]:
    return 202, {"accepted": number, "rejected": 0, "errors": []}


def answer(response: object) -> tuple[int, object]:
    return response.status_code, strict_json(response.content)


@pytest.mark.parametrize(
    ("body", "headers", "rows"),
    [
        (GOOD, {}, 1),
        ([GOOD, GOOD], {}, 2),
        ([], {}, 0),
        (b" [ ] ", {}, 0),
        (b'{"device":"a","at":1}\n{"device":"b","at":2}\n', NDJSON, 2),
        (b'\n\r\n{"device":"a","at":1}\r\n\n{"device":"b","at":2}', NDJSON, 2),
        (b'{"device":"a","at":1}', {"Content_Type": "application/json; charset=utf-8"}, 1),
        (b'{"device":"a","at":1.25,"x":null,"unknown":{"deep":[1,{"er":2}]}}', {}, 1),
        (b'{"device":"\\u00fc\\ud83d\\ude00","at":-5}', {}, 1),
        (b'{"device":"a","at":1e3}', {}, 1),
    ],
    ids=[
        "object",
        "array",
        "empty array",
        "spaces",
        "ndjson",
        "blank lines",
        "charset",
        "unknown fields",
        "escapes",
        "e",
    ],
)
def test_good_bodies_are_accepted(shared: Running, body: object, headers: dict[str, str], rows: int) -> None:
    with counted(shared, applied=rows):
        assert answer(shared.post(body, **headers)) == accepted(rows)


def test_a_body_without_a_content_type_is_json(shared: Running) -> None:
    link = http.client.HTTPConnection("127.0.0.1", shared.job.port, timeout=10)
    with counted(shared, applied=1):
        link.request("POST", "/ingest", json.dumps(GOOD))
        response = link.getresponse()
        assert (response.status, strict_json(response.read())) == accepted(1)


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("zstd", zstandard.compress),
        ("identity", bytes),
        ("gzip", lambda body: gzip.compress(body[:10]) + gzip.compress(body[10:])),
        ("zstd", lambda body: zstandard.compress(body[:10]) + zstandard.compress(body[10:])),
    ],
    ids=["gzip", "zstd", "identity", "gzip in two members", "zstd in two frames"],
)
def test_compressed_bodies_are_read(shared: Running, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    body = b"\n".join(json.dumps(GOOD | {"n": number}).encode() for number in range(500))
    with counted(shared, applied=500):
        assert answer(shared.post(compress(body), Content_Encoding=encoding, **NDJSON)) == accepted(500)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b" \n ", {}, 400),
        (b"", NDJSON, 400),
        (b'"device"', {}, 400),
        (b'[{"device":"a","at":1}', {}, 400),
        (b'[{"device":"a","at":1} {"device":"a","at":1}]', {}, 400),
        (b'[{"device":"a","at":1},]', {}, 400),
        (b'[{"device":"a","at":1}][]', {}, 400),
        (b'{"device":"a","at":1}', {"Content_Type": "text/plain"}, 415),
        (b'{"device":"a","at":1}', {"Content_Type": "application/vnd.apache.parquet"}, 415),
        (b'{"device":"a","at":1}', {"Content_Encoding": "br"}, 415),
        (b"not gzip", {"Content_Encoding": "gzip"}, 400),
        (gzip.compress(b'[{"device":"a","at":1}]')[:-9], {"Content_Encoding": "gzip"}, 400),
        (b"not zstd", {"Content_Encoding": "zstd"}, 400),
        (zlib.compress(b"[]"), {"Content_Encoding": "deflate"}, 415),
        (b"[" + b" " * (64 << 10) + b"]", {}, 413),
        (gzip.compress(b"[" + b" " * (64 << 10) + b"]"), {"Content_Encoding": "gzip"}, 413),
        (zstandard.compress(b"[" + b" " * (1 << 24) + b"]"), {"Content_Encoding": "zstd"}, 413),
        (b'{"device":"a","at":1}', {"Idempotency_Key": "k" * 256}, 400),
        (b'{"device":"a","at":1}', {"Idempotency_Key": ""}, 400),
    ],
)
def test_bad_requests_say_what_is_wrong_and_leave_nothing(
    shared: Running, body: bytes, headers: dict[str, str], status: int
) -> None:
    with counted(shared):
        response = shared.post(body, **headers)
    assert response.status_code == status, response.text
    problem = strict_json(response.content)
    assert list(problem) == ["error"]
    assert len(problem["error"]) > 10


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"at": 1}, "device"),
        ({"device": None, "at": 1}, "device"),
        ({"device": "a"}, "at"),
        ({"device": "a", "at": None}, "at"),
        ({"device": "a", "at": "1"}, "at"),
        ({"device": "a", "at": True}, "at"),
        ({"device": "a", "at": 1 << 62}, "at"),
        ({"device": "a", "at": 1, "x": "1"}, "x"),
        ({"device": "a", "at": 1, "n": 1.5}, "n"),
        ({"device": "a", "at": 1, "ok": 1}, "ok"),
        ({"device": "a", "at": 32_503_680_000_000}, "at"),
        ([1], ""),
        (1, ""),
    ],
)
def test_a_request_with_only_wrong_rows_is_answered_400(shared: Running, row: object, field: str) -> None:
    with counted(shared, rejected=1):
        status, body = answer(shared.post([row]))
    assert (status, body["accepted"], body["rejected"]) == (400, 0, 1)
    [error] = body["errors"]
    assert (error["row"], error["field"]) == (0, field)
    assert list(error) == ["row", "field", "reason"]
    assert error["reason"]


def test_wrong_rows_among_good_ones_are_named(job: Job, running: Running) -> None:
    lines = [json.dumps(GOOD), '{"device":', json.dumps(GOOD | {"x": "warm"}), json.dumps(GOOD), "[1,2]"]
    status, body = answer(running.post("\n".join(lines).encode(), **NDJSON))
    assert (status, body["accepted"], body["rejected"]) == (202, 2, 3)
    assert [(error["row"], error["field"]) for error in body["errors"]] == [(1, ""), (2, "x"), (4, "")]
    ledger = running.await_processed(5).ledger()
    assert (ledger["applied"], ledger["rejected"]) == (2, 3)
    running.stop()
    letters = sorted(job.rows("dead"), key=lambda letter: letter["offset"])
    assert [letter["row"] for letter in letters] == [lines[1], lines[2], lines[4]]
    assert [letter["offset"] for letter in letters] == [1, 2, 4]
    assert {letter["source"] for letter in letters} == {"in"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"device":"a","at":1,"x":NaN}',
        b'{"device":"a"',
        b'{"device":"a","at":1}{"device":"a","at":1}',
        b'{"device":"a","at":1}\n{"device":"a","at":1}',
    ],
)
def test_an_object_that_is_no_json_is_one_wrong_row(job: Job, running: Running, body: bytes) -> None:
    status, told = answer(running.post(body))
    assert (status, told["accepted"], told["rejected"]) == (400, 0, 1)
    [error] = told["errors"]
    assert (error["row"], error["field"]) == (0, "")
    assert running.await_processed(1).ledger()["rejected"] == 1
    running.stop()
    [letter] = job.rows("dead")
    assert (letter["row"], letter["offset"], letter["source"]) == (body.decode(), 0, "in")


def test_nan_in_an_array_loses_no_row_beside_it(job: Job, running: Running) -> None:
    """What json.dumps of Python writes of a NaN, and other things that are no JSON."""
    nan = json.dumps(GOOD | {"x": float("nan")})
    rows = [
        json.dumps(GOOD),
        nan,
        '{"device":"a,]}",',
        json.dumps(GOOD),
        "Infinity",
        json.dumps(GOOD | {"device": "],["}),
    ]
    status, body = answer(running.post(f"[{', '.join([*rows[:2], *rows[3:]])}]".encode()))
    assert (status, body["accepted"], body["rejected"]) == (202, 3, 2)
    assert [(error["row"], error["field"]) for error in body["errors"]] == [(1, ""), (3, "")]
    # an element that swallows the others is no element
    status, body = answer(running.post(f"[{', '.join(rows)}]".encode()))
    assert (status, list(body)) == (400, ["error"])
    ledger = running.await_processed(5).ledger()
    assert (ledger["applied"], ledger["rejected"]) == (3, 2)
    running.stop()
    letters = sorted(job.rows("dead"), key=lambda letter: letter["offset"])
    assert [(letter["offset"], letter["row"]) for letter in letters] == [(1, nan), (3, "Infinity")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 413), ({"Content-Type": "text/plain"}, 415), ({"Content-Encoding": "br"}, 415)],
    ids=["too large", "type", "encoding"],
)
def test_a_plain_client_hears_why_its_large_body_is_refused(
    shared: Running, headers: dict[str, str], status: int
) -> None:
    """It reads nothing before it has sent all."""
    link = http.client.HTTPConnection("127.0.0.1", shared.job.port, timeout=30)
    link.request("POST", "/ingest", b" " * (8 << 20), headers)
    response = link.getresponse()
    assert (response.status, list(strict_json(response.read()))) == (status, ["error"])
    link.request("POST", "/ingest", json.dumps([]))
    assert link.getresponse().status == 202


def test_at_most_a_hundred_errors_are_listed(shared: Running) -> None:
    with counted(shared, applied=1, rejected=250):
        status, body = answer(shared.post([{"at": 1}] * 250 + [GOOD]))
    assert (status, body["accepted"], body["rejected"], len(body["errors"])) == (202, 1, 250, 100)


def test_other_methods_and_paths_are_refused(shared: Running) -> None:
    assert shared.get("/ingest").status_code == 405
    assert shared.get("/nothing").status_code == 404
    assert shared.get("/healthz").status_code == 200
    assert shared.get("/readyz").status_code == 200
    document = strict_json(shared.get("/openapi.json").content)
    assert {"/ingest", "/v1/keys/{key}/stats", "/v1/keys/{key}/windows", "/v1/windows/latest"} <= document[
        "paths"
    ].keys()


def test_a_job_without_an_http_source_has_no_ingest(make_job: Callable[..., Job]) -> None:
    job = make_job(JOB.replace("{name: in, http: {}}", "{name: in, file: {path: data.ndjson}}"))
    job.write("data.ndjson", "")
    assert job.run().post(GOOD).status_code == 404


def test_a_repeat_gets_the_first_answer(job: Job, running: Running) -> None:
    body = [GOOD, {"at": 1}]
    first = answer(running.post(body, Idempotency_Key="one"))
    assert first[0] == 202
    assert answer(running.post(body, Idempotency_Key="one")) == first
    wrong = answer(running.post([{"at": 1}], Idempotency_Key="wrong"))
    assert wrong[0] == 400
    assert answer(running.post([{"at": 1}], Idempotency_Key="wrong")) == wrong
    assert running.post([GOOD], Idempotency_Key="one").status_code == 422
    assert answer(running.post([GOOD], Idempotency_Key="two")) == accepted(1)
    running.await_metric("streamjob_commits_total", 1)
    assert answer(running.post(body, Idempotency_Key="one")) == first
    running.kill()
    again = job.run()
    assert answer(again.post(body, Idempotency_Key="one")) == first
    assert again.post([GOOD], Idempotency_Key="one").status_code == 422
    again.stop()
    last = job.run()
    assert answer(last.post(body, Idempotency_Key="one")) == first
    assert answer(last.post([{"at": 1}], Idempotency_Key="wrong")) == wrong
    ledger = last.await_processed(4).ledger()
    assert (ledger["applied"], ledger["rejected"]) == (2, 2)


def test_a_request_without_rows_has_a_key_as_well(shared: Running) -> None:
    with counted(shared):
        assert answer(shared.post([], Idempotency_Key="empty")) == accepted(0)
        assert answer(shared.post([], Idempotency_Key="empty")) == accepted(0)
        assert shared.post([GOOD], Idempotency_Key="empty").status_code == 422


def test_a_key_is_forgotten_after_its_retention(make_job: Callable[..., Job]) -> None:
    job = make_job(JOB.replace("engine:", "idempotency: {retention: 1s}\n  engine:"))
    running = job.run()
    assert answer(running.post([GOOD], Idempotency_Key="one")) == accepted(1)
    harness.wait_until("the key to be forgotten", lambda: running.post([GOOD, GOOD], Idempotency_Key="one").is_success)
    assert running.await_processed(3).ledger()["applied"] == 3


def test_a_client_that_hangs_up_before_the_answer_counts_once(running: Running) -> None:
    """Only the key tells the client's second attempt from a second request."""
    for number in range(150):
        hung_up = http.client.HTTPConnection("127.0.0.1", running.job.port)
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"key-{number}"}
        hung_up.request("POST", "/ingest", json.dumps(GOOD), headers)
        hung_up.close()
        assert answer(running.post(GOOD, Idempotency_Key=f"key-{number}")) == accepted(1)
    running.post(GOOD)
    assert running.await_processed(151).ledger()["applied"] == 151
    assert running.get("/v1/keys/a/stats").json()["rows"] == 151


def test_equal_requests_at_the_same_time_count_once(running: Running) -> None:
    answers: list[tuple[int, object]] = []

    def send(number: int) -> None:
        answers.append(answer(running.post([GOOD] * 50, Idempotency_Key=f"key-{number % 10}")))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [accepted(50)] * 60
    running.post(GOOD)
    assert running.await_processed(501).ledger()["applied"] == 501


def test_full_queues_are_answered_429(make_job: Callable[..., Job]) -> None:
    """A webhook that takes nothing fills the outbox, and that the queues; then clients are asked to come again."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        sink = f'http: {{url: "http://127.0.0.1:{silent.getsockname()[1]}/", timeout: 30s, maxBatchRows: 10}}'
        text = JOB.replace("maxBody: 64Ki", "maxBody: 8Mi, maxWait: 300ms").replace(
            "  deadLetters", f"    - {{name: hook, from: events, delivery: at-least-once, {sink}}}\n  deadLetters"
        )
        running = make_job(text.replace("shards: 4", "shards: 1")).run()
        body = json.dumps([GOOD | {"device": "a" * 2000}] * 2000).encode()
        refused = harness.wait_until(
            "429", lambda: next((r for r in [running.post(body)] if r.status_code != 202), None), within_s=120
        )
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert strict_json(refused.content)["error"]
        assert running.get("/healthz").status_code == 200


@pytest.mark.parametrize("style", ["integers", "floats"])
def test_a_plain_client_posts_100000_single_events(make_job: Callable[..., Job], style: str) -> None:
    """Times near 1970, of which a float's digits say little, are as good as any other."""
    events, devices, connections = 100_000, 100, 32
    job = make_job(JOB.replace("unit: ms", "unit: s"))
    running = job.run()
    assert events % devices == 0

    def event(number: int) -> dict[str, object]:
        at = number // 1000 if style == "integers" else number / 1000
        return {"device": f"d{number % devices}", "at": at, "x": float(number % 7)}

    async def send() -> float:
        numbers = iter(range(events))
        began = time.monotonic()

        async def post_until_done() -> None:
            for number in numbers:
                async with session.post(f"{running.url}/ingest", json=event(number)) as response:
                    assert response.status == 202, await response.text()

        connector = aiohttp.TCPConnector(limit=connections)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            await asyncio.gather(*(post_until_done() for _ in range(connections)))
        return events / (time.monotonic() - began)

    rate = asyncio.run(send())
    print(f"{style}: {rate:,.0f} single events a second from one aiohttp client with {connections} connections")
    ledger = running.await_processed(events).ledger()
    assert ledger == {"applied": events} | dict.fromkeys(("filtered", "late", "rejected", "failed", "duplicate"), 0)
    running.stop()
    assert job.run_to_end().totals["windows"] == devices * 10
    found = {(row["key"], row["window_start"]): (row["n"], row["total"]) for row in job.rows("out")}
    expected: dict[tuple[str, str], tuple[int, float]] = {}
    for number in range(events):
        at = (f"d{number % devices}", f"1970-01-01T00:{number // 60_000:02}:{number // 10_000 % 6 * 10:02}Z")
        n, total = expected.get(at, (0, 0.0))
        expected[at] = (n + 1, total + number % 7)
    assert found == expected
