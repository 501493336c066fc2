"""A NATS JetStream as a sink."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from streamjob.models.base import Duration, Model
from streamjob.models.connections import ClientTls, ConnectionBackoff
from streamjob.models.secrets import Secret

NatsHeader: TypeAlias = Annotated[str, Field(pattern=r"^[!-9;-~]+$", max_length=256)]
NatsHeaderText: TypeAlias = Annotated[str, Field(pattern=r"^[\t -~]*$", max_length=4096)]


class NatsSink(Model):
    """Rows as messages of a stream, as JSON."""

    servers: Annotated[str, Field(pattern=r"^[^\s,/@]+:[0-9]{1,5}(,[^\s,/@]+:[0-9]{1,5})*$", max_length=4096)]
    """Some of the servers, `host:port`, separated by commas."""

    username: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The user, who has a `password`."""

    password: Secret | None = None
    """The user's password."""

    token: Secret | None = None
    """A token, where the servers ask for that."""

    credentials: Secret | None = None
    """The text of a credentials file (`.creds`), where the servers ask for that."""

    tls: ClientTls | None = None
    """Encrypt the connection."""

    subject: Annotated[str, Field(min_length=1, max_length=1024)]
    """Under which subject a row is published, with `{member}` where one of its values stands: `readings.{key}`."""

    headers: Annotated[dict[NatsHeader, NatsHeaderText], Field(max_length=100)] = {}
    """Headers of each message."""

    duplicate_window: Duration = 120_000_000
    """For so long, at least, the stream must remember the ids of its messages (its `duplicate_window`): `exactly-once`
    rests on that."""

    max_batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 500
    """The most rows that are confirmed together."""

    timeout: Duration = 5_000_000
    """How long the confirmation of a message may take."""

    backoff: ConnectionBackoff = ConnectionBackoff()
    """How retries are spaced."""
