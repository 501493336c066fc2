"""What the pods and the engine say about a job's state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from streamjob_operator.conditions import parse_time, time_text
from streamjob_operator.observed import Object, Observed, is_ready, is_terminating, revision
from streamjob_operator.validation import ValidJob

MAX_TEXT = 400
"""Characters of what the cluster says that are cited."""
MAX_SAID = 4096
"""Characters of what a container left behind that are read."""
TERMINATION_GRACE = timedelta(minutes=2)
"""What a pod gets beyond the time at which it should have stopped, before it is told as stuck."""
NOT_SERVING_GRACE = timedelta(minutes=1)
"""What a pod that has served may be without, before that is told."""
RESTART_RECENT = timedelta(minutes=10)
"""The end of a container so long ago is told of a pod that does not serve; the kubelet remembers one as long."""
_MORE_MEMORY = "it needs more memory than its limit: raise the limit in spec.podTemplate, or lower spec.state.memory"
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_LASTING = ("CrashLoopBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not serve: a word, a sentence, whether waiting alone will hardly help, whether the pod has run."""

    reason: str
    message: str
    lasting: bool = False
    ran: bool = False


def trouble(observed: Observed, valid: ValidJob | None) -> Trouble | None:
    """What keeps the job's pod from serving, the cause before its effects; None where nothing is known to."""
    found = _cluster_trouble(observed, valid)
    if found is not None:
        return found
    for pod in observed.pods:
        if is_ready(pod):
            continue
        found = _node_trouble(pod)
        if found is None:
            found = (_stop_trouble if is_terminating(pod) else _pod_trouble)(pod, observed.now)
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


def next_trouble(observed: Observed) -> datetime | None:
    """When a pod that does not serve becomes a trouble by time alone."""
    times: list[datetime] = []
    for pod in observed.pods:
        since = _unready_since(pod)
        if is_terminating(pod):
            times.append(parse_time(pod["metadata"]["deletionTimestamp"]) + TERMINATION_GRACE)
        elif since is not None:
            times.append(since + NOT_SERVING_GRACE)
    return min((time for time in times if time > observed.now), default=None)


def _node_trouble(pod: Object) -> Trouble | None:
    """A node that does not answer keeps its pod, and the StatefulSet makes no other meanwhile."""
    status, spec = pod.get("status", {}), pod.get("spec", {})
    words = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    # A kubelet changes both together: where only Ready is false, the cluster has not heard of the kubelet.
    unheard = words.get("Ready") == "False" and words.get("ContainersReady") == "True"
    unheard = unheard and not is_terminating(pod) and not spec.get("readinessGates")
    if status.get("reason") != "NodeLost" and not unheard:
        return None
    name, node = pod["metadata"]["name"], spec.get("nodeName", "")
    fix = f"start it again; where it is gone for good, kubectl delete node {node} lets the pod start on another"
    return Trouble("NodeLost", f"the node {node} of the pod {name} does not answer: {fix}", ran=True)


def _stop_trouble(pod: Object, now: datetime) -> Trouble | None:
    due = parse_time(pod["metadata"]["deletionTimestamp"])
    if now < due + TERMINATION_GRACE:
        return None
    name, node = pod["metadata"]["name"], pod.get("spec", {}).get("nodeName", "")
    what = f"the pod {name} should have stopped by {time_text(due)}, and its node {node} has not said that it has"
    fix = f"kubectl describe pod {name}; where the node is gone for good, kubectl delete node {node}"
    return Trouble("StuckTerminating", f"{what}: {fix}", ran=True)


def _pod_trouble(pod: Object, now: datetime) -> Trouble | None:
    status = pod.get("status", {})
    name = pod["metadata"]["name"]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message", ""))[:MAX_TEXT]
            return Trouble("Unschedulable", f"no node takes the pod {name}: {message}")
    if status.get("phase") == "Failed":
        message = str(status.get("message", ""))[:MAX_TEXT]
        return Trouble(str(status.get("reason") or "PodFailed"), f"the pod {name} failed: {message}", ran=True)
    for container in _containers(status):
        found = _wait_trouble(container, name) or _end_trouble(container, name, now)
        if found is not None:
            return found
    since = _unready_since(pod)
    if since is None or now < since + NOT_SERVING_GRACE:
        return None
    fix = f"its log says why (kubectl logs {name}), kubectl streamjob restart replaces it"
    return Trouble("NotServing", f"the pod {name} runs and has not served since {time_text(since)}: {fix}", ran=True)


