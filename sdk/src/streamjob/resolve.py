"""The Python functions of a job with their modules read: where the text comes from, its inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from streamjob.models import ConfigMapCode, StreamJob, UdfSpec
from streamjob.problems import Path, Problem, suggest
from streamjob.source import MISSING, Source
from streamjob.udf_source import Declared, ModuleFacts, look_at

ReadText = Callable[[str], str]
"""Reads the UTF-8 text of an absolute path; raises OSError or UnicodeDecodeError."""

ReadConfigMap = Callable[[str, str], str]
"""Gives the text of a ConfigMap's key, `(name, key)`; raises LookupError that says what is not there."""

COLUMN_TYPES = ("string", "float64", "int64", "bool")


def read_text(path: str) -> str:
    """The text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def resolve_path(path: str, base_dir: str) -> str:
    """`path` of a job as an absolute path: relative ones are relative to the job's folder."""
    return os.path.normpath(os.path.join(base_dir, path))


@dataclass(frozen=True, slots=True)
class ResolvedUdf:
    """A UDF with everything known about it; None for what could not be found out and is reported as a problem."""

    name: str
    on: str
    window: str | None
    function: str
    text: str | None
    filename: str
    inputs: tuple[str, ...] | None
    outputs: dict[str, str] | None


def resolve_udfs(
    job: StreamJob,
    source: Source,
    base_dir: str,
    read: ReadText = read_text,
    config_maps: ReadConfigMap | None = None,
) -> tuple[list[ResolvedUdf], list[Problem]]:
    """The job's UDFs in order, and what is wrong with their modules.

    Without `config_maps`, code in a ConfigMap stays unknown, which is no problem of the job.
    """
    problems: list[Problem] = []
    resolved: list[ResolvedUdf] = []
    for index, udf in enumerate(job.spec.udfs):
        path: Path = ("spec", "udfs", index)
        in_config_map = udf.code is not None and udf.code.config_map is not None
        unknown = in_config_map and config_maps is None
        if udf.code is not None and udf.code.config_map is not None:
            text, filename = _config_map_text(udf.code.config_map, path, source, config_maps, problems)
        else:
            text, filename = _text(udf, path, source, base_dir, read, problems)
        facts = _facts(udf, text, path, source, problems) if text is not None else None
        declared = facts.declared.get(udf.function, Declared()) if facts else Declared()
        inputs = udf.inputs or declared.inputs
        outputs: dict[str, str] | None = {**udf.output} if udf.output else declared.output
        if inputs is None:
            problems += _missing("inputs", facts, unknown, path, source)
        if outputs is None:
            problems += _missing("output", facts, unknown, path, source)
        if udf.output is None and outputs is not None and not set(outputs.values()) <= set(COLUMN_TYPES):
            wrong = next(kind for kind in outputs.values() if kind not in COLUMN_TYPES)
            fix = suggest(wrong, COLUMN_TYPES, "types")
            problems.append(
                source.problem((*path, "function"), "its @udf declares an unknown type", got=wrong, fix=fix)
            )
            outputs = None
        window = udf.window
        if udf.on == "window" and window is None and len(job.spec.windows) == 1:
            window = job.spec.windows[0].name
        resolved.append(ResolvedUdf(udf.name, udf.on, window, udf.function, text, filename, inputs, outputs))
    return resolved, problems


def _missing(what: str, facts: ModuleFacts | None, unknown: bool, path: Path, source: Source) -> list[Problem]:
    """The problem of a UDF that says its inputs or output neither in the job nor in a decorator that can be read."""
    if facts is None and not unknown:
        return []  # the module itself is wrong, which is reported
    if source.value(source.original((*path, what))) is not MISSING:
        return []  # it is there, and what is wrong with it is reported
    example = "inputs: [temperature]" if what == "inputs" else "output: {score: float64}"
    message = "is missing, and the function has no @udf that declares it"
    if unknown:
        message = "is missing, and code in a ConfigMap cannot be asked for it"
    return [source.problem((*path, what), message, fix=f"add for example {example}")]


def _config_map_text(
    code: ConfigMapCode, path: Path, source: Source, config_maps: ReadConfigMap | None, problems: list[Problem]
) -> tuple[str | None, str]:
    """The module's text from a ConfigMap, where there are ConfigMaps."""
    filename = f"configmap:{code.name}/{code.key}"
    if config_maps is None:
        return None, filename
    try:
        return config_maps(code.name, code.key), filename
    except LookupError as error:
        message = str(error.args[0]) if error.args else "is not there"
        fix = "create it in the job's namespace; the job goes on as soon as it is there"
        problems.append(source.problem((*path, "code", "configMap"), message, got=f"{code.name}/{code.key}", fix=fix))
        return None, filename


def _text(
    udf: UdfSpec, path: Path, source: Source, base_dir: str, read: ReadText, problems: list[Problem]
) -> tuple[str | None, str]:
    """The module's text and the name its tracebacks show."""
    inline = udf.code.inline if udf.code else None
    if inline is not None:
        return inline, f"{resolve_path(os.path.basename(source.file), base_dir)}:spec.udfs.{udf.name}"
    if udf.file is None:
        return None, ""
    filename = resolve_path(udf.file, base_dir)
    try:
        return read(filename), filename
    except FileNotFoundError:
        message, fix = "file does not exist", "the path is relative to the job's file"
    except UnicodeDecodeError:
        message, fix = "file is not UTF-8 text", "give a Python file"
    except OSError as error:
        message, fix = f"file cannot be read: {error.strerror or error}", "check the path and its permissions"
    problems.append(source.problem((*path, "file"), message, fix=fix))
    return None, filename


def _facts(udf: UdfSpec, text: str, path: Path, source: Source, problems: list[Problem]) -> ModuleFacts | None:
    config_map = udf.code.config_map if udf.code else None
    inline = udf.file is None
    code = f"ConfigMap {config_map.name}, key {config_map.key}" if config_map else "inline code"
    try:
        facts = look_at(text, udf.file or code)
    except SyntaxError as error:
        line, message = error.lineno or 1, f"Python syntax error: {error.msg}"
    except ValueError as error:
        line, message = 1, f"is no Python text: {error}"
    else:
        if not facts.may_have(udf.function):
            fix = suggest(udf.function, facts.known(), "names in the module")
            where = udf.file or f"the {code}"
            problems.append(source.problem((*path, "function"), f"is not defined or registered in {where}", fix=fix))
        return facts
    if config_map:
        place = (*path, "code", "configMap")
        problems.append(
            source.problem(place, f"line {line}: {message}", got=_line_of(text, line), fix="correct the ConfigMap")
        )
    elif inline:
        place = (*path, "code", "inline")
        problem = source.problem(place, message, got=_line_of(text, line), fix="correct this line")
        # A block text begins on the line below its key.
        line += problem.line
        problems.append(Problem(problem.file, line, problem.path, problem.message, problem.got, problem.fix))
    else:
        file = os.path.normpath(os.path.join(os.path.dirname(source.file), str(udf.file)))
        problems.append(Problem(file, line, "", message, _line_of(text, line), "correct this line"))
    return None


def _line_of(text: str, line: int) -> str | None:
    lines = text.splitlines()
    return lines[line - 1].strip()[:60] if 0 < line <= len(lines) else None
