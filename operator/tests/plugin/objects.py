"""Objects as an API server gives them, for the tests of the plugin."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from streamjob_operator.plugin.observation import Observation

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)


def job(name: str = "telemetry", *, phase: str | None = "Running", **status: Any) -> dict[str, Any]:
    """A job that runs, but for what `status` says."""
    good = {
        "Ready": ("True", "PodsReady", "1 of 1 pods serve"),
        "Progressing": ("False", "Settled", "nothing is under way"),
        "Degraded": ("False", "AsExpected", "nothing is wrong"),
        "SpecValid": ("True", "Valid", "the spec is valid"),
        "StorageReady": ("True", "Bound", "all volumes are bound"),
        "EngineReachable": ("True", "Answers", "the engine's control interface answers"),
        "Suspended": ("False", "NotAsked", "spec.suspend is false"),
        "OutputsMayRepeat": ("False", "AsExpected", "the state is as new as its output"),
    }
    conditions = [condition(kind, *values) for kind, values in good.items()]
    full = {
        "phase": phase,
        "observedGeneration": 3,
        "replicas": 1,
        "readyReplicas": 1,
        "conditions": conditions,
        "engine": {
            "version": "0.1.0",
            "shards": 32,
            "lagRows": 1204,
            "rate": 10250,
            "watermark": "2026-03-04T11:59:57Z",
            "udfVersion": "3f2a9c01d4e5",
            "lastCheckpoint": {"number": 412, "completedAt": "2026-03-04T11:59:56Z"},
        },
    }
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": "1",
            "generation": 3,
            "resourceVersion": "10",
            "creationTimestamp": "2026-03-01T08:00:00Z",
        },
        "spec": {"shards": 32, "replicas": 1, "suspend": False, "deletionPolicy": "Retain", "deletionDeadline": "5m"},
        "status": {**full, **status},
    }


def without_pod(phase: str, **status: Any) -> dict[str, Any]:
    """A job without a pod that serves."""
    seen = job(phase=phase, readyReplicas=0, **status)
    for fact in ("lagRows", "rate"):
        del seen["status"]["engine"][fact]
    return seen


def condition(kind: str, status: str, reason: str, message: str, at: str = "2026-03-04T09:30:00Z") -> dict[str, Any]:
    """One condition."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at,
        "observedGeneration": 3,
    }


def pod(name: str = "telemetry-0", *, ready: bool = True, **container: Any) -> dict[str, Any]:
    """A pod whose engine runs, but for what `container` says."""
    state = {"name": "engine", "restartCount": 0, "state": {"running": {}}, **container}
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": "p1", "creationTimestamp": "2026-03-04T09:00:00Z"},
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [state],
        },
    }


def claim(name: str = "state-telemetry-0") -> dict[str, Any]:
    """A bound volume claim that is to grow."""
    return {
        "metadata": {"name": name},
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "20Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}},
    }


def event(reason: str, message: str, at: str, *, kind: str = "Pod", name: str = "telemetry-0", **more: Any) -> Any:
    """One event."""
    return {
        "metadata": {"name": f"{name}.{reason}", "creationTimestamp": at},
        "involvedObject": {"kind": kind, "name": name, "uid": "p1" if kind == "Pod" else "1"},
        "type": "Normal",
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
        **more,
    }


def running() -> Observation:
    """All is well."""
    rolled = event(
        "Rolled",
        "spec.udfs[0].source changed",
        "2026-03-04T09:00:00Z",
        kind="StreamJob",
        name="telemetry",
    )
    old = event("BackOff", "yesterday's trouble", "2026-03-04T11:30:00Z", type="Warning")
    return Observation(job(), [pod()], [claim()], [rolled, old], NOW)


