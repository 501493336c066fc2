"""Validation of the shape: raw data against the models, with every error as a Problem.

Where some members are wrong, a partial job of the others is built as well, so that the cross checks can report their
errors in the same run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from streamjob.models import API_VERSION, KIND, Secret, StreamJob
from streamjob.problems import MAX_PROBLEMS, Path, Problem, did_you_mean, value_text
from streamjob.source import DEEP, DEEP_FIX, MAX_DEPTH, MAX_VALUES, Source, plain_scalar

_LATER = {
    ("WindowSpec", "sliding"): "sliding windows are not supported in this version",
    ("WindowSpec", "session"): "session windows are not supported in this version",
    ("HistorySpec", "rollups"): "rollups are not supported in this version",
}
_LATER_FIX = {"sliding": "use tumbling", "session": "use tumbling", "rollups": "use history.raw alone"}
_TYPES = {
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of names to values",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}
_TYPE_FIXES = {
    "string_type": "put it in quotes",
    "bool_type": "write true or false",
    "list_type": 'begin each item with "- "',
    "tuple_type": 'begin each item with "- "',
    "model_type": "write its members below it, or {} for none",
    "dict_type": "write name: value below it",
}
_PATTERN_FIXES = {
    "url": 'write for example "http://127.0.0.1:9000/alerts"',
    "metadata.name": "use lower-case letters, digits and dashes",
    "columns": "use letters, digits and . _ -, beginning with a letter or _",
    "name": "use letters, digits, _ and -, beginning with a letter",
    "headers": "use letters, digits and dashes",
}
_REFERENCE = "write {secretRef: {env: NAME}} or {secretRef: {file: PATH}}"
_USER = re.compile(r"https?://[^/?#]*@")
_ROUNDS = 20
_STAND_INS: dict[Path, Any] = {
    ("apiVersion",): API_VERSION,
    ("kind",): KIND,
    ("metadata",): {"name": "job"},
    ("spec", "schema", "key"): {"const": "key"},
    ("spec", "schema", "time"): {"field": "timestamp", "unit": "ms"},
    ("spec", "sources"): [{"name": "in", "http": {}}],
}
_ITEM_STAND_INS: dict[Any, dict[Any, Any]] = {
    "sources": {"name": "source"},
    "windows": {"name": "window", "tumbling": "1d", "aggregates": {"n": "count()"}},
    "udfs": {"name": "udf"},
    "sinks": {"name": "sink"},
}
"""What takes the place of a wrong member without which there would be nothing left to examine."""


def check_spec(source: Source) -> tuple[StreamJob | None, list[Problem], Source, int]:
    """Validates `source` against the models.

    Returns (job, problems, view, more): `job` is the job, or of a wrong one what is left without its wrong members
    (None if that is no job, or if more than MAX_PROBLEMS are wrong); `view` is `source` with the places of that job's
    members; `more` is how many errors there are beside `problems`.
    """
    excess = _excess(source.data)
    if excess is not None:
        message, fix = excess
        return None, [Problem(source.file, 1, "", message, fix=fix)], source, 0
    try:
        return StreamJob.model_validate(source.data), [], source, 0
    except ValidationError as error:
        more = max(0, error.error_count() - MAX_PROBLEMS)
        problems = list(_problems(_errors(error), source))
        job, view = (None, source) if more else _partial(error, source)
        return job, problems, view, more


def _excess(data: Any) -> tuple[str, str] | None:
    """Why no job is made of data, and the fix; data that was read from YAML is within these bounds."""
    count, pending = 0, [(data, 0)]
    while pending:
        value, depth = pending.pop()
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += len(parts)
        if count > MAX_VALUES:
            return f"has more than {MAX_VALUES:,} values", "make several jobs of it"
        if depth > MAX_DEPTH:
            return DEEP, DEEP_FIX
        pending += [(part, depth + 1) for part in parts if isinstance(part, (dict, list))]
    return None


def _errors(error: ValidationError) -> list[ErrorDetails]:
    """The first MAX_PROBLEMS of the errors."""
    return error.errors(include_url=False)[:MAX_PROBLEMS]


def _partial(error: ValidationError, source: Source) -> tuple[StreamJob | None, Source]:
    """The job without members that are wrong; a member whose required part is missing goes as a whole."""
    removed: set[Path] = set()
    view, data = source, source.data
    for _ in range(_ROUNDS):
        for detail in _errors(error):
            path = view.original(_path(detail, data))
            whole = detail["type"] == "missing" and not _replaceable(path)
            removed.add(path[:-1] if whole else path)
        view = Source(source.file, source.data, source.lines)
        if () in removed or ("spec",) in removed:
            break
        data = _without(source.data, (), removed, view.index_map)
        _stand_in(data, removed)
        try:
            return StreamJob.model_validate(data), view
        except ValidationError as next_error:
            error = next_error
    return None, source


def _replaceable(path: Path) -> bool:
    """Whether the rest can be examined without this member, with something else in its place."""
    return path in _STAND_INS or (len(path) == 4 and path[1] in _ITEM_STAND_INS and path[3] in _ITEM_STAND_INS[path[1]])


def _stand_in(data: Any, removed: set[Path]) -> None:
    spec = data.get("spec") if isinstance(data, dict) else None
    for part, members in _ITEM_STAND_INS.items():
        items = spec.get(part) if isinstance(spec, dict) else None
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict):
                for member, value in members.items():
                    item.setdefault(member, f"{value}-{index}" if member == "name" else value)
    for path, value in _STAND_INS.items():
        parent = data
        for part in path[:-1]:
            parent = parent.get(part) if isinstance(parent, dict) else None
        if isinstance(parent, dict) and any(path[: len(other)] == other for other in removed):
            parent.setdefault(path[-1], value)


def _without(value: Any, path: Path, removed: set[Path], index_map: dict[Path, list[int]]) -> Any:
    if isinstance(value, dict):
        return {
            key: _without(item, (*path, key), removed, index_map)
            for key, item in value.items()
            if (*path, key) not in removed
        }
    if isinstance(value, list):
        kept = [index for index in range(len(value)) if (*path, index) not in removed]
        index_map[path] = kept
        return [_without(value[index], (*path, index), removed, index_map) for index in kept]
    return value


def _path(detail: ErrorDetails, data: Any) -> Path:
    """Where it is in the job. pydantic's own place names as well which choice of several it has tried."""
    path: list[int | str] = []
    at = data
    for number, part in enumerate(detail["loc"], 1):
        if isinstance(at, dict) and part in at:
            at = at[part]
            path.append(part)
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            path.append(part)
            at = at[part]
        elif number == len(detail["loc"]) and detail["type"] == "missing":
            path.append(part)
    return tuple(path)


