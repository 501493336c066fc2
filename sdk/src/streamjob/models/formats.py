"""How rows are written where they come from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from streamjob.models.base import Duration, Model, ShortText
from streamjob.models.secrets import Secret

MAX_WRITERS = 256
"""Schemas of older writers that a job may list."""


class SchemaText(Model):
    """The text of a schema; exactly one of the kinds is set."""

    KINDS: ClassVar[tuple[str, ...]] = ("inline", "file")

    inline: Annotated[str, Field(min_length=1)] | None = None
    """The schema itself, as JSON."""

    file: Annotated[str, Field(min_length=1)] | None = None
    """A file with the schema, relative to the job's file."""


class Registry(Model):
    """A schema registry that speaks the Confluent protocol."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
    """Where it is, for example `http://registry:8081`."""

    username: Annotated[str, Field(min_length=1)] | None = None
    """The user's name, where it asks for one; with `password`."""

    password: Secret | None = None
    """The user's password."""

    token: Secret | None = None
    """A bearer token, instead of name and password."""

    timeout: Duration = 10_000_000
    """How long one request may take."""


class Avro(Model):
    """Avro messages, one record each."""

    schema_: Annotated[SchemaText | None, Field(alias="schema")] = None
    """The reader's schema, whose aliases and defaults count; plain messages are written with it. May be left out with a
    registry."""

    writers: Annotated[list[SchemaText], Field(max_length=MAX_WRITERS)] = []
    """Schemas of older writers: any number for single-object messages, at most one for plain ones."""

    framing: Literal["plain", "single-object", "confluent"] = "plain"
    """What stands before each record: nothing, its schema's fingerprint, or its schema's number in the registry."""

    registry: Registry | None = None
    """Where the schemas of Confluent's wire format are."""


class AvroFile(Model):
    """An Avro object container file, which holds its writer's schema."""

    schema_: Annotated[SchemaText | None, Field(alias="schema")] = None
    """The reader's schema, whose aliases and defaults count. Default: the writer's."""


class Plain(Model):
    """A format without settings."""


def _by_name(*kinds: str) -> ShortText:
    """Takes `KIND` for `{KIND: {}}`."""
    return ShortText(kinds, lambda kind: {kind: {}})


_MESSAGES = _by_name("json")
_FILES = _by_name("ndjson", "arrow", "avro")


class MessageFormatKinds(Model):
    """How messages are written; exactly one of the kinds is set. `json` alone says `{json: {}}`."""

    KINDS: ClassVar[tuple[str, ...]] = ("json", "avro")

    json_: Annotated[Plain | None, Field(alias="json")] = None
    """One JSON object each."""

    avro: Avro | None = None
    """One Avro record each."""


MessageFormat = Annotated[MessageFormatKinds, _MESSAGES, _MESSAGES.serializer()]
"""The format of messages; `json` is the default of all sources."""


class FileFormatKinds(Model):
    """How a file is written; exactly one of the kinds is set. A name alone says `{NAME: {}}`."""

    KINDS: ClassVar[tuple[str, ...]] = ("ndjson", "arrow", "avro")

    ndjson: Plain | None = None
    """One JSON object a line."""

    arrow: Plain | None = None
    """Arrow IPC, a stream or a file."""

    avro: AvroFile | None = None
    """An Avro object container file."""


FileFormat = Annotated[FileFormatKinds, _FILES, _FILES.serializer()]
"""The format of a file."""

JSON = MessageFormatKinds.model_validate({"json": {}})
NDJSON = FileFormatKinds.model_validate({"ndjson": {}})
