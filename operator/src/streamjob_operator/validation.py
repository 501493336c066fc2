"""A StreamJob of the cluster, checked and lowered: what the engine runs, or everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from streamjob.loading import load_source
from streamjob.models import StreamJob
from streamjob.normalise import normalise
from streamjob.problems import JobError, Problem
from streamjob.source import plain_source

from streamjob_operator import names

YAML_ON = "true"
"""What tools that read YAML 1.1, kubectl among them, make of the unquoted key `on`."""
MAX_MESSAGE = 1024
"""Characters of the problems that a condition tells; the webhook and the command line tell all."""
MAX_KEPT = 64
"""Checked jobs that are kept: a job that changes is looked at several times within a second."""
_METADATA = ("name", "namespace")


@dataclass(frozen=True, slots=True)
class ValidJob:
    """A job that can run: the model, the normalised job as JSON text without code, and the code of each UDF."""

    job: StreamJob
    config: str
    udfs: dict[str, str]


@dataclass(frozen=True, slots=True)
class InvalidJob:
    """A job that cannot run, and why."""

    problems: tuple[Problem, ...]

    @property
    def message(self) -> str:
        """All problems on one line, cut to MAX_MESSAGE characters."""
        text = "; ".join(sentence(problem) for problem in self.problems)
        return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


ConfigMaps = Mapping[str, Mapping[str, str]]
"""The data of the ConfigMaps that a job refers to, by name."""


def sentence(problem: Problem) -> str:
    """A problem without file and line, which an object of a cluster has not."""
    hints = [f"got {problem.got}"] if problem.got is not None else []
    if problem.fix:
        hints.append(problem.fix)
    tail = f" ({'; '.join(hints)})" if hints else ""
    return f"{problem.path}: {problem.message}{tail}" if problem.path else f"{problem.message}{tail}"


def check(resource: Mapping[str, Any], config_maps: ConfigMaps | None) -> ValidJob | InvalidJob:
    """Validates an object of the cluster.

    Without `config_maps` (None) code in ConfigMaps stays unknown: what a webhook can say.
    """
    metadata = {key: value for key, value in resource["metadata"].items() if key in _METADATA}
    data = {
        "apiVersion": resource.get("apiVersion", names.API_VERSION),
        "kind": resource.get("kind", names.KIND),
        "metadata": metadata,
        "spec": _readable(resource.get("spec")),
    }
    return _checked(json.dumps([data, None if config_maps is None else {**config_maps}]))


@lru_cache(maxsize=MAX_KEPT)
def _checked(text: str) -> ValidJob | InvalidJob:
    """`check` of a job and its ConfigMaps as JSON; what comes out is never changed by anyone."""
    data, config_maps = json.loads(text)
    source = plain_source(data, data["metadata"]["name"])
    reader = None if config_maps is None else _reader(config_maps)
    try:
        loaded = load_source(source, [], names.DATA_DIR, _no_file, reader)
    except JobError as error:
        return InvalidJob(tuple(error.problems))
    if config_maps is None:
        return ValidJob(loaded.job, "", {})
    normalised = normalise(loaded)
    udfs = {udf["name"]: udf["source"] for udf in normalised["udfs"]}
    normalised["udfs"] = [{**udf, "source": ""} for udf in normalised["udfs"]]
    config = json.dumps(normalised, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return ValidJob(loaded.job, config, udfs)


def referenced_config_maps(resource: Mapping[str, Any]) -> frozenset[str]:
    """The names of the ConfigMaps whose code a job runs, also of an invalid one."""
    spec = resource.get("spec")
    found: set[str] = set()
    for holder in _code_holders(spec if isinstance(spec, dict) else {}):
        code = holder.get("code") if isinstance(holder, dict) else None
        config_map = code.get("configMap") if isinstance(code, dict) else None
        if isinstance(config_map, dict) and isinstance(config_map.get("name"), str):
            found.add(config_map["name"])
    return frozenset(found)


def _code_holders(spec: Mapping[str, Any]) -> Iterator[Any]:
    """Everything in a spec that may have `code`: UDFs, and sources and sinks in Python."""
    for part in ("udfs", "sources", "sinks"):
        items = spec.get(part)
        for item in items if isinstance(items, list) else ():
            yield item if part == "udfs" else item.get("python") if isinstance(item, dict) else None


def _readable(spec: Any) -> Any:
    """The spec with `on` where kubectl, which reads YAML 1.1, has made the member `true` of it."""
    udfs = spec.get("udfs") if isinstance(spec, Mapping) else None
    if not isinstance(udfs, list):
        return spec
    return {**spec, "udfs": [_with_on(udf) for udf in udfs]}


def _with_on(udf: Any) -> Any:
    if not isinstance(udf, Mapping) or YAML_ON not in udf:
        return udf
    return {**{key: value for key, value in udf.items() if key != YAML_ON}, "on": udf[YAML_ON]}


def _no_file(_path: str) -> NoReturn:
    raise OSError(0, "it exists only beside the job on one machine; use code: on Kubernetes")


def _reader(config_maps: ConfigMaps) -> Any:
    def read(name: str, key: str) -> str:
        if name not in config_maps:
            raise LookupError(f"the ConfigMap {name} is not there")
        if key not in config_maps[name]:
            raise LookupError(f"the ConfigMap {name} has no key {key}")
        return config_maps[name][key]

    return read
