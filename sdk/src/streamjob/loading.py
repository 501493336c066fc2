"""A job from wherever it comes (a file, YAML text, plain data, a model), validated as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from streamjob.avro import Texts, resolve_schemas
from streamjob.models import StreamJob
from streamjob.modules import ModuleText
from streamjob.problems import JobError, Path, Problem, few_suggestions
from streamjob.resolve import ReadConfigMap, ReadText, ResolvedUdf, read_text, resolve_connectors, resolve_udfs
from streamjob.scope import Scope
from streamjob.source import Source, parse_yaml, plain_source
from streamjob.validation.cross import check_cross
from streamjob.validation.spec import check_spec

JobLike = str | os.PathLike[str] | Mapping[str, Any] | StreamJob


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A valid job with its UDFs and schemas read; `base_dir` is what its relative paths are relative to."""

    job: StreamJob
    base_dir: str
    udfs: tuple[ResolvedUdf, ...]
    source: Source
    schemas: Texts = field(default_factory=dict)
    """The texts of its Avro schemas, by their places in the job."""
    modules: Mapping[Path, ModuleText] = field(default_factory=dict)
    """The modules of its sources and sinks in Python, by their places in the job."""
    scope: Scope | None = None
    """Its columns with the expressions that were lowered."""


def load_job(
    job: JobLike,
    *,
    base_dir: str | None = None,
    read: ReadText = read_text,
    config_maps: ReadConfigMap | None = None,
) -> LoadedJob:
    """Reads and validates a job.

    `job` is a path, YAML text (told by a line break), a mapping or a StreamJob. `base_dir` is what relative paths are
    relative to; default is the folder of the file, or the working directory. `read` reads a text file, `config_maps` a
    ConfigMap's key; without it code in a ConfigMap stays unknown.
    Raises JobError with all problems, or OSError if the job's file cannot be read.
    """
    source, problems, folder = _source(job, read)
    base = os.path.abspath(base_dir if base_dir is not None else folder)
    if source is None:
        raise JobError(problems)
    return load_source(source, problems, base, read, config_maps)


def load_source(
    source: Source,
    problems: list[Problem],
    base_dir: str,
    read: ReadText = read_text,
    config_maps: ReadConfigMap | None = None,
) -> LoadedJob:
    """Validates a job that is read already; `problems` are those of its reading. Raises JobError."""
    with few_suggestions():
        return _loaded(source, problems, base_dir, read, config_maps)


def _loaded(
    source: Source, problems: list[Problem], base_dir: str, read: ReadText, config_maps: ReadConfigMap | None
) -> LoadedJob:
    parsed, spec_problems, view, more = check_spec(source)
    problems = [*problems, *spec_problems]
    scope = None
    udfs: list[ResolvedUdf] = []
    schemas: dict[Path, str] = {}
    modules: dict[Path, ModuleText] = {}
    if parsed is not None:
        udfs, udf_problems = resolve_udfs(parsed, view, base_dir, read, config_maps)
        schemas, schema_problems = resolve_schemas(parsed, view, base_dir, read)
        modules, module_problems = resolve_connectors(parsed, view, base_dir, read, config_maps)
        examination = check_cross(parsed, view, base_dir, udfs)
        scope, more = examination.scope, more + examination.more
        problems += udf_problems + schema_problems + module_problems + examination.problems
    if problems or parsed is None:
        raise JobError(problems, more)
    return LoadedJob(parsed, base_dir, tuple(udfs), source, schemas, modules, scope)


def _source(job: JobLike, read: ReadText) -> tuple[Source | None, list[Problem], str]:
    if isinstance(job, StreamJob):
        data = job.model_dump(mode="json", exclude_none=True)
        return plain_source(data, "<StreamJob>"), [], os.curdir
    if isinstance(job, Mapping):
        return plain_source(job), [], os.curdir
    if isinstance(job, str) and "\n" in job:
        return *parse_yaml(job, "<text>"), os.curdir
    path = os.fspath(job)
    try:
        text = read(path)
    except UnicodeDecodeError:
        return None, [Problem(path, 1, "", "is not UTF-8 text", fix="save the file as UTF-8")], os.curdir
    return *parse_yaml(text, path), str(FilePath(path).parent)
