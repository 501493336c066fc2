"""What only Kubernetes looks at: the pods, volumes and life of a job there. Without meaning on one machine."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, WithJsonSchema

from streamjob.models.base import Model, Size, problem

MAX_REPLICAS = 1
"""Pods of one job cannot share its shards yet."""


def _replicas(value: int) -> int:
    if value < 1:
        raise problem("a job needs a pod", "write 1, or suspend: true to stop it")
    if value > MAX_REPLICAS:
        raise problem("one pod runs all shards of a job in this version", "write 1")
    return value


Replicas: TypeAlias = Annotated[
    int,
    AfterValidator(_replicas),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_REPLICAS}),
]
"""How many pods share the job's shards."""

Manifest: TypeAlias = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]
"""A part of a Kubernetes object as Kubernetes writes it; its own API server validates it."""


class StorageSpec(Model):
    """The volume that holds a pod's state."""

    size: Size = 10 * 2**30
    """How large the volume is. It may grow, where the storage class allows that, and never shrink."""

    storage_class_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The storage class, which cannot be changed later. Default: the cluster's default class."""


class PodMetadata(Model):
    """What is added to the metadata of the pods."""

    labels: dict[str, str] = {}
    """Labels of the pods."""

    annotations: dict[str, str] = {}
    """Annotations of the pods."""


class PodTemplate(Model):
    """What is merged into the pods' template: lists of named items item by item, as `kubectl patch` does."""

    metadata: PodMetadata = PodMetadata()
    """Labels and annotations."""

    spec: Manifest = {}
    """A part of a pod's spec; the container that runs the job is called `engine`."""


DeletionPolicy: TypeAlias = Literal["Retain", "Delete"]
PullPolicy: TypeAlias = Literal["Always", "IfNotPresent", "Never"]
