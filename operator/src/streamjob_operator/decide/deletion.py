"""The end of a job: its pods stop, its volumes stay or go as it says, and no wait is for ever."""

from __future__ import annotations

from datetime import timedelta

from streamjob.units import UnitError, parse_duration

from streamjob_operator import names
from streamjob_operator.conditions import parse_time
from streamjob_operator.decide.actions import Action, Decision, Delete, Emit, SetFinalizer
from streamjob_operator.decide.operations import Operation, running
from streamjob_operator.decide.status import Summary, deleting_status
from streamjob_operator.observed import Object, Observed, is_terminating, own_claims

DEFAULT_DEADLINE = timedelta(minutes=5)
MAX_DEADLINE = timedelta(days=7)
_ORPHAN = "orphan"
"""The finalizer of a deletion that leaves the children: `kubectl delete --cascade=orphan`."""


def decide_deletion(observed: Observed) -> Decision:
    """What is left to do for a job that somebody has deleted."""
    finalizers = observed.job["metadata"].get("finalizers") or []
    if names.FINALIZER not in finalizers:
        return Decision((), None)
    if _ORPHAN in finalizers or _was_orphaned(observed):
        return Decision((SetFinalizer(False),), None)
    if observed.unseen:
        return _unseen(observed)
    delete_volumes = observed.raw_spec.get("deletionPolicy") == "Delete"
    claims = own_claims(observed)
    operation = _operation(observed, delete_volumes, claims)
    overdue = operation.overdue(observed.now)
    actions = _stop(observed)
    if delete_volumes and (not observed.pods or overdue):
        actions += [_delete("PersistentVolumeClaim", claim) for claim in claims if not is_terminating(claim)]
    left = [*observed.pods, *(claims if delete_volumes else ())]
    if observed.stateful_set is None and not left:
        return Decision((*actions, *_farewell(claims), SetFinalizer(False)), None)
    if overdue:
        return Decision((*actions, _forced(operation, left), SetFinalizer(False)), None, forced=True)
    status = deleting_status(observed, Summary("Deleting", operation.blocked_by, (operation,)))
    return Decision(tuple(actions), status, operation.deadline)


def _unseen(observed: Observed) -> Decision:
    """A deletion in a namespace that may not be seen any more, most often as it is being deleted, its roles first.

    The deadline alone decides. Nothing is deleted by what was once seen, so a volume stays whatever the job says; those
    of a namespace that is being deleted go with it.
    """
    operation = _operation(observed, False, [])
    if not operation.overdue(observed.now):
        return Decision((), None, operation.deadline)
    message = "the deadline of the deletion has passed, and there is no right to see what is left: it is left as it is"
    return Decision((Emit("DeletionForced", message, warning=True), SetFinalizer(False)), None, forced=True)


def _was_orphaned(observed: Observed) -> bool:
    """Whether the garbage collector has taken the job off its children already, before anybody looked here."""
    uid = observed.job["metadata"]["uid"]
    owners = [child["metadata"].get("ownerReferences") or () for child in observed.children.values()]
    return bool(owners) and not any(owner.get("uid") == uid for found in owners for owner in found)


def _stop(observed: Observed) -> list[Action]:
    found = observed.stateful_set
    if found is None:
        # Where somebody has deleted it and left its pods, nobody else would ever stop them.
        return [_delete("Pod", pod) for pod in observed.pods if not is_terminating(pod)]
    if is_terminating(found):
        return []
    # Its pods go with it, in the background, each after its preStop has committed.
    return [_delete("StatefulSet", found)]


def _delete(kind: str, thing: Object) -> Delete:
    return Delete(kind, thing["metadata"]["name"], thing["metadata"]["uid"])


def _deadline(observed: Observed) -> timedelta:
    try:
        asked = timedelta(microseconds=parse_duration(observed.raw_spec.get("deletionDeadline", "5m")))
    except (UnitError, OverflowError):
        return DEFAULT_DEADLINE
    return min(asked, MAX_DEADLINE)


def _operation(observed: Observed, delete_volumes: bool, claims: list[Object]) -> Operation:
    if observed.stateful_set is not None or observed.pods:
        blocked = "the pods to commit and stop"
    elif delete_volumes and claims:
        blocked = f"the claim {claims[0]['metadata']['name']} to go"
    else:
        blocked = "nothing"
    started = parse_time(observed.job["metadata"]["deletionTimestamp"])
    what = "the job and its volumes are deleted" if delete_volumes else "the job is deleted, its volumes stay"
    return running(observed, "Delete", blocked, what, allowed=_deadline(observed), started=started)


def _farewell(claims: list[Object]) -> list[Action]:
    if not claims:
        return []
    kept = ", ".join(claim["metadata"]["name"] for claim in claims)
    return [Emit("VolumesRetained", f"the state stays in {kept}; a job of this name goes on from there")]


def _forced(operation: Operation, left: list[Object]) -> Emit:
    things = ", ".join(thing["metadata"]["name"] for thing in left) or "the StatefulSet"
    message = f"the deadline of the deletion has passed; it goes on without {operation.blocked_by}: see {things}"
    return Emit("DeletionForced", message, warning=True)
