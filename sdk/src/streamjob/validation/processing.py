"""Cross checks of windows and UDFs."""

from __future__ import annotations

from streamjob.models import EVENTS, WindowSpec
from streamjob.problems import Path, did_you_mean, known_names, suggest
from streamjob.resolve import ResolvedUdf
from streamjob.scope import RESERVED_WINDOW, OpenColumns
from streamjob.sql import ExpressionError
from streamjob.units import format_duration
from streamjob.validation.common import Examination

_LONGEST_WINDOW_US = 8_000 * 365 * 86_400_000_000
"""Below the latest event time, the end of the year 9999, so that no difference of two times overflows."""


def check_windows(examination: Examination) -> None:
    """Names, sizes and aggregates."""
    windows = examination.job.spec.windows
    path: Path = ("spec", "windows")
    examination.unique(path, [window.name for window in windows], "window")
    for index, window in enumerate(windows):
        _window(examination, (*path, index), window)


def _window(examination: Examination, path: Path, window: WindowSpec) -> None:
    if window.name == EVENTS:
        examination.report((*path, "name"), f'"{EVENTS}" stands for the single events', fix="rename the window")
    if window.tumbling < 1_000:
        examination.report((*path, "tumbling"), "must be at least 1ms", fix="use a longer window")
    if window.tumbling > _LONGEST_WINDOW_US:
        longest = format_duration(_LONGEST_WINDOW_US)
        examination.report((*path, "tumbling"), f"must be at most {longest}", fix="use a shorter window")
    for name, text in window.aggregates.items():
        place = (*path, "aggregates", name)
        if name in RESERVED_WINDOW:
            examination.report(place, f"{name} is a column that every window has", got=name, fix="rename the aggregate")
        try:
            examination.scope.aggregate(text)
        except ExpressionError as error:
            examination.report(place, str(error), fix=error.fix)


def check_udfs(examination: Examination) -> None:
    """Where the code is, what it runs on, its inputs and its outputs."""
    specs = examination.job.spec.udfs
    path: Path = ("spec", "udfs")
    examination.unique(path, [udf.name for udf in specs], "UDF")
    taken: dict[tuple[str, str | None], dict[str, str]] = {}
    for index, (spec, udf) in enumerate(zip(specs, examination.udfs, strict=True)):
        place = (*path, index)
        one = examination.exactly_one(place, spec, ("file", "code"), "UDF")
        if one and spec.code is not None:
            examination.exactly_one((*place, "code"), spec.code, ("inline", "configMap"), "code")
        if _stage(examination, place, udf):
            _inputs(examination, place, udf)
        _outputs(examination, place, udf, taken.setdefault((udf.on, udf.window), {}))


def _stage(examination: Examination, path: Path, udf: ResolvedUdf) -> bool:
    """Whether it is known what the UDF runs on."""
    windows = examination.scope.windows
    if udf.on == "event":
        if udf.window is not None:
            examination.report((*path, "window"), "is only for a UDF on windows", fix="write on: window, or remove it")
        return True
    if udf.window is None:
        fix = f"add window: {next(iter(windows), 'NAME')}" if windows else "add a window to spec.windows"
        examination.report((*path, "window"), "is missing, the UDF could run on several or no windows", fix=fix)
        return False
    if udf.window not in windows:
        examination.report(
            (*path, "window"), "there is no such window", got=udf.window, fix=suggest(udf.window, windows, "windows")
        )
        return False
    return True


def _inputs(examination: Examination, path: Path, udf: ResolvedUdf) -> None:
    scope = examination.scope
    columns = scope.udf_inputs() if udf.on == "event" else scope.window_results(str(udf.window))
    listed = scope.event_fields() if udf.on == "event" else columns
    for index, name in enumerate(udf.inputs or ()):
        if columns.get(name) is not None:
            continue
        # Where nothing is near, fields are listed and no statistics of them.
        fix = did_you_mean(name, columns) or known_names(listed, "columns")
        message = "there is no such column"
        parts = name.split(".")
        if len(parts) > 2 and parts[0] == "stats" and scope.fields.get(".".join(parts[1:-1])) in ("string", "bool"):
            message, fix = "statistics are kept of numbers only", "use a float64 or int64 field"
        examination.report((*path, "inputs", index), message, got=name, fix=fix)


def _outputs(examination: Examination, path: Path, udf: ResolvedUdf, taken: dict[str, str]) -> None:
    scope = examination.scope
    if udf.on == "event":
        existing = {**dict.fromkeys(scope.event_fields(), "a field of the events"), "_id": "a column of all results"}
    else:
        results = scope.window_results(udf.window) if udf.window in scope.windows else OpenColumns()
        existing = {
            **dict.fromkeys(results, "a result of the window"),
            **dict.fromkeys(RESERVED_WINDOW, "a column that every window has"),
        }
    for name in udf.outputs or {}:
        owner = existing.get(name) or (f"an output of {taken[name]}" if name in taken else None)
        if owner:
            examination.report((*path, "output", name), f"{name} is {owner} already", got=name, fix="rename the output")
        taken.setdefault(name, f"the UDF {udf.name}")
