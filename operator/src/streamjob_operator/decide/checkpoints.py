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


def ask_checkpoint(observed: Observed, operation: Operation | None) -> list[AskCheckpoint]:
    """The question to the engine, once there is a pod to ask; without one the deadline is the answer."""
    if operation is None or not (ready_pods(observed) or operation.overdue(observed.now)):
        return []
    return [AskCheckpoint(required=True)]
