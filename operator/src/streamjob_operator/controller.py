"""The operator as one thing: watches feed the index and the queue, workers look at jobs while this replica leads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial

import structlog

from streamjob_operator import metrics, names
from streamjob_operator.cluster import Cluster, ClusterError, Object
from streamjob_operator.engine import Engines
from streamjob_operator.index import Index, Key, version
from streamjob_operator.informer import Echoes, Handler, Informer
from streamjob_operator.kinds import (
    CHILDREN,
    CLAIM,
    CONFIG_MAP,
    POD,
    POD_MONITOR,
    RUNTIME_CLASS,
    STORAGE_CLASS,
    STREAM_JOB,
    Kind,
)
from streamjob_operator.observe import Facts
from streamjob_operator.observed import asks, is_terminating
from streamjob_operator.poll import Poller
from streamjob_operator.queueing import Work
from streamjob_operator.reconcile import Reconciler
from streamjob_operator.settings import Settings, every_address, in_url
from streamjob_operator.validation import referenced_config_maps

STUCK_S = 600.0
"""A look at one job that takes longer means that a worker is stuck."""
LATE_BEAT_S = 60.0
"""How late the heartbeat of the event loop may be."""
SYNC_LIMIT_S = 60.0
"""What each watch gets for its first list, before the others go on without it."""
UNWATCHED_RETRY_S = 30.0
"""When a job of a namespace that is not watched yet is asked for again.

