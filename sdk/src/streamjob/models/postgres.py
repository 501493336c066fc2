"""A table of PostgreSQL as a sink."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from streamjob.models.base import Duration, Model
from streamjob.models.connections import ClientTls, ConnectionBackoff
from streamjob.models.secrets import Secret

TableName: TypeAlias = Annotated[str, Field(pattern=r'^[^\s".]+(\.[^\s".]+)?$', max_length=127)]
TableColumn: TypeAlias = Annotated[str, Field(pattern=r'^[^"]+$', max_length=63)]
MemberName: TypeAlias = Annotated[str, Field(min_length=1, max_length=128)]


class PostgresSink(Model):
    """Rows of a table."""

    host: Annotated[str, Field(pattern=r"^[^\s/,@]+$", max_length=255)]
    """The server's name or address."""

    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    """Its port."""

    database: Annotated[str, Field(min_length=1, max_length=63)]
    """The database."""

    username: Annotated[str, Field(min_length=1, max_length=63)]
    """The user."""

    password: Secret | None = None
    """The user's password."""

    tls: ClientTls | None = None
    """Encrypt the connection."""

    table: TableName
    """The table, perhaps with its schema before a dot. Names are taken as they are written: case counts."""

    mode: Literal["append", "upsert"] = "append"
    """`append` adds each row, `upsert` lets it replace the one with its `key`."""

    key: Annotated[list[TableColumn], Field(max_length=32)] = []
    """For `upsert`: the columns of a unique index, which tell the row that is replaced."""

    columns: Annotated[dict[TableColumn, MemberName], Field(max_length=1600)] | None = None
    """Which column gets which member of the rows. Default: each column of a member's name gets that member."""

    progress_table: TableName = "streamjob_progress"
    """Where `exactly-once` keeps how far the table is, in the same transactions. It is created if it is not there."""

    max_batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    """The most rows in one batch; a transaction holds several."""

    timeout: Duration = 30_000_000
    """How long a transaction may take."""

    backoff: ConnectionBackoff = ConnectionBackoff()
    """How retries are spaced."""
