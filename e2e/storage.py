"""A storage class whose volumes grow: the cluster's own where it can, else a copy of it that a test grows by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster import Cluster, Object
from jobs import Job

DEFAULT = "storageclass.kubernetes.io/is-default-class"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
COPY = "e2e-grows"


@dataclass(frozen=True)
class GrowingClass:
    """Its name, and whether somebody has to play the part of the storage."""

    name: str
    by_hand: bool

    def grow(self, cluster: Cluster, job: Job, size: str) -> None:
        """What the storage's own resizer does once a claim asks for more: volume and claim say the new size."""
        if not self.by_hand:
            return
        claim = cluster.one("PersistentVolumeClaim", job.namespace, job.claim)
        capacity = {"capacity": {"storage": size}}
        status = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": capacity}))
        cluster.kubectl("-n", job.namespace, "patch", "persistentvolumeclaim", job.claim, *status)
        volume = str(claim["spec"]["volumeName"])
        cluster.kubectl("patch", "persistentvolume", volume, "--type=merge", "-p", json.dumps({"spec": capacity}))


def default_class(cluster: Cluster) -> Object:
    """The class of claims that name none, which a cluster for these tests must have."""
    classes = cluster.get(CLASSES)["items"]
    found = [one for one in classes if (one["metadata"].get("annotations") or {}).get(DEFAULT) == "true"]
    assert found, "the cluster has no default StorageClass"
    return dict(found[0])


@contextmanager
def growing_class(cluster: Cluster) -> Iterator[GrowingClass]:
    """A class whose claims may ask for more."""
    own = default_class(cluster)
    if own.get("allowVolumeExpansion"):
        yield GrowingClass(str(own["metadata"]["name"]), by_hand=False)
        return
    copied = {name: own[name] for name in ("provisioner", "parameters", "volumeBindingMode") if name in own}
    kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": COPY}}
    cluster.post(CLASSES, {**kind, **copied, "reclaimPolicy": "Delete", "allowVolumeExpansion": True})
    try:
        yield GrowingClass(COPY, by_hand=True)
    finally:
        cluster.kubectl("delete", "storageclass", COPY)
