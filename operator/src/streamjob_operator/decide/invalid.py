"""A job whose spec cannot be run: what runs goes on with the last valid one, until somebody asks for its stop."""

from __future__ import annotations

from streamjob_operator.decide.actions import Action, Decision, Delete, Emit, Scale
from streamjob_operator.decide.checkpoints import ask_checkpoint, checkpoint_asked
from streamjob_operator.decide.operations import Operation, next_deadline, running
from streamjob_operator.decide.status import invalid_status
from streamjob_operator.observed import Observed, is_terminating


def decide_invalid(observed: Observed, reason: str, message: str) -> Decision:
    """What is done all the same: a stop by `spec.suspend`, a checkpoint that is asked for. The status tells the rest.

    Neither needs a valid spec. Nothing is started: that would be a pod of a spec that its author has replaced.
    """
    checkpoint = checkpoint_asked(observed)
    operations = [*_suspends(observed), *([checkpoint] if checkpoint is not None else [])]
    actions = (*_stop(observed), *ask_checkpoint(observed, checkpoint))
    status = invalid_status(observed, reason, message, tuple(operations))
    return Decision(actions, status, next_deadline(observed, operations))


def _suspends(observed: Observed) -> list[Operation]:
    if not observed.suspended or not observed.pods:
        return []
    return [running(observed, "Suspend", "the pod to commit and stop", "spec.suspend is true")]


def _stop(observed: Observed) -> list[Action]:
    """Stops the pod, which commits before it goes; told once it is done, since the cluster may refuse it."""
    found = observed.stateful_set
    if not observed.suspended or (found is not None and is_terminating(found)):
        return []
    if found is None:
        # Where somebody has deleted it and left its pods, nobody else would ever stop them.
        left = [pod["metadata"] for pod in observed.pods if not is_terminating(pod)]
        return [Delete("Pod", metadata["name"], metadata["uid"]) for metadata in left]
    replicas = found["spec"].get("replicas", 1)
    if not replicas:
        return []
    said = f"the pod commits and stops: spec.replicas: {replicas} -> 0"
    return [Scale(found["metadata"]["name"], found["metadata"]["uid"], 0), Emit("Suspending", said)]
