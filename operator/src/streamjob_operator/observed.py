"""Everything that a decision looks at, observed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from streamjob_operator import names

Object = dict[str, Any]
Ref = tuple[str, str]
"""(kind, name) of an object in the job's namespace."""


MAX_INTEGER = 2**63 - 1
"""The largest number that a status holds."""
MAX_ENGINE_UDFS = 1024
"""Functions that an engine may name."""


def _time(text: str) -> str:
    """The text, where it is a time with a zone; the API server refuses a status with any other."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without a zone")
    return text


Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Text = Annotated[str, Field(max_length=128)]
Time = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$"), AfterValidator(_time)
]


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class EngineUdf(_Answer):
    """A function that runs, by the hash of its code."""

    version: Text


class EngineCheckpoint(_Answer):
    """The newest checkpoint; `completed_at` in RFC 3339."""

    number: Count
    completed_at: Time


class EngineStatus(_Answer):
    """What of `GET /v1/control/status` is used, checked once where it comes in: code of a job's author wrote it."""

    version: Text
    shards: Annotated[int, Field(ge=0, le=65_536)]
    queue_rows: Count = 0
    rate_events_per_s: Annotated[float, Field(ge=0, le=1e15)] = 0.0
    watermark: Time | None = None
    last_checkpoint: EngineCheckpoint | None = None
    udfs: Annotated[tuple[EngineUdf, ...], Field(max_length=MAX_ENGINE_UDFS)] = ()
    blocked_shards: Annotated[int, Field(ge=0, le=65_536)] = 0
    disk_full: bool = False
    outputs_may_repeat: bool = False


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine's control interface said, or why it could not be asked.

    `status` is its answer; `error` a sentence where there is none; `since` when the error
    was first seen.
    """

    status: EngineStatus | None = None
    error: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is known of the cluster; None where it cannot be known with the operator's rights.

    `storage_classes` maps a class to whether its volumes can grow.
    """

    storage_classes: Mapping[str, bool] | None = None
    default_storage_class: bool | None = None
    runtime_classes: frozenset[str] | None = None
    pod_monitors: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """A job and all that belongs to it, at `now` (UTC).

    `children` holds what the operator made, `config_maps` the data of the user's ConfigMaps that the job refers to,
    `tolerated` the differences (by their identity) of a child that stayed when it was applied: so others have a say.
    `creation_problem` is what the cluster said when the StatefulSet's pod could not be created. `unseen` says that the
    right to see the namespace is gone: all but the job is as it once was.
    """

    job: Object
    now: datetime
    children: Mapping[Ref, Object] = field(default_factory=dict)
    pods: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    engine: EngineFacts | None = None
    cluster: Cluster = Cluster()
    tolerated: Mapping[Ref, frozenset[str]] = field(default_factory=dict)
    creation_problem: str | None = None
    unseen: bool = False

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self.job["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return str(self.job["metadata"]["namespace"])

    @property
    def generation(self) -> int:
        """The generation of the spec."""
        return int(self.job["metadata"].get("generation", 1))

    @property
    def annotations(self) -> Mapping[str, str]:
        """The job's annotations."""
        return self.job["metadata"].get("annotations") or {}

    @property
    def deleting(self) -> bool:
        """Whether somebody has deleted the job."""
        return "deletionTimestamp" in self.job["metadata"]

    @property
    def status(self) -> Mapping[str, Any]:
        """The status as it was last written."""
        return self.job.get("status") or {}

    @property
    def stateful_set(self) -> Object | None:
        """The job's StatefulSet, where there is one; one of this name that is another's is none."""
        found = self.children.get(("StatefulSet", self.name))
        return found if found is not None and is_own(self.job, found) else None

    @property
    def facts(self) -> EngineStatus | None:
        """What the engine says of itself, where it was asked and has answered."""
        return self.engine.status if self.engine is not None else None

    @property
    def raw_spec(self) -> Mapping[str, Any]:
        """The spec as it was written, valid or not."""
        spec = self.job.get("spec")
        return spec if isinstance(spec, dict) else {}

    @property
    def suspended(self) -> bool:
        """Whether somebody wants no pod, whatever else the spec says."""
        return self.raw_spec.get("suspend") is True

    def operation(self, name: str) -> Mapping[str, Any] | None:
        """A running operation of the last status."""
        found = [operation for operation in self.status.get("operations", ()) if operation.get("name") == name]
        return found[0] if found else None

    def condition(self, name: str) -> Mapping[str, Any] | None:
        """A condition of the last status."""
        found = [condition for condition in self.status.get("conditions", ()) if condition["type"] == name]
        return found[0] if found else None


def asks(job: Object) -> tuple[object, ...]:
    """What of a job asks for something to be done: everything but its status."""
    metadata = job["metadata"]
    annotations = metadata.get("annotations") or {}
    asked = (annotations.get(names.RESTART), annotations.get(names.CHECKPOINT))
    finalizers = tuple(metadata.get("finalizers") or ())
    return metadata["uid"], metadata.get("generation"), asked, finalizers, metadata.get("deletionTimestamp")


def is_own(job: Object, thing: Object) -> bool:
    """Whether an object is a child of the job, or of an earlier one of its name, and nobody else's."""
    metadata = thing["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            group = str(owner.get("apiVersion", "")).partition("/")[0]
            ours = (group, owner.get("kind"), owner.get("name")) == (names.GROUP, names.KIND, job["metadata"]["name"])
            return ours or owner.get("uid") == job["metadata"]["uid"]
    return has_labels(job, thing)


def has_labels(job: Object, thing: Object) -> bool:
    """Whether an object has the labels of the job's children; claims have no owner, and are told by these alone."""
    labels = thing["metadata"].get("labels") or {}
    known = (labels.get(names.MANAGED_BY), labels.get(names.JOB_LABEL))
    return known == (names.FIELD_MANAGER, job["metadata"]["name"])


def name_taken(thing: Object) -> str:
    """Why a job cannot have a child of this name."""
    metadata = thing["metadata"]
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    whose = f"belongs to {owners[0].get('kind')} {owners[0].get('name')}" if owners else "was not made for this job"
    fix = "delete or rename it, or give the job another name"
    return f"the name is taken: {thing['kind']} {metadata['name']} {whose} and is left as it is ({fix})"


def claim_taken(job: Object, claim: Object) -> str:
    """Why a job's pod must not have a claim of this name, which a StatefulSet would take whoever made it."""
    metadata = claim["metadata"]
    labels = f"{names.MANAGED} and {names.JOB_LABEL}={job['metadata']['name']}"
    fix = f"add these labels where its state is this job's: {labels}; or delete it, or give the job another name"
    what = f"PersistentVolumeClaim {metadata['name']} was not made for this job and is left as it is"
    return f"the name is taken: {what} ({fix})"


def own_claims(observed: Observed) -> list[Object]:
    """The claims of the job's StatefulSet, by label and by name; a copy of one may have its labels."""
    prefix = f"{names.CLAIM}-{observed.name}-"
    called = [(str(claim["metadata"]["name"]), claim) for claim in observed.claims]
    return [claim for name, claim in called if name.startswith(prefix) and name[len(prefix) :].isdecimal()]


def is_terminating(thing: Object) -> bool:
    """Whether an object is on its way out."""
    return "deletionTimestamp" in thing["metadata"]


def is_ready(pod: Object) -> bool:
    """Whether a pod serves."""
    conditions = pod.get("status", {}).get("conditions") or ()
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and not is_terminating(pod)


def revision(pod: Object) -> str | None:
    """The revision of the template that a pod was made from."""
    labels = pod["metadata"].get("labels") or {}
    return labels.get(names.REVISION)


def trimmed(thing: Object) -> Object:
    """An object without what no decision looks at."""
    metadata = {key: value for key, value in thing["metadata"].items() if key not in ("managedFields", "selfLink")}
    annotations = metadata.get("annotations")
    if annotations and "kubectl.kubernetes.io/last-applied-configuration" in annotations:
        kept = {k: v for k, v in annotations.items() if k != "kubectl.kubernetes.io/last-applied-configuration"}
        metadata["annotations"] = kept
    return {**thing, "metadata": metadata}
