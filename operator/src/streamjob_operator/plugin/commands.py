"""What each command does: read, hand to a pure function, print; or write, and wait for the answer."""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from streamjob.cli.query import query as query_engine

from streamjob_operator.plugin.cluster import Cluster, ClusterError
from streamjob_operator.plugin.explain import explain, explanation_json, explanation_text
from streamjob_operator.plugin.forward import forwarded
from streamjob_operator.plugin.logs import readable
from streamjob_operator.plugin.observation import Object, pod_state
from streamjob_operator.plugin.status import jobs_table, status_json, status_screen

DONE, FAILED, LATE = 0, 1, 3
CHECKPOINT = "streamjob.dev/checkpoint"
RESTART = "streamjob.dev/restart"

Command = Callable[[Cluster, argparse.Namespace], int]


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def status(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Shows one job, or all."""
    if arguments.job is None:
        jobs = cluster.jobs(everywhere=arguments.all_namespaces)
        if arguments.output == "json":
            _print_json({"items": jobs})
        else:
            print(jobs_table(jobs, datetime.now(UTC), with_namespace=arguments.all_namespaces), end="")
        return DONE
    seen = cluster.observe(arguments.job)
    if arguments.output == "json":
        _print_json(status_json(seen))
    else:
        print(status_screen(seen), end="")
    return DONE


def show_explanation(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Says why a job is as it is."""
    explanation = explain(cluster.observe(arguments.job))
    if arguments.output == "json":
        _print_json(explanation_json(explanation))
    else:
        print(explanation_text(explanation), end="")
    return DONE


def logs(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Prints the log of the job's first pod."""
    pod = _pod(cluster, arguments.job, ready=False)
    lines = cluster.logs(
        pod, follow=arguments.follow, previous=arguments.previous, tail=arguments.tail, since_s=arguments.since
    )
    for line in lines:
        print(line if arguments.output == "json" else readable(line), flush=arguments.follow)
    return DONE


def query(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Asks the engine through a forwarded port, as `streamjob query` does."""
    with forwarded(cluster, _pod(cluster, arguments.job, ready=True)) as (url, _):
        output = "json" if arguments.output == "json" else "table"
        return query_engine(argparse.Namespace(**{**vars(arguments), "url": url, "output": output}))


def ui(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Forwards a port until Ctrl-C, or until the pod has gone."""
    pod = _pod(cluster, arguments.job, ready=True)
    with forwarded(cluster, pod, arguments.port) as (url, process):
        if arguments.output == "json":
            print(json.dumps({"url": url, "pod": pod}), flush=True)
        else:
            print(f"{url} is {pod} until Ctrl-C", flush=True)
        if arguments.open:
            webbrowser.open(url)
        process.wait()
    print(f"kubectl streamjob: the way to the pod {pod} has closed", file=sys.stderr)
    return FAILED


def suspend(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Stops the pods."""
    job = cluster.patch(arguments.job, {"spec": {"suspend": True}})
    return _finish(cluster, job, arguments, "suspended", lambda now: _looked_at(now) and _is_suspended(now))


def resume(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Starts the pods again."""
    job = cluster.patch(arguments.job, {"spec": {"suspend": False}})
    return _finish(cluster, job, arguments, "resumed", lambda now: _looked_at(now) and _phase(now) == "Running")


def restart(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Replaces the pod: done when there is another one and it is ready."""
    before = {pod["metadata"]["uid"] for pod in cluster.observe(arguments.job).pods}
    job = cluster.patch(arguments.job, {"metadata": {"annotations": {RESTART: _stamp()}}})

    def done(now: Object) -> bool:
        if _phase(now) != "Running":
            return False
        pods = cluster.observe(arguments.job).pods
        return bool(pods) and all(pod["metadata"]["uid"] not in before and pod_state(pod).ready for pod in pods)

    return _finish(cluster, job, arguments, "restarted", done)


def checkpoint(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Asks for a checkpoint: done when the operator has answered this very request; FAILED where there was none."""
    asked = _stamp()
    job = cluster.patch(arguments.job, {"metadata": {"annotations": {CHECKPOINT: asked}}})

    def done(now: Object) -> bool:
        return bool((now.get("status") or {}).get("checkpointRequest") == asked)

    def failed(now: Object) -> str | None:
        problem = (now.get("status") or {}).get("checkpointProblem") if done(now) else None
        return None if problem is None else str(problem)

    return _finish(cluster, job, arguments, "checkpoint", done, failed)


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _phase(job: Object) -> str | None:
    return (job.get("status") or {}).get("phase")


def _is_suspended(job: Object) -> bool:
    """No pod runs because that was asked for. The phase of a job with an invalid spec tells of the spec instead."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return _phase(job) == "Suspended" or any(
        one.get("type") == "Suspended" and one.get("status") == "True" for one in conditions
    )


def _looked_at(job: Object) -> bool:
    """The operator's status speaks of the newest spec."""
    return bool((job.get("status") or {}).get("observedGeneration") == job["metadata"].get("generation"))


def _pod(cluster: Cluster, name: str, *, ready: bool) -> str:
    """The job's first pod, or a ready one."""
    seen = cluster.observe(name)
    pods = [pod_state(pod) for pod in seen.pods]
    fitting = [pod.name for pod in pods if pod.ready or not ready]
    if fitting:
        return min(fitting)
    why = "it is suspended" if seen.spec.get("suspend") else f"its phase is {seen.phase}"
    what = "no pod that is ready" if pods else "no pod"
    raise ClusterError(f"{name} has {what}: {why} (kubectl streamjob explain {name} -n {seen.namespace})")


def _finish(
    cluster: Cluster,
    job: Object,
    arguments: argparse.Namespace,
    action: str,
    done: Callable[[Object], bool],
    failed: Callable[[Object], str | None] = lambda _: None,
) -> int:
    """Waits, where it is asked for, until `done` says so of the job; prints what came of it.

    `failed` says why what is done has come to nothing. A job that is deleted meanwhile ends the wait: ClusterError.
    """
    last, reached = job, False
    if arguments.wait:
        for last in cluster.watch(job, arguments.timeout):
            reached = done(last)
            if reached:
                break
    problem = failed(last) if reached else None
    _tell(last, arguments, action, reached, problem)
    if problem is not None:
        return FAILED
    return DONE if reached or not arguments.wait else LATE


def _tell(job: Object, arguments: argparse.Namespace, action: str, reached: bool, problem: str | None) -> None:
    name, phase = job["metadata"]["name"], _phase(job)
    further = f"{name} -n {job['metadata']['namespace']}"
    if arguments.output == "json":
        newest = ((job.get("status") or {}).get("engine") or {}).get("lastCheckpoint")
        answer = {"job": name, "action": action, "asked": True, "done": reached and problem is None, "phase": phase}
        answer |= {"problem": problem} if problem is not None else {}
        _print_json({**answer, "lastCheckpoint": newest} if action == "checkpoint" else answer)
    elif problem is not None:
        print(
            f"streamjob/{name}: {action} failed: {problem} (kubectl streamjob explain {further})",
            file=sys.stderr,
        )
    elif reached:
        print(f"streamjob/{name}: {action}, done")
    elif arguments.wait:
        print(
            f"streamjob/{name}: {action} was asked for and is not done after {arguments.timeout}s; "
            f"its phase is {phase} (kubectl streamjob explain {further})",
            file=sys.stderr,
        )
    else:
        print(f"streamjob/{name}: {action}, asked for (kubectl streamjob status {further})")


COMMANDS: dict[str, Command] = {
    "status": status,
    "explain": show_explanation,
    "logs": logs,
    "query": query,
    "suspend": suspend,
    "resume": resume,
    "restart": restart,
    "checkpoint": checkpoint,
    "ui": ui,
}
