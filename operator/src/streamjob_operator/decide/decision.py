"""The decision about one job: everything that should be done now, and the status that tells of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from streamjob_operator import names
from streamjob_operator.builders import Inputs, children
from streamjob_operator.conditions import parse_time
from streamjob_operator.decide.actions import Action, AskCheckpoint, Decision, Delete, Emit, SetFinalizer
from streamjob_operator.decide.changes import Changes, find_changes
from streamjob_operator.decide.checkpoints import ask_checkpoint, checkpoint_asked
from streamjob_operator.decide.configs import unused_configs
from streamjob_operator.decide.deletion import decide_deletion
from streamjob_operator.decide.health import is_rolling, next_trouble, ready_pods, stuck_pods, trouble
from streamjob_operator.decide.invalid import decide_invalid
from streamjob_operator.decide.operations import Operation, next_deadline, running
from streamjob_operator.decide.status import REPEATS, RESTORED, running_status
from streamjob_operator.decide.storage import Storage, look_at_storage, state_conflict
from streamjob_operator.observed import Observed, is_own, name_taken
from streamjob_operator.validation import InvalidJob, ValidJob, check

STUCK_GRACE = timedelta(seconds=30)
"""What a pod of an old template that does not serve gets, before it is replaced by force."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator chooses for all jobs: the engine's image, where it listens; `token` for a job without one."""

    image: str
    token: str
    listen: str = names.EVERY_ADDRESS


def decide(observed: Observed, choices: Choices) -> Decision:
    """What to do about a job. Nothing here deletes a volume, but for a deletion that asked for it."""
    if observed.deleting:
        return decide_deletion(observed)
    if observed.unseen:
        return Decision((), None)
    hold: tuple[Action, ...] = ()
    if names.FINALIZER not in (observed.job["metadata"].get("finalizers") or ()):
        hold = (SetFinalizer(True),)
    hold = (*hold, *_repeats(observed))
    checked = check(observed.job, observed.config_maps)
    if isinstance(checked, InvalidJob):
        return _invalid(observed, hold, "Invalid", checked.message)
    conflict = state_conflict(observed, checked)
    if conflict is not None:
        return _invalid(observed, hold, "ImmutableMember", conflict)
    return _valid(observed, checked, choices, hold)


def _repeats(observed: Observed) -> list[Emit]:
    """Tells once that outputs may repeat: the condition then says so for ever."""
    facts = observed.facts
    old = observed.condition(REPEATS)
    if facts is None or not facts.outputs_may_repeat or (old is not None and old["status"] == "True"):
        return []
    return [Emit("OutputsMayRepeat", RESTORED, warning=True)]


def _invalid(observed: Observed, hold: tuple[Action, ...], reason: str, message: str) -> Decision:
    old = observed.condition("SpecValid")
    told = old is not None and old["status"] == "False" and old["message"].startswith(message)
    events = () if told else (Emit("InvalidSpec", message, warning=True),)
    decision = decide_invalid(observed, reason, message)
    return replace(decision, actions=(*hold, *events, *decision.actions))


def _valid(observed: Observed, valid: ValidJob, choices: Choices, hold: tuple[Action, ...]) -> Decision:
    storage = look_at_storage(observed, valid)
    inputs = Inputs(
        name=observed.name,
        namespace=observed.namespace,
        uid=observed.job["metadata"]["uid"],
        valid=valid,
        image=valid.job.spec.image or choices.image,
        size=storage.size,
        restart=observed.annotations.get(names.RESTART),
        pod_monitors=observed.cluster.pod_monitors,
        listen=choices.listen,
    )
    wanted = children(inputs, _token(observed) or choices.token)
    for manifest in wanted:
        found = observed.children.get((manifest["kind"], manifest["metadata"]["name"]))
        if found is not None and not is_own(observed.job, found):
            return _invalid(observed, hold, "NameTaken", name_taken(found))
    changes = find_changes(observed, wanted)
    problem = trouble(observed, valid)
    operations = _operations(observed, valid, storage, changes)
    stuck, wake = _stuck(observed, operations)
    actions = (
        *hold,
        *storage.actions,
        *changes.supporting,
        # Before the StatefulSet: where its change is refused, those of each try would be left.
        *unused_configs(observed, wanted),
        *changes.tried,
        *_before_roll(observed, changes),
        *changes.stateful_set,
        *stuck,
        *ask_checkpoint(observed, next((one for one in operations if one.name == "Checkpoint"), None)),
    )
    status = running_status(
        observed,
        suspended=valid.job.spec.suspend,
        storage=storage.condition,
        found=problem,
        operations=tuple(operations),
    )
    again = observed.now if changes.look_again else None
    due = (next_deadline(observed, operations), next_trouble(observed), again, wake)
    return Decision(actions, status, min((time for time in due if time is not None), default=None))


