"""Formats, schemas, paths and secrets of a job: what is taken, what is refused, what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import GOOD, load_text, problems_of
from streamjob.models import StreamJob
from streamjob.normalise import normalise
from streamjob.paths import MAX_MEMBERS, parse_path

SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": name, "type": kind}
            for name, kind in (
                ("device_id", "string"),
                ("temperature", "double"),
                ("count", "long"),
                ("ok", "boolean"),
                ("timestamp", "long"),
            )
        ],
    }
)
FILES = {"/job/r.avsc": SCHEMA, "/job/broken.avsc": "{", "/job/enum.avsc": '{"type": "enum"}'}
AVRO = "avro: {schema: {file: r.avsc}}"
REGISTRY = "registry: {url: 'http://r:8081'}"


def with_http(avro: str) -> str:
    return GOOD.replace("http: {}", f"http: {{{avro}}}")


def with_file(format_: str) -> str:
    return GOOD.replace("http: {}", f"file: {{path: x, format: {format_}}}")


def source_of(text: str) -> dict[str, Any]:
    sources: list[dict[str, Any]] = normalise(load_text(text, FILES))["sources"]
    return sources[0]


def test_a_format_may_be_a_name_or_a_mapping() -> None:
    for written, meant in (
        ("arrow", "arrow"),
        ("{arrow: {}}", "arrow"),
        ("ndjson", "ndjson"),
        ("avro", {"avro": {"schema": None}}),
        ("{avro: {}}", {"avro": {"schema": None}}),
        ("{avro: {schema: {file: r.avsc}}}", {"avro": {"schema": SCHEMA}}),
    ):
        assert source_of(with_file(written))["file"]["format"] == meant
    assert source_of(GOOD)["http"] == {"avro": None}


def test_secrets_are_references_in_the_normalised_job() -> None:
    auth = "username: me, password: {secretRef: {file: pw}}"
    text = with_http(f"avro: {{framing: confluent, registry: {{url: 'http://r:8081', {auth}}}}}")
    avro = source_of(text)["http"]["avro"]
    assert avro == {
        "schema": None,
        "writers": [],
        "framing": "confluent",
        "registry": {
            "url": "http://r:8081",
            "auth": {"basic": {"username": "me", "password": {"file": "/job/pw"}}},
            "timeout_us": 10_000_000,
        },
    }
    token = "token: {secretRef: {env: TOKEN}}"
    text = with_http(f"avro: {{framing: confluent, registry: {{url: 'http://r', {token}}}}}")
    assert source_of(text)["http"]["avro"]["registry"]["auth"] == {"bearer": {"env": "TOKEN"}}


def test_a_dumped_job_is_the_same_job() -> None:
    text = with_file("{avro: {schema: {file: r.avsc}}}").replace("ok: bool", "ok: {type: bool, path: ok}")
    job = load_text(text, FILES).job
    dumped = job.model_dump(mode="json", exclude_none=True)
    assert dumped["spec"]["schema"]["fields"] == {
        "device_id": "string",
        "temperature": "float64",
        "count": "int64",
        "ok": {"type": "bool", "path": "ok"},
    }
    assert StreamJob.model_validate(dumped) == job


WRONG = [
    (with_http("avro: {}"), "http.avro", "needs a schema"),
    (with_http("avro: {schema: {}}"), "http.avro.schema", "a schema needs one of inline, file"),
    (with_http("avro: {schema: {file: nowhere.avsc}}"), "http.avro.schema.file", "does not exist"),
    (with_http("avro: {schema: {file: broken.avsc}}"), "http.avro.schema.file", "no valid JSON"),
    (with_http("avro: {schema: {file: enum.avsc}}"), "http.avro.schema.file", "must be a record"),
    (with_http("avro: {framing: confluent, schema: {file: r.avsc}}"), "http.avro", "needs a registry"),
    (with_http(f"avro: {{schema: {{file: r.avsc}}, {REGISTRY}}}"), "http.avro.registry", "only for framing: confluent"),
    (
        with_http(f"avro: {{framing: confluent, {REGISTRY}, writers: [{{file: r.avsc}}]}}"),
        "http.avro.writers",
        "registry",
    ),
    (
        with_http("avro: {schema: {file: r.avsc}, writers: [{file: r.avsc}, {file: r.avsc}]}"),
        "http.avro.writers",
        "there is only one",
    ),
    (
        with_http("avro: {framing: confluent, registry: {url: 'http://r', username: me}}"),
        "http.avro.registry.username",
        "needs a password",
    ),
    (
        with_http("avro: {framing: confluent, registry: {url: 'http://r', token: {secretRef: {}}}}"),
        "http.avro.registry.token.secretRef",
        "a secret needs one of env, file",
    ),
    (
        with_http("avro: {framing: confluent, registry: {url: 'http://me:pw@r'}}"),
        "http.avro.registry.url",
        "",
    ),
    (with_file("{arrow: {}, avro: {}}"), "file.format.avro", "only one of"),
    (with_file("{}"), "file.format", "needs one of"),
    (with_file("parquet"), "file.format", "must be one of ndjson, arrow, avro"),
]


@pytest.mark.parametrize(("text", "path", "message"), WRONG)
def test_what_does_not_fit_is_said_where_it_stands(text: str, path: str, message: str) -> None:
    found = [(problem.path, problem.message) for problem in problems_of(text, FILES)]
    assert any(place == f"spec.sources[0].{path}" and message in said for place, said in found), found


def test_a_schema_without_a_field_is_refused_with_its_name() -> None:
    text = with_http(AVRO).replace("ok: bool", "ok: {type: bool, path: status.ok}")
    (problem,) = problems_of(text, FILES)
    assert problem.message == "the Avro schema has no member status.ok, which the field ok reads"


@pytest.mark.parametrize(
    ("field", "path", "message"),
    [
        ("ok: {type: bool, path: 'a..b'}", "ok.path", "a part without a name"),
        ("ok: {type: bool, path: ''}", "ok.path", "a part without a name"),
        ("ok: {type: bool, path: 'a.\"b'}", "ok.path", "an open quote"),
        ("ok: {type: bool, path: 'a\"b\"'}", "ok.path", "a quote inside of a name"),
        ("ok: {type: bool, path: temperature}", "ok.path", "reads the same member as the field temperature"),
        ("ok: {type: bool, path: temperature.x}", "ok.path", "reads the same member as the field temperature"),
        ("ok: {path: x}", "ok.type", "is missing"),
        ("ok: 5", "ok", "must be one of string"),
    ],
)
def test_wrong_paths_are_refused(field: str, path: str, message: str) -> None:
    found = [(problem.path, problem.message) for problem in problems_of(GOOD.replace("ok: bool", field))]
    assert any(place == f"spec.schema.fields.{path}" and message in said for place, said in found), found


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=MAX_MEMBERS))
def test_any_names_can_be_written_as_a_path(names: list[str]) -> None:
    quoted = ".".join('"' + name.replace('"', '""') + '"' for name in names)
    assert parse_path(quoted) == tuple(names)
    if not any(set(name) & {".", '"'} for name in names):
        assert parse_path(".".join(names)) == tuple(names)


@given(st.text(alphabet='ab."', max_size=8))
def test_no_text_is_read_in_two_ways(text: str) -> None:
    try:
        names = parse_path(text)
    except ValueError:
        return
    assert all(names)
    assert parse_path(".".join('"' + name.replace('"', '""') + '"' for name in names)) == names
