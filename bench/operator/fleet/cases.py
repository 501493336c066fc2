"""The cases, in the order in which they run: each begins where the one before it has left the cluster."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubeharness.manifests import apply_manifests
from kubeharness.process import Operator, operator
from kubeharness.server import OPERATOR_TOKEN, TOKEN, Server, kubeconfig, running

from fleet.audit import Audit
from fleet.client import APPLY, MERGE, Api, BenchError
from fleet.nodes import Nodes, nodes
from fleet.objects import IMAGE, JOBS, NAMESPACES, SETS, Key, Object, job, keys, place, plain_set, windows
from fleet.report import latencies, say
from fleet.seen import Seen, View
from fleet.usage import Meter, cpu_s, memory

APPLIES = 16
"""Objects that are applied at once."""
LIMIT_S = 1800.0
"""What a case gets; a wait that takes longer fails it."""
MANAGER_FLAGS = ("--kube-api-qps", "2000", "--kube-api-burst", "4000")
"""The controller manager's own limit of 20 requests a second would be all that is measured."""
LOOKS = "streamjob_operator_reconcile_duration_seconds_count"
_SAMPLE_S = 0.25
_PROCESSES = ("etcd", "apiserver", "manager")


@dataclass(frozen=True)
class Plan:
    """How much of everything. Times in seconds."""

    jobs: int
    edits: int
    edits_per_s: float
    steady_s: float
    resync_s: float
    facts_s: float
    quiet_s: float
    """So long must nothing be asked before the steady state has begun."""
    cases: frozenset[str]
    """Those that are run; the jobs are applied in any case."""


@dataclass
class Fleet:
    """An API server with everything around it, and what is seen of it."""

    plan: Plan
    server: Server
    api: Api
    nodes: Nodes
    audit: Audit
    seen: Seen = field(default_factory=Seen)
    operator: Operator | None = None

    def meter(self) -> Meter:
        """Processor time from now on, of the operator as well where one runs."""
        pids = {name: process.pid for name, process in zip(_PROCESSES, self.server.processes, strict=True)}
        if self.operator is not None:
            pids["operator"] = self.operator.process.pid
        return Meter(pids)

    def memory(self) -> dict[str, int]:
        """Peaks of resident memory, and the operator's now."""
        found = {"apiserver_rss_bytes": memory(self.server.processes[1].pid)[0]}
        if self.operator is not None:
            found["operator_rss_bytes"], found["operator_rss_now_bytes"] = memory(self.operator.process.pid)
        return found

    async def apply(self, collection: str, things: Sequence[Object]) -> dict[Key, float]:
        """Applies objects as kubectl does; gives when each was sent."""
        sent: dict[Key, float] = {}
        waiting = iter(things)

        async def some() -> None:
            for thing in waiting:
                key = (thing["metadata"]["namespace"], thing["metadata"]["name"])
                sent[key] = time.monotonic()
                await self.api.call("PATCH", f"{place(collection, key)}?fieldManager=kubectl", thing, APPLY)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(APPLIES):
                tasks.create_task(some())
        return sent


@asynccontextmanager
async def cluster(plan: Plan, folder: Path) -> AsyncIterator[Fleet]:
    """A new API server with namespaces, and what nodes would do."""
    folder.mkdir()
    audit = Audit(folder)
    with ExitStack() as stack:
        server = stack.enter_context(running(folder, audit.flags(), MANAGER_FLAGS))
        apply_manifests(server)
        around = stack.enter_context(nodes(server))
        async with Api(server.url, TOKEN) as api:
            for number in range(NAMESPACES):
                await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"fleet-{number}"}})
            yield Fleet(plan, server, api, around, audit)


@asynccontextmanager
async def leading(fleet: Fleet) -> AsyncIterator[Operator]:
    """An operator for all namespaces that leads."""
    folder = fleet.server.folder
    config = kubeconfig(folder, fleet.server.url, OPERATOR_TOKEN, "operator")
    flags = {"kubeconfig": str(config), "engine_url": fleet.nodes.engine_url, "engine_image": IMAGE}
    flags |= {"namespaces": "", "resync_s": str(fleet.plan.resync_s), "facts_s": str(fleet.plan.facts_s)}
    with operator(fleet.server, "default", folder, **flags) as found:
        fleet.operator = found
        try:
            async with _following(_lives(found)):
                await _until("the operator leads", lambda: asyncio.to_thread(found.leads))
                yield found
        finally:
            fleet.operator = None


