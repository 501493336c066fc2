"""Avro, Arrow IPC and nested JSON over HTTP and from files, written by fastavro and pyarrow."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pyarrow as pa
import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form
from harness import Job, Row, Running, free_port, wait_until
from schema_registry import Registry

BASE_MS = 1_600_000_000_000
ARROW = {"Content_Type": "application/vnd.apache.arrow.stream"}
AVRO = {"Content_Type": "application/avro"}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Reading",
    "namespace": "test",
    "fields": [
        {"name": "device", "type": ["null", "string"]},
        {"name": "at", "type": "long"},
        {"name": "x", "type": ["null", "double"], "default": None},
        {"name": "n", "type": ["null", "long"], "default": None},
        {"name": "ok", "type": ["null", "boolean"], "default": None},
    ],
}
JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: formats}}
spec:
  shards: 4
  schema:
    key: device
    time: {{field: at, unit: ms}}
    fields: {{device: string, x: float64, n: int64, ok: bool}}
  sources: {sources}
  time: {{maxOutOfOrderness: 1h}}
  windows:
    - name: per_10s
      tumbling: 10s
      aggregates:
        {{rows: count(), known: count(x), total: sum(n), hi: max(x), last: last(x),
          oks: sum(case when ok then 1 end)}}
  sinks:
    - {{name: windows, from: per_10s, delivery: exactly-once, file: {{path: out}}}}
    - {{name: events, from: events, delivery: exactly-once, file: {{path: events}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 100ms}}
  ingest: {{maxWait: 500ms}}
  engine: {{workerThreads: 2}}
"""


def http_job(avro: str = "") -> str:
    return JOB.format(sources=f"[{{name: in, http: {{{avro}}}}}]")


def file_job(name: str, format_: str, speed: int = 0) -> str:
    return JOB.format(sources=f"[{{name: in, file: {{path: {name}, format: {format_}, speed: {speed}}}}}]")


def readings(count: int) -> list[Row]:
    """Good rows, with nulls in them."""
    return [
        {
            "device": f"device-{number % 7}",
            "at": BASE_MS + number * 100,
            "x": None if number % 5 == 0 else number / 4,
            "n": None if number % 6 == 0 else number,
            "ok": None if number % 4 == 0 else number % 2 == 0,
        }
        for number in range(count)
    ]


def arrow(rows: list[Row], max_rows: int = 1000, **options: Any) -> bytes:
    table = pa.Table.from_pylist(rows)
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=max_rows)
    return out.getvalue()


def container(rows: list[Row], codec: str = "null", schema: Any = SCHEMA, interval: int = 16_000) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(schema), rows, codec=codec, sync_interval=interval)
    return out.getvalue()


def record(row: Row, schema: Any = SCHEMA) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def single_object(row: Row, schema: Any = SCHEMA) -> bytes:
    name = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    return b"\xc3\x01" + bytes.fromhex(name) + record(row, schema)


def confluent(number: int, row: Row, schema: Any = SCHEMA) -> bytes:
    return b"\x00" + number.to_bytes(4, "big") + record(row, schema)


def answer(response: Any) -> tuple[int, Any]:
    return response.status_code, response.json()


def accepted(rows: int) -> tuple[int, Any]:
    return 202, {"accepted": rows, "rejected": 0, "errors": []}


def events(job: Job, count: int) -> list[Row]:
    """The events that came, without their ids, in order of time."""
    rows = wait_until(
        f"{count} events", lambda: len(found) >= count and found if (found := job.rows("events")) else None
    )
    return sorted(
        ({name: value for name, value in row.items() if name != "_id"} for row in rows), key=lambda row: row["at"]
    )


def test_arrow_and_avro_bodies_are_the_rows_that_were_written(make_job: Callable[..., Job]) -> None:
    job = make_job(http_job())
    running = job.run()
    rows = readings(600)
    bodies = [
        (arrow(rows[:100]), ARROW),
        (arrow(rows[100:200], 7, compression="lz4"), ARROW),
        (arrow(rows[200:300], compression="zstd"), ARROW),
        (container(rows[300:400]), AVRO),
        (container(rows[400:500], "deflate", interval=100), AVRO),
        (container(rows[500:], "zstandard"), {"Content_Type": "avro/binary"}),
    ]
    for body, headers in bodies:
        assert answer(running.post(body, **headers)) == accepted(100)
    assert events(job, 600) == rows


