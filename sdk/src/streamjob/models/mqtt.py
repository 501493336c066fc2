"""An MQTT broker as a source."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from streamjob.models.base import ColumnName, Duration, Model
from streamjob.models.connections import ClientTls, ConnectionBackoff
from streamjob.models.formats import JSON, MessageFormat
from streamjob.models.secrets import Secret

TopicFilter: TypeAlias = Annotated[str, Field(min_length=1, max_length=1024)]
TopicLevel: TypeAlias = Annotated[int, Field(ge=1, le=128)]


class MqttSource(Model):
    """Events that are messages of a broker (MQTT 3.1.1, QoS 1). Each message is a row."""

    host: Annotated[str, Field(pattern=r"^[^\s/,@]+$", max_length=255)]
    """The broker's name or address."""

    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    """Its port."""

    client_id: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=128)] | None = None
    """The name of the session, which the broker keeps over connections and starts. Nobody else may use it. Default:
    `streamjob-JOB-SOURCE`."""

    username: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The user, who has a `password`."""

    password: Secret | None = None
    """The user's password."""

    tls: ClientTls | None = None
    """Encrypt the connection."""

    topics: Annotated[list[TopicFilter], Field(min_length=1, max_length=64)]
    """What to subscribe to: topics, with `+` for one level and `#` for all that follow."""

    levels: Annotated[dict[ColumnName, TopicLevel], Field(max_length=32)] = {}
    """Fields that are levels of a message's topic: the first is 1. A member of such a name is ignored."""

    format: MessageFormat = JSON
    """How the messages are written: `json`, or a mapping with `avro`."""

    retained: Literal["skip", "take"] = "skip"
    """What becomes of messages that the broker keeps for whoever subscribes: they come again with each connection."""

    keep_alive: Duration = 30_000_000
    """How long a connection may be silent before it is asked whether it lives."""

    backoff: ConnectionBackoff = ConnectionBackoff()
    """How tries to connect are spaced."""
