"""Where events come from."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from streamjob.models.base import Model, Name
from streamjob.models.formats import NDJSON, Avro, FileFormat
from streamjob.models.kafka import KafkaSource
from streamjob.models.mqtt import MqttSource
from streamjob.models.python import PythonSource


class HttpSource(Model):
    """Events posted to `/ingest`. How long a request may wait and how large it may be is set by `spec.ingest`."""

    avro: Avro | None = None
    """What a body of Avro messages is. JSON, Arrow IPC and Avro container files are read without it."""


class FileSource(Model):
    """Events replayed from a file."""

    path: Annotated[str, Field(min_length=1)]
    """The file, relative to the job's file."""

    format: FileFormat = NDJSON
    """How the file is written: `ndjson`, `arrow` (IPC), `avro` (object container), or a mapping with one of them."""

    speed: Annotated[float, Field(ge=0)] = 0.0
    """Event time against real time: 1 as it happened, 100 a hundred times faster, 0 as fast as it goes."""


class SourceSpec(Model):
    """One source of events; exactly one of the kinds is set."""

    KINDS: ClassVar[tuple[str, ...]] = ("http", "file", "kafka", "mqtt", "python")

    name: Name
    """The source's name. It is part of every row's position: renaming it starts the source anew."""

    http: HttpSource | None = None
    """Accept events on `POST /ingest`."""

    file: FileSource | None = None
    """Replay a file."""

    kafka: KafkaSource | None = None
    """Read a topic."""

    mqtt: MqttSource | None = None
    """Take the messages of a broker."""

    python: PythonSource | None = None
    """Run a generator in Python."""
