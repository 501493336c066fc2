"""What a reason means and what to do about it. docs/troubleshooting.md says the same at length; tests compare them."""

from __future__ import annotations

PODS = {
    "ImagePullBackOff": "The image cannot be pulled: check spec.image, and imagePullSecrets in spec.podTemplate.",
    "ErrImagePull": "The image cannot be pulled: check spec.image, and imagePullSecrets in spec.podTemplate.",
    "ErrImageNeverPull": "The image is not on the node and spec.imagePullPolicy is Never: load it there.",
    "InvalidImageName": "spec.image is no name of an image.",
    "CrashLoopBackOff": "The engine ends again and again: its log says why (kubectl streamjob logs NAME --previous).",
    "CreateContainerConfigError": "A Secret or ConfigMap that spec.podTemplate names is missing.",
    "CreateContainerError": "The node cannot start the container: kubectl describe pod says why.",
    "RunContainerError": "The node cannot start the container: kubectl describe pod says why.",
    "Unschedulable": "No node fits: ask for less in spec.podTemplate, add nodes, or look at where the volume is.",
    "OOMKilled": "The engine needed more memory than its limit: raise it in spec.podTemplate, or lower state.memory.",
    "PodFailed": "kubectl describe pod says why; the StatefulSet replaces it.",
    "Evicted": "The node was short of memory or disk; the pod starts again elsewhere, where its volume can follow.",
    "Terminating": "The pod ends after a checkpoint; a node that is gone keeps it so until it is back or deleted.",
}
"""States of pods, as the kubelet and the scheduler name them."""

CONDITIONS = {
    "Invalid": "Correct the spec: streamjob check FILE says the same, with lines. What runs goes on until then.",
    "ImmutableMember": "Put the old value back. For another one create another job, or delete the volume claim.",
    "NameTaken": "Delete or rename the object that the message names, or give the job another name.",
    "Refused": "Correct the member that the message names: the API server does not take what follows from it.",
    "NoRights": "Give the operator the rights of its chart here, or have it not watch this namespace.",
    "PodNotCreated": "A quota, a LimitRange or the namespace's Pod Security level refuses the pod: change "
    "spec.podTemplate, or ask who set it.",
    "RuntimeClassNotFound": "kubectl get runtimeclasses lists those that exist.",
    "RegistryUnavailable": "The registry does not answer; the kubelet tries again.",
    "DeadlineExceeded": "It goes on, but takes longer than it should: what it waits for stands below.",
    "Engine": "The job runs and is not well: its log says more.",
    "NoAnswer": "The operator cannot talk to the pod: a NetworkPolicy between them, or an engine that is overloaded.",
    "ExpansionNotAllowed": "Put the old size back, or move the state to a claim of a class that can grow.",
    "GrowthRefused": "Put the old size back, or ask who runs the cluster; all else of the job goes on.",
    "InternalError": "A mistake of the operator: its log has the trace. What runs goes on.",
    "LoweringRefused": "Set the size that the message names, or ask who runs the cluster; all else of the job goes on.",
    "ControllerResizeError": "Ask who runs the storage; a size between those in the message takes the growth back.",
    "ControllerResizeInfeasible": "The storage cannot make it as large: set a size between those in the message.",
    "NodeResizeError": "Ask who runs the node; a size between those in the message takes the growth back.",
    "NodeResizeInfeasible": "The node cannot make it as large: set a size between those in the message.",
    "FileSystemResizePending": "The node makes the file system larger; if that lasts: kubectl streamjob restart NAME.",
    "ShrinkNotPossible": "Put the larger size back; the message names the size that takes a growth under way back.",
    "VolumeLost": "Restore the volume from a backup; deleting the claim begins with an empty state.",
    "StorageClassNotFound": "kubectl get storageclasses lists those that exist; the job's cannot be changed.",
    "NoDefaultStorageClass": "kubectl get storageclasses lists those that exist: name one, or make one the default.",
    "VolumePending": "The storage has not made the volume yet: kubectl describe pvc says why.",
    "Growing": "The storage makes the volume larger; some kinds finish when the pod is replaced.",
    "Asked": "kubectl streamjob resume NAME starts it again where it stopped.",
}
"""Reasons of the operator's conditions."""

NOT_SEEN = (
    "No operator has looked at this job: is one installed (kubectl get deployments -A -l "
    "app.kubernetes.io/part-of=streamjob), and does it run the jobs of this namespace (watchNamespaces)?"
)
STALE = "The operator has not looked at the newest spec. If this lasts, look at its log and its Lease."


def for_condition(reason: str) -> str | None:
    """What to do about a condition's reason, where there is more to say than its message."""
    return CONDITIONS.get(reason) or PODS.get(reason)


def for_pod(state: str, last_end: str) -> str | None:
    """What to do about a pod's state; how it ended last says more than that it is restarted."""
    if last_end == "OOMKilled" and state not in ("Running", "Terminating"):
        return PODS["OOMKilled"]
    return PODS.get(state)