def _problems(errors: list[ErrorDetails], source: Source) -> Iterator[Problem]:
    details = [(detail, _path(detail, source.data)) for detail in errors]
    later = {path[:-1] for detail, path in details if _is_later(detail, path)}
    renamed = dict(_renamed(details))
    around = {path[:length] for _, path in details for length in range(len(path))}
    said: set[Path] = set()
    for detail, path in details:
        if detail["type"] == "missing" and (path[:-1] in later or renamed.get(path[:-1]) == path[-1]):
            continue  # the unknown member beside it says it already
        if _is_of_another_choice(detail, path, around, said):
            continue
        said.add(path)
        yield _problem(detail, path, source)


def _is_of_another_choice(detail: ErrorDetails, path: Path, around: set[Path], said: set[Path]) -> bool:
    """Whether it says that a value is not one of several kinds, of which another problem says more.

    `around` holds the places within which there are others.
    """
    if detail["type"] == "literal_error" and isinstance(detail["input"], dict):
        return path in around
    return detail["type"] in ("literal_error", *_TYPES) and path in said


def _renamed(details: list[tuple[ErrorDetails, Path]]) -> Iterator[tuple[Path, str]]:
    """Members that are missing because they are misspelt: the path around them and their right name."""
    missing: dict[Path, list[str]] = {}
    for detail, path in details:
        if detail["type"] == "missing":
            missing.setdefault(path[:-1], []).append(str(path[-1]))
    for detail, path in details:
        if detail["type"] != "extra_forbidden":
            continue
        names = missing.get(path[:-1])
        wanted = did_you_mean(str(path[-1]), names) if names else None
        if wanted:
            yield path[:-1], wanted.split('"')[1]


def _is_later(detail: ErrorDetails, path: Path) -> bool:
    model = _model_at(path[:-1])
    return detail["type"] == "extra_forbidden" and model is not None and (model.__name__, str(path[-1])) in _LATER


