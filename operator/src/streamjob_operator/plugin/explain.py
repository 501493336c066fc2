"""`kubectl streamjob explain`: why a job is in its state, what it waits for, what to do. Pure."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from streamjob_operator.plugin import advice
from streamjob_operator.plugin.observation import Observation, PodState, event_count, event_time, pod_state
from streamjob_operator.plugin.text import one_line, parse_time, since, span

RECENT = timedelta(hours=1)
"""Warnings of so long ago are told."""
MAX_WARNINGS = 5
"""Of these, so many."""
WIDTH = 110


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for the state: what it is about, what is so, since when, and what to do (may be empty)."""

    about: str
    says: str
    message: str
    since: str
    advice: str


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that is waited for, since when and at most how long; `left` is empty where there is no deadline."""

    operation: str
    waits_for: str
    why: str
    since: str
    left: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer."""

    name: str
    namespace: str
    phase: str
    summary: str
    findings: tuple[Finding, ...]
    waits: tuple[Wait, ...]
    next_steps: tuple[str, ...]


def explain(seen: Observation) -> Explanation:
    """Why the job is as it is: its deletion, what the operator says, its pods, recent warnings, in this order."""
    found = [*_deletion(seen), *_operator(seen), *_conditions(seen), *_pods(seen), *_warnings(seen)]
    named = f"{seen.name} -n {seen.namespace}"
    findings = _told_once([replace(one, advice=one.advice.replace("NAME", named)) for one in found])
    return Explanation(
        name=seen.name,
        namespace=seen.namespace,
        phase=seen.phase,
        summary=_summary(seen, bool(findings)),
        findings=tuple(findings),
        waits=tuple(_waits(seen)),
        next_steps=tuple(_next_steps(seen)),
    )


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """The answer for programs."""
    return {("nextSteps" if name == "next_steps" else name): value for name, value in asdict(explanation).items()}


def explanation_text(explanation: Explanation) -> str:
    """The answer for a person."""
    lines = [explanation.summary]
    if explanation.findings:
        lines += ["", "Why"]
        for one in explanation.findings:
            age = f" for {one.since}" if one.since else ""
            lines.append(f"  {one.about}{age}: {one.says}")
            lines += _wrapped(one.message, "      ")
            lines += _wrapped(one.advice, "    > ")
    if explanation.waits:
        lines += ["", "What it waits for"]
        for wait in explanation.waits:
            left = f", at most {wait.left} more" if wait.left else ""
            lines.append(f"  {wait.operation}, for {wait.since}{left}: {wait.waits_for or 'its turn'}")
            lines += _wrapped(wait.why, "      ")
    lines += ["", "Look further", *(f"  {step}" for step in explanation.next_steps)]
    return "\n".join(lines) + "\n"


def _told_once(findings: list[Finding]) -> list[Finding]:
    """The same advice, where several findings have it, only with the first."""
    told = set[str]()
    kept = []
    for one in findings:
        kept.append(replace(one, advice="") if one.advice in told else one)
        told.add(one.advice)
    return kept


def _wrapped(text: str, mark: str) -> list[str]:
    following = " " * len(mark)
    return textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent=following, break_long_words=False)


def _summary(seen: Observation, troubled: bool) -> str:
    begun = seen.phase_since()
    lasted = f" for {span((seen.now - begun).total_seconds())}" if begun else ""
    named = f"{seen.namespace}/{seen.name}"
    if not seen.status:
        return f"{named} has no status yet."
    if seen.phase == "Running" and not troubled:
        return f"{named} is Running{lasted}, and nothing is wrong."
    return f"{named} is {seen.phase}{lasted}."


def _deletion(seen: Observation) -> list[Finding]:
    if seen.deleted_at is None:
        return []
    policy = str(seen.spec.get("deletionPolicy") or "Retain")
    kept = "its volumes stay" if policy == "Retain" else "its volumes are deleted with it"
    deadline = seen.spec.get("deletionDeadline") or "5m"
    message = f"deletionPolicy is {policy}: {kept}. It goes after {deadline} at the latest, whatever hangs."
    return [Finding("The job", "is being deleted", message, since(seen.deleted_at.isoformat(), seen.now), "")]


