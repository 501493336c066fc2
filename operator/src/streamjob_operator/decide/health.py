"""What the pods and the engine say about a job's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamjob_operator.observed import Object, Observed, is_ready, is_terminating, revision
from streamjob_operator.validation import ValidJob

MAX_TEXT = 400
"""Characters of what the cluster says that are cited."""
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_LASTING = ("CrashLoopBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not serve: a word, a sentence, and whether waiting alone will hardly help."""

    reason: str
    message: str
    lasting: bool = False


def trouble(observed: Observed, valid: ValidJob | None) -> Trouble | None:
    """What keeps the job's pod from serving, the cause before its effects; None where nothing is known to."""
    found = _cluster_trouble(observed, valid)
    if found is not None:
        return found
    for pod in observed.pods:
        if is_terminating(pod) or is_ready(pod):
            continue
        found = _pod_trouble(pod)
        if found is not None:
            return found
    if observed.creation_problem is not None and not observed.pods:
        return Trouble("PodNotCreated", f"the pod cannot be created: {observed.creation_problem[:MAX_TEXT]}", True)
    return None


def _cluster_trouble(observed: Observed, valid: ValidJob | None) -> Trouble | None:
    classes = observed.cluster.runtime_classes
    wanted = valid.job.spec.pod_template.spec.get("runtimeClassName") if valid else None
    if classes is not None and wanted and wanted not in classes and not any(map(is_ready, observed.pods)):
        fix = "create it, or change spec.podTemplate.spec.runtimeClassName"
        return Trouble("RuntimeClassNotFound", f"there is no RuntimeClass {wanted}: {fix}", True)
    return None


def _pod_trouble(pod: Object) -> Trouble | None:
    status = pod.get("status", {})
    name = pod["metadata"]["name"]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message", ""))[:MAX_TEXT]
            return Trouble("Unschedulable", f"no node takes the pod {name}: {message}")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        found = _container_trouble(container, name)
        if found is not None:
            return found
    if status.get("phase") == "Failed":
        return Trouble(str(status.get("reason", "PodFailed")), f"the pod {name} failed: {status.get('message', '')}")
    return None


def _container_trouble(container: dict[str, Any], pod: str) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason, text = waiting.get("reason", ""), str(waiting.get("message", ""))[:MAX_TEXT]
    if reason in _IMAGE:
        image = container.get("image", "")
        fix = "check spec.image, the registry and podTemplate's imagePullSecrets"
        return Trouble(reason, f"the image {image} cannot be pulled ({text or reason}): {fix}", reason in _LASTING)
    if reason in _LASTING:
        ended = (container.get("lastState", {}).get("terminated") or {}) if reason == "CrashLoopBackOff" else {}
        said = str(ended.get("message") or text)[:MAX_TEXT]
        code = f" with exit code {ended['exitCode']}" if "exitCode" in ended else ""
        look = f"kubectl logs {pod} --previous"
        return Trouble(reason, f"the container {container['name']} of {pod} ends{code}: {said}; see {look}", True)
    return None


def is_rolling(observed: Observed) -> bool:
    """Whether the pods are not yet those of the StatefulSet's newest template."""
    found = observed.stateful_set
    if found is None or not found["spec"].get("replicas") or not observed.pods:
        return False
    status = found.get("status", {})
    seen = status.get("observedGeneration", 0)
    if seen and seen < found["metadata"].get("generation", 0):
        return True
    update = status.get("updateRevision")
    return any(update and revision(pod) not in (None, update) for pod in observed.pods)


def stuck_pods(observed: Observed) -> list[Object]:
    """Pods of an old template that do not serve: nothing is lost by deleting them, and a roll may wait for them."""
    found = observed.stateful_set
    if found is None:
        return []
    status = found.get("status", {})
    update = status.get("updateRevision")
    if not update or status.get("observedGeneration", 0) < found["metadata"].get("generation", 0):
        return []
    return [
        pod
        for pod in observed.pods
        if revision(pod) not in (None, update) and not is_ready(pod) and not is_terminating(pod)
    ]


def engine_status(observed: Observed) -> dict[str, Any] | None:
    """The engine's facts as they stand in the status; the last ones where it cannot be asked."""
    facts = observed.engine.status if observed.engine is not None else None
    if facts is None:
        last = observed.status.get("engine")
        return dict(last) if last else None
    checkpoint = facts.last_checkpoint
    result = {
        "version": facts.version,
        "shards": facts.shards,
        "lagRows": facts.queue_rows,
        "rate": round(facts.rate_events_per_s),
        "watermark": facts.watermark,
        "udfVersion": ",".join(udf.version for udf in facts.udfs) or None,
        "lastCheckpoint": None
        if checkpoint is None
        else {"number": checkpoint.number, "completedAt": checkpoint.completed_at},
    }
    return {name: value for name, value in result.items() if value is not None}


def ready_pods(observed: Observed) -> int:
    """How many pods serve."""
    return sum(map(is_ready, observed.pods))
