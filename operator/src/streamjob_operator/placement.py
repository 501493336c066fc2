"""Which pod runs which shards. One pod runs all of them until pods can share; this is the place where that changes."""

from __future__ import annotations

from dataclasses import dataclass

from streamjob.models import JobSpec


@dataclass(frozen=True, slots=True)
class Placement:
    """`owners[shard]` is the ordinal of the pod that runs it; `epoch` only grows."""

    epoch: int
    owners: tuple[int, ...]

    @property
    def pods(self) -> int:
        """How many pods own shards."""
        return len(set(self.owners))


def plan(spec: JobSpec) -> Placement:
    """The placement that a job should have."""
    return Placement(1, (0,) * spec.shards)


def wanted_pods(spec: JobSpec) -> int:
    """How many pods should run now; none while the job is suspended."""
    return 0 if spec.suspend else plan(spec).pods
