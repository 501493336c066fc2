"""Checkpoints that a person has asked for by an annotation of the job."""

from __future__ import annotations

from streamjob_operator import names
from streamjob_operator.decide.actions import AskCheckpoint
from streamjob_operator.decide.health import ready_pods
from streamjob_operator.decide.operations import Operation, running
from streamjob_operator.observed import Observed


def checkpoint_asked(observed: Observed) -> Operation | None:
    """The operation of a checkpoint that was asked for and not answered yet."""
    wanted = observed.annotations.get(names.CHECKPOINT)
    if wanted is None or wanted == observed.status.get("checkpointRequest"):
        return None
    return running(observed, "Checkpoint", "the engine to commit", f"asked for by annotation: {wanted}")


def is_at_rest(observed: Observed) -> bool:
    """Whether the job is suspended, its pod has gone, after it had committed, and no other one comes."""
    if not observed.suspended or observed.pods:
        return False
    found = observed.stateful_set
    if found is None:
        return True
    status = found.get("status", {})
    seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    return not found["spec"].get("replicas", 1) and seen and not status.get("replicas")


def ask_checkpoint(observed: Observed, operation: Operation | None) -> list[AskCheckpoint]:
    """The question to the engine, once there is a pod to ask; without one the deadline is the answer.

    A job at rest has one at once: all of its state is in its last checkpoint.
    """
    if operation is None:
        return []
    answerable = ready_pods(observed) or is_at_rest(observed) or operation.overdue(observed.now)
    return [AskCheckpoint(required=True)] if answerable else []
