"""Who leads: a state machine over a Lease object. Clocks of different machines are never compared.

A holder renews; the others wait until the Lease has not changed for its duration by their own clock. Whoever cannot
renew in time stops leading before anyone else may begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

DURATION_S = 15.0
"""How long a Lease that is not renewed keeps others away."""
RENEW_DEADLINE_S = 10.0
"""How long a leader goes on without a successful renewal."""
RETRY_S = 2.0
"""The time between looks at the Lease."""

State = Literal["waiting", "leading", "lost"]


@dataclass(frozen=True, slots=True)
class Write:
    """The spec to write; `version` is the resourceVersion that it replaces, None to create it."""

    spec: dict[str, Any]
    version: str | None


def _micro(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True)
class Election:
    """One candidate. `now` is a monotonic clock in seconds, `wall` the UTC time to write down for people."""

    identity: str
    state: State = "waiting"
    _seen: tuple[str, str] | None = None
    _seen_at: float = 0.0
    _renewed_at: float = 0.0

    def look(self, lease: dict[str, Any] | None, now: float, wall: datetime) -> Write | None:
        """What to write, after having read the Lease (None: there is none); None to wait."""
        spec = (lease or {}).get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        seen = (holder, str(spec.get("renewTime", "")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if lease is not None and holder and holder != self.identity:
            if self.state == "leading":
                self.state = "lost"
                return None
            duration = float(spec.get("leaseDurationSeconds") or DURATION_S)
            if now - self._seen_at < duration:
                return None
        if self.state == "lost":
            return None
        return self._write(lease, spec, wall)

    def _write(self, lease: dict[str, Any] | None, spec: dict[str, Any], wall: datetime) -> Write:
        mine = spec.get("holderIdentity") == self.identity
        transitions = int(spec.get("leaseTransitions") or 0) + (0 if mine or lease is None else 1)
        acquired = spec["acquireTime"] if mine and spec.get("acquireTime") else _micro(wall)
        written = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(DURATION_S),
            "acquireTime": acquired,
            "renewTime": _micro(wall),
            "leaseTransitions": transitions,
        }
        return Write(written, None if lease is None else lease["metadata"]["resourceVersion"])

    def written(self, started: float) -> None:
        """The write succeeded; `started` is when it was sent, so that the answer's way does not lengthen the Lease."""
        self._renewed_at = started
        if self.state == "waiting":
            self.state = "leading"

    def tick(self, now: float) -> None:
        """Stops leading where the last renewal is too long ago."""
        if self.state == "leading" and now - self._renewed_at >= RENEW_DEADLINE_S:
            self.state = "lost"

    def holds(self, now: float) -> bool:
        """Whether it leads, and nobody else may yet: also where it was kept from a `tick`."""
        return self.state == "leading" and now - self._renewed_at < RENEW_DEADLINE_S

    def within(self, now: float, seconds: float) -> float:
        """So many seconds, or what a leader may still wait before it has to know that its Lease is renewed."""
        if self.state != "leading":
            return seconds
        return max(0.0, min(seconds, self._renewed_at + RENEW_DEADLINE_S - now))

    def release(self, lease: dict[str, Any] | None, wall: datetime) -> Write | None:
        """What hands the Lease over at once, if it is held by this candidate."""
        spec = (lease or {}).get("spec") or {}
        if lease is None or spec.get("holderIdentity") != self.identity:
            return None
        released = {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro(wall)}
        return Write(released, lease["metadata"]["resourceVersion"])
