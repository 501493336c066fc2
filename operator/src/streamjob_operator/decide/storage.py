"""Volumes: growth, what is in the way of it, and what a claim says of the state on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamjob.units import format_size

from streamjob_operator import names
from streamjob_operator.builders.statefulset import key_text
from streamjob_operator.conditions import Condition, merged
from streamjob_operator.decide.actions import Action, Emit, ResizeClaim
from streamjob_operator.diff import quantity
from streamjob_operator.observed import Object, Observed, is_terminating, own_claims
from streamjob_operator.validation import ValidJob

GROWTH_AGAIN = timedelta(minutes=1)
"""When a claim that was not let grow is asked for again."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The size that new volumes get, what to do, the condition, and whether volumes are growing.

    With `waits_for_pod` a growth ends no sooner than a pod starts, as far as can be seen.
    """

    size: int
    actions: tuple[Action, ...]
    condition: Condition
    growing: bool
    waits_for_pod: bool


def _requested(claim: Object) -> int:
    requests = claim.get("spec", {}).get("resources", {}).get("requests", {})
    return int(quantity(requests.get("storage", 0)) or 0)


def _capacity(claim: Object) -> int:
    return int(quantity((claim.get("status", {}).get("capacity") or {}).get("storage", 0)) or 0)


def state_conflict(observed: Observed, valid: ValidJob) -> str | None:
    """Why the state on the job's volumes is not this job's: other shards or another key. None where it is."""
    used, asked = _template_class(observed), valid.job.spec.storage.storage_class_name
    if observed.stateful_set is not None and used != asked:
        return (
            f"spec.storage.storageClassName: cannot be changed from {used or 'the default'}"
            f" (got {asked or 'nothing'}; put the old value back, or create another job)"
        )
    wanted = {names.SHARDS: str(valid.job.spec.shards), names.KEY: key_text(valid.config)}
    for claim in own_claims(observed):
        annotations = claim["metadata"].get("annotations") or {}
        for name, member in ((names.SHARDS, "shards"), (names.KEY, "schema.key")):
            have = annotations.get(name)
            if have is not None and have != wanted[name] and not is_terminating(claim):
                return (
                    f"spec.{member}: the volume {claim['metadata']['name']} holds state with {have}"
                    f" (got {wanted[name]}; put the old value back, or delete the claim to begin without that state)"
                )
    return None


def _template_class(observed: Observed) -> str | None:
    """The storage class that the StatefulSet asks for."""
    templates = (observed.stateful_set or {}).get("spec", {}).get("volumeClaimTemplates") or [{}]
    name = templates[0].get("spec", {}).get("storageClassName")
    return None if name is None else str(name)


def look_at_storage(observed: Observed, valid: ValidJob) -> Storage:
    """What is to do about the job's volumes. Nothing here deletes one."""
    wanted = int(valid.job.spec.storage.size)
    claims = [claim for claim in own_claims(observed) if not is_terminating(claim)]
    size = max([wanted, *map(_requested, claims)])
    small = [claim for claim in claims if _requested(claim) < size]
    fixed = [claim for claim in small if _fixed(observed, claim)]
    # The API server lets only bound claims grow; the others follow when they are bound.
    grows = [] if fixed else [claim for claim in small if claim.get("status", {}).get("phase") == "Bound"]
    actions: list[Action] = []
    if grows:
        text = format_size(size)
        if not _refused_before(observed):
            actions.append(Emit("VolumeGrowth", f"spec.storage.size: volumes grow to {text}"))
        actions += [ResizeClaim(claim["metadata"]["name"], text) for claim in grows]
    if fixed:
        size = max(map(_requested, claims))
    growing = bool(grows) or any(
        claim.get("status", {}).get("phase") == "Bound" and _capacity(claim) < _requested(claim) for claim in claims
    )
    waits = growing and _waits_for_pod(observed, valid, claims)
    return Storage(size, tuple(actions), _condition(observed, valid, claims, fixed, growing, waits), growing, waits)


def _waits_for_pod(observed: Observed, valid: ValidJob, claims: list[Object]) -> bool:
    """Whether nobody is there who would end a growth: the node on which a pod starts makes the file system larger."""
    if observed.pods:
        return False
    conditions = [one for claim in claims for one in claim.get("status", {}).get("conditions") or ()]
    resized = any(one["type"] == "FileSystemResizePending" and one["status"] == "True" for one in conditions)
    return resized or valid.job.spec.suspend


def _refused_before(observed: Observed) -> bool:
    old = observed.condition("StorageReady")
    return old is not None and old["reason"] == "GrowthRefused"


def _fixed(observed: Observed, claim: Object) -> bool:
    classes = observed.cluster.storage_classes
    name = claim.get("spec", {}).get("storageClassName")
    return classes is not None and not classes.get(name, True)


def growth_refused(observed: Observed, status: dict[str, Any], claim: str, why: str) -> dict[str, Any]:
    """A status that tells as well that a claim was not let grow."""
    fix = "put the old spec.storage.size back, or ask who runs the cluster"
    message = f"the volume of the claim {claim} cannot grow: {fix}: {why}"
    told = Condition("StorageReady", False, "GrowthRefused", message)
    before = observed.status.get("conditions", ())
    (new,) = merged(before, [told], observed.generation, observed.now)
    conditions = [new if old["type"] == told.type else old for old in status["conditions"]]
    return {**status, "conditions": conditions}


def _condition(
    observed: Observed,
    valid: ValidJob,
    claims: list[Object],
    fixed: list[Object],
    growing: bool,
    waits_for_pod: bool,
) -> Condition:
    wanted = int(valid.job.spec.storage.size)
    classes = observed.cluster.storage_classes
    name = valid.job.spec.storage.storage_class_name

    def no(reason: str, message: str) -> Condition:
        return Condition("StorageReady", False, reason, message)

    if fixed:
        used = fixed[0]["spec"].get("storageClassName")
        return no("ExpansionNotAllowed", f"volumes of the storage class {used} cannot grow: put the old size back")
    if any(_requested(claim) > wanted for claim in claims):
        return no("ShrinkNotPossible", "a volume can grow and never shrink: put the larger spec.storage.size back")
    lost = [claim["metadata"]["name"] for claim in claims if claim.get("status", {}).get("phase") == "Lost"]
    if lost:
        return no("VolumeLost", f"the volume of the claim {lost[0]} is gone: restore it, or delete the claim")
    pending = [claim for claim in claims if claim.get("status", {}).get("phase") != "Bound"]
    if (pending or not claims) and classes is not None:
        if name and name not in classes:
            return no("StorageClassNotFound", f"there is no storage class {name}: create it, or create the job anew")
        if name is None and not observed.cluster.default_storage_class:
            return no("NoDefaultStorageClass", "there is no default storage class: set spec.storage.storageClassName")
    if pending:
        return no("VolumePending", f"waits for the volume of the claim {pending[0]['metadata']['name']}")
    if growing:
        ends = "; this finishes when the pod starts" if waits_for_pod else ""
        return no("Growing", f"waits until the volumes have grown{ends}")
    if not claims:
        return Condition("StorageReady", None, "NoVolumeYet", "the volume comes with the first pod")
    return Condition("StorageReady", True, "Bound", "all volumes are bound")
