"""From what is observed to what is done: pure functions."""

from streamjob_operator.decide.actions import (
    Action,
    Apply,
    AskCheckpoint,
    Decision,
    Delete,
    Discard,
    Emit,
    ResizeClaim,
    Scale,
    SetFinalizer,
    Try,
)
from streamjob_operator.decide.decision import Choices, decide
from streamjob_operator.decide.status import worth_writing

__all__ = [
    "Action",
    "Apply",
    "AskCheckpoint",
    "Choices",
    "Decision",
    "Delete",
    "Discard",
    "Emit",
    "ResizeClaim",
    "Scale",
    "SetFinalizer",
    "Try",
    "decide",
    "worth_writing",
]
