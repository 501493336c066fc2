"""`kubectl streamjob status`: a job on one screen, or all jobs in a table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from streamjob_operator.plugin.observation import (
    Object,
    Observation,
    event_count,
    event_time,
    pod_state,
)
from streamjob_operator.plugin.text import NOTHING, number, one_line, parse_time, since, span, table

MAX_EVENTS = 8
"""Events on the screen."""


def status_screen(seen: Observation) -> str:
    """Everything about a job that fits on one screen."""
    lines = [_heading(seen), "", *_facts(seen)]
    if seen.operations:
        lines += ["", "Under way", *_operations(seen)]
    lines += ["", "Pods", *_pods(seen)]
    if seen.claims:
        lines += ["", "Volumes", *_claims(seen)]
    lines += ["", "Conditions", *_conditions(seen)]
    lines += ["", "Events", *_events(seen)]
    return "\n".join(lines) + "\n"


def status_json(seen: Observation) -> dict[str, Any]:
    """The same for programs."""
    return {
        "name": seen.name,
        "namespace": seen.namespace,
        "phase": seen.phase,
        "generation": seen.job["metadata"].get("generation"),
        "observedGeneration": seen.status.get("observedGeneration"),
        "suspend": bool(seen.spec.get("suspend", False)),
        "engine": seen.engine,
        "operations": seen.operations,
        "conditions": seen.conditions,
        "pods": [
            {
                "name": pod.name,
                "ready": pod.ready,
                "state": pod.state,
                "message": pod.message,
                "restarts": pod.restarts,
                "lastEnd": pod.last_end,
                "node": pod.node,
                "created": pod.created,
            }
            for pod in map(pod_state, seen.pods)
        ],
        "volumes": [_claim(claim) for claim in seen.claims],
        "events": [
            {
                "time": event_time(event),
                "type": event.get("type"),
                "reason": event.get("reason"),
                "object": _object_of(event),
                "count": event_count(event),
                "message": event.get("message") or event.get("note"),
            }
            for event in seen.newest_events(MAX_EVENTS)
        ],
    }


def jobs_table(jobs: Sequence[Object], now: datetime, *, with_namespace: bool) -> str:
    """One line a job."""
    if not jobs:
        return "There are no StreamJobs.\n"
    head = ["NAME", "PHASE", "READY", "UDF", "LAG", "RATE", "AGE"]
    rows = []
    for job in jobs:
        status = job.get("status") or {}
        engine = status.get("engine") or {}
        ready = f"{status.get('readyReplicas') or 0}/{(job.get('spec') or {}).get('replicas', 1)}"
        row = [
            job["metadata"]["name"],
            status.get("phase") or NOTHING,
            ready,
            engine.get("udfVersion") or NOTHING,
            number(engine.get("lagRows")),
            number(engine.get("rate")),
            since(job["metadata"].get("creationTimestamp"), now),
        ]
        rows.append([job["metadata"].get("namespace", ""), *row] if with_namespace else row)
    return "\n".join(table(["NAMESPACE", *head] if with_namespace else head, rows, indent="")) + "\n"


def _heading(seen: Observation) -> str:
    begun = seen.phase_since()
    lasted = f" for {span((seen.now - begun).total_seconds())}" if begun else ""
    stale = "   (the newest spec has not been looked at)" if seen.is_stale else ""
    return f"{seen.namespace}/{seen.name}   {seen.phase}{lasted}{stale}"


def _facts(seen: Observation) -> list[str]:
    engine = seen.engine
    checkpoint = engine.get("lastCheckpoint") or {}
    age = since(checkpoint.get("completedAt"), seen.now)
    watermark = parse_time(engine.get("watermark"))
    behind = NOTHING if watermark is None else f"{span((seen.now - watermark).total_seconds())} behind"
    facts = [
        ("rate", f"{number(engine.get('rate'))} events/s", "shards", number(engine.get("shards"))),
        ("lag", f"{number(engine.get('lagRows'))} rows", "watermark", behind),
        (
            "last commit",
            f"#{number(checkpoint.get('number'))}, {age} ago" if checkpoint else NOTHING,
            "engine",
            str(engine.get("version") or NOTHING),
        ),
    ]
    lines = [f"  {left:<12}{value:<26}{right:<12}{other}".rstrip() for left, value, right, other in facts]
    lines.append(f"  {'functions':<12}{engine.get('udfVersion') or NOTHING}")
    return lines


def _operations(seen: Observation) -> list[str]:
    rows = []
    for one in seen.operations:
        deadline = parse_time(one.get("deadline"))
        left = NOTHING if deadline is None else span((deadline - seen.now).total_seconds())
        waits, why = one_line(one.get("blockedBy"), 60), one_line(one.get("message"), 80)
        rows.append([str(one.get("name") or ""), since(one.get("startedAt"), seen.now), left, waits, why])
    return table(["WHAT", "SINCE", "LEFT", "WAITS FOR", "WHY"], rows)


def _pods(seen: Observation) -> list[str]:
    if not seen.pods:
        return ["  none" + (", the job is suspended" if seen.spec.get("suspend") else "")]
    rows = []
    for pod in map(pod_state, seen.pods):
        restarts = f"{pod.restarts} ({pod.last_end})" if pod.last_end else str(pod.restarts)
        rows.append(
            [pod.name, "yes" if pod.ready else "no", pod.state, restarts, since(pod.created, seen.now), pod.node]
        )
    return table(["NAME", "READY", "STATE", "RESTARTS", "AGE", "NODE"], rows)


def _claim(claim: Object) -> dict[str, Any]:
    status = claim.get("status") or {}
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    return {
        "name": claim["metadata"]["name"],
        "phase": status.get("phase"),
        "capacity": (status.get("capacity") or {}).get("storage"),
        "requested": requests.get("storage"),
        "storageClass": (claim.get("spec") or {}).get("storageClassName"),
    }


def _claims(seen: Observation) -> list[str]:
    head = ["NAME", "STATE", "SIZE", "ASKED FOR", "CLASS"]
    keys = ("name", "phase", "capacity", "requested", "storageClass")
    return table(head, [[str(claim[key] or "") for key in keys] for claim in map(_claim, seen.claims)])


def _conditions(seen: Observation) -> list[str]:
    if not seen.conditions:
        return ["  none: no operator has looked at this job"]
    troubling = [id(one) for one in seen.troubling()]
    rows = [
        [
            ("! " if id(one) in troubling else "  ") + str(one.get("type")),
            str(one.get("status")),
            since(one.get("lastTransitionTime"), seen.now),
            str(one.get("reason") or ""),
            one_line(one.get("message"), 100),
        ]
        for one in seen.conditions
    ]
    return table(["  TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"], rows, indent="")


def _object_of(event: Object) -> str:
    about = event.get("involvedObject") or event.get("regarding") or {}
    return f"{about.get('kind', '')}/{about.get('name', '')}"


def _events(seen: Observation) -> list[str]:
    newest = seen.newest_events(MAX_EVENTS)
    if not newest:
        return ["  none"]
    rows = []
    for event in newest:
        count = event_count(event)
        reason = str(event.get("reason") or "") + (f" x{count}" if count > 1 else "")
        mark = "! " if event.get("type") == "Warning" else "  "
        message = one_line(event.get("message") or event.get("note"), 100)
        rows.append([mark + since(event_time(event), seen.now), _object_of(event), reason, message])
    return table(["  AGO", "OBJECT", "REASON", "MESSAGE"], rows, indent="")