def test_arrow_types_that_mean_the_same_are_taken(make_job: Callable[..., Job]) -> None:
    job = make_job(http_job())
    running = job.run()
    table = pa.table(
        {
            "device": pa.array(["a", "b", "a"]).dictionary_encode(),
            "at": pa.array([BASE_MS * 1000, BASE_MS * 1000 + 1000, BASE_MS * 1000 + 2000], pa.timestamp("us", "UTC")),
            "x": pa.array([1, 2, None], pa.int32()),
            "n": pa.array([1, None, 3], pa.uint8()),
            "skipped": pa.array([[1], None, []]),
            "ok": pa.array([True, False, None]),
        }
    )
    out = io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    headers = {"Content_Type": "application/vnd.apache.arrow.file"}
    assert answer(running.post(out.getvalue(), **headers)) == accepted(3)
    assert [(row["device"], row["at"], row["x"], row["n"], row["ok"]) for row in events(job, 3)] == [
        ("a", BASE_MS, 1.0, 1, True),
        ("b", BASE_MS + 1, 2.0, None, False),
        ("a", BASE_MS + 2, None, 3, None),
    ]


def test_wrong_rows_are_rejected_alone_and_kept_as_dead_letters(make_job: Callable[..., Job]) -> None:
    job = make_job(http_job())
    running = job.run()
    rows = readings(3)
    rows[1] = rows[1] | {"device": None}
    wrong = {"row": 1, "field": "device", "reason": "the key is null"}
    for body, headers in ((arrow(rows), ARROW), (container(rows), AVRO)):
        assert answer(running.post(body, **headers)) == (202, {"accepted": 2, "rejected": 1, "errors": [wrong]})
    only_wrong = running.post(arrow([rows[1], rows[1]]), **ARROW)
    assert (only_wrong.status_code, only_wrong.json()["rejected"]) == (400, 2)
    dead = wait_until("dead letters", lambda: len(found) == 4 and found if (found := job.rows("dead")) else None)
    assert {row["reason"] for row in dead} == {"device: the key is null"}
    assert sorted(row["offset"] for row in dead) == [1, 4, 6, 7]
    by_offset = {row["offset"]: row["row"] for row in dead}
    assert json.loads(by_offset[1]) == {"device": None, "at": BASE_MS + 100, "x": 0.25, "n": 1, "ok": False}
    assert base64.b64decode(by_offset[4].removeprefix("base64:")) == record(rows[1])


def test_bodies_that_cannot_be_read_are_refused_as_a_whole(make_job: Callable[..., Job]) -> None:
    running = make_job(http_job()).run()
    good = arrow(readings(3))
    for body, headers, status in (
        (b"", ARROW, 400),
        (b"{}", ARROW, 400),
        (good[:-20], ARROW, 400),
        (container(readings(3))[:-3], AVRO, 400),
        (record(readings(1)[0]), AVRO, 415),
        (good, {"Content_Type": "application/vnd.apache.parquet"}, 415),
    ):
        response = running.post(body, **headers)
        assert (response.status_code, list(response.json())) == (status, ["error"]), response.text
    assert running.metrics().sum("events_received_total") == 0


def test_single_object_messages_of_old_and_new_writers(make_job: Callable[..., Job]) -> None:
    old = {
        "type": "record",
        "name": "Reading",
        "fields": [{"name": "id", "type": "string"}, {"name": "at", "type": "int"}],
    }
    reader = json.loads(json.dumps(SCHEMA))
    reader["fields"][0] |= {"aliases": ["id"]}
    reader["fields"][3] |= {"type": "long", "default": 42}
    text = http_job("avro: {framing: single-object, schema: {file: reading.avsc}, writers: [{file: old.avsc}]}")
    job = make_job(text)
    job.write("reading.avsc", json.dumps(reader))
    job.write("old.avsc", json.dumps(old))
    running = job.run()
    new = {"device": "new", "at": 2000, "x": 1.5, "n": 7, "ok": True}
    body = single_object({"id": "old", "at": 1000}, old) + single_object(new, reader)
    assert answer(running.post(body, **AVRO)) == accepted(2)
    assert events(job, 2) == [{"device": "old", "at": 1000, "x": None, "n": 42, "ok": None}, new]
    unknown = running.post(single_object(new, SCHEMA | {"name": "Other"}), **AVRO)
    assert unknown.status_code == 400
    assert "no schema with the fingerprint" in unknown.json()["error"]


