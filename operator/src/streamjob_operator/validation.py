"""A StreamJob of the cluster, checked and lowered: what the engine runs, or everything that is wrong with it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from streamjob.loading import load_source
from streamjob.models import StreamJob
from streamjob.normalise import normalise
from streamjob.problems import JobError, Problem
from streamjob.source import plain_source

from streamjob_operator import names
from streamjob_operator.merge import patch_problems

YAML_ON = "true"
"""What tools that read YAML 1.1, kubectl among them, make of the unquoted key `on`."""
MAX_MESSAGE = 1024
"""Characters of the problems that a condition tells; the webhook and the command line tell all."""
MAX_KEPT = 64
"""Checked jobs that are kept: a job that changes is looked at several times within a second."""
MAX_KEPT_BYTES = 8 << 20
"""Bytes of these jobs, as JSON with their code, and of what came out; a larger one is checked at each look."""
MAX_CODE_BYTES = 1 << 20
"""Bytes of the functions of a job, and of the job as the engine reads it: a ConfigMap has no room for more."""
MAX_REFERRED_BYTES = 2 * MAX_CODE_BYTES
"""Bytes of code from ConfigMaps of one job: that of its functions, and that of its sources and sinks."""
_METADATA = ("name", "namespace")
_POD_SPEC = ("spec", "podTemplate", "spec")


@dataclass(frozen=True, slots=True)
class ValidJob:
    """A job that can run: the model, the normalised job as JSON text without code, and the code of each UDF."""

    job: StreamJob
    config: str
    udfs: dict[str, str]

    @property
    def size(self) -> int:
        """Its characters, code that functions share once; the model stands for the text that was checked."""
        return len(self.config) + sum(map(len, set(self.udfs.values())))


@dataclass(frozen=True, slots=True)
class InvalidJob:
    """A job that cannot run, and why."""

    problems: tuple[Problem, ...]

    @property
    def message(self) -> str:
        """All problems on one line, cut to MAX_MESSAGE characters."""
        text = "; ".join(sentence(problem) for problem in self.problems)
        return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"

    @property
    def size(self) -> int:
        """Its characters."""
        return sum(len(sentence(problem)) for problem in self.problems)


ConfigMaps = Mapping[str, Mapping[str, str]]
"""The data of the ConfigMaps that a job refers to, by name."""
Checked = ValidJob | InvalidJob


class CheckedJobs:
    """Outcomes of checks by the hash of what was checked, the newest of them within both bounds.

    The webhook and the workers use it from threads of their own.
    """

    def __init__(self, limit: int = MAX_KEPT, limit_bytes: int = MAX_KEPT_BYTES) -> None:
        self._limit, self._limit_bytes = limit, limit_bytes
        self._kept: dict[bytes, tuple[int, Checked]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, text: str) -> Checked | None:
        """The outcome of this text's check, where it is kept."""
        key = _hash(text)
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                return None
            self._kept[key] = found  # its place is among the newest again
            return found[1]

    def put(self, text: str, checked: Checked) -> None:
        """Keeps an outcome; it counts as large as the text, in ASCII, and itself."""
        size = len(text) + checked.size
        if size > self._limit_bytes:
            return
        key = _hash(text)
        with self._lock:
            self._bytes += size - self._kept.pop(key, (0, None))[0]
            self._kept[key] = (size, checked)
            while len(self._kept) > self._limit or self._bytes > self._limit_bytes:
                self._bytes -= self._kept.pop(next(iter(self._kept)))[0]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


_known = CheckedJobs()


def sentence(problem: Problem) -> str:
    """A problem without file and line, which an object of a cluster has not."""
    hints = [f"got {problem.got}"] if problem.got is not None else []
    if problem.fix:
        hints.append(problem.fix)
    tail = f" ({'; '.join(hints)})" if hints else ""
    return f"{problem.path}: {problem.message}{tail}" if problem.path else f"{problem.message}{tail}"


def check(resource: Mapping[str, Any], config_maps: ConfigMaps | None) -> Checked:
    """Validates an object of the cluster. What comes out is never changed by anyone.

    Without `config_maps` (None) code in ConfigMaps stays unknown: what a webhook can say.
    """
    if sum(len(text) for texts in (config_maps or {}).values() for text in texts.values()) > MAX_REFERRED_BYTES:
        return _too_much("the code in its ConfigMaps", MAX_REFERRED_BYTES, resource["metadata"]["name"])
    metadata = {key: value for key, value in resource["metadata"].items() if key in _METADATA}
    data = {
        "apiVersion": resource.get("apiVersion", names.API_VERSION),
        "kind": resource.get("kind", names.KIND),
        "metadata": metadata,
        "spec": _readable(resource.get("spec")),
    }
    text = json.dumps([data, None if config_maps is None else {**config_maps}])
    checked = _known.get(text)
    if checked is None:
        checked = _checked(text)
        _known.put(text, checked)
    return checked


def _checked(text: str) -> Checked:
    """`check` of a job and its ConfigMaps as JSON."""
    data, config_maps = json.loads(text)
    source = plain_source(data, data["metadata"]["name"])
    reader = None if config_maps is None else _reader(config_maps)
    found = source.value(_POD_SPEC)
    problems = [source.problem((*_POD_SPEC, *path), message) for path, message in patch_problems(found)]
    try:
        loaded = load_source(source, problems, names.DATA_DIR, _no_file, reader)
    except JobError as error:
        return InvalidJob(tuple(error.problems))
    if config_maps is None:
        return ValidJob(loaded.job, "", {})
    normalised = normalise(loaded)
    udfs = {udf["name"]: udf["source"] for udf in normalised["udfs"]}
    normalised["udfs"] = [{**udf, "source": ""} for udf in normalised["udfs"]]
    config = json.dumps(normalised, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for what, texts in (("the code of its functions", udfs.values()), ("the job with its connectors' code", (config,))):
        if sum(len(text.encode()) for text in texts) > MAX_CODE_BYTES:
            return _too_much(what, MAX_CODE_BYTES, source.file)
    return ValidJob(loaded.job, config, udfs)


def _too_much(what: str, limit: int, file: str) -> InvalidJob:
    fix = "put what is shared, and data, into an image of your own: spec.image"
    return InvalidJob((Problem(file, 1, "spec", f"{what} has more than {limit >> 20} MiB", fix=fix),))


def referenced_config_maps(resource: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The ConfigMaps whose code a job runs, also of an invalid one: by name the keys that it reads."""
    spec = resource.get("spec")
    found: dict[str, frozenset[str]] = {}
    for holder in _code_holders(spec if isinstance(spec, dict) else {}):
        code = holder.get("code") if isinstance(holder, dict) else None
        config_map = code.get("configMap") if isinstance(code, dict) else None
        name, key = (config_map.get("name"), config_map.get("key")) if isinstance(config_map, dict) else (None, None)
        if isinstance(name, str) and isinstance(key, str):
            found[name] = found.get(name, frozenset()) | {key}
    return found


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
