"""What can be done. A decision is a list of these, carried out in order until the first failure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from streamjob_operator.observed import Object


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side-applies a child."""

    manifest: Object


@dataclass(frozen=True, slots=True)
class Try:
    """Asks the API server whether it would take a manifest, and what it would make of it; nothing changes."""

    manifest: Object


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes the very object that was observed, and no newer one of that name."""

    kind: str
    name: str
    uid: str
    propagation: Literal["Background", "Orphan"] = "Background"


@dataclass(frozen=True, slots=True)
class Discard:
    """Deletes an object that nothing uses any more; where that is refused it is left, and nothing waits for it."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Sets the number of pods of the very StatefulSet that was observed; all else of it stays as it is."""

    name: str
    uid: str
    replicas: int


@dataclass(frozen=True, slots=True)
class ResizeClaim:
    """Asks for a larger volume."""

    name: str
    size: str


@dataclass(frozen=True, slots=True)
class SetFinalizer:
    """Holds the job until it is cleaned up, or lets it go."""

    present: bool


@dataclass(frozen=True, slots=True)
class AskCheckpoint:
    """Asks the engine to commit what it has; `required` when a person asked for it, else the roll goes on without."""

    required: bool = False


@dataclass(frozen=True, slots=True)
class Emit:
    """Writes an Event about the job."""

    reason: str
    message: str
    warning: bool = False


Action: TypeAlias = Apply | Try | Delete | Discard | Scale | ResizeClaim | SetFinalizer | AskCheckpoint | Emit


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, the status to write (None: none, the job is gone), and when to look again.

    `wake` is a time at which something is due though nothing changes. With `forced` no failure keeps the job from being
    let go: what fails is named in the last Event.
    """

    actions: tuple[Action, ...]
    status: dict[str, Any] | None
    wake: datetime | None = None
    forced: bool = False