def _problem(detail: ErrorDetails, path: Path, source: Source) -> Problem:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(path, source)
    if kind == "missing":
        return source.problem(path, "is missing", fix=_missing_fix(path))
    if kind == "streamjob":
        return source.problem(path, context["message"], fix=context["fix"])
    if kind in _TYPES:
        value = source.value(path)
        if _model_at(path) is Secret:
            # What stands there may be the secret itself: it is not quoted.
            plain = source.problem(path, "is where a secret is, not the secret", fix=_REFERENCE)
            return Problem(plain.file, plain.line, plain.path, plain.message, None, plain.fix)
        got = "a list" if isinstance(value, list) else "a mapping" if isinstance(value, dict) else value_text(value)
        number = "write it without quotes" if _quoted_number(value) else "write a number"
        plain = source.problem(path, _TYPES[kind], fix=_TYPE_FIXES.get(kind, number))
        return Problem(plain.file, plain.line, plain.path, plain.message, got, plain.fix)
    if kind == "literal_error":
        return _choice(path, str(context["expected"]), source)
    if kind in ("string_pattern_mismatch", "string_too_long", "string_too_short"):
        return _text(kind, context, path, source, key=detail["loc"][-1] == "[key]")
    if kind == "too_short":
        return source.problem(path, "is empty", fix="give at least one")
    if kind == "too_long":
        most = context["max_length"]
        plain = source.problem(path, f"has more than {most:,} members", fix="use fewer")
        return Problem(plain.file, plain.line, plain.path, plain.message, f"{len(source.value(path)):,}", plain.fix)
    bounds = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    if kind in bounds:
        word, key = bounds[kind]
        limit = f"{context[key]:g}"
        return source.problem(
            path, f"must be {word} {limit}", fix=f"use {limit} or {'more' if key == 'ge' else 'less'}"
        )
    return source.problem(path, str(detail["msg"]), fix="correct the value")


def _quoted_number(value: Any) -> bool:
    """Whether a value is a text that would be a number without its quotes."""
    return isinstance(value, str) and isinstance(plain_scalar(value), (int, float))


def _unknown(path: Path, source: Source) -> Problem:
    name, model = str(path[-1]), _model_at(path[:-1])
    known = _members(model) if model else []
    later = _LATER.get((model.__name__ if model else "", name))
    if later:
        return source.problem(path, later, fix=_LATER_FIX[name])
    fix = did_you_mean(name, known) or (f"known here: {', '.join(known)}" if known else "remove it")
    return source.problem(path, "unknown field", got=name, fix=fix)


def _missing_fix(path: Path) -> str:
    examples = {
        "apiVersion": "add apiVersion: streamjob.dev/v1alpha1",
        "kind": "add kind: StreamJob",
        "key": "add key: FIELD, or key: {const: NAME} for data without one",
        "time": "add time: {field: timestamp, unit: ms}",
        "tumbling": "add the window's size, for example tumbling: 10s",
        "sources": "add for example - {name: in, http: {}}",
        "from": "add from: events, or the name of a window",
    }
    return examples.get(str(path[-1]), f"add {path[-1]}:")


def _choice(path: Path, expected: str, source: Source) -> Problem:
    choices = [part.strip("' ") for part in expected.replace(" or ", ", ").split(", ")]
    value = source.value(path)
    nearest = did_you_mean(value, choices) if isinstance(value, str) else None
    if len(choices) == 1:
        return source.problem(path, f"must be {choices[0]}", fix=f"write {choices[0]}")
    return source.problem(path, f"must be one of {', '.join(choices)}", fix=nearest or f"write {choices[0]}")


def _text(kind: str, context: dict[str, Any], path: Path, source: Source, *, key: bool) -> Problem:
    if kind == "string_too_long":
        return source.problem(path, f"is longer than {context['max_length']} characters", fix="shorten it")
    if kind == "string_too_short":
        return source.problem(path, "is empty", fix="write a text")
    what = str(path[-1])
    if path == ("metadata", "name"):
        what = "metadata.name"
    elif key:
        what = "headers" if "headers" in path else "columns"
    elif what == "field":
        what = "columns"
    elif path[-2:-1] == ("headers",):
        # The value may be a secret: it is not quoted.
        plain = source.problem(path, "has characters other than visible ASCII", fix="encode them")
        return Problem(plain.file, plain.line, plain.path, plain.message, None, plain.fix)
    fix = _PATTERN_FIXES.get(what, _PATTERN_FIXES["name"])
    message = "is not a web address" if what == "url" else "is not a valid name"
    if what == "url" and _USER.match(str(source.value(path))):
        # A password is not quoted.
        plain = source.problem(path, "holds a user", fix="put user and password into headers.Authorization")
        return Problem(plain.file, plain.line, plain.path, plain.message, None, plain.fix)
    return source.problem(path, message, got=path[-1] if key else source.value(path), fix=fix)


def _members(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(path: Path) -> type[BaseModel] | None:
    """The model that describes the mapping at `path`, or None for a free mapping."""
    annotation: Any = StreamJob
    for part in path:
        if isinstance(part, int):
            continue  # a list's annotation was already taken apart to its item
        values = _values_in(annotation)
        if values is not None:
            annotation = values
            continue
        model = _model_in(annotation)
        fields = {field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()}
        if part not in fields:
            return None
        annotation = fields[part].annotation
    return _model_in(annotation) if _values_in(annotation) is None else None


def _values_in(annotation: Any) -> Any | None:
    """The values of a mapping by names, if that is what `annotation` says."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    found = (_values_in(argument) for argument in get_args(annotation) if get_origin(annotation) is not list)
    return next((values for values in found if values is not None), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found:
            return found
    return None
