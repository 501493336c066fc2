"""How a job runs: time, commits, intake, resources, history and queries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from streamjob.models.base import Duration, Model, Size

_DAY = 86_400_000_000


class TimeSpec(Model):
    """How event time advances."""

    max_out_of_orderness: Duration = 0
    """How far behind the newest event of its split an event may come and still count."""

    idle_timeout: Duration = 5_000_000
    """After how long a source without events stops to hold back the others."""

    allowed_lateness: Duration = 0
    """How long after its end a window still takes late events. In this version only 0s."""

    max_ahead: Duration = _DAY
    """Events further than this in the future are rejected."""

    close_when_idle: bool = False
    """Whether windows close when all sources are idle. Otherwise they wait for the next event."""


class CheckpointSpec(Model):
    """When progress is committed."""

    interval: Duration = 5_000_000
    """The time between checkpoints."""


class IngestSpec(Model):
    """How pushed events are taken in."""

    durability: Literal["fsync", "buffered"] = "fsync"
    """`fsync` acknowledges what is on disk, `buffered` what the operating system holds."""

    max_wait: Duration = 10_000_000
    """How long a request may wait under load before it is answered with 429."""

    max_body: Size = 64 * 2**20
    """The largest body of a request."""


class IdempotencySpec(Model):
    """How repeated requests are recognised."""

    retention: Duration = _DAY
    """How long the answer to an `Idempotency-Key` is kept."""


class EngineSpec(Model):
    """What the engine uses of its machine."""

    worker_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads that process rows; 0 for as many as there are cores."""

    pin_cores: bool = False
    """Whether each worker stays on one core."""

    batch_rows: Annotated[int, Field(ge=1, le=1_048_576)] = 8192
    """The most rows in one batch."""

    batch_linger: Duration = 1_000
    """How long a worker that has few rows (below 32) waits for more."""


class StateSpec(Model):
    """The state store."""

    memory: Size = 256 * 2**20
    """What hot state, caches and write buffers may take together."""


class HistorySpec(Model):
    """How long the results of closed windows can be queried."""

    raw: Duration = 30 * _DAY
    """How long each result is kept, in event time."""


def _origins(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class RestSpec(Model):
    """The query interface."""

    bearer_token: Annotated[str, Field(min_length=1)] | None = None
    """A token that queries must send as `Authorization: Bearer …`. Default: open."""

    cors_origins: Annotated[
        tuple[str, ...],
        BeforeValidator(_origins),
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = ()
    """Web origins whose pages may query, or `*`."""
