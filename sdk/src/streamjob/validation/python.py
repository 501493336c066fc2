"""Cross checks of sources and sinks in Python. Their code is looked at and never run."""

from __future__ import annotations

import json

from streamjob.models import PythonCode, PythonSink, PythonSource, SinkSpec
from streamjob.problems import Path
from streamjob.validation.common import Examination
from streamjob.validation.formats import check_message_format

MAX_CONFIG_BYTES = 65_536
"""The settings of one source or sink, as JSON."""

_SECRET_WORDS = ("password", "secret", "token", "apikey", "api_key", "accesskey", "access_key")


def check_python_source(examination: Examination, path: Path, python: PythonSource) -> None:
    """The code, its settings and the format of its messages."""
    _code(examination, path, python)
    check_message_format(examination, (*path, "format"), python.format)


def check_python_sink(examination: Examination, path: Path, sink: SinkSpec, python: PythonSink) -> None:
    """The code, its settings and what exactly-once needs."""
    _code(examination, path, python)
    if sink.delivery == "exactly-once" and not python.idempotent:
        examination.report(
            (*path[:-1], "delivery"),
            "a batch may be written twice under one key, after a crash or an error, and exactly-once needs a class for "
            "which that counts once",
            fix="write python.idempotent: true if yours does so, else delivery: at-least-once",
        )


def _code(examination: Examination, path: Path, python: PythonCode) -> None:
    one = examination.exactly_one(path, python, ("file", "code"), "connector")
    if one and python.code is not None:
        examination.exactly_one((*path, "code"), python.code, ("inline", "configMap"), "code")
    for name, secret in python.secrets.items():
        examination.secret((*path, "secrets", name), secret)
    for name, value in python.config.items():
        if isinstance(value, str) and name.lower().endswith(_SECRET_WORDS):
            examination.report((*path, "config", name), "would hold a secret", got=name, fix="move it to secrets:")
    if len(json.dumps(python.config).encode()) > MAX_CONFIG_BYTES:
        fix = "put large settings into a file that the code reads"
        examination.report((*path, "config"), "is longer than 64 KiB", got="more", fix=fix)
    examination.backoff((*path, "backoff"), python.backoff)
