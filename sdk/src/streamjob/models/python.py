"""Sources and sinks written in Python."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, JsonValue, WithJsonSchema

from streamjob.models.base import Duration, Model, Name
from streamjob.models.formats import JSON, MessageFormat
from streamjob.models.processing import CodeSpec
from streamjob.models.secrets import Secret

MAX_QUEUE = 1_000_000
"""Events of a source, or rows of a sink, that may wait in Python."""

PythonName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Settings: TypeAlias = Annotated[
    dict[str, JsonValue], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]


class PythonBackoff(Model):
    """How long to wait before trying again."""

    initial: Duration = 100_000
    """The first wait; each following one is twice as long, half of it random."""

    max: Duration = 30_000_000
    """The longest wait."""


class PythonCode(Model):
    """What a source and a sink in Python have in common; exactly one of `file` and `code`."""

    file: Annotated[str, Field(min_length=1)] | None = None
    """A Python file, relative to the job's file."""

    code: CodeSpec | None = None
    """The module without a file of its own."""

    config: Settings = {}
    """Any values, which the code finds in `context.config`."""

    secrets: Annotated[dict[Name, Secret], Field(max_length=100)] = {}
    """Secrets by name, which the code finds in `context.secrets`."""

    backoff: PythonBackoff = PythonBackoff()
    """How tries are spaced while the code fails."""


class PythonSource(PythonCode):
    """An asynchronous generator in Python that yields messages."""

    function: PythonName
    """The generator function at the top of the module, called with the context and, if it has one, `position=`."""

    format: MessageFormat = JSON
    """How the messages are written: `json`, or `avro` with its settings."""

    positions: bool = False
    """Whether each event comes with a position, from which the generator can be started again: then it counts once."""

    queue: Annotated[int, Field(ge=1, le=MAX_QUEUE)] = 10_000
    """The most events that wait between the generator and the engine."""


class PythonSink(PythonCode):
    """A class in Python that writes batches of rows."""

    class_: Annotated[PythonName, Field(alias="class")]
    """The class at the top of the module, made with the context; its coroutine `write` takes a batch."""

    idempotent: bool = False
    """Your word that a batch that is written twice under one key counts once, which exactly-once needs."""

    max_batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 500
    """The most rows in one batch."""

    queue: Annotated[int, Field(ge=1, le=MAX_QUEUE)] = 10_000
    """The most rows that the class has at once, in batches of several shards; one batch in any case."""
