"""Operations: what takes time, since when, until when and what it waits for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from streamjob_operator.conditions import MAX_MESSAGE, parse_time, time_text
from streamjob_operator.observed import Observed

DEADLINES = {
    "Roll": timedelta(minutes=35),
    "Checkpoint": timedelta(minutes=5),
    "Suspend": timedelta(minutes=5),
    "Resize": timedelta(minutes=30),
    "Start": timedelta(minutes=35),
}
"""How long each may take before it is told as stuck; a deletion has its own in the job."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation under way."""

    name: str
    started_at: datetime
    deadline: datetime
    blocked_by: str
    message: str

    def overdue(self, now: datetime) -> bool:
        """Whether its deadline has passed."""
        return now >= self.deadline

    def status(self) -> dict[str, Any]:
        """As it stands in the status."""
        return {
            "name": self.name,
            "startedAt": time_text(self.started_at),
            "deadline": time_text(self.deadline),
            "blockedBy": self.blocked_by,
            "message": self.message,
        }


def running(
    observed: Observed,
    name: str,
    blocked_by: str,
    message: str | None,
    *,
    allowed: timedelta | None = None,
    started: datetime | None = None,
) -> Operation:
    """An operation that begins now, or goes on since the status says so; a new `message` begins it anew."""
    before = observed.operation(name)
    if before is not None and message in (None, before["message"]):
        since, said = parse_time(before["startedAt"]), str(before["message"])
    else:
        since, said = started or observed.now, message or name
    deadline = (started or since) + (allowed if allowed is not None else DEADLINES[name])
    return Operation(name, started or since, deadline, blocked_by, said)


def after_commit(observed: Observed, status: dict[str, Any]) -> dict[str, Any]:
    """A status that tells of a roll which has not begun: it waits for the engine to commit what it has.

    Its message is not that of the roll, which begins, and is told, only then.
    """
    told: list[dict[str, Any]] = []
    conditions = status["conditions"]
    for one in status["operations"]:
        if one["name"] != "Roll":
            told.append(one)
            continue
        waits = running(observed, "Roll", "the engine to commit", f"once the engine has committed: {one['message']}")
        told.append(waits.status())
        message = f"{waits.message}; waits for {waits.blocked_by}"[:MAX_MESSAGE]
        conditions = [{**had, "message": message} if had["reason"] == "Roll" else had for had in conditions]
    return {**status, "operations": told, "conditions": conditions}


def next_deadline(observed: Observed, operations: Iterable[Operation]) -> datetime | None:
    """When the next of these deadlines passes that has not passed yet."""
    return min((one.deadline for one in operations if not one.overdue(observed.now)), default=None)
