"""The Avro schemas of a job: their texts, and what is wrong with them as far as it can be told without an engine."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from typing import Any

from streamjob.models import Avro, AvroFile, SchemaText, SourceSpec, StreamJob
from streamjob.paths import parse_path
from streamjob.problems import Path, Problem
from streamjob.resolve import ReadText, resolve_path
from streamjob.source import Source

Texts = Mapping[Path, str]
"""The text of each schema of a job, by its place in the job."""

Fields = Mapping[str, tuple[str, ...]]
"""Fields of a job, and the members that lead to each."""

_MAX_TEXT = 2**20


def schema_places(job: StreamJob) -> Iterator[tuple[Path, SchemaText, Fields | None]]:
    """Each schema that a job names: its place, and the fields that it must have, if it must have any."""
    for index, source in enumerate(job.spec.sources):
        for kind, avro, beside in _of_source(source):
            path: Path = ("spec", "sources", index, *kind)
            wanted = _wanted(job, beside)
            if avro.schema_ is not None:
                yield (*path, "schema"), avro.schema_, wanted
            for number, writer in enumerate(avro.writers if isinstance(avro, Avro) else ()):
                yield (*path, "writers", number), writer, None


def _of_source(source: SourceSpec) -> Iterator[tuple[Path, Avro | AvroFile, Container[str]]]:
    """Its Avro, if it has any: the place, and the fields that do not come from records."""
    if source.http is not None and source.http.avro is not None:
        yield ("http", "avro"), source.http.avro, ()
    if source.python is not None and source.python.format.avro is not None:
        yield ("python", "format", "avro"), source.python.format.avro, ()
    if source.mqtt is not None and source.mqtt.format.avro is not None:
        yield ("mqtt", "format", "avro"), source.mqtt.format.avro, source.mqtt.levels
    if source.file is not None and source.file.format.avro is not None:
        yield ("file", "format", "avro"), source.file.format.avro, ()
    if source.kafka is not None and source.kafka.format.avro is not None:
        yield ("kafka", "format", "avro"), source.kafka.format.avro, source.kafka.metadata


def _wanted(job: StreamJob, beside: Container[str]) -> Fields:
    """All fields but those that a source has beside its messages."""
    schema = job.spec.schema_
    paths = {name: field.path for name, field in schema.fields.items()} | {schema.time.field: schema.time.path}
    wanted = {name: path for name, path in paths.items() if name not in beside}
    return {name: (name,) if path is None else parse_path(path) for name, path in wanted.items()}


def resolve_schemas(
    job: StreamJob, source: Source, base_dir: str, read: ReadText
) -> tuple[dict[Path, str], list[Problem]]:
    """The texts of a job's schemas, and what is wrong with them."""
    texts: dict[Path, str] = {}
    problems: list[Problem] = []
    for path, schema, wanted in schema_places(job):
        text = _text(path, schema, source, base_dir, read, problems)
        if text is None:
            continue
        texts[path] = text
        member = "inline" if schema.inline is not None else "file"
        wrong = _wrong(text, wanted)
        if wrong:
            problems.append(source.problem((*path, member), wrong[0], fix=wrong[1]))
    return texts, problems


def _text(
    path: Path, schema: SchemaText, source: Source, base_dir: str, read: ReadText, problems: list[Problem]
) -> str | None:
    if schema.inline is not None or schema.file is None:
        return schema.inline
    try:
        return read(resolve_path(schema.file, base_dir))
    except FileNotFoundError:
        message, fix = "file does not exist", "the path is relative to the job's file"
    except UnicodeDecodeError:
        message, fix = "file is not UTF-8 text", "give an Avro schema as JSON"
    except OSError as error:
        message, fix = f"file cannot be read: {error.strerror or error}", "check the path and its permissions"
    problems.append(source.problem((*path, "file"), message, got=schema.file, fix=fix))
    return None