def _containers(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers of a pod, without those that had only to prepare it and have."""
    first = status.get("initContainerStatuses") or ()
    left = [one for one in first if (one.get("state", {}).get("terminated") or {}).get("exitCode") != 0]
    return [*left, *(status.get("containerStatuses") or ())]


def _unready_since(pod: Object) -> datetime | None:
    """Since when a pod does not serve that has; None where it serves, or is not known to have.

    What became not ready before its container began has not been ready since: such a pod starts.
    """
    status = pod.get("status", {})
    ready: dict[str, Any] = next((one for one in status.get("conditions") or () if one["type"] == "Ready"), {})
    if ready.get("status") != "False" or not ready.get("lastTransitionTime"):
        return None
    since = parse_time(ready["lastTransitionTime"])
    for container in status.get("containerStatuses") or ():
        begun = (container.get("state", {}).get("running") or {}).get("startedAt")
        if begun and container.get("started") and not container.get("ready") and since > parse_time(begun):
            return since
    return None


def _wait_trouble(container: dict[str, Any], pod: str) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason, text = waiting.get("reason", ""), str(waiting.get("message", ""))[:MAX_TEXT]
    if reason in _IMAGE:
        image = container.get("image", "")
        fix = "check spec.image, the registry and podTemplate's imagePullSecrets"
        return Trouble(reason, f"the image {image} cannot be pulled ({text or reason}): {fix}", reason in _LASTING)
    if reason in _LASTING:
        ended = (container.get("lastState", {}).get("terminated") or {}) if reason == "CrashLoopBackOff" else {}
        look = f"kubectl logs {pod} --previous"
        return Trouble(reason, f"{_end(container, pod, 'ends', ended, text)}; see {look}", True, ran=True)
    return None


def _end_trouble(container: dict[str, Any], pod: str, now: datetime) -> Trouble | None:
    """A container that has ended, or has begun anew and does not serve yet; its next start may well go as the last."""
    over = container.get("state", {}).get("terminated")
    ended = over or _last_end(container, now)
    if ended is None:
        return None
    reason = "OOMKilled" if ended.get("reason") == "OOMKilled" else "ContainerEnded"
    look = "see" if over else f"{container['restartCount']} restarts, see"
    look += f" kubectl logs {pod}" + ("" if over else " --previous")
    return Trouble(reason, f"{_end(container, pod, 'has ended', ended)}; {look}", ran=True)


def _last_end(container: dict[str, Any], now: datetime) -> dict[str, Any] | None:
    """How a container that is not ready ended before this start, unless it has come up since and that is long ago."""
    if container.get("ready") or not container.get("restartCount"):
        return None
    ended: dict[str, Any] = container.get("lastState", {}).get("terminated") or {}
    begun = (container.get("state", {}).get("running") or {}).get("startedAt")
    at = ended.get("finishedAt") or begun
    recent = at is None or now - parse_time(at) < RESTART_RECENT
    return ended if recent or container.get("started") is False else None


def _end(container: dict[str, Any], pod: str, told: str, ended: dict[str, Any], text: str = "") -> str:
    """That a container ended and how; `text` is what else is said where it left nothing."""
    by = f" by {ended['reason']}" if ended.get("reason") else ""
    code = f" with exit code {ended['exitCode']}" if "exitCode" in ended else ""
    # What was logged before a kill for want of memory has seldom to do with it.
    said = _MORE_MEMORY if ended.get("reason") == "OOMKilled" else last_said(str(ended.get("message") or "")) or text
    return f"the container {container['name']} of {pod} {told}{by}{code}" + (f": {said}" if said else "")


def last_said(text: str) -> str:
    """What a container said last, in one line: the last message of its log, or what comes after the log's last line.

    Code of a job's author may have written it: nothing in it breaks a status, and little of it is read.
    """
    said = ""
    for line in reversed(text[-MAX_SAID:].strip().splitlines()):
        logged = _logged(line)
        if logged is not None:
            said = said or logged
            break
        said = f"{line} {said}"
    printable = "".join(one if one.isprintable() else " " for one in said)
    return " ".join(printable.split())[-MAX_TEXT:]


def _logged(line: str) -> str | None:
    """The message of a line of the engine's log, or what happened by its name."""
    try:
        members: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    said = members.get("message") or members.get("event")
    return said if isinstance(said, str) else None


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
    facts = observed.facts
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
