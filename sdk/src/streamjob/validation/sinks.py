"""Cross checks of sinks and the dead-letter output."""

from __future__ import annotations

import re
from pathlib import PurePath

from streamjob.models import EVENTS, SinkSpec
from streamjob.models.sinks import DEAD_LETTERS
from streamjob.problems import Path, suggest
from streamjob.resolve import resolve_path
from streamjob.sql import ExpressionError
from streamjob.validation.common import Examination
from streamjob.validation.kafka import check_kafka_sink
from streamjob.validation.nats import check_nats_sink
from streamjob.validation.postgres import check_postgres_sink
from streamjob.validation.python import check_python_sink

_PORT = re.compile(r"https?://[^/?]*:([0-9]+)(?:[/?]|$)")
_OWN_HEADERS = ("idempotency-key", "content-length", "traceparent", "host", "connection", "transfer-encoding")


def check_sinks(examination: Examination) -> None:
    """Names, kinds, where rows come from, conditions and delivery."""
    sinks = examination.job.spec.sinks
    path: Path = ("spec", "sinks")
    examination.unique(path, [sink.name for sink in sinks], "sink")
    for index, sink in enumerate(sinks):
        place = (*path, index)
        examination.exactly_one(place, sink, SinkSpec.KINDS, "sink")
        if sink.name == DEAD_LETTERS:
            examination.report(
                (*place, "name"), "is the name of the built-in dead-letter output", fix="rename the sink"
            )
        _from(examination, place, sink)
        if sink.stdout is not None and sink.delivery == "exactly-once":
            examination.report(
                (*place, "delivery"),
                "standard output cannot be exactly-once, it keeps no position",
                fix="write at-least-once, or use a file",
            )
        if sink.http is not None:
            _http(examination, (*place, "http"), sink)
        if sink.kafka is not None:
            check_kafka_sink(examination, (*place, "kafka"), sink, sink.kafka)
        if sink.nats is not None:
            check_nats_sink(examination, (*place, "nats"), sink, sink.nats)
        if sink.postgres is not None:
            check_postgres_sink(examination, (*place, "postgres"), sink, sink.postgres)
        if sink.python is not None:
            check_python_sink(examination, (*place, "python"), sink, sink.python)
    _folders(examination)


def _from(examination: Examination, path: Path, sink: SinkSpec) -> None:
    scope = examination.scope
    if sink.from_ != EVENTS and sink.from_ not in scope.windows:
        examination.report(
            (*path, "from"),
            "is neither a window nor events",
            fix=suggest(sink.from_, dict.fromkeys([*scope.windows, EVENTS]), "known"),
        )
        return
    if sink.where is None:
        return
    try:
        scope.condition(sink.where, sink.from_)
    except ExpressionError as error:
        examination.report((*path, "where"), str(error), fix=error.fix)


def _http(examination: Examination, path: Path, sink: SinkSpec) -> None:
    http = sink.http
    assert http is not None
    port = _PORT.match(http.url)
    if port and not 0 < int(port[1]) < 65536:
        examination.report((*path, "url"), f"has the port {port[1]}", fix="use one from 1 to 65535")
    for name in http.headers:
        if name.lower() in _OWN_HEADERS:
            examination.report((*path, "headers", name), "is set by the engine itself", got=name, fix="remove it")
    examination.secret((*path, "bearerToken"), http.bearer_token)
    if http.bearer_token is not None and any(name.lower() == "authorization" for name in http.headers):
        examination.report((*path, "bearerToken"), "stands beside headers.Authorization", fix="remove one of them")
    if http.timeout < 1_000:
        examination.report((*path, "timeout"), "must be at least 1ms", fix="use for example 10s")
    examination.backoff((*path, "backoff"), http.backoff)


def _folders(examination: Examination) -> None:
    """Each folder has one writer, with what lies in it: a sink takes an empty folder, or one that it has made."""
    spec = examination.job.spec
    folders: list[tuple[Path, str, str]] = [
        (("spec", "sinks", index, "file", "path"), sink.file.path, f"the sink {sink.name}")
        for index, sink in enumerate(spec.sinks)
        if sink.file is not None
    ]
    if spec.dead_letters is not None:
        folders.append((("spec", "deadLetters", "file", "path"), spec.dead_letters.file.path, "the dead letters"))
    placed = [(PurePath(resolve_path(folder, examination.base_dir)).parts, path, who) for path, folder, who in folders]
    outer: tuple[str, ...] = ()
    owner = ""
    # What lies in a folder follows it. Of the same one the first in the job is the first here too.
    for parts, path, who in sorted(placed, key=lambda one: one[0]):
        if parts == outer:
            examination.report(path, f"is the folder of {owner} already", fix="use another folder")
        elif outer and parts[: len(outer)] == outer:
            examination.report(path, f"lies within the folder of {owner}", fix="use a folder beside it")
        else:
            outer, owner = parts, who
