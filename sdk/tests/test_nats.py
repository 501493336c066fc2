"""NATS in a job: what is refused, and what the engine gets."""

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
  sinks: [{{name: out, from: w, delivery: {delivery}, nats: {{servers: "a:4222", subject: "{subject}"{more}}}}}]
"""


def text(more: str = "", subject: str = "out.{key}", delivery: str = "exactly-once") -> str:
    """The job with further members of its sink."""
    return JOB.format(more=more and f", {more}", subject=subject, delivery=delivery)


def auth(more: str) -> Any:
    """How the engine signs in."""
    return normalise(load_job(text(more), base_dir="/job"))["sinks"][0]["nats"]["connection"]["auth"]


@pytest.mark.parametrize(
    ("job", "path", "message"),
    [
        (text(subject="out.{nothing}"), ".subject", "no member of the rows"),
        (text(subject="out..x"), ".subject", "is no subject"),
        (text(subject="out.*"), ".subject", "is no subject"),
        (text(subject="out.{key"), ".subject", "is no subject"),
        (text(subject="a b"), ".subject", "is no subject"),
        (text("duplicateWindow: 15s"), ".duplicateWindow", "not longer than timeout and backoff.max"),
        (text("timeout: 1ms"), ".timeout", "at least 100ms"),
        (text("username: u"), "", "has no password"),
        (text("password: {secretRef: {env: P}}"), "", "has no username"),
        (text("token: {secretRef: {env: T}}, credentials: {secretRef: {env: C}}"), ".credentials", "another way"),
        (text("token: {secretRef: {}}"), ".token.secretRef", "needs one of env, file"),
        (text("token: s3cret"), ".token", ""),
        (text("tls: {certificateFile: a.pem}"), ".tls", "has no keyFile"),
        (text("backoff: {initial: 1m, max: 1s}"), ".backoff.max", "shorter than initial"),
    ],
)
def test_what_is_wrong_is_named(job: str, path: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job)
    found = caught.value.problems
    wanted = f"spec.sinks[0].nats{path}"
    assert any(problem.path == wanted and message in problem.message for problem in found), found
    assert "s3cret" not in "".join(map(str, found))


def test_a_short_window_is_enough_for_at_least_once() -> None:
    load_job(text("duplicateWindow: 1s", delivery="at-least-once"))


def test_the_engine_gets_where_secrets_are() -> None:
    assert auth("username: u, password: {secretRef: {env: P}}") == {
        "password": {"username": "u", "password": {"env": "P"}}
    }
    assert auth("token: {secretRef: {file: t}}") == {"token": {"file": "/job/t"}}
    assert auth("credentials: {secretRef: {file: c}}") == {"credentials": {"file": "/job/c"}}
    assert auth("headers: {a: b}") is None


@pytest.mark.parametrize("subject", ["plain", "a.{key}", "{key}-{n}.{revision}.{_id}", "x.{window_start}"])
def test_subjects_are_taken(subject: str) -> None:
    load_job(text(subject=subject))
