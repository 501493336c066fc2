"""GET /v1/…: statistics and windows while a job runs, after it was killed, page by page, and their time to live."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import reference
from harness import Job, Row, Running, run_command, strict_json, wait_until

SECOND = 1_000_000
KEYS = ["plain", "with/slash", "Zürich ☃", "a b?c&d=e%2F", '"']
JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: queries}
spec:
  shards: 4
  schema:
    key: device
    time: {field: at, unit: s}
    fields: {device: string, x: int64}
  sources: [{name: in, http: {}}]
  windows:
    - {name: per_10s, tumbling: 10s, aggregates: &all {n: count(), total: sum(x), mean: mean(x)}}
    - {name: per_minute, tumbling: 1m, aggregates: *all}
  checkpoint: {interval: 200ms}
  engine: {workerThreads: 2}
"""


def given_rows(count: int = 3000, span_s: int = 600) -> list[Row]:
    rng = random.Random(7)
    return [
        {"device": rng.choice(KEYS), "at": number * span_s // count, "x": rng.randrange(-50, 50)}
        for number in range(count)
    ]


def when_posted(running: Running, rows: list[Row]) -> None:
    body = "\n".join(json.dumps(row) for row in rows).encode()
    assert running.post(body, Content_Type="application/x-ndjson").status_code == 202


def windows_of(rows: list[Row], size_s: int, below_s: float) -> dict[str, list[Row]]:
    """By key: rows as the queries give them, of windows that have closed."""
    panes: dict[tuple[str, int], list[int]] = {}
    for row in rows:
        panes.setdefault((row["device"], row["at"] // size_s * size_s), []).append(row["x"])
    name = "per_minute" if size_s == 60 else "per_10s"
    found: dict[str, list[Row]] = {}
    for (key, start), values in sorted(panes.items(), key=lambda pane: pane[0][1]):
        if start + size_s <= below_s:
            begin, end = reference.rfc3339(start * SECOND), reference.rfc3339((start + size_s) * SECOND)
            found.setdefault(key, []).append(
                {
                    "key": key,
                    "window_start": begin,
                    "window_end": end,
                    "revision": 0,
                    "n": len(values),
                    "total": sum(values),
                    "mean": sum(values) / len(values),
                    "_id": f"{name}/{key}/{begin}/0",
                }
            )
    return found


def pages(running: Running, path: str, **parameters: Any) -> list[list[Row]]:
    found: list[list[Row]] = []
    cursor: str | None = None
    for _ in range(1000):
        given = parameters | ({"cursor": cursor} if cursor else {})
        response = running.get(path, **given)
        assert response.status_code == 200, response.text
        page = strict_json(response.content)
        assert list(page) == ["items", "next"]
        found.append(page["items"])
        cursor = page["next"]
        if cursor is None:
            return found
    raise AssertionError(f"{path} has no last page")


def path_of(key: str, what: str) -> str:
    return f"/v1/keys/{quote(key, safe='')}/{what}"


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Running, list[Row]]:
    """A job that was killed after its rows, and runs again."""
    job = Job(tmp_path_factory.mktemp("queries"), JOB)
    rows = given_rows()
    running = job.run()
    when_posted(running, rows[:2000])
    running.await_processed(2000)
    running.kill()
    running = job.run()
    when_posted(running, rows[2000:])
    running.await_processed(3000)
    last_s = rows[-1]["at"]
    total = sum(len(found) for size in (10, 60) for found in windows_of(rows, size, last_s).values())
    running.await_metric("streamjob_windows_closed_total", total)
    yield running, rows
    running.stop()


@pytest.mark.parametrize("key", KEYS)
def test_statistics_of_a_key_are_those_of_all_its_rows(answered: tuple[Running, list[Row]], key: str) -> None:
    running, rows = answered
    values = [row["x"] for row in rows if row["device"] == key]
    expected = reference.RunningStatistics()
    for value in values:
        expected.add(value)
    found = strict_json(running.get(path_of(key, "stats")).content)
    assert (found["key"], found["rows"]) == (key, len(values))
    x = found["fields"]["x"]
    assert (x["count"], x["min"], x["max"], x["last"]) == (len(values), min(values), max(values), values[-1])
    assert reference.closely(expected.mean, x["mean"])
    assert reference.closely(expected.stddev, x["stddev"])
    assert reference.closely(expected.stddev**2, x["variance"])


def test_an_unknown_key_is_answered_404(answered: tuple[Running, list[Row]]) -> None:
    running, _ = answered
    for what, parameters in (("stats", {}), ("windows", {"window": "per_10s"})):
        response = running.get(path_of("nobody", what), **parameters)
        assert response.status_code == 404
        assert "nobody" in strict_json(response.content)["error"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("window", "size_s"), [("per_10s", 10), ("per_minute", 60)])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_windows_of_a_key_come_page_by_page(
    answered: tuple[Running, list[Row]], key: str, window: str, size_s: int, limit: int
) -> None:
    running, rows = answered
    found = pages(running, path_of(key, "windows"), window=window, limit=limit)
    assert all(len(page) <= limit for page in found)
    assert [row for page in found for row in page] == windows_of(rows, size_s, rows[-1]["at"])[key]


def test_windows_are_those_between_from_and_to(answered: tuple[Running, list[Row]]) -> None:
    running, rows = answered
    expected = [
        row
        for row in windows_of(rows, 10, rows[-1]["at"])["plain"]
        if "1970-01-01T00:01:00Z" <= row["window_start"] < "1970-01-01T00:03:00Z"
    ]
    parameters = {"window": "per_10s", "from": "1970-01-01T00:01:00Z", "to": "1970-01-01T01:03:00+01:00"}
    [page] = pages(running, path_of("plain", "windows"), **parameters)
    assert page == expected
    assert len(page) == 12


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_the_latest_windows_are_those_of_all_keys(answered: tuple[Running, list[Row]], limit: int) -> None:
    running, rows = answered
    closed = [found[-1] for found in windows_of(rows, 60, rows[-1]["at"]).values()]
    newest = max(row["window_start"] for row in closed)
    found = [row for page in pages(running, "/v1/windows/latest", window="per_minute", limit=limit) for row in page]
    key = lambda row: row["key"]  # noqa: E731 - two sorts, one key
    assert sorted(found, key=key) == sorted((row for row in closed if row["window_start"] == newest), key=key)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"window": "nothing"},
        {"window": "per_10s", "limit": 0},
        {"window": "per_10s", "limit": 1_000_000},
        {"window": "per_10s", "limit": "ten"},
        {"window": "per_10s", "from": "yesterday"},
        {"window": "per_10s", "cursor": "x"},
        {"window": "per_10s", "form": "1970-01-01T00:00:00Z"},
    ],
)
def test_wrong_questions_are_answered_400(answered: tuple[Running, list[Row]], parameters: dict[str, Any]) -> None:
    running, _ = answered
    for path in (path_of("plain", "windows"), "/v1/windows/latest"):
        response = running.get(path, **parameters)
        if path.endswith("latest") and "from" in parameters:
            continue
        assert response.status_code == 400, response.text
        assert response.headers["Content-Type"].startswith("application/json"), response.text
        assert strict_json(response.content)["error"]


