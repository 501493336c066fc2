"""The status that a decision writes, and whether writing it is worth an API call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from streamjob_operator import names
from streamjob_operator.conditions import MAX_MESSAGE, Condition, merged
from streamjob_operator.decide.health import Trouble, engine_status, ready_pods
from streamjob_operator.decide.operations import Operation
from streamjob_operator.observed import Observed

FACTS_INTERVAL = timedelta(minutes=1)
"""How often changed facts of the engine are written, where nothing else changed."""
REPEATS = "OutputsMayRepeat"
"""The condition, and the Event, of a state that is older than its output. It stays so: no phase hangs on it."""
RESTORED = (
    "the state was restored from before the last output, so outputs may have been repeated since: consumers of message "
    "sinks must expect that"
)
_OF_SERVING = ("lagRows", "rate")
"""Facts of an engine that says them now: without a serving pod there are none."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A state in one word with its sentence, and the operations under way."""

    phase: str
    message: str
    operations: tuple[Operation, ...] = ()


def running_status(
    observed: Observed,
    *,
    suspended: bool,
    storage: Condition,
    found: Trouble | None,
    operations: tuple[Operation, ...],
) -> dict[str, Any]:
    """The status of a valid job."""
    summary = _summary(observed, suspended, found, operations)
    conditions = [
        _ready(observed, summary),
        _progressing(operations),
        _degraded(observed, summary, found, operations),
        Condition("SpecValid", True, "Valid", "the spec is valid"),
        storage,
        _engine(observed),
        _suspended(observed, suspended),
        *_repeats(observed),
    ]
    return _status(observed, summary, conditions)


def invalid_status(
    observed: Observed, reason: str, message: str, operations: tuple[Operation, ...] = ()
) -> dict[str, Any]:
    """The status of a job whose spec cannot be run; what runs goes on as it is, or stops where that is asked."""
    running = ready_pods(observed) > 0
    what = "commits and stops" if observed.suspended else "goes on with the last valid spec"
    goes_on = f"; the pod {what}" if observed.pods else ""
    summary = Summary("Invalid", message, operations)
    waits = Condition("Progressing", False, "InvalidSpec", "nothing changes until the spec is corrected")
    conditions = [
        _ready(observed, summary),
        _progressing(operations) if operations else waits,
        Condition("Degraded", not running, "InvalidSpec", message),
        Condition("SpecValid", False, reason, message + goes_on),
        *_kept(observed, ("StorageReady",)),
        _engine(observed),
        _suspended(observed, observed.suspended),
        *_repeats(observed),
    ]
    return _status(observed, summary, conditions)


def deleting_status(observed: Observed, summary: Summary) -> dict[str, Any]:
    """The status of a job on its way out."""
    wait = f"waits for {summary.message}"
    lasting = ("Degraded", "SpecValid", "StorageReady", "EngineReachable", "Suspended", REPEATS)
    conditions = [
        Condition("Ready", False, "Deleting", wait),
        Condition("Progressing", True, "Deleting", wait),
        *_kept(observed, lasting),
    ]
    return _status(observed, summary, conditions)


def blocked_status(status: dict[str, Any] | None, message: str) -> dict[str, Any] | None:
    """The status of a deletion that waits for what the cluster refuses."""
    if status is None:
        return None
    return {
        **status,
        "operations": [{**operation, "blockedBy": message[:MAX_MESSAGE]} for operation in status["operations"]],
    }


def mistaken_status(observed: Observed, what: str) -> dict[str, Any]:
    """The last status with the word that the operator failed at this job by a mistake of its own."""
    message = f"the operator failed at this job by a mistake of its own ({what}): see its log; what runs goes on"
    old = observed.status.get("conditions", ())
    told = merged(old, [Condition("Degraded", True, "InternalError", message)], observed.generation, observed.now)
    phase = "Deleting" if observed.deleting else "Degraded" if ready_pods(observed) else "Failed"
    conditions = [*(condition for condition in old if condition["type"] != "Degraded"), *told]
    return {**observed.status, "phase": phase, "observedGeneration": observed.generation, "conditions": conditions}


def _kept(observed: Observed, types: tuple[str, ...]) -> list[Condition]:
    """Conditions of the last status that nothing new is known about."""
    words: dict[Any, bool | None] = {"True": True, "False": False}
    return [
        Condition(old["type"], words.get(old["status"]), old["reason"], old["message"])
        for old in observed.status.get("conditions", ())
        if old["type"] in types
    ]


def _status(observed: Observed, summary: Summary, conditions: list[Condition]) -> dict[str, Any]:
    old = observed.status
    status: dict[str, Any] = {
        "phase": summary.phase,
        "observedGeneration": observed.generation,
        "conditions": merged(old.get("conditions", ()), conditions, observed.generation, observed.now),
        "replicas": len(observed.pods),
        "readyReplicas": ready_pods(observed),
        "selector": names.selector_text(observed.name),
        "operations": [operation.status() for operation in summary.operations],
    }
    engine = engine_status(observed) or {}
    if not ready_pods(observed):
        engine = {name: value for name, value in engine.items() if name not in _OF_SERVING}
    if engine:
        status["engine"] = engine
    if old.get("checkpointRequest") is not None:
        status["checkpointRequest"] = old["checkpointRequest"]
    if old.get("checkpointProblem") is not None:
        status["checkpointProblem"] = old["checkpointProblem"]
    return status