def _token(observed: Observed) -> str | None:
    """The control token that the job has already."""
    found = observed.children.get(("Secret", names.control_secret(observed.name)), {})
    try:
        return base64.b64decode(found.get("data", {}).get(names.TOKEN_KEY, "")).decode() or None
    except ValueError:
        return None


def _before_roll(observed: Observed, changes: Changes) -> list[Action]:
    """A roll tells its reason, and asks the engine to commit first: what comes after is replayed from there."""
    actions: list[Action] = []
    if changes.recreate is not None:
        actions.append(Emit("StatefulSetRecreated", f"made anew, its pods stay: {changes.recreate}"))
    if changes.scaled is not None:
        suspended = not changes.scaled.wanted
        said = "the pod commits and stops" if suspended else "the pod starts"
        actions.append(Emit("Suspending" if suspended else "Resuming", f"{said}: {changes.scaled.told}"))
    if changes.roll is None or not observed.pods:
        return actions
    actions.append(Emit("Rolling", changes.roll))
    if ready_pods(observed):
        actions.append(AskCheckpoint())
    return actions


def _operations(observed: Observed, valid: ValidJob, storage: Storage, changes: Changes) -> list[Operation]:
    result: list[Operation] = []
    suspended = valid.job.spec.suspend
    rolls = changes.roll is not None and bool(observed.pods) and not suspended
    old = observed.operation("Roll")
    # One pod is gone and the next not yet there, or the StatefulSet is about to be made anew.
    gap = not ready_pods(observed) or observed.stateful_set is None
    between = old is not None and gap and not suspended
    if rolls or is_rolling(observed) or between:
        message = changes.roll if rolls else (old or {}).get("message", "the pods' template changed")
        result.append(running(observed, "Roll", "the new pod to serve", message))
    elif suspended and observed.pods:
        result.append(running(observed, "Suspend", "the pod to commit and stop", "spec.suspend is true"))
    elif not suspended and not ready_pods(observed):
        result.append(running(observed, "Start", "the pod to serve", "the job starts"))
    # Without a pod a growth has no deadline: it may have to wait for one, for as long as the job is stopped.
    if storage.growing and not storage.waits_for_pod:
        result.append(running(observed, "Resize", "the volumes to grow", "spec.storage.size is larger"))
    checkpoint = checkpoint_asked(observed)
    return [*result, checkpoint] if checkpoint is not None else result


def _stuck(observed: Observed, operations: list[Operation]) -> tuple[list[Action], datetime | None]:
    """The way out of a roll that waits for a pod which its own template broke."""
    stuck = stuck_pods(observed)
    if not stuck:
        return [], None
    started = next((operation.started_at for operation in operations if operation.name == "Roll"), observed.now)
    due = max([started, *(parse_time(pod["metadata"]["creationTimestamp"]) for pod in stuck)]) + STUCK_GRACE
    if observed.now < due:
        return [], due
    actions: list[Action] = []
    for pod in stuck:
        metadata = pod["metadata"]
        message = f"the pod {metadata['name']} of an old template does not serve and is replaced"
        actions += [Emit("StuckPodReplaced", message), Delete("Pod", metadata["name"], metadata["uid"])]
    return actions, None
