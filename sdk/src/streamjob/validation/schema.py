"""Cross checks of schema, sources and settings."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable

from streamjob.models import SourceSpec
from streamjob.paths import parse_path
from streamjob.problems import Path, did_you_mean, suggest
from streamjob.sql import ExpressionError
from streamjob.units import format_duration, format_size
from streamjob.validation.common import Examination
from streamjob.validation.formats import check_avro, check_file_format
from streamjob.validation.kafka import check_kafka_source
from streamjob.validation.mqtt import check_mqtt_source
from streamjob.validation.python import check_python_source

_DIRECTIVES = set("YymdjHIMSfpzaAbBwuGVsFTRDh%")
"""Those that the engine reads, as Python's strptime does; s, F, T, R, D and h come on top."""
_EXPANDED = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y", "%h": "%b"}
_DIRECTIVE = re.compile(r"%([-_0:#].|\.?[369]?f|.|$)", re.DOTALL)
_MAX_FORMAT_BYTES = 256
_MIN_MEMORY = 16 * 2**20
_MAX_BODY = 512 * 2**20
"""A request is one record of the journal, which is at most this long."""


def check_schema(examination: Examination) -> None:
    """Key, time and fields."""
    schema = examination.job.spec.schema_
    scope = examination.scope
    path: Path = ("spec", "schema")
    key = schema.key
    if (key.field is None) == (key.const is None):
        examination.report((*path, "key"), "must be a field or {const: NAME}", fix="write key: FIELD")
    elif key.field is not None:
        kind = scope.fields.get(key.field)
        if kind is None:
            examination.report(
                (*path, "key"), "is not among the fields", got=key.field, fix=suggest(key.field, scope.fields, "fields")
            )
        elif kind in ("float64", "bool"):
            examination.report(
                (*path, "key"),
                f"has the type {kind}, a key is a string or int64",
                got=key.field,
                fix="use another field",
            )
    for name in schema.fields:
        if name == "_id":
            examination.report(
                (*path, "fields", name),
                "is the name of a column that results have anyway",
                got=name,
                fix="rename the field",
            )
        if name == schema.time.field:
            examination.report(
                (*path, "fields", name), "is the time field, which is not listed here", got=name, fix="remove it here"
            )
    _paths(examination)
    _time(examination)


def _paths(examination: Examination) -> None:
    """Each member of an event is read by one field, as a whole or in its parts."""
    schema = examination.job.spec.schema_
    path: Path = ("spec", "schema")
    fields = [(name, field.path, (*path, "fields", name)) for name, field in schema.fields.items()]
    taken: dict[tuple[str, ...], str] = {}
    through: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name, written, place in [*fields, (schema.time.field, schema.time.path, (*path, "time"))]:
        way = (name,) if written is None else parse_path(written)
        beginnings = [way[:length] for length in range(1, len(way))]
        other = next((part for part in (*beginnings, way) if part in taken), through.get(way))
        if other is None:
            taken[way] = name
            for part in beginnings:
                through.setdefault(part, way)
        elif taken[other] != name:
            examination.report(
                (*place, "path") if written is not None else place,
                f"reads the same member as the field {taken[other]}, or a part of it",
                got=".".join(way),
                fix="let each member be read by one field",
            )


def _time(examination: Examination) -> None:
    time = examination.job.spec.schema_.time
    path: Path = ("spec", "schema", "time")
    if (time.unit is None) == (time.format is None):
        written = examination.source.value(path)
        if not (isinstance(written, dict) and ("unit" in written) != ("format" in written)):
            message = "needs one of unit and format" if time.unit is None else "has both unit and format"
            examination.report(path, message, fix="write unit: ms for numbers, or format: rfc3339 for texts")
    if time.format is not None and time.format != "rfc3339":
        wrong = _wrong_format(time.format)
        if wrong:
            examination.report((*path, "format"), wrong[0], fix=wrong[1])
    if time.timezone != "UTC":
        zones = zoneinfo.available_timezones()
        if time.timezone not in zones:
            examination.report(
                (*path, "timezone"),
                "is not a known time zone",
                fix=did_you_mean(time.timezone, zones) or "use an IANA name such as Europe/Berlin",
            )