def _summary(observed: Observed, suspended: bool, found: Trouble | None, operations: tuple[Operation, ...]) -> Summary:
    ready = ready_pods(observed)
    late = _overdue(observed, operations)
    if suspended and not observed.pods:
        return Summary("Suspended", "spec.suspend is true; the state stays on its volumes", operations)
    if suspended and late is None:
        return Summary("Progressing", "the pod commits and stops", operations)
    if found is not None and not ready:
        served = found.ran or observed.status.get("phase") in ("Running", "Degraded", "Progressing")
        phase = "Failed" if found.lasting else "Degraded" if served or late is not None else "Pending"
        return Summary(phase, found.message, operations)
    problem = _engine_problem(observed) if ready else None
    if late is not None:
        return Summary("Degraded", problem or _late(late), operations)
    if any(operation.name == "Roll" for operation in operations):
        return Summary("Progressing", "the pod is replaced by one of the new template", operations)
    if problem is not None:
        return Summary("Degraded", problem, operations)
    if ready:
        return Summary("Running", "all pods serve", operations)
    if observed.pods:
        return Summary("Starting", "the pod starts and recovers its state", operations)
    return Summary("Pending", "waits for the pod to be created", operations)


def _overdue(observed: Observed, operations: tuple[Operation, ...]) -> Operation | None:
    """The first operation whose deadline has passed."""
    return next((operation for operation in operations if operation.overdue(observed.now)), None)


def _late(operation: Operation) -> str:
    look = "kubectl describe pvc says" if operation.name == "Resize" else "kubectl describe pod and the pod's log say"
    return f"{operation.name} takes longer than it should: waits for {operation.blocked_by}; {look} why"


def _engine_problem(observed: Observed) -> str | None:
    """What a serving engine complains about."""
    facts = observed.engine
    if facts is None:
        return None
    if facts.status is None:
        late = facts.since is not None and observed.now - facts.since >= FACTS_INTERVAL
        return f"the engine's control interface cannot be reached: {facts.error}" if late else None
    blocked = facts.status.blocked_shards
    if blocked:
        return f"{blocked} shards wait: a sink or function does not take their rows; see the engine's log"
    if facts.status.disk_full:
        return "the volume is full, and requests are refused: enlarge spec.storage.size, or shorten spec.history.raw"
    return None


def _ready(observed: Observed, summary: Summary) -> Condition:
    ready = ready_pods(observed)
    if ready:
        return Condition("Ready", True, "PodsReady", f"{ready} of {max(ready, len(observed.pods))} pods serve")
    return Condition("Ready", False, summary.phase, summary.message)


def _progressing(operations: tuple[Operation, ...]) -> Condition:
    if not operations:
        return Condition("Progressing", False, "Settled", "nothing is under way")
    first = operations[0]
    return Condition("Progressing", True, first.name, f"{first.message}; waits for {first.blocked_by}")


def _degraded(
    observed: Observed, summary: Summary, found: Trouble | None, operations: tuple[Operation, ...]
) -> Condition:
    if found is not None:
        return Condition("Degraded", True, found.reason, found.message)
    late = _overdue(observed, operations)
    if late is not None:
        return Condition("Degraded", True, "DeadlineExceeded", _late(late))
    if summary.phase == "Degraded":
        return Condition("Degraded", True, "Engine", summary.message)
    return Condition("Degraded", False, "AsExpected", "nothing is wrong")


def _engine(observed: Observed) -> Condition:
    facts = observed.engine
    if facts is None and ready_pods(observed):
        # An operator that has just begun to lead has not asked yet: what the one before it was told still stands.
        kept = _kept(observed, ("EngineReachable",))
        if kept:
            return kept[0]
    if facts is None or not observed.pods:
        return Condition("EngineReachable", None, "NotAsked", "there is no serving pod to ask")
    if facts.status is None:
        return Condition("EngineReachable", False, "NoAnswer", str(facts.error))
    return Condition("EngineReachable", True, "Answers", "the engine's control interface answers")


def _suspended(observed: Observed, suspended: bool) -> Condition:
    if not suspended:
        return Condition("Suspended", False, "NotAsked", "spec.suspend is false")
    if observed.pods:
        return Condition("Suspended", False, "Stopping", "the pod commits and stops")
    return Condition("Suspended", True, "Asked", "spec.suspend is true")


def _repeats(observed: Observed) -> list[Condition]:
    """Whether outputs may repeat: what the engine says now, else what it said last; nothing before it was asked."""
    facts = observed.facts
    if facts is None:
        return _kept(observed, (REPEATS,))
    if facts.outputs_may_repeat:
        return [Condition(REPEATS, True, "Restored", RESTORED)]
    return [Condition(REPEATS, False, "AsExpected", "the state is as new as its output")]


def worth_writing(old: Mapping[str, Any], new: Mapping[str, Any], last_written: datetime | None, now: datetime) -> bool:
    """Whether to write: at once when the state changed, once a FACTS_INTERVAL when only the engine's facts did."""
    if _state(old) != _state(new):
        return True
    if old.get("engine") == new.get("engine"):
        return False
    return last_written is None or now - last_written >= FACTS_INTERVAL


def _state(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without facts that change by themselves."""
    engine = status.get("engine") or {}
    lasting = {name: engine.get(name) for name in ("version", "shards", "udfVersion")}
    rest = {name: value for name, value in status.items() if name != "engine" and value not in (None, [])}
    return {**rest, "engine": lasting}