For so long a right has to be missing before it counts as taken away: an API server that starts may refuse everything.
"""
DISCOVERY_S = 300.0
"""How often it is asked whether PodMonitors have come, where there are none."""
DISCOVERY_RETRY_S = 1.0
"""When that is asked again where there was no answer; twice as late each time, up to DISCOVERY_S."""
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

_log = structlog.get_logger("streamjob_operator.controller")


class Controller:
    """Index, queue and workers."""

    def __init__(self, cluster: Cluster, settings: Settings, leads: Callable[[], bool] = lambda: True) -> None:
        self._cluster, self._settings = cluster, settings
        self.index = Index()
        self._facts = Facts()
        self._engines = Engines(settings.engine_url, lambda key: self.work.add(key, urgent=True))
        self._clock = asyncio.get_running_loop().time
        self.work = Work(self._clock)
        self._reconciler = Reconciler(
            cluster,
            self._engines,
            self.index,
            self._facts,
            settings.engine_image,
            self.work.add,
            self._wrote,
            self.work.add_in,
            in_url(every_address()),
            leads,
        )
        self._informers: list[Informer] = []
        self._echoes = Echoes()
        self._unlisted: set[str | None] = set()
        self._leads = False
        self._beat_at = self._clock()

    # ------------------------------------------------------------------------------------------------- what is told

    def saw_job(self, event: str | None, job: Object) -> None:
        """A watch-event of a StreamJob; None for one that was there already."""
        metadata = job["metadata"]
        key = (metadata["namespace"], metadata["name"])
        self._echoes.heard(key, version(job))
        if event == "DELETED":
            self._lost_job(key, metadata["uid"], version(job))
            return
        before = self.index.job(key)
        self.index.put_job(job, referenced_config_maps(job))
        # What we have written comes back as an event: it was looked at when it was written. And where nobody works, who
        # begins to lead looks at all: a queue would only grow until then.
        if self._leads and (before is None or asks(before) != asks(job)):
            self.work.add(key, urgent=before is not None)

    def _lost_job(self, key: Key, uid: str, ended: int) -> None:
        """The job with this uid is gone, as is known since a version."""
        if self.index.remove_job(key, uid, ended):
            self._reconciler.forget(key)
            self._engines.commits.keep(key, ())
            self.work.forget(key)

    def _wrote(self, key: Key, job: Object) -> None:
        """The answer to what was written into a job: kopf's watch has to tell of it as well."""
        self._echoes.wrote(key, version(job), self._clock())

    def _saw_child(self, event: str, thing: Object) -> None:
        metadata = thing["metadata"]
        if event == "DELETED":
            key = self.index.remove(thing["kind"], metadata["namespace"], metadata["name"], version(thing))
        else:
            # The answer to what we have written was kept when it came. What others wrote before it has events of its
            # own, of older versions, which are looked at; only a list does not tell of them.
            if event != "LISTED" and self.index.has(thing):
                return
            key = self.index.put(thing)
        if key is not None:
            self.work.add(key)

    def _saw_config_map(self, event: str, thing: Object) -> None:
        for key in self.index.see_config_map(thing, gone=event == "DELETED"):
            self.work.add(key, urgent=True)

    def _saw_storage_class(self, event: str, thing: Object) -> None:
        classes = self._facts.storage_classes = self._facts.storage_classes or {}
        annotations = thing["metadata"].get("annotations") or {}
        if event == "DELETED":
            classes.pop(thing["metadata"]["name"], None)
        else:
            grows = bool(thing.get("allowVolumeExpansion"))
            classes[thing["metadata"]["name"]] = (grows, annotations.get(_DEFAULT_CLASS) == "true")
        self._look_at_all()

    def _saw_runtime_class(self, event: str, thing: Object) -> None:
        classes = self._facts.runtime_classes = self._facts.runtime_classes or set()
        (classes.discard if event == "DELETED" else classes.add)(thing["metadata"]["name"])
        self._look_at_all()

    def _look_at_all(self) -> None:
        for key in self.index.jobs():
            self.work.add(key)

    # ------------------------------------------------------------------------------------------------- what it does

    async def lead(self) -> None:
        """Lists the jobs, watches the children, then works, until it is cancelled."""
        self._leads = True
        try:
            await self._lead()
        finally:
            self._engines.commits.stop()

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._unlisted.update(self._namespaces())
            await self._list_jobs()
            tasks.create_task(self._list_others())
            served = await self._watch(tasks)
            tasks.create_task(self._find_pod_monitors(tasks, served))
            _log.info("watches have listed", unwatched=self._unwatched(), **self.index.counts())
            self._look_at_all()
            for _ in range(self._settings.workers):
                tasks.create_task(self._worker())
            tasks.create_task(self._resync())
            tasks.create_task(self._poll())
            tasks.create_task(self._show())

    async def _list_jobs(self) -> None:
        """Lists the jobs where that has not been done since this replica leads.

        The watch of one that waited may have been dead without a word for a while: what it has told of may be from
        before the last edit, and whoever led has seen that. Until there is a list no job of its namespace is looked at.
        """
        for namespace in sorted(self._unlisted, key=str):
            try:
                async with asyncio.timeout(SYNC_LIMIT_S):
                    await self._list_jobs_in(namespace)
            except (ClusterError, TimeoutError) as error:
                _log.warning("jobs are not listed: they wait for it", namespace=namespace, error=str(error))
            else:
                self._unlisted.discard(namespace)

    async def _list_jobs_in(self, namespace: str | None) -> None:
        """Takes over what is listed of jobs, where it is newer than what is known, and forgets all else."""
        known = {key: self.index.job(key) for key in self.index.jobs() if namespace in (None, key[0])}
        gone = {key: job["metadata"]["uid"] for key, job in known.items() if job is not None}
        ended = ""
        async for jobs, ended in self._cluster.pages(STREAM_JOB, namespace):  # noqa: B007 - the last one counts
            for job in jobs:
                gone.pop(self.index.put_job(job, referenced_config_maps(job)), None)
        for key, uid in gone.items():
            self._lost_job(key, uid, int(ended) if ended.isdecimal() else 0)

    async def _list_others(self) -> None:
        """Lists the jobs of those namespaces again, later each time, of which there is no list yet."""
        wait = DISCOVERY_RETRY_S
        while self._unlisted:
            await asyncio.sleep(wait)
            wait, left = min(2 * wait, UNWATCHED_RETRY_S), len(self._unlisted)
            await self._list_jobs()
            if len(self._unlisted) < left:
                self._look_at_all()

    async def _watch(self, tasks: asyncio.TaskGroup) -> bool | None:
        """Begins all watches. Gives whether there are PodMonitors, None where that is not known."""
        served = await self._serves_pod_monitors()
        self._facts.pod_monitors = served is True
        for namespace in self._namespaces():
            for kind in (*CHILDREN, POD, CLAIM, *((POD_MONITOR,) if self._facts.pod_monitors else ())):
                self._informers.append(self._of_children(kind, namespace))
            self._informers.append(self._of_config_maps(namespace))
        self._informers += self._of_classes()
        for informer in self._informers:
            await _begin(informer, tasks)
            if informer.refused and not informer.optional:
                where = informer.namespace
                _log.error("no right to watch: jobs there wait for it", kind=informer.name, namespace=where)
        if self._facts.runtime_classes is None and not self._informers[-1].refused:
            self._facts.runtime_classes = set()
        if self._facts.storage_classes is None and not self._informers[-2].refused:
            self._facts.storage_classes = {}
        return served

    def _namespaces(self) -> tuple[str | None, ...]:
        """The namespaces to watch; None is all of them."""
        return self._settings.namespaces or (None,)

    async def _serves_pod_monitors(self) -> bool | None:
        """Whether there are PodMonitors; None where there was no answer."""
        try:
            return await self._cluster.serves(POD_MONITOR)
        except ClusterError as error:
            _log.warning("not known whether there are PodMonitors: asked again", error=str(error))
            return None

    async def _find_pod_monitors(self, tasks: asyncio.TaskGroup, served: bool | None) -> None:
        """Asks now and then for PodMonitors that were not `served` yet, and soon where there was no answer (None).

        Until all of them are known jobs go on without: a look that misses one would make it anew.
        """
        late: list[Informer] = []
        wait = DISCOVERY_RETRY_S if served is None else DISCOVERY_S
        while not self._facts.pod_monitors:
            await asyncio.sleep(wait)
            wait = min(2 * wait, DISCOVERY_S)
            if not late:
                served = await self._serves_pod_monitors()
                if served:
                    late = [self._of_children(POD_MONITOR, namespace) for namespace in self._namespaces()]
                    for informer in late:
                        await _begin(informer, tasks)
            if late and all(one.synced.is_set() and not one.refused for one in late):
                _log.info("PodMonitors have come: jobs get theirs")
                self._informers += late
                self._facts.pod_monitors = True
                self._look_at_all()

    def _of_children(self, kind: Kind, namespace: str | None) -> Informer:
        known = partial(self.index.places, kind.kind, namespace)
        return Informer(self._cluster, kind, namespace, self._saw_child, known, names.MANAGED)

    def _of_config_maps(self, namespace: str | None) -> Informer:
        """Of the users' ConfigMaps, by their metadata alone."""
        others = f"{names.MANAGED_BY}!={names.FIELD_MANAGER}"
        known = partial(self.index.config_map_places, namespace)
        return Informer(self._cluster, CONFIG_MAP, namespace, self._saw_config_map, known, others, metadata_only=True)

    def _of_classes(self) -> list[Informer]:
        """What a condition is the clearer for; without the right to see them nothing is said of them."""
        classes: tuple[tuple[Kind, Handler, Callable[[], Collection[str]]], ...] = (
            (STORAGE_CLASS, self._saw_storage_class, lambda: self._facts.storage_classes or {}),
            (RUNTIME_CLASS, self._saw_runtime_class, lambda: self._facts.runtime_classes or set()),
        )
        return [
            Informer(self._cluster, kind, None, handler, partial(_without_namespace, known), optional=True)
            for kind, handler, known in classes
        ]

    def _is_watched(self, namespace: str) -> bool:
        """Whether all of a namespace is known: a look that misses children would make them anew."""
        if not self._unlisted.isdisjoint((None, namespace)):
            return False
        return all(one.synced.is_set() and not one.refused for one in self._needed(namespace))

    def _needed(self, namespace: str) -> list[Informer]:
        return [one for one in self._informers if one.namespace in (None, namespace) and not one.optional]

    def _is_out_of_sight(self, key: Key) -> bool:
        """Whether a job is on its way out where the right to see its children has been taken away."""
        lost = [one.refused_at for one in self._needed(key[0]) if one.refused and one.refused_at is not None]
        if not lost or self._clock() - min(lost) < UNWATCHED_RETRY_S:
            return False
        job = self.index.job(key)
        return job is not None and is_terminating(job)

    def _unwatched(self) -> list[str]:
        """The watches of namespaces that are not watched."""
        jobs = [f"{STREAM_JOB.plural}{f' in {one}' if one else ''}" for one in sorted(self._unlisted, key=str)]
        late = [one for one in self._informers if not one.optional and (one.refused or not one.synced.is_set())]
        return [*jobs, *(one.name for one in late)]

    async def _worker(self) -> None:
        while True:
            key = await self.work.take()
            failed = False
            unseen = not self._is_watched(key[0])
            if unseen and not self._is_out_of_sight(key):
                self.work.done(key, failed=False)
                self.work.add_in(key, UNWATCHED_RETRY_S)
                continue
            try:
                wait = await self._reconciler.look(key, unseen=unseen)
                if wait is not None:
                    self.work.add_in(key, wait)
            except ClusterError as error:
                failed = True
                metrics.reconcile_errors.labels(error.actor).inc()
                _log.warning("failed", namespace=key[0], job=key[1], error=str(error), code=error.code)
            except Exception:
                # One job's surprise must not stop the others; the log has its trace.
                failed = True
                metrics.reconcile_errors.labels("operator").inc()
                _log.exception("failed by a mistake of the operator", namespace=key[0], job=key[1])
            finally:
                self.work.done(key, failed=failed)

    async def _resync(self) -> None:
        """Every job once a round, spread over its time."""
        while True:
            keys = self.index.jobs()
            for place, key in enumerate(keys, 1):
                self.work.add_in(key, self._settings.resync_s * place / len(keys))
            await asyncio.sleep(self._settings.resync_s)

    async def _poll(self) -> None:
        poller = Poller(self._engines, self.index, self._facts, self._reconciler.token, self.work.add, self._note_facts)
        while True:
            await poller.round()
            await asyncio.sleep(self._settings.facts_s)

    async def _note_facts(self, key: Key) -> None:
        if key in self.work.started:
            return  # the look under way writes them
        try:
            await self._reconciler.write_facts(key)
        except ClusterError as error:
            _log.warning("facts not written", namespace=key[0], job=key[1], error=str(error))

    async def _show(self) -> None:
        while True:
            self._reconciler.phases.show(time.time())
            metrics.unwatched.set(len(self._unwatched()))
            self._echoes.keep(self.index.jobs())
            self._engines.commits.keep_jobs(self.index.jobs())
            await asyncio.sleep(10)

    async def beat(self) -> None:
        """Shows until it is cancelled that the event loop runs."""
        while True:
            self._beat_at = self._clock()
            await asyncio.sleep(1)

    def problem(self) -> str | None:
        """Why the operator does not do its work, or None: what the liveness probe asks, from another thread."""
        now = self._clock()
        if now - self._beat_at > LATE_BEAT_S:
            return f"the event loop has been busy for {now - self._beat_at:.0f} s"
        limit = self._settings.dead_after_s
        asked = [informer for informer in self._informers if not informer.refused]
        dead = [informer.name for informer in asked if informer.is_dead(now, limit)]
        if dead:
            return f"nothing is heard of {', '.join(dead)}"
        if self._echoes.longest(now) > limit:
            return f"{names.PLURAL} were written, and their watch has not told of it for {limit:.0f} s"
        if self.work.longest() > STUCK_S:
            return f"a look at a job has taken {self.work.longest():.0f} s"
        return None

    async def close(self) -> None:
        """Closes connections."""
        await self._engines.close()


async def _begin(informer: Informer, tasks: asyncio.TaskGroup) -> None:
    """Begins a watch, one list at a time: they are the largest answers that are ever held."""
    tasks.create_task(informer.run())
    try:
        async with asyncio.timeout(SYNC_LIMIT_S):
            await informer.answered.wait()
    except TimeoutError:
        _log.warning("no list yet: the others go on", kind=informer.name, waited_s=SYNC_LIMIT_S)


def _without_namespace(known: Callable[[], Collection[str]]) -> list[tuple[str, str]]:
    return [("", name) for name in known()]
