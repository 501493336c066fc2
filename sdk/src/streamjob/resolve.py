"""The Python functions of a job with their modules read: where the text comes from, its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

from streamjob.models import PythonCode, StreamJob
from streamjob.modules import (
    Module,
    ModuleText,
    ReadConfigMap,
    Reader,
    ReadText,
    read_text,
    resolve_path,
)
from streamjob.problems import Path, Problem, suggest
from streamjob.source import MISSING, Source
from streamjob.udf_source import Declared, ModuleFacts

__all__ = [
    "COLUMN_TYPES",
    "ReadConfigMap",
    "ReadText",
    "ResolvedUdf",
    "python_connectors",
    "read_text",
    "resolve_connectors",
    "resolve_path",
    "resolve_udfs",
]

COLUMN_TYPES = ("string", "float64", "int64", "bool")


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
    reader = Reader(source, base_dir, read, config_maps, problems)
    for index, udf in enumerate(job.spec.udfs):
        path: Path = ("spec", "udfs", index)
        module = Module(udf.file, udf.code, udf.function, "function", f"spec.udfs.{udf.name}")
        unknown = reader.is_unknown(module)
        found = reader.text(module, path)
        text, filename = found.text, found.filename
        facts = reader.facts(module, text, path) if text is not None else None
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
    if facts is not None and facts.too_long:
        message = "is missing, and so much code is not looked into for it"
    if unknown:
        message = "is missing, and code in a ConfigMap cannot be asked for it"
    return [source.problem((*path, what), message, fix=f"add for example {example}")]


def python_connectors(job: StreamJob) -> list[tuple[Path, PythonCode, Module]]:
    """The sources and sinks in Python: the place of each, its members, and the module that it names."""
    found: list[tuple[Path, PythonCode, Module]] = []
    for index, source in enumerate(job.spec.sources):
        generator = source.python
        if generator is not None:
            label = f"spec.sources.{source.name}"
            module = Module(generator.file, generator.code, generator.function, "function", label)
            found.append((("spec", "sources", index, "python"), generator, module))
    for index, sink in enumerate(job.spec.sinks):
        writer = sink.python
        if writer is not None:
            module = Module(writer.file, writer.code, writer.class_, "class", f"spec.sinks.{sink.name}")
            found.append((("spec", "sinks", index, "python"), writer, module))
    return found


def resolve_connectors(
    job: StreamJob,
    source: Source,
    base_dir: str,
    read: ReadText = read_text,
    config_maps: ReadConfigMap | None = None,
) -> tuple[dict[Path, ModuleText], list[Problem]]:
    """The modules of the sources and sinks in Python, by their places, and what is wrong with them."""
    problems: list[Problem] = []
    reader = Reader(source, base_dir, read, config_maps, problems)
    texts: dict[Path, ModuleText] = {}
    for path, _, module in python_connectors(job):
        texts[path] = reader.text(module, path)
        text = texts[path].text
        if text is not None:
            reader.facts(module, text, path)
    return texts, problems