def _wrong(text: str, wanted: Fields | None) -> tuple[str, str] | None:
    """What is wrong with a schema and what to do, if anything is. The engine looks more closely when it starts."""
    if len(text.encode()) > _MAX_TEXT:
        return "the Avro schema is longer than 1 MiB", "leave documentation out"
    try:
        return _wrong_record(json.loads(text), wanted)
    except ValueError as error:
        return f"the Avro schema is no valid JSON: {error}", "correct the JSON"
    except RecursionError:
        return "the Avro schema is nested too deeply", "declare types by name, and use the names"


def _wrong_record(schema: Any, wanted: Fields | None) -> tuple[str, str] | None:
    if not isinstance(schema, dict) or schema.get("type") not in ("record", "error"):
        return "the outermost type of the Avro schema must be a record", 'write {"type": "record", "name": …}'
    if wanted is None:
        return None
    names = _Names()
    names.note(schema, "")
    for name, path in wanted.items():
        if not names.has(schema, path, ""):
            told = ".".join(path)
            return (
                f"the Avro schema has no member {told}, which the field {name} reads",
                "add it there, or correct the field's path",
            )
    return None


class _Names:
    """The declared types of a schema, by their full names."""

    def __init__(self) -> None:
        self._types: dict[str, dict[str, Any]] = {}
        self._fields: dict[int, dict[Any, list[Any]]] = {}
        self._known: dict[tuple[int, tuple[str, ...], str], bool] = {}

    def note(self, schema: Any, space: str) -> None:
        """Notes all types that are declared in a schema; names without a dot are in `space`."""
        if isinstance(schema, list):
            for branch in schema:
                self.note(branch, space)
        if not isinstance(schema, dict):
            return
        if isinstance(schema.get("name"), str) and schema.get("type") in ("record", "error", "enum", "fixed"):
            name, space = _full(schema, space)
            self._types.setdefault(name, schema)
        for member in ("type", "items", "values"):
            self.note(schema.get(member), space)
        for field in schema.get("fields", ()) if isinstance(schema.get("fields"), list) else ():
            self.note(field.get("type") if isinstance(field, dict) else None, space)

    def has(self, schema: Any, path: tuple[str, ...], space: str) -> bool:
        """Whether a path leads to something; where the schema is wrong otherwise, the engine says so.

        Each part of a schema is asked once for a path: through several fields of one name, and types that hold
        themselves, there are more ways than can be followed.
        """
        if not path:
            return True
        key = (id(schema), path, space)
        if key not in self._known:
            self._known[key] = False  # for a type that leads to itself
            self._known[key] = self._has(schema, path, space)
        return self._known[key]

    def _has(self, schema: Any, path: tuple[str, ...], space: str) -> bool:
        if isinstance(schema, list):
            return any(self.has(branch, path, space) for branch in schema)
        if isinstance(schema, str):
            declared = self._types.get(schema if "." in schema or not space else f"{space}.{schema}")
            declared = declared or self._types.get(schema)
            return declared is not None and self.has(declared, path, space)
        if not isinstance(schema, dict):
            return False
        kind = schema.get("type")
        if kind in ("record", "error"):
            space = _full(schema, space)[1]
            return any(self.has(type_, path[1:], space) for type_ in self._types_of(schema, path[0]))
        if kind == "map":
            return self.has(schema.get("values"), path[1:], space)
        return not isinstance(kind, str) and self.has(kind, path, space)

    def _types_of(self, record: dict[str, Any], name: str) -> list[Any]:
        """The types of a record's fields of a name, of which there is one in a right schema."""
        if id(record) not in self._fields:
            fields = self._fields[id(record)] = {}
            for field in record.get("fields") or ():
                if isinstance(field, dict) and isinstance(field.get("name"), str):
                    fields.setdefault(field["name"], []).append(field.get("type"))
        return self._fields[id(record)].get(name, [])


def _full(schema: dict[str, Any], space: str) -> tuple[str, str]:
    """The full name of a declared type, and the namespace of what it contains."""
    name = str(schema.get("name", ""))
    space = str(schema.get("namespace", space))
    full = name if "." in name or not space else f"{space}.{name}"
    return full, full.rpartition(".")[0]
