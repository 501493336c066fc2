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
from streamjob_operator.decide.health import MAX_TEXT
from streamjob_operator.diff import quantity
from streamjob_operator.observed import Object, Observed, is_terminating, own_claims
from streamjob_operator.validation import ValidJob

GROWTH_AGAIN = timedelta(minutes=1)
"""When a claim that was not let grow, or its growth be taken back, is asked for again."""
JUST_ABOVE = 1 << 20
"""Bytes above a volume's capacity that are told as a size to which a growth can be taken back."""
_FAILED = ("ControllerResizeError", "NodeResizeError", "ControllerResizeInfeasible", "NodeResizeInfeasible")
"""What a claim says of a growth that the storage or the node could not do: conditions, then states of resources."""
_PENDING, _GROWING = "FileSystemResizePending", "Growing"
"""The claim says that its file system is still to grow as the volume has; a growth of which no more is known."""
_REFUSED = ("GrowthRefused", "LoweringRefused")
"""Reasons of StorageReady where the API server does not take another size of a claim."""


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
    size = max([wanted, *(_requested(claim) for claim in claims if not _may_be_lowered(claim, wanted))])
    small = [claim for claim in claims if _requested(claim) < size]
    fixed = [claim for claim in small if _fixed(observed, claim)]
    if fixed:
        size = max(map(_requested, claims))
    # The API server lets only bound claims grow; the others follow when they are bound.
    resized = [] if fixed else [claim for claim in claims if _requested(claim) != size and _is_bound(claim)]
    growing = bool(resized) or any(_is_bound(claim) and _capacity(claim) < _requested(claim) for claim in claims)
    waits = growing and _waits_for_pod(observed, valid, claims)
    condition = _condition(observed, valid, claims, fixed, growing, waits)
    return Storage(size, tuple(_resize(observed, resized, size)), condition, growing, waits)


def _is_bound(claim: Object) -> bool:
    return bool(claim.get("status", {}).get("phase") == "Bound")


def _may_be_lowered(claim: Object, size: int) -> bool:
    """Whether a claim that has asked for more may ask for `size` instead: not for what its volume has, or for less."""
    return _is_bound(claim) and 0 < _capacity(claim) < size < _requested(claim)


def _resize(observed: Observed, claims: list[Object], size: int) -> list[Action]:
    """Has claims ask for `size`: for more, or for less where a growth that has not ended is taken back."""
    if not claims:
        return []
    text, most = format_size(size), max(map(_requested, claims))
    told = f"volumes grow to {text}"
    if most > size:
        told = f"the growth of volumes to {format_size(most)} is taken back, they grow to {text}"
    old = observed.condition("StorageReady")
    refused_before = old is not None and old["reason"] in _REFUSED
    events = [] if refused_before else [Emit("VolumeGrowth", f"spec.storage.size: {told}")]
    return [*events, *(ResizeClaim(claim["metadata"]["name"], text) for claim in claims)]


def _waits_for_pod(observed: Observed, valid: ValidJob, claims: list[Object]) -> bool:
    """Whether nobody is there who would end a growth: the node on which a pod starts makes the file system larger."""
    if observed.pods:
        return False
    return any(_resize_words(claim).get(_PENDING) is not None for claim in claims) or valid.job.spec.suspend


def _resize_words(claim: Object) -> dict[str, str]:
    """What a claim says of its growth, each word with the sentence to it, which may be empty."""
    status = claim.get("status", {})
    words = {
        str(one["type"]): str(one.get("message") or "")[:MAX_TEXT]
        for one in status.get("conditions") or ()
        if one["status"] == "True"
    }
    state = (status.get("allocatedResourceStatuses") or {}).get("storage")
    return words if state is None else {**words, str(state): ""}


def _failure(claim: Object) -> tuple[str, str] | None:
    """Why a growth of a claim has failed: the first of _FAILED, and all of them with what is said to them."""
    words = _resize_words(claim)
    found = [word for word in _FAILED if word in words]
    if not found or not _capacity(claim) < _requested(claim):
        return None
    return found[0], "; ".join(f"{word}: {words[word]}" if words[word] else word for word in found)