def _wrong_format(pattern: str) -> tuple[str, str] | None:
    """What is wrong with a pattern and how to mend it; the engine's strptime refuses the same."""
    usual = 'write rfc3339 or a pattern such as "%Y-%m-%d %H:%M:%S"'
    if len(pattern.encode()) > _MAX_FORMAT_BYTES:
        return f"is longer than {_MAX_FORMAT_BYTES} bytes", usual
    found = _directives(pattern)
    if not found:
        return "holds no % directive", usual
    if "Z" in found:
        message = "holds %Z, and the name of a time zone is no offset (EST is several)"
        return message, "use %z for offsets such as +01:00, or leave it out and set time.timezone"
    unknown = [directive for directive in found if directive not in _DIRECTIVES]
    if unknown:
        return f"holds the unknown directive %{unknown[0]}", usual
    expanded = re.sub("%[%FTRDh]", lambda match: _EXPANDED.get(match[0], match[0]), pattern)
    found = [directive for directive in _directives(expanded) if directive != "%"]
    twice = [directive for at, directive in enumerate(found) if directive in found[:at]]
    if twice:
        return f"holds %{twice[0]} twice", "read each part of a time once"
    return _wrong_date(set(found))


def _directives(pattern: str) -> list[str]:
    return [match[1] for match in _DIRECTIVE.finditer(pattern)]


def _wrong_date(found: set[str]) -> tuple[str, str] | None:
    if not found & set("YyGs"):
        return "has no year, so that every event would be of the year 1900", "add %Y"
    if found & set("GV") and not ({"G", "V"} <= found and found & set("uwaA") and not found & set("Yymdbj")):
        return (
            "has %G or %V, which mean something only together, with a weekday and without another date",
            'write "%G-%V-%u" for dates by week, or %Y, %m and %d',
        )
    return None


def check_sources(examination: Examination) -> None:
    """Names, kinds and that there is only one HTTP source."""
    sources = examination.job.spec.sources
    path: Path = ("spec", "sources")
    examination.unique(path, [source.name for source in sources], "source")
    http = None
    for index, source in enumerate(sources):
        examination.exactly_one((*path, index), source, SourceSpec.KINDS, "source")
        if source.file is not None:
            check_file_format(examination, (*path, index, "file", "format"), source.file.format)
        if source.http is not None:
            if source.http.avro is not None:
                check_avro(examination, (*path, index, "http", "avro"), source.http.avro)
            if http is not None:
                examination.report(
                    (*path, index, "http"),
                    "there is only one /ingest, and so one http source",
                    got=source.name,
                    fix=f"post to the source {http}",
                )
            http = http or source.name
        if source.mqtt is not None:
            check_mqtt_source(examination, (*path, index, "mqtt"), source.mqtt)
        if source.kafka is not None:
            check_kafka_source(examination, (*path, index, "kafka"), source.kafka)
        if source.python is not None:
            check_python_source(examination, (*path, index, "python"), source.python)


def check_settings(examination: Examination) -> None:
    """The limits of durations and sizes, and what this version does not support."""
    spec = examination.job.spec
    if spec.time.allowed_lateness > 0:
        examination.report(
            ("spec", "time", "allowedLateness"),
            "late results are not supported in this version",
            fix="write 0s, and set maxOutOfOrderness to how late events may come",
        )
    at_least: list[tuple[Path, int, int, Callable[[int], str]]] = [
        (("spec", "checkpoint", "interval"), spec.checkpoint.interval, 10_000, format_duration),
        (("spec", "ingest", "maxWait"), spec.ingest.max_wait, 1_000, format_duration),
        (("spec", "ingest", "maxBody"), spec.ingest.max_body, 1024, format_size),
        (("spec", "idempotency", "retention"), spec.idempotency.retention, 1_000_000, format_duration),
        (("spec", "history", "raw"), spec.history.raw, 1_000_000, format_duration),
        (("spec", "state", "memory"), spec.state.memory, _MIN_MEMORY, format_size),
    ]
    for path, value, least, text in at_least:
        if value < least:
            examination.report(path, f"must be at least {text(least)}", fix=f"use {text(least)} or more")
    at_most: list[tuple[Path, int, int, Callable[[int], str]]] = [
        (("spec", "checkpoint", "interval"), spec.checkpoint.interval, 3_600_000_000, format_duration),
        (("spec", "ingest", "maxBody"), spec.ingest.max_body, _MAX_BODY, format_size),
    ]
    for path, value, most, text in at_most:
        if value > most:
            examination.report(path, f"must be at most {text(most)}", fix=f"use {text(most)} or less")


def check_where(examination: Examination) -> None:
    """The filter of all events."""
    where = examination.job.spec.where
    if where is None:
        return
    try:
        examination.scope.condition(where, None)
    except ExpressionError as error:
        examination.report(("spec", "where"), str(error), fix=error.fix)