def answered(running: Running, body: bytes) -> httpx.Response | None:
    """The answer to a body, once the registry has said what is under its schemas' numbers."""
    response = running.post(body, **AVRO)
    return None if response.status_code == 503 else response


def test_schemas_come_from_a_registry_that_may_be_down(make_job: Callable[..., Job]) -> None:
    port, secret = free_port(), "very-secret-7"
    registry = (
        f"registry: {{url: 'http://127.0.0.1:{port}/', username: me, password: {{secretRef: {{env: REGISTRY}}}}}}"
    )
    job = make_job(http_job(f"avro: {{framing: confluent, {registry}}}"))
    running = job.run(REGISTRY=secret)
    rows = readings(3)
    body = b"".join(confluent(7, row) for row in rows)
    down = running.post(body, **AVRO)
    assert (down.status_code, down.headers["Retry-After"]) == (503, "1")
    assert "schema registry" in down.json()["error"]
    server = Registry("me", secret, port)
    try:
        server.register(7, SCHEMA)
        server.register(9, SCHEMA, "PROTOBUF")
        server.failures = [503, 429]
        response = wait_until("an answer", partial(answered, running, body))
        assert answer(response) == accepted(3)
        assert answer(running.post(body, **AVRO)) == accepted(3)
        assert [request for request in server.requests if request[1] == 200] == [("/schemas/ids/7", 200)]
        for number, reason in ((8, "has no schema 8"), (9, "is PROTOBUF, not Avro")):
            refused = wait_until("an answer", partial(answered, running, body + confluent(number, rows[0])))
            assert refused.status_code == 400
            assert reason in refused.json()["error"]
        assert [event["x"] for event in events(job, 6)][::2] == [row["x"] for row in rows]
    finally:
        server.close()
    running.stop()
    kept = b"".join(path.read_bytes() for path in job.folder.rglob("*") if path.is_file())
    assert secret.encode() not in kept


def test_a_secret_that_is_not_there_is_named(make_job: Callable[..., Job]) -> None:
    registry = "registry: {url: 'http://127.0.0.1:9', token: {secretRef: {env: NOT_SET_ANYWHERE}}}"
    finished = make_job(http_job(f"avro: {{framing: confluent, {registry}}}")).start().await_exit()
    assert finished.code != 0
    assert "the source in: registry.token: the environment variable NOT_SET_ANYWHERE is not set" in finished.stderr


def windows_of(job: Job) -> list[Row]:
    finished = job.run_to_end()
    assert finished.totals["applied"] == finished.totals["received"]
    return sorted(job.rows("out"), key=lambda row: (row["key"], row["window_start"]))