async def _lives(found: Operator) -> None:
    """Fails where the operator ends before it is told to: it does where it cannot renew its Lease."""
    code = await asyncio.to_thread(found.process.wait)
    raise BenchError(f"the operator has ended with {code}: see its log, or ask again when less else is running")


async def _until(what: str, ask: Callable[[], Awaitable[bool]], limit_s: float = LIMIT_S) -> None:
    """Asks until it is so. For what no watch shows: the operator's metrics, the API server's log."""
    end = time.monotonic() + limit_s
    while not await ask():
        if time.monotonic() > end:
            raise BenchError(f"not within {limit_s:g} s: {what}")
        await asyncio.sleep(_SAMPLE_S)


@asynccontextmanager
async def _following(*follow: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Watches for as long as something is measured; one that ends is the end of the measurement."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in follow]
        yield
        for task in tasks:
            task.cancel()


def _seconds(begin: float) -> float:
    return round(time.monotonic() - begin, 2)


async def statefulsets(plan: Plan, folder: Path) -> dict[str, Any]:
    """The same StatefulSets without jobs and operator, until each has its pod ready."""
    async with cluster(plan, folder) as fleet, _following(fleet.seen.follow_sets(fleet.api), fleet.nodes.last()):
        load, meter = os.getloadavg()[0], fleet.meter()
        things = [plain_set(key) for key in keys(plan.jobs)]
        ready = [fleet.seen.expect(key, lambda view: view.set_ready == 1) for key in keys(plan.jobs)]
        begin = time.monotonic()
        sent = await fleet.apply(SETS, things)
        applied_s = _seconds(begin)
        async with asyncio.timeout(LIMIT_S):
            ends = await asyncio.gather(*ready)
        took = [end - sent[key] for key, end in zip(keys(plan.jobs), ends, strict=True)]
        times = {"jobs": plan.jobs, "seconds": round(max(ends) - begin, 2), "applied_s": applied_s, **latencies(took)}
        return {**times, **meter.read(), **fleet.memory(), "load_average_before": round(load, 1)}


async def converge(fleet: Fleet) -> dict[str, Any]:
    """All jobs applied, until each says that it runs."""
    load, meter = os.getloadavg()[0], fleet.meter()
    fleet.audit.take()
    before = await _looks(fleet)
    count = fleet.plan.jobs
    runs = [fleet.seen.expect(key, View.runs) for key in keys(count)]
    begin = time.monotonic()
    sent = await fleet.apply(JOBS, [job(key) for key in keys(count)])
    applied_s = _seconds(begin)
    async with asyncio.timeout(LIMIT_S):
        ends = await asyncio.gather(*runs)
    took = [end - sent[key] for key, end in zip(keys(count), ends, strict=True)]
    calls, looks = fleet.audit.take(), await _looks(fleet) - before
    times = {"jobs": count, "seconds": round(max(ends) - begin, 2), "applied_s": applied_s, **latencies(took)}
    times |= {"reconciles": looks, "calls_per_job": round(calls.by_verb.total() / count, 2)}
    return {**times, **meter.read(), **fleet.memory(), **calls.line(), "load_average_before": round(load, 1)}


async def settle(fleet: Fleet) -> None:
    """Waits until the operator has asked nothing for `quiet_s`, but for its watches and its Lease."""
    quiet_since = time.monotonic()

    async def quiet() -> bool:
        nonlocal quiet_since
        calls = fleet.audit.take()
        if calls.facts or calls.others:
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since >= fleet.plan.quiet_s

    await _until("the operator asks nothing more", quiet)


async def steady(fleet: Fleet) -> dict[str, Any]:
    """Nothing changes, for `steady_s`."""
    return await _resting(fleet)


async def facts(fleet: Fleet) -> dict[str, Any]:
    """Each engine says something else each time that it is asked."""
    fleet.nodes.moving.set()
    try:
        found = await _resting(fleet)
    finally:
        fleet.nodes.moving.clear()
    each = found["status_calls"] / fleet.plan.jobs / (found["seconds"] / 60)
    return {**found, "facts_per_job_minute": round(each, 3)}


async def _resting(fleet: Fleet) -> dict[str, Any]:
    """What the operator does while nobody asks it for anything. A span holds whole resyncs."""
    load, meter = os.getloadavg()[0], fleet.meter()
    fleet.audit.take()
    before, begin = await _looks(fleet), time.monotonic()
    await asyncio.sleep(fleet.plan.steady_s)
    seconds, used = _seconds(begin), meter.read()
    calls, looks = fleet.audit.take(), await _looks(fleet) - before
    found = {"jobs": fleet.plan.jobs, "seconds": seconds, "reconciles": looks}
    found |= {"calls_per_reconcile": round(calls.others / looks, 4) if looks else None}
    found |= {"resync_s": fleet.plan.resync_s, "facts_s": fleet.plan.facts_s}
    return {**found, **used, **fleet.memory(), **calls.line(), "load_average_before": round(load, 1)}


async def edits(fleet: Fleet) -> dict[str, Any]:
    """Jobs are edited on a schedule that waits for nobody; each edit rolls a pod.

    An edit counts as reconciled when the StatefulSet has its template and the job's status its generation.
    """
    plan = fleet.plan
    load, meter = os.getloadavg()[0], fleet.meter()
    fleet.audit.take()
    before = await _looks(fleet)
    names = keys(plan.jobs)
    begin = time.monotonic()
    late: list[float] = []

    async def one(number: int) -> float:
        due = begin + number / plan.edits_per_s
        await asyncio.sleep(due - time.monotonic())
        key = names[number % len(names)]
        view, seconds = fleet.seen.view(key), 20 + 10 * (number // len(names) % 2)
        generation, set_generation = view.generation, view.set_generation
        done = fleet.seen.expect(key, lambda now: now.observed > generation and now.set_generation > set_generation)
        late.append(time.monotonic() - due)
        await fleet.api.call("PATCH", place(JOBS, key), {"spec": {"windows": windows(seconds)}}, MERGE)
        return await done - due

    async with asyncio.timeout(LIMIT_S):
        took = await asyncio.gather(*(one(number) for number in range(plan.edits)))
        edited = list(dict.fromkeys(names[number % len(names)] for number in range(plan.edits)))
        await asyncio.gather(*(fleet.seen.expect(key, View.runs) for key in edited))
    calls, looks = fleet.audit.take(), await _looks(fleet) - before
    found = {"jobs": plan.jobs, "edits": plan.edits, "edits_per_s": plan.edits_per_s, **latencies(took)}
    found |= {"sent_late_max_ms": round(max(late) * 1000, 1), "seconds": _seconds(begin)}
    found |= {"reconciles": looks, "calls_per_edit": round(calls.by_verb.total() / plan.edits, 2)}
    return {**found, **meter.read(), **fleet.memory(), **calls.line(), "load_average_before": round(load, 1)}


async def restart(fleet: Fleet) -> dict[str, Any]:
    """A new operator finds all jobs: from its start until it has looked at each and nothing waits."""
    load, begin = os.getloadavg()[0], time.monotonic()
    fleet.audit.take()
    async with leading(fleet) as found:

        async def looked() -> bool:
            told = await asyncio.to_thread(found.metrics)
            return told[LOOKS] >= fleet.plan.jobs and told["streamjob_operator_queue_depth"] == 0

        await _until("every job has been looked at", looked)
        seconds, calls = _seconds(begin), fleet.audit.take()
        # A new process has no past: what it has used it has used here.
        used = {"operator_cpu_s": round(cpu_s(found.process.pid), 2)}
        shown = {"jobs": fleet.plan.jobs, "seconds": seconds, "reconciles": int(await _looks(fleet))}
        return {**shown, **used, **fleet.memory(), **calls.line(), "load_average_before": round(load, 1)}


async def _looks(fleet: Fleet) -> int:
    assert fleet.operator is not None
    return int((await asyncio.to_thread(fleet.operator.metrics))[LOOKS])


async def run(plan: Plan, folder: Path, show: Callable[[str, dict[str, Any]], None]) -> None:
    """The cases of a plan; `show` gets each as soon as it is measured."""
    if "statefulsets" in plan.cases:
        say(f"statefulsets: {plan.jobs} StatefulSets alone …")
        show("statefulsets", await statefulsets(plan, folder / "alone"))
    async with (
        cluster(plan, folder / "operated") as fleet,
        _following(fleet.seen.follow_jobs(fleet.api), fleet.seen.follow_sets(fleet.api), fleet.nodes.last()),
    ):
        async with leading(fleet):
            await _while_it_leads(fleet, show)
        if "restart" in plan.cases:
            say("restart …")
            show("restart", await restart(fleet))


async def _while_it_leads(fleet: Fleet, show: Callable[[str, dict[str, Any]], None]) -> None:
    say("converge …")
    show("converge", await converge(fleet))
    for name, case in (("steady", steady), ("facts", facts), ("edits", edits)):
        if name not in fleet.plan.cases:
            continue
        if name != "facts":
            say("waiting until the operator rests …")
            await settle(fleet)
        say(f"{name} …")
        show(name, await case(fleet))
