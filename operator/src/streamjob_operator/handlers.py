"""What kopf is told: each handler is one line over the controller."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import kopf
import structlog

from streamjob_operator import names
from streamjob_operator.bench import Bench
from streamjob_operator.controller import Controller
from streamjob_operator.validation import InvalidJob, check, sentence

CHUNK = 100
"""Objects of one page of kopf's lists."""
WORKERS = 32
"""Events that kopf hands on at once."""
IDLE_S = 0.02
"""How long kopf keeps the task of an object whose events are handed on.

Each of the WORKERS is held for so long: this bounds how many objects a second are heard of, and what comes faster
waits in memory.
"""
MAX_PROBLEMS = 20
"""Problems that a refusal lists."""

_log = structlog.get_logger("streamjob_operator.webhook")


def register(
    registry: kopf.OperatorRegistry,
    controller: Controller,
    loop: asyncio.AbstractEventLoop,
    *,
    watched: bool = True,
    webhook: bool,
) -> None:
    """Registers the handlers, that of jobs where they are `watched`; `loop` is the controller's, kopf has another."""
    bench = Bench("webhook")

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> Any:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    if watched:

        @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)
        async def job_event(event: Any, **_: Any) -> None:
            loop.call_soon_threadsafe(controller.saw_job, event["type"], event["object"])

    @kopf.on.probe(registry=registry, id="watches")
    async def watches(**_: Any) -> str:
        return alive(controller)

    if webhook:

        @kopf.on.validate(names.GROUP, names.VERSION, names.PLURAL, registry=registry, id="streamjobs")
        async def validate(body: Any, **kwargs: Any) -> None:
            await bench.do(refuse_invalid, kwargs.get("operation"), dict(body), kwargs.get("old"))


def alive(controller: Controller) -> str:
    """The answer to the liveness probe; raises where the operator no longer does its work."""
    problem = controller.problem()
    if problem is not None:
        raise kopf.PermanentError(problem)
    return "ok"


def refuse_invalid(operation: str | None, job: dict[str, Any], old: Mapping[str, Any] | None = None) -> None:
    """Refuses a job whose expressions or code cannot be run.

    A job on its way out is left alone, and so is one whose spec stays as it was: finalizers must come and go.
    """
    if operation == "DELETE" or job["metadata"].get("deletionTimestamp"):
        return
    if operation == "UPDATE" and old is not None and old.get("spec") == job.get("spec"):
        return
    job = {**job, "metadata": {**job["metadata"], "name": job["metadata"].get("name", "job")}}
    checked = check(job, None)
    if isinstance(checked, InvalidJob):
        lines = [sentence(problem) for problem in checked.problems[:MAX_PROBLEMS]]
        if len(checked.problems) > MAX_PROBLEMS:
            lines.append(f"and {len(checked.problems) - MAX_PROBLEMS} more: see them all by streamjob check")
        metadata = job["metadata"]
        _log.info("refused", namespace=metadata.get("namespace"), job=metadata["name"], problems=len(checked.problems))
        raise kopf.AdmissionError("; ".join(lines), code=422)


def settings_of_kopf() -> kopf.OperatorSettings:
    """kopf as a watcher: no writes of its own, small pages, no tasks of dormant objects."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.chunk_size = CHUNK
    settings.queueing.worker_limit = WORKERS
    settings.queueing.idle_timeout = IDLE_S
    return settings
