"""The status of a StreamJob as pydantic models: the source of its schema, its names and its descriptions."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args

from streamjob.models.base import Model

Phase = Literal[
    "Pending", "Starting", "Running", "Degraded", "Suspended", "Progressing", "Deleting", "Invalid", "Failed"
]

PHASES: tuple[str, ...] = get_args(Phase)


class Condition(Model):
    """One aspect of the state."""

    type: str
    """Which: Ready, Progressing, Degraded, SpecValid, StorageReady, EngineReachable, Suspended or OutputsMayRepeat."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: str
    """Why, in one word for programs."""

    message: str
    """Why, in a sentence for a person, with what to do."""

    last_transition_time: datetime
    """When the status last changed."""

    observed_generation: int
    """The generation of the spec that it speaks of."""


class CheckpointStatus(Model):
    """The newest commit of any shard; other shards may have older ones."""

    number: int
    """How many commits of shards there were since the engine's process started; each start counts anew."""

    completed_at: datetime
    """When it was durable."""


class EngineStatus(Model):
    """What the engine says of itself; written when it changes, at most once a minute."""

    version: str | None = None
    """The engine's version."""

    shards: int | None = None
    """How many shards run."""

    lag_rows: int | None = None
    """Rows that were received and are not applied yet; absent where no pod serves."""

    rate: int | None = None
    """Events a second; absent where no pod serves."""

    watermark: datetime | None = None
    """Up to where event time is complete."""

    udf_version: str | None = None
    """The hashes of the running UDFs' code, joined by commas."""

    last_checkpoint: CheckpointStatus | None = None
    """The newest commit of any shard; a checkpoint that was asked for is answered by checkpointRequest."""


class Operation(Model):
    """Something that takes time."""

    name: str
    """What is done: Start, Roll, Checkpoint, Suspend, Resize or Delete."""

    started_at: datetime
    """When it began."""

    deadline: datetime
    """When it goes on without what it waits for, or is reported as stuck."""

    blocked_by: str
    """What it waits for."""

    message: str
    """Why it is done."""


class JobStatus(Model):
    """What the operator has observed."""

    phase: Phase | None = None
    """The state in one word."""

    observed_generation: int | None = None
    """The generation of the spec that the status speaks of."""

    conditions: list[Condition] = []
    """The state by aspects."""

    replicas: int | None = None
    """How many pods there are."""

    ready_replicas: int | None = None
    """How many of them serve."""

    selector: str | None = None
    """What selects the pods, for /scale."""

    engine: EngineStatus | None = None
    """What the engine says of itself."""

    operations: list[Operation] = []
    """What is under way."""

    checkpoint_request: str | None = None
    """The text of the annotation streamjob.dev/checkpoint that was last answered."""

    checkpoint_problem: str | None = None
    """Why there was no checkpoint for that request; absent where there was one."""