def write_file(folder: Path, kind: str, rows: list[Row]) -> tuple[str, str]:
    """Name and format of a file with the rows."""
    name, _, variant = kind.partition("-")
    if name == "avro":
        (folder / "data.avro").write_bytes(container(rows, variant or "null"))
        return "data.avro", "avro"
    table = pa.Table.from_pylist(rows)
    opened = pa.ipc.new_file if variant == "file" else pa.ipc.new_stream
    options = pa.ipc.IpcWriteOptions(compression="zstd" if variant == "zstd" else None)
    with opened(str(folder / "data.arrow"), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=700)
    return "data.arrow", "arrow"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], list[Row]]:
    """Rows, and their windows when they come as lines."""
    rows = readings(20_000)
    job = Job(tmp_path_factory.mktemp("formats"), file_job("data.ndjson", "ndjson"))
    job.write("data.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    return rows, windows_of(job)


KINDS = ["avro", "avro-deflate", "avro-snappy", "avro-zstandard", "arrow", "arrow-file", "arrow-zstd"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_windows_of_its_rows(
    make_job: Callable[..., Job], expected: tuple[list[Row], list[Row]], kind: str
) -> None:
    rows, windows = expected
    name, format_ = ("data.avro", "avro") if kind.startswith("avro") else ("data.arrow", "arrow")
    job = make_job(file_job(name, format_))
    write_file(job.folder, kind, rows)
    assert windows_of(job) == windows


@pytest.mark.parametrize("kind", ["avro-deflate", "arrow"])
def test_a_file_goes_on_where_it_was_after_a_kill(
    make_job: Callable[..., Job], expected: tuple[list[Row], list[Row]], kind: str
) -> None:
    rows, windows = expected
    name, format_ = ("data.avro", "avro") if kind.startswith("avro") else ("data.arrow", "arrow")
    # in event time, so that the kill comes in the middle: 2,000 s of events in 10 s
    job = make_job(file_job(name, format_, speed=200))
    write_file(job.folder, kind, rows)
    running: Running = job.run()
    running.await_processed(3_000)
    running.kill()
    job.path.write_text(file_job(name, format_), encoding="utf-8")
    finished = job.run_to_end()
    assert (finished.totals["resumed"], finished.totals["received"]) == (True, len(rows))
    assert sorted(job.rows("out"), key=lambda row: (row["key"], row["window_start"])) == windows
    ids = [row["_id"] for row in job.rows("events")]
    assert len(ids) == len(set(ids)) == len(rows)


def test_a_damaged_block_costs_its_rows_and_a_cut_file_is_an_error(make_job: Callable[..., Job]) -> None:
    rows = readings(300)
    # snappy has a checksum: a changed byte costs the block
    data = container(rows, "snappy", interval=500)
    whole = fastavro.block_reader(io.BytesIO(data))
    blocks = [(block.offset, block.size, block.num_records) for block in whole]
    offset, size, lost = blocks[2]
    spoilt = bytearray(data)
    spoilt[offset + size - 16 - 10] ^= 0xFF
    job = make_job(file_job("data.avro", "avro"))
    job.write("data.avro", bytes(spoilt))
    totals = job.run_to_end().totals
    assert (totals["received"], totals["rejected"]) == (300, lost)
    first = sum(count for _, _, count in blocks[:2])
    assert sorted(row["offset"] for row in job.rows("dead")) == list(range(first, first + lost))

    cut = make_job(file_job("data.avro", "avro"), "cut")
    cut.write("data.avro", data[:-30])
    finished = cut.start("--exit-at-end").await_exit()
    assert finished.code == 1
    assert "is not whole" in finished.stderr


def test_members_of_members_are_read_from_json_and_avro(make_job: Callable[..., Job]) -> None:
    text = http_job().replace(
        "fields: {device: string, x: float64,",
        "fields: {device: {type: string, path: meta.id}, x: {type: float64, path: 'v.\"a.b\"'},",
    )
    text = text.replace("{field: at, unit: ms}", "{field: at, path: meta.at, unit: ms}")
    job = make_job(text)
    running = job.run()
    rows = [
        {"meta": {"id": "a", "at": 1}, "v": {"a.b": 1.5}, "n": 1},
        {"meta": {"id": "b", "at": 2}, "v": None},
        {"meta": 5},
    ]
    status, said = answer(running.post(rows))
    assert (status, said["accepted"]) == (202, 2)
    assert said["errors"] == [{"row": 2, "field": "meta", "reason": "expected an object, got number 5"}]
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {
                "name": "meta",
                "type": {
                    "type": "record",
                    "name": "M",
                    "fields": [
                        {"name": "id", "type": "string"},
                        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
                    ],
                },
            },
            {"name": "v", "type": ["null", {"type": "map", "values": "double"}]},
        ],
    }
    body = container([{"meta": {"id": "c", "at": 3000}, "v": {"a.b": 2.5, "c": 1.0}}], schema=schema)
    assert answer(running.post(body, **AVRO)) == accepted(1)
    table = pa.table({"meta": [{"id": "d", "at": 4}], "v": [{"a.b": 3.5}]})
    assert answer(running.post(arrow(table.to_pylist()), **ARROW)) == accepted(1)
    found = [(row["device"], row["at"], row["x"], row["n"]) for row in events(job, 4)]
    assert found == [("a", 1, 1.5, 1), ("b", 2, None, None), ("c", 3, 2.5, None), ("d", 4, 3.5, None)]
