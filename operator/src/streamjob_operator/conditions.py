"""Conditions as Kubernetes means them, and times as it writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MAX_MESSAGE = 1024
"""Characters of a message."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One aspect; `status` is True, False or None for unknown."""

    type: str
    status: bool | None
    reason: str
    message: str


def time_text(time: datetime) -> str:
    """A time as Kubernetes writes it: whole seconds, UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """A time that Kubernetes has written."""
    return datetime.fromisoformat(text)


def merged(
    old: Iterable[Mapping[str, Any]], new: Iterable[Condition], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The conditions to write: a transition time stays while the status stays."""
    before = {condition.get("type"): condition for condition in old}
    return [_one(before.get(condition.type), condition, generation, now) for condition in new]


def _one(old: Mapping[str, Any] | None, new: Condition, generation: int, now: datetime) -> dict[str, Any]:
    status = {True: "True", False: "False", None: "Unknown"}[new.status]
    same = old is not None and old.get("status") == status and old.get("lastTransitionTime")
    return {
        "type": new.type,
        "status": status,
        "reason": new.reason,
        "message": new.message[:MAX_MESSAGE],
        "lastTransitionTime": same or time_text(now),
        "observedGeneration": generation,
    }
