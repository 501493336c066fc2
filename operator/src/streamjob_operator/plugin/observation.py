"""What the plugin has read of a job, and simple questions to it. Pure; objects are as the API server gave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from streamjob_operator.plugin.text import parse_time

Object = dict[str, Any]

GOOD = {
    "Ready": "True",
    "Progressing": "False",
    "Degraded": "False",
    "SpecValid": "True",
    "StorageReady": "True",
    "EngineReachable": "True",
    "Suspended": "False",
}
"""Conditions, and the status with which nothing needs to be said of them."""

PHASE_OF = {"Progressing": "Progressing", "Suspended": "Suspended", "Invalid": "SpecValid", "Degraded": "Degraded"}
"""The condition that makes a phase; Ready makes the others."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A job, its pods, its volume claims and its events at one time.

    `events` are those of the job, of its StatefulSet and of its pods, in any order.
    """

    job: Object
    pods: Sequence[Object]
    claims: Sequence[Object]
    events: Sequence[Object]
    now: datetime

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self.job["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return str(self.job["metadata"].get("namespace", "default"))

    @property
    def spec(self) -> Object:
        """What the job shall be."""
        return dict(self.job.get("spec") or {})

    @property
    def status(self) -> Object:
        """What the operator says of it; empty before it has looked."""
        return dict(self.job.get("status") or {})

    @property
    def engine(self) -> Object:
        """What the engine says of itself."""
        return dict(self.status.get("engine") or {})

    @property
    def phase(self) -> str:
        """The state in one word."""
        return str(self.status.get("phase") or "Unknown")

    @property
    def conditions(self) -> list[Object]:
        """The state by aspects."""
        return list(self.status.get("conditions") or [])

    @property
    def operations(self) -> list[Object]:
        """What is under way."""
        return list(self.status.get("operations") or [])

    @property
    def deleted_at(self) -> datetime | None:
        """When the job's deletion was asked for."""
        return parse_time(self.job["metadata"].get("deletionTimestamp"))

    @property
    def is_stale(self) -> bool:
        """The operator has not looked at the newest spec."""
        return bool(self.status) and self.status.get("observedGeneration") != self.job["metadata"].get("generation")

    def phase_since(self) -> datetime | None:
        """Since when the phase is what it is: the deletion, or the change of the condition that makes the phase."""
        if self.deleted_at is not None:
            return self.deleted_at
        decisive = PHASE_OF.get(self.phase, "Ready")
        return next(
            (parse_time(one.get("lastTransitionTime")) for one in self.conditions if one.get("type") == decisive), None
        )

    def troubling(self) -> list[Object]:
        """The conditions that are not as in a job that runs; what is unknown is no trouble by itself."""
        return [
            one
            for one in self.conditions
            if one.get("status") != "Unknown" and one.get("status") != GOOD.get(str(one.get("type")), one.get("status"))
        ]

    def newest_events(self, most: int) -> list[Object]:
        """The newest events, oldest of them first."""
        return sorted(self.events, key=_event_order)[-most:]


def event_time(event: Object) -> str | None:
    """When an event last happened."""
    series = event.get("series") or {}
    for time in (
        event.get("lastTimestamp"),
        series.get("lastObservedTime"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    ):
        if time:
            return str(time)
    return None


def event_count(event: Object) -> int:
    """How often it happened."""
    return int(event.get("count") or (event.get("series") or {}).get("count") or 1)


def _event_order(event: Object) -> tuple[float, str]:
    time = parse_time(event_time(event))
    return (time.timestamp() if time else 0.0, str(event["metadata"].get("name", "")))


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod in the words of `kubectl get pods`, with why it is so."""

    name: str
    ready: bool
    state: str
    """Running, Pending, Terminating, or the reason why a container waits."""
    message: str
    restarts: int
    last_end: str
    """How its container last ended: `OOMKilled`, `Error, exit code 1`; empty if it never did."""
    node: str
    created: str | None


def pod_state(pod: Object) -> PodState:
    """What a pod's many members come down to."""
    status = pod.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or []}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    state, message = str(status.get("phase") or "Unknown"), str(status.get("message") or "")
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        state, message = str(scheduled.get("reason") or state), str(scheduled.get("message") or "")
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing"):
            state, message = str(waiting["reason"]), str(waiting.get("message") or "")
            break
    if pod["metadata"].get("deletionTimestamp"):
        state, message = "Terminating", ""
    return PodState(
        name=str(pod["metadata"]["name"]),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        state=state,
        message=message,
        restarts=sum(int(container.get("restartCount") or 0) for container in containers),
        last_end=next(filter(None, map(_last_end, containers)), ""),
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        created=pod["metadata"].get("creationTimestamp"),
    )


def _last_end(container: Object) -> str:
    ended = (container.get("lastState") or {}).get("terminated") or (container.get("state") or {}).get("terminated")
    if not ended:
        return ""
    reason = str(ended.get("reason") or "Ended")
    return reason if reason in ("OOMKilled", "Completed") else f"{reason}, exit code {ended.get('exitCode')}"
