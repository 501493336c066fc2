"""What all children share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamjob.models import JobSpec

from streamjob_operator import names
from streamjob_operator.validation import ValidJob

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the children of a job are made from.

    `size` is the size of new volumes in bytes; `restart` the text of the restart annotation; `listen` the address on
    which the engine serves, as it stands before a port.
    """

    name: str
    namespace: str
    uid: str
    valid: ValidJob
    image: str
    size: int
    restart: str | None
    pod_monitors: bool
    listen: str = names.EVERY_ADDRESS

    @property
    def spec(self) -> JobSpec:
        """The job's spec."""
        return self.valid.job.spec


def owner(inputs: Inputs) -> Manifest:
    """The reference by which a child goes with its job."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": inputs.name,
        "uid": inputs.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child(inputs: Inputs, api_version: str, kind: str, name: str, **members: Any) -> Manifest:
    """A child with its metadata."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": inputs.namespace,
            "labels": names.labels(inputs.name),
            "ownerReferences": [owner(inputs)],
        },
        **members,
    }
