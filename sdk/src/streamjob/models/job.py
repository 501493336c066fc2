"""The StreamJob itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from streamjob.models.base import Duration, Model
from streamjob.models.kubernetes import DeletionPolicy, PodTemplate, PullPolicy, Replicas, StorageSpec
from streamjob.models.processing import UdfSpec, WindowSpec
from streamjob.models.schema import SchemaSpec
from streamjob.models.settings import (
    CheckpointSpec,
    EngineSpec,
    HistorySpec,
    IdempotencySpec,
    IngestSpec,
    RestSpec,
    StateSpec,
    TimeSpec,
)
from streamjob.models.sinks import DeadLetterSpec, SinkSpec
from streamjob.models.sources import SourceSpec

API_VERSION = "streamjob.dev/v1alpha1"
KIND = "StreamJob"


class Metadata(Model):
    """What identifies the job."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    """The job's name: lower-case letters, digits and dashes."""

    namespace: str | None = None
    """The Kubernetes namespace; without meaning on one machine."""

    labels: dict[str, str] = {}
    """Kubernetes labels."""

    annotations: dict[str, str] = {}
    """Kubernetes annotations."""


class JobSpec(Model):
    """What the job does."""

    shards: Annotated[int, Field(ge=1, le=4096)] = 32
    """How many units the keys are spread over. It cannot be changed once the job has state."""

    schema_: Annotated[SchemaSpec, Field(alias="schema")]
    """What an event looks like."""

    where: str | None = None
    """An SQL condition that an event must meet; others are filtered out before statistics and windows."""

    sources: Annotated[list[SourceSpec], Field(min_length=1)]
    """Where events come from."""

    time: TimeSpec = TimeSpec()
    """How event time advances."""

    windows: list[WindowSpec] = []
    """Windows and their aggregates."""

    udfs: list[UdfSpec] = []
    """Python functions on columns."""

    sinks: list[SinkSpec] = []
    """Where results go."""

    dead_letters: DeadLetterSpec | None = None
    """Where rows go that could not be processed. Default: `dead-letters` in the state directory."""

    checkpoint: CheckpointSpec = CheckpointSpec()
    """When progress is committed."""

    ingest: IngestSpec = IngestSpec()
    """How pushed events are taken in."""

    idempotency: IdempotencySpec = IdempotencySpec()
    """How repeated requests are recognised."""

    engine: EngineSpec = EngineSpec()
    """What the engine uses of its machine."""

    state: StateSpec = StateSpec()
    """The state store."""

    history: HistorySpec = HistorySpec()
    """How long results can be queried."""

    rest: RestSpec = RestSpec()
    """The query interface."""

    replicas: Replicas = 1
    """On Kubernetes: how many pods share the shards. In this version only 1."""

    suspend: bool = False
    """On Kubernetes: whether the job is stopped, with everything committed and its volumes kept."""

    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """On Kubernetes: the engine's image. Default: the operator's."""

    image_pull_policy: PullPolicy | None = None
    """On Kubernetes: when the image is pulled. Default: Kubernetes' own rule."""

    storage: StorageSpec = StorageSpec()
    """On Kubernetes: the volume that holds the state."""

    deletion_policy: DeletionPolicy = "Retain"
    """On Kubernetes: what becomes of the volumes when the job is deleted."""

    deletion_deadline: Duration = 300_000_000
    """On Kubernetes: after this time a deletion goes on without what it waits for."""

    pod_template: PodTemplate = PodTemplate()
    """On Kubernetes: what is merged into the pods' template."""


class StreamJob(Model):
    """One streaming job."""

    api_version: Literal["streamjob.dev/v1alpha1"]
    """The version of this interface."""

    kind: Literal["StreamJob"]
    """The kind of object."""

    metadata: Metadata
    """What identifies the job."""

    spec: JobSpec
    """What the job does."""
