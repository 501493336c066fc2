"""The normalised job beside the state, so that a restart with an unchanged job need not validate it again.

Validating costs more than half of a restart's processor time, nearly all of it the import of pydantic and sqlglot. What
is kept is used only where nothing that it was made from has changed: the texts of the job's file and of its UDFs'
files, this package's own files, Python's version.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamjob

if TYPE_CHECKING:
    from streamjob.loading import LoadedJob

_FILE = "prepared-job.json"
_FORMAT = 1
_MAX_BYTES = 64 * 2**20
"""A longer file is none of ours."""

_MAX_LOOKS = 64
"""State directories looked through for that of a job whose name is not known yet."""


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A valid job as the engine takes it; `files` and `digest` say what its normalised JSON was made from."""

    name: str
    job_json: str
    files: tuple[str, ...]
    digest: str


def prepare(path: str) -> tuple[LoadedJob, PreparedJob] | None:
    """Validates the job of a file, or prints its problems to stderr and gives None."""
    from streamjob.cli.common import load_or_report, report
    from streamjob.native import engine_json
    from streamjob.problems import JobError
    from streamjob.resolve import read_text

    texts: dict[str, str] = {}

    def read(file: str) -> str:
        text = read_text(file)
        texts[os.path.abspath(file)] = text
        return text

    loaded = load_or_report(path, read)
    if loaded is None:
        return None
    try:
        job_json = engine_json(loaded)
    except JobError as error:
        report(error.problems)
        return None
    digest = _digest(os.path.abspath(path), texts, job_json)
    return loaded, PreparedJob(loaded.job.metadata.name, job_json, tuple(texts), digest)


def remember(prepared: PreparedJob, path: str, state_dir: str) -> None:
    """Keeps `prepared` in the state directory. Only its owner can read it: a job may hold a sink's secrets.

    What cannot be written is made again by the next start.
    """
    entry = {
        "format": _FORMAT,
        "job": os.path.abspath(path),
        "name": prepared.name,
        "files": prepared.files,
        "digest": prepared.digest,
        "normalised": prepared.job_json,
    }
    with contextlib.suppress(OSError):
        # A temporary file is its owner's alone, whatever the umask says.
        handle, temporary = tempfile.mkstemp(prefix=f".{_FILE}.", dir=state_dir)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entry, file, ensure_ascii=False)
            os.replace(temporary, os.path.join(state_dir, _FILE))
        except BaseException:
            os.unlink(temporary)
            raise


def recall(path: str, state_dir: str | None) -> PreparedJob | None:
    """What an earlier start kept of the job in `path`, if all that it was made from is as it was then.

    Without `state_dir` it is looked for below `./.streamjob`, where state directories are by default.
    """
    if state_dir is not None:
        return _recall(os.path.join(state_dir, _FILE), path)
    for file in sorted(glob.glob(os.path.join(".streamjob", "*", _FILE)))[:_MAX_LOOKS]:
        prepared = _recall(file, path)
        # A copied directory may hold what belongs to another.
        if prepared is not None and prepared.name == os.path.basename(os.path.dirname(file)):
            return prepared
    return None


def _recall(file: str, path: str) -> PreparedJob | None:
    job = os.path.abspath(path)
    try:
        if os.path.getsize(file) > _MAX_BYTES:
            return None
        with open(file, encoding="utf-8") as opened:
            entry = json.load(opened)
        if entry["format"] != _FORMAT or entry["job"] != job or job not in entry["files"]:
            return None
        found = PreparedJob(entry["name"], entry["normalised"], tuple(entry["files"]), entry["digest"])
        texts = {name: _text(name) for name in found.files}
        return found if _digest(job, texts, found.job_json) == found.digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, torn, or of another version: the job is validated


def _text(name: str) -> str:
    with open(name, encoding="utf-8") as file:
        return file.read()


def _digest(job: str, texts: Mapping[str, str], job_json: str) -> str:
    made_from = [_FORMAT, streamjob.__version__, sys.version, _package(), job, sorted(texts.items()), job_json]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _package() -> list[tuple[str, int, int]]:
    """Name, size and time of each of this package's files: one that is edited in place keeps its version."""
    root = os.path.dirname(os.path.abspath(streamjob.__file__))
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".py"):
                file = os.path.join(folder, name)
                status = os.stat(file)
                found.append((os.path.relpath(file, root), status.st_size, status.st_mtime_ns))
    return sorted(found)
