"""PostgreSQL in a job: what is refused, and what the engine gets."""

from __future__ import annotations

from typing import Any

import pytest

from streamjob.loading import load_job
from streamjob.normalise import normalise
from streamjob.problems import JobError

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: j}}
spec:
  schema: {{key: device, time: {{field: at, unit: ms}}, fields: {{device: string, x: int64}}}}
  sources: [{{name: in, http: {{}}}}]
  windows: [{{name: w, tumbling: 1s, aggregates: {{n: count()}}}}]
  sinks: [{{name: out, from: {out}, postgres: {{host: db, database: d, username: u, table: t{more}}}}}]
"""


def text(more: str = "", out: str = "w") -> str:
    """The job with further members of its sink."""
    return JOB.format(more=more and f", {more}", out=out)


def normalised(job: str) -> dict[str, Any]:
    """What the engine gets of the sink."""
    sink: dict[str, Any] = normalise(load_job(job, base_dir="/job"))["sinks"][0]
    return sink


@pytest.mark.parametrize(
    ("more", "path", "message"),
    [
        ("mode: upsert", "", "upsert needs a key"),
        ("key: [key]", ".key", "only for upsert"),
        ("mode: upsert, key: [k], columns: {n: n}", ".key[0]", "not among columns"),
        ("columns: {n: nothing}", ".columns.n", "no member of the rows"),
        ("columns: {}", ".columns", "names no column"),
        ("timeout: 10ms", ".timeout", "at least 1s"),
        ("backoff: {initial: 1m, max: 1s}", ".backoff.max", "shorter than initial"),
        ("tls: {keyFile: a.pem}", ".tls", "has no certificateFile"),
        ("password: {secretRef: {}}", ".password.secretRef", "needs one of env, file"),
        ("password: s3cret", ".password", ""),
        ("port: 0", ".port", ""),
        ("progressTable: 'a.b.c'", ".progressTable", ""),
    ],
)
def test_what_is_wrong_is_named(more: str, path: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(text(more))
    found = caught.value.problems
    wanted = f"spec.sinks[0].postgres{path}"
    assert any(problem.path == wanted and message in problem.message for problem in found), found
    assert "s3cret" not in "".join(map(str, found))


def test_the_engine_gets_columns_in_their_order_and_where_the_password_is() -> None:
    more = "mode: upsert, key: [k, b], columns: {k: key, b: window_start, r: revision, i: _id}"
    sink = normalised(text(f"{more}, password: {{secretRef: {{file: secret.txt}}}}"))
    assert sink["delivery"] == "exactly-once"
    assert [pair["column"] for pair in sink["postgres"]["columns"]] == ["k", "b", "r", "i"]
    assert sink["postgres"]["connection"]["password"] == {"file": "/job/secret.txt"}


def test_columns_are_found_by_the_engine_where_none_are_named() -> None:
    assert normalised(text(out="events"))["postgres"]["columns"] is None
    columns = normalised(text("columns: {when: at, id: _id}", out="events"))["postgres"]["columns"]
    assert columns == [{"column": "when", "member": "at"}, {"column": "id", "member": "_id"}]