def _operator(seen: Observation) -> list[Finding]:
    created = since(seen.job["metadata"].get("creationTimestamp"), seen.now)
    if not seen.status:
        return [Finding("The operator", "has not looked at it", "", created, advice.NOT_SEEN)]
    if seen.is_stale:
        generation, looked_at = seen.job["metadata"].get("generation"), seen.status.get("observedGeneration")
        says = f"knows generation {looked_at} of the spec, the newest is {generation}"
        return [Finding("The operator", says, "", "", advice.STALE)]
    return []


def _conditions(seen: Observation) -> list[Finding]:
    """What several conditions say is told once: by the one with the most to advise, else by the first."""
    findings: dict[str, Finding] = {}
    for condition in seen.troubling():
        reason, message = str(condition.get("reason") or ""), str(condition.get("message") or "")
        about = f"{condition.get('type')} is {condition.get('status')}"
        age = since(condition.get("lastTransitionTime"), seen.now)
        finding = Finding(about, reason, message, age, advice.for_condition(reason) or "")
        before = findings.get(message)
        if before is None or (finding.advice and not before.advice):
            findings[message] = finding
    return list(findings.values())


def _pods(seen: Observation) -> list[Finding]:
    return [_pod(pod) for pod in map(pod_state, seen.pods) if not pod.ready]


def _pod(pod: PodState) -> Finding:
    says = pod.state if pod.state != "Running" else "runs and is not ready"
    if pod.last_end:
        times = "once" if pod.restarts == 1 else f"{pod.restarts} times"
        says += f", restarted {times}, ended last by {pod.last_end}"
    what = advice.for_pod(pod.state, pod.last_end) or ""
    return Finding(f"Pod {pod.name}", says, pod.message, "", what)


def _warnings(seen: Observation) -> list[Finding]:
    """Recent warnings, unless all is as it should be: then they are of yesterday's trouble."""
    if not seen.troubling() and all(pod_state(pod).ready for pod in seen.pods):
        return []
    findings = []
    # Events of pods that have gone speak of what is over, though the one of now has their name.
    alive = {pod["metadata"].get("uid") for pod in seen.pods}
    for event in reversed(seen.newest_events(len(seen.events))):
        time = parse_time(event_time(event))
        if event.get("type") != "Warning" or time is None or seen.now - time > RECENT:
            continue
        about = event.get("involvedObject") or event.get("regarding") or {}
        if about.get("kind") == "Pod" and about.get("uid") not in alive:
            continue
        count = event_count(event)
        says = str(event.get("reason") or "") + (f", {count} times" if count > 1 else "")
        message = one_line(event.get("message") or event.get("note"), 300)
        says += f", {since(event_time(event), seen.now)} ago"
        findings.append(Finding(f"Event of {about.get('kind')} {about.get('name')}", says, message, "", ""))
    return findings[:MAX_WARNINGS]


def _waits(seen: Observation) -> list[Wait]:
    waits = []
    for one in seen.operations:
        deadline = parse_time(one.get("deadline"))
        left = "" if deadline is None else span((deadline - seen.now).total_seconds())
        waits.append(
            Wait(
                operation=str(one.get("name") or ""),
                waits_for=str(one.get("blockedBy") or ""),
                why=str(one.get("message") or ""),
                since=since(one.get("startedAt"), seen.now),
                left=left,
            )
        )
    return waits


def _next_steps(seen: Observation) -> list[str]:
    job = f"{seen.name} -n {seen.namespace}"
    steps = [f"kubectl streamjob status {job}"]
    if seen.pods:
        crashed = any(pod_state(pod).last_end for pod in seen.pods)
        steps.append(f"kubectl streamjob logs {job}" + (" --previous" if crashed else ""))
        steps += [f"kubectl -n {seen.namespace} describe pod {pod['metadata']['name']}" for pod in seen.pods[:1]]
    if seen.phase == "Suspended":
        steps.append(f"kubectl streamjob resume {job}")
    return steps