def broken_roll() -> Observation:
    """A new image cannot be pulled, and the roll waits for it."""
    at = "2026-03-04T11:55:30Z"
    message = (
        "the image registry/engine:9 cannot be pulled (ImagePullBackOff): check spec.image, the registry and "
        "podTemplate's imagePullSecrets"
    )
    conditions = [
        condition("Ready", "False", "Degraded", message, at),
        condition("Progressing", "True", "Roll", "spec.image changed; waits for the new pod to serve", at),
        condition("Degraded", "True", "ImagePullBackOff", message, at),
        condition("SpecValid", "True", "Valid", "the spec is valid"),
    ]
    roll = {
        "name": "Roll",
        "startedAt": at,
        "deadline": "2026-03-04T12:05:30Z",
        "blockedBy": "the new pod to serve",
        "message": "spec.image changed",
    }
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "registry/engine:9"'}
    events = [
        event("Rolling", "spec.image changed", at, kind="StreamJob", name="telemetry"),
        event("Failed", "Error: ImagePullBackOff", "2026-03-04T11:59:00Z", type="Warning", count=4),
        event(
            "FailedPreStopHook",
            "of the pod before",
            "2026-03-04T11:58:00Z",
            type="Warning",
            involvedObject={"kind": "Pod", "name": "telemetry-0", "uid": "p0"},
        ),
    ]
    seen = without_pod("Degraded", conditions=conditions, operations=[roll])
    return Observation(seen, [pod(ready=False, state={"waiting": waiting})], [], events, NOW)


def crashing() -> Observation:
    """The engine needs more memory than it may have."""
    at = "2026-03-04T11:50:00Z"
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 2m40s restarting failed container"}}
    message = (
        "the container engine of telemetry-0 ends by OOMKilled with exit code 137: it needs more memory than its "
        "limit: raise the limit in spec.podTemplate, or lower spec.state.memory; "
        "see kubectl logs telemetry-0 --previous"
    )
    conditions = [
        condition("Ready", "False", "Failed", message, at),
        condition("Degraded", "True", "CrashLoopBackOff", message, at),
        condition("EngineReachable", "Unknown", "NotAsked", "there is no serving pod to ask", at),
    ]
    crashed = pod(ready=False, restartCount=5, state=waiting, lastState=ended)
    return Observation(without_pod("Failed", conditions=conditions), [crashed], [], [], NOW)


def suspended() -> Observation:
    """Stopped by its owner."""
    conditions = [
        condition("Ready", "False", "Suspended", "spec.suspend is true; the state stays on its volumes"),
        condition("EngineReachable", "Unknown", "NotAsked", "there is no serving pod to ask"),
        condition("Suspended", "True", "Asked", "spec.suspend is true"),
    ]
    seen = without_pod("Suspended", conditions=conditions, replicas=0)
    seen["spec"]["suspend"] = True
    return Observation(seen, [], [claim()], [], NOW)


def restored() -> Observation:
    """Its state is older than its output, and it runs."""
    message = (
        "the state was restored from before the last output, so outputs may have been repeated since: consumers of "
        "message sinks must expect that"
    )
    told = event(
        "OutputsMayRepeat", message, "2026-03-04T11:59:00Z", kind="StreamJob", name="telemetry", type="Warning"
    )
    seen = job()
    seen["status"]["conditions"][-1] = condition("OutputsMayRepeat", "True", "Restored", message)
    return Observation(seen, [pod()], [claim()], [told], NOW)


def deleting() -> Observation:
    """On its way out, with a deadline."""
    seen = job(phase="Deleting")
    seen["metadata"]["deletionTimestamp"] = "2026-03-04T11:59:00Z"
    seen["spec"]["deletionPolicy"] = "Delete"
    seen["status"]["operations"] = [
        {
            "name": "Delete",
            "startedAt": "2026-03-04T11:59:00Z",
            "deadline": "2026-03-04T12:04:00Z",
            "blockedBy": "the pods to commit and stop",
            "message": "the job and its volumes are deleted",
        }
    ]
    return Observation(seen, [pod()], [claim()], [], NOW)


def unseen() -> Observation:
    """No operator has looked at it."""
    seen = job()
    del seen["status"]
    return Observation(seen, [], [], [], NOW)


def stale() -> Observation:
    """The operator knows an older spec."""
    return Observation(job(observedGeneration=2), [pod()], [], [], NOW)


SCENES = {
    "running": running,
    "broken_roll": broken_roll,
    "crashing": crashing,
    "suspended": suspended,
    "restored": restored,
    "deleting": deleting,
    "unseen": unseen,
    "stale": stale,
}
