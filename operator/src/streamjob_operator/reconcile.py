"""One look at a job: observe, decide, apply, write the status."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from streamjob_operator import metrics, names
from streamjob_operator.apply import Applier
from streamjob_operator.bench import Bench
from streamjob_operator.cluster import NAME_TAKEN, Cluster, ClusterError
from streamjob_operator.decide import Choices, Decision, decide, worth_writing
from streamjob_operator.decide.changes import NO_RIGHTS, REFUSED
from streamjob_operator.decide.health import engine_status
from streamjob_operator.decide.invalid import decide_invalid
from streamjob_operator.decide.status import FACTS_INTERVAL, blocked_status, mistaken_status
from streamjob_operator.engine import Engines
from streamjob_operator.index import Index, Key
from streamjob_operator.observe import CREATION_GRACE, Facts, observe, observe_unseen
from streamjob_operator.observed import Object, Observed, asks
from streamjob_operator.traces import span
from streamjob_operator.validation import referenced_config_maps

TOKEN_BYTES = 32
LOOK_AGAIN_S = 60.0
"""When a job whose pod does not come is looked at again."""

_log = structlog.get_logger("streamjob_operator.reconcile")


class Reconciler:
    """Looks at jobs. Keeps nothing that the cluster has not, but when it last wrote an engine's facts.

    `again` is called with a job that has to be looked at once more, `wrote` with what became of a job by a write,
    `later` with a job and the seconds until something is due for it, whatever becomes of the look under way. `leads`
    says whether this replica may write.
    """

    def __init__(
        self,
        cluster: Cluster,
        engines: Engines,
        index: Index,
        facts: Facts,
        image: str,
        again: Callable[[Key], None],
        wrote: Callable[[Key, Object], None] = lambda _key, _job: None,
        later: Callable[[Key, float], None] = lambda _key, _seconds: None,
        listen: str = names.EVERY_ADDRESS,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._facts = facts
        self._image, self._listen = image, listen
        self._again = again
        self._wrote = wrote
        self._later = later
        self._leads = leads
        self._bench = Bench("decide")
        self._applier = Applier(cluster, engines, index, facts)
        self._written: dict[Key, datetime] = {}
        self.phases = metrics.Phases()

    async def look(self, key: Key, *, unseen: bool = False) -> float | None:
        """One look; gives the seconds after which another is due, None for none. `unseen` as in what is observed."""
        with span("reconcile", {"namespace": key[0], "job": key[1]}), metrics.reconcile_duration.time():
            now = datetime.now(UTC)
            if unseen:
                observed = await observe_unseen(self._cluster, self._index, key, now)
            else:
                observed = await observe(self._cluster, self._index, self._facts, key, now)
            if observed is None:
                self.forget(key)
                return None
            try:
                due = await self._work(key, observed)
                if self._index.job(key) is None:
                    self.forget(key)
                    return None
                return due
            except ClusterError:
                raise
            except Exception as error:
                await self._mistaken(observed, error)
                raise

    async def _work(self, key: Key, observed: Observed) -> float | None:
        choices = Choices(self._image, secrets.token_urlsafe(TOKEN_BYTES), self._listen)
        with span("decide", {}):
            decision = await self._bench.do(decide, observed, choices)
        if not self._leads():
            # Meanwhile another may lead. This process ends as soon as it hears of it.
            _log.warning("not written: no longer leads", namespace=key[0], job=key[1])
            return None
        if decision.wake is not None and decision.wake > observed.now:
            # A look that fails comes again later each time, and a deadline does not wait for it.
            self._later(key, (decision.wake - observed.now).total_seconds())
        try:
            decision = await self._applier.carry_out(observed, decision, self.token(key))
        except ClusterError as error:
            await self._refused(observed, decision, error)
            raise
        await self._write(observed, decision.status)
        return self._due(observed, decision)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._facts.forget(key)
        self._written.pop(key, None)
        self.phases.forget(key)

    def token(self, key: Key) -> str | None:
        """The control token of a job."""
        found = self._index.one(key, "Secret", names.control_secret(key[1]))
        text = (found or {}).get("data", {}).get(names.TOKEN_KEY)
        try:
            return base64.b64decode(text).decode() if text else None
        except ValueError:  # somebody has put something else there; the look that follows puts it right
            return None

    def _due(self, observed: Observed, decision: Decision) -> float | None:
        times = []
        if decision.wake is not None:
            times.append(max(0.0, (decision.wake - observed.now).total_seconds()))
        stateful_set = observed.stateful_set or {}
        if stateful_set.get("status", {}).get("observedGeneration") and not observed.pods and not observed.deleting:
            known = self._facts.creation.get((observed.namespace, observed.name))
            if known is not None:
                times.append(LOOK_AGAIN_S if known[1] else CREATION_GRACE.total_seconds() + 1)
        return min(times, default=None)

    async def _refused(self, observed: Observed, decision: Decision, error: ClusterError) -> None:
        """Tells in the status what the cluster refuses, where its author or an administrator can do something."""
        if error.actor not in ("user", "rights"):
            return
        reason, message = REFUSED if error.actor == "user" else NO_RIGHTS, f"the API server refuses it: {error}"
        if error.reason == NAME_TAKEN:
            reason, message = NAME_TAKEN, str(error)
        if observed.deleting:
            status = blocked_status(decision.status, message)
        else:
            status = await self._all_the_same(observed, decide_invalid(observed, reason, message))
        try:
            await self._write(observed, status)
        except ClusterError as second:
            _log.warning("status not written", namespace=observed.namespace, job=observed.name, error=str(second))

    async def _all_the_same(self, observed: Observed, decision: Decision) -> Object | None:
        """What is done though the job is refused: a stop or a checkpoint that is asked for. Gives the status."""
        try:
            done = await self._applier.carry_out(observed, decision, self.token((observed.namespace, observed.name)))
            return done.status
        except ClusterError as error:
            _log.warning("not stopped", namespace=observed.namespace, job=observed.name, error=str(error))
            return decision.status

    async def _mistaken(self, observed: Observed, error: Exception) -> None:
        """Tells in the status that the operator itself failed at this job; its log has the trace."""
        try:
            await self._write(observed, mistaken_status(observed, type(error).__name__))
        except Exception as second:
            # The first mistake is the one to be seen.
            _log.warning("status not written", namespace=observed.namespace, job=observed.name, error=str(second))

    async def _write(self, observed: Observed, status: Object | None) -> None:
        key = (observed.namespace, observed.name)
        if status is None:
            return
        self.phases.note(key, status["phase"], observed.now.timestamp())
        if not worth_writing(observed.status, status, self._written.get(key), observed.now):
            return
        await self._put(observed, status)

    async def _put(self, observed: Observed, status: Object, version: str | None = None) -> None:
        """Writes a status; with `version` only where the job still has that resourceVersion, else ClusterError 409."""
        key = (observed.namespace, observed.name)
        metadata = {"name": observed.name, "namespace": observed.namespace}
        if version is not None:
            metadata["resourceVersion"] = version
        manifest = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "status": status}
        try:
            answer = await self._cluster.apply(manifest, subresource="status")
        except ClusterError as error:
            if error.code != 404:
                raise
            self._index.remove_job(key, observed.job["metadata"]["uid"])  # it went while nobody watched
            return
        self._wrote(key, answer)
        known = self._index.job(key)
        self._index.put_job(answer, referenced_config_maps(answer))
        # The answer may hold an edit whose event is still to come, and will then be nothing new.
        if known is None or asks(known) != asks(answer):
            self._again(key)
        self._written[key] = observed.now

    async def write_facts(self, key: Key) -> None:
        """Writes what an engine says of itself, where it changed and a FACTS_INTERVAL has passed; nothing else."""
        job = self._index.job(key)
        now = datetime.now(UTC)
        last = self._written.get(key)
        if job is None or not job.get("status") or (last is not None and now - last < FACTS_INTERVAL):
            return
        observed = Observed(job, now, engine=self._facts.engines.get(key))
        engine = engine_status(observed)
        if observed.deleting or engine == observed.status.get("engine"):
            return
        try:
            # By its version: a look may have written a newer status meanwhile, which this must not undo.
            await self._put(observed, {**observed.status, "engine": engine}, job["metadata"]["resourceVersion"])
        except ClusterError as error:
            if error.code != 409:
                raise