def test_the_command_asks_the_same(answered: tuple[Running, list[Row]]) -> None:
    running, rows = answered
    folder = running.job.folder
    asked = run_command("query", "Zürich ☃", "--url", running.url, "-o", "json", cwd=folder)
    assert asked.code == 0
    assert strict_json(asked.stdout) == strict_json(running.get(path_of("Zürich ☃", "stats")).content)
    windows = run_command(
        "query", "plain", "--window", "per_minute", "--limit", "3", "--url", running.url, "-o", "json", cwd=folder
    )
    page = strict_json(windows.stdout)
    assert page["items"] == windows_of(rows, 60, rows[-1]["at"])["plain"][:3]
    assert isinstance(page["next"], str)
    all_of_it = run_command(
        "query", "plain", "--window", "per_minute", "--limit", "1000", "--url", running.url, "-o", "json", cwd=folder
    )
    assert strict_json(all_of_it.stdout)["next"] is None
    unknown = run_command("query", "nobody", "--url", running.url, cwd=folder)
    assert unknown.code == 1
    assert "nobody" in unknown.stderr


def test_history_ends_with_its_time_to_live(make_job: Callable[..., Job]) -> None:
    """Expiry goes by the shard's newest event, not by the clock."""
    job = make_job(JOB.replace("checkpoint:", "history: {raw: 2m}\n  checkpoint:"))
    running = job.run()
    when_posted(running, [{"device": "plain", "at": at, "x": 1} for at in range(0, 600, 5)])
    running.await_metric("streamjob_windows_closed_total", 59 + 9)

    def starts() -> list[str]:
        return [
            row["window_start"]
            for page in pages(running, path_of("plain", "windows"), window="per_10s")
            for row in page
        ]

    def only_the_newest() -> bool:
        return starts()[:1] >= ["1970-01-01T00:07:50Z"]

    wait_until("old windows to be forgotten", only_the_newest)
    assert starts()[-1] == "1970-01-01T00:09:40Z"
    assert 10 <= len(starts()) <= 13
    running.kill()
    running = job.run()
    wait_until("old windows to stay forgotten", only_the_newest)


def test_a_token_guards_queries_and_origins_are_allowed(make_job: Callable[..., Job]) -> None:
    rest = 'rest: {bearerToken: s3cret, corsOrigins: ["http://page.example"]}\n  checkpoint:'
    running = make_job(JOB.replace("checkpoint:", rest)).run()
    when_posted(running, [{"device": "plain", "at": 1, "x": 1}])
    running.await_processed(1)
    path = "/v1/keys/plain/stats"
    with running.http() as client:
        for headers in ({}, {"Authorization": "Bearer wrong!"}, {"Authorization": "Basic s3cret"}):
            assert client.get(path, headers=headers).status_code == 401
        allowed = {"Authorization": "Bearer s3cret", "Origin": "http://page.example"}
        response = client.get(path, headers=allowed)
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == "http://page.example"
        other = client.get(path, headers=allowed | {"Origin": "http://other.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
        preflight = client.options(
            path, headers={"Origin": "http://page.example", "Access-Control-Request-Method": "GET"}
        )
        assert preflight.status_code == 204
        assert client.get("/healthz").status_code == 200
    asked = run_command("query", "plain", "--url", running.url, "--token", "s3cret", cwd=running.job.folder)
    assert asked.code == 0, asked.stderr