def _fixed(observed: Observed, claim: Object) -> bool:
    classes = observed.cluster.storage_classes
    name = claim.get("spec", {}).get("storageClassName")
    return classes is not None and not classes.get(name, True)


def resize_refused(observed: Observed, status: dict[str, Any], action: ResizeClaim, why: str) -> dict[str, Any]:
    """A status that tells as well that a claim was not let have another size."""
    asked = max((_requested(claim) for claim in observed.claims if claim["metadata"]["name"] == action.name), default=0)
    if asked > (quantity(action.size) or 0):
        larger = format_size(asked)
        fix = f"Kubernetes takes that since 1.34; set spec.storage.size to {larger}, or ask who runs the cluster"
        message = f"the growth of the claim {action.name} to {larger} cannot be taken back: {fix}: {why}"
        told = Condition("StorageReady", False, "LoweringRefused", message)
    else:
        fix = "put the old spec.storage.size back, or ask who runs the cluster"
        message = f"the volume of the claim {action.name} cannot grow: {fix}: {why}"
        told = Condition("StorageReady", False, "GrowthRefused", message)
    before = observed.status.get("conditions", ())
    (new,) = merged(before, [told], observed.generation, observed.now)
    conditions = [new if old["type"] == told.type else old for old in status["conditions"]]
    return {**status, "conditions": conditions}


def _not_shrinkable(claim: Object) -> str:
    """Why a claim stays larger than what is wanted, and which size it can have."""
    name, capacity, requested = claim["metadata"]["name"], _capacity(claim), _requested(claim)
    if not _is_bound(claim) or not 0 < capacity < requested:
        return "a volume can grow and never shrink: put the larger spec.storage.size back"
    failure = _failure(claim)
    why = f" ({failure[1]})" if failure is not None else ""
    larger, least = format_size(requested), format_size(capacity + JUST_ABOVE)
    return (
        f"the volume of the claim {name} has {format_size(capacity)} and was asked for {larger}{why}: a size just "
        f"above what it has takes the growth back, as spec.storage.size: {least}; with {larger} it goes on"
    )


def _growth(claims: list[Object], waits_for_pod: bool) -> tuple[str, str]:
    """How a growth goes on, in a word and a sentence."""
    for claim in claims:
        failure = _failure(claim)
        if failure is not None:
            has, asked = format_size(_capacity(claim)), format_size(_requested(claim))
            name = claim["metadata"]["name"]
            what = f"the volume of the claim {name} does not grow from {has} to {asked}: {failure[1]}"
            fix = f"a spec.storage.size above {has} and below {asked} takes it back; else ask who runs the storage"
            return failure[0], f"{what}: {fix}"
    ends = "; this finishes when the pod starts" if waits_for_pod else ""
    pending = [claim for claim in claims if _PENDING in _resize_words(claim)]
    if pending:
        name = pending[0]["metadata"]["name"]
        return _PENDING, f"the file system on the volume of the claim {name} waits for its node to make it larger{ends}"
    return _GROWING, f"waits until the volumes have grown{ends}"


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
    large = [claim for claim in claims if _requested(claim) > wanted and not _may_be_lowered(claim, wanted)]
    if large:
        return no("ShrinkNotPossible", _not_shrinkable(large[0]))
    lost = [claim["metadata"]["name"] for claim in claims if claim.get("status", {}).get("phase") == "Lost"]
    if lost:
        return no("VolumeLost", f"the volume of the claim {lost[0]} is gone: restore it, or delete the claim")
    pending = [claim for claim in claims if not _is_bound(claim)]
    if (pending or not claims) and classes is not None:
        if name and name not in classes:
            return no("StorageClassNotFound", f"there is no storage class {name}: create it, or create the job anew")
        if name is None and not observed.cluster.default_storage_class:
            return no("NoDefaultStorageClass", "there is no default storage class: set spec.storage.storageClassName")
    if pending:
        return no("VolumePending", f"waits for the volume of the claim {pending[0]['metadata']['name']}")
    if growing:
        return no(*_growth(claims, waits_for_pod))
    if not claims:
        return Condition("StorageReady", None, "NoVolumeYet", "the volume comes with the first pod")
    return Condition("StorageReady", True, "Bound", "all volumes are bound")
