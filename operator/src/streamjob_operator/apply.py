"""Carrying out a decision, action by action; the first failure ends it, and the next look begins anew.

But the end of a deletion whose deadline has passed: there a failure is told and left.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeGuard

import structlog

from streamjob_operator import names
from streamjob_operator.cluster import NAME_TAKEN, Cluster, ClusterError
from streamjob_operator.conditions import time_text
from streamjob_operator.decide import (
    Action,
    Apply,
    AskCheckpoint,
    Decision,
    Delete,
    Discard,
    Emit,
    ResizeClaim,
    Scale,
    SetFinalizer,
    Try,
)
from streamjob_operator.decide.checkpoints import is_at_rest
from streamjob_operator.decide.operations import after_commit
from streamjob_operator.decide.storage import GROWTH_AGAIN, resize_refused
from streamjob_operator.diff import differences
from streamjob_operator.engine import Answer, Checkpoint, EngineError, Engines
from streamjob_operator.index import Index
from streamjob_operator.kinds import BY_NAME, CLAIM, STATEFUL_SET, STREAM_JOB
from streamjob_operator.observe import Facts
from streamjob_operator.observed import Object, Observed, claim_taken, has_labels, is_own, name_taken
from streamjob_operator.validation import referenced_config_maps

_log = structlog.get_logger("streamjob_operator.apply")
MAX_NOTE = 1000
"""Characters of an Event's message; the API server takes 1024."""
CHECKPOINT_AGAIN = timedelta(seconds=10)
"""When an engine that did not give the checkpoint which a person wants is asked again, until the deadline."""
OF_ROLLS = frozenset({"Rolling", "StatefulSetRecreated", "Suspending", "Resuming"})
"""Events that tell of what a checkpoint comes before."""
NOTHING_TO_COMMIT = "the job is suspended and no pod runs: everything was committed before the pod stopped"


@dataclass
class Applier:
    """Writes to the cluster for one job at a time."""

    cluster: Cluster
    engines: Engines
    index: Index
    facts: Facts

    async def carry_out(self, observed: Observed, decision: Decision, token: str | None) -> Decision:
        """Does what was decided. Gives the decision with the status as it is after that.

        What has to come after a checkpoint is left where its answer is not there yet: that brings the next look.
        """
        wanted = [_wanted(observed, action) for action in decision.actions if isinstance(action, AskCheckpoint)]
        self.engines.commits.keep((observed.namespace, observed.name), wanted)
        if decision.forced:
            await self._force(observed, decision)
            return Decision((), decision.status, decision.wake)
        status, wake = decision.status, decision.wake
        async with _meanwhile() as tell:
            for events, action in _as_told(decision.actions):
                if _precedes_roll(action) and not self._has_committed(observed, action, token):
                    return Decision((), status and after_commit(observed, status), wake)
                for event in events:
                    tell(self._emit(observed, event))
                if isinstance(action, AskCheckpoint) and action.required:
                    status, again = await self._checkpoint(observed, action, status, token)
                    wake = _sooner(wake, observed.now + CHECKPOINT_AGAIN if again else None)
                elif isinstance(action, ResizeClaim):
                    why = await self._resize(observed, action)
                    if why is not None and status is not None:
                        status = resize_refused(observed, status, action, why)
                        wake = _sooner(wake, observed.now + GROWTH_AGAIN)
                elif action is not None:
                    await self._act(observed, action)
        return Decision((), status, wake)

    async def _force(self, observed: Observed, decision: Decision) -> None:
        """Lets the job go, whatever else is refused."""
        refused: list[str] = []
        for action in decision.actions:
            if isinstance(action, Emit):
                left = "".join(f"; {what}" for what in refused)
                await self._emit(observed, replace(action, message=action.message + left))
            elif isinstance(action, SetFinalizer):
                await self._act(observed, action)
            else:
                try:
                    await self._act(observed, action)
                except ClusterError as error:
                    name = f"{action.kind} {action.name}" if isinstance(action, Delete) else type(action).__name__
                    refused.append(f"{name} is left: {error}")

    async def _act(self, observed: Observed, action: Action) -> None:
        namespace = observed.namespace
        if isinstance(action, Apply):
            await self._apply(observed, action.manifest)
        elif isinstance(action, Try):
            self._kept(observed, action.manifest, await self.cluster.apply(action.manifest, dry_run=True))
        elif isinstance(action, Delete):
            kind = BY_NAME[action.kind]
            await self.cluster.delete(kind, namespace, action.name, action.uid, action.propagation)
            _log.info("deleted", kind=action.kind, namespace=namespace, name=action.name, how=action.propagation)
        elif isinstance(action, Discard):
            await self._discard(namespace, action)
        elif isinstance(action, Scale):
            # By its uid, which cannot be changed: one that was made meanwhile is left.
            patch = {"metadata": {"uid": action.uid}, "spec": {"replicas": action.replicas}}
            self.index.put(await self.cluster.patch(STATEFUL_SET, namespace, action.name, patch))
        elif isinstance(action, SetFinalizer):
            await self._finalizer(observed, action.present)
        elif isinstance(action, Emit):
            await self._emit(observed, action)

    async def _discard(self, namespace: str, action: Discard) -> None:
        try:
            await self.cluster.delete(BY_NAME[action.kind], namespace, action.name, action.uid, "Background")
        except ClusterError as error:
            _log.warning("not deleted", kind=action.kind, namespace=namespace, name=action.name, error=str(error))
        else:
            _log.info("deleted", kind=action.kind, namespace=namespace, name=action.name, how="no longer used")

    async def _resize(self, observed: Observed, action: ResizeClaim) -> str | None:
        """Asks for a volume of another size. Gives why it is refused: what else the job needs does not wait for it."""
        patch = {"spec": {"resources": {"requests": {"storage": action.size}}}}
        try:
            self.index.put(await self.cluster.patch(CLAIM, observed.namespace, action.name, patch))
        except ClusterError as error:
            _log.warning("not resized", namespace=observed.namespace, name=action.name, error=str(error))
            return str(error)
        return None

    async def _apply(self, observed: Observed, manifest: Object) -> None:
        ref = (manifest["kind"], manifest["metadata"]["name"])
        known = ref in observed.children
        if manifest["kind"] == "StatefulSet" and not observed.pods:
            await self._claims_are_free(observed, manifest)
        answer = await (self.cluster.apply(manifest) if known else self._make(observed, manifest))
        self.index.put(answer)
        self._kept(observed, manifest, answer)

    def _kept(self, observed: Observed, manifest: Object, answer: Object) -> None:
        """What is still different is how the API server or an admission plugin wants it: not to be fought over."""
        ref = (manifest["kind"], manifest["metadata"]["name"])
        kept = differences(manifest, answer)
        left = frozenset(difference.identity for difference in kept)
        self.facts.tolerated.setdefault((observed.namespace, observed.name), {})[ref] = left
        if left:
            shown = ", ".join(sorted(difference.told for difference in kept)[:5])
            _log.warning("the cluster keeps members of its own", kind=ref[0], name=ref[1], members=shown)

    async def _make(self, observed: Observed, manifest: Object) -> Object:
        """Applies a child of which nothing is known."""
        if manifest["kind"] == "StatefulSet":
            await self._still_wanted(observed)
        try:
            return await self.cluster.apply(manifest, absent=True)
        except ClusterError as error:
            if error.code not in (404, 409, 422):
                raise
        await self._name_is_free(observed, manifest)
        return await self.cluster.apply(manifest)

    async def _name_is_free(self, observed: Observed, manifest: Object) -> None:
        """Where something of its name is there: an apply by force would take over what somebody else has."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        fields = f"metadata.name={name}"
        async for items, _ in self.cluster.pages(BY_NAME[kind], observed.namespace, metadata_only=True, fields=fields):
            for item in items:
                if not is_own(observed.job, item):
                    raise ClusterError(409, NAME_TAKEN, name_taken({**item, "kind": kind}))

    async def _claims_are_free(self, observed: Observed, stateful_set: Object) -> None:
        """Before a pod may be made: the StatefulSet's controller takes a claim by its name, whoever made it."""
        known = {claim["metadata"]["name"]: claim for claim in observed.claims}
        for ordinal in range(max(1, stateful_set["spec"]["replicas"])):
            name = names.claim(observed.name, ordinal)
            if name in known and has_labels(observed.job, known[name]):
                continue  # watches know claims by their labels alone: only of others the API server has to be asked
            fields = f"metadata.name={name}"
            async for items, _ in self.cluster.pages(CLAIM, observed.namespace, metadata_only=True, fields=fields):
                for item in items:
                    if not has_labels(observed.job, item):
                        raise ClusterError(409, NAME_TAKEN, claim_taken(observed.job, item))

    async def _still_wanted(self, observed: Observed) -> None:
        """Before a pod is made: a watch may be late, and a job that is gone must not run again."""
        uids: list[str] = []
        # By a list, which a watch needs the right to anyway.
        async for items, _ in self.cluster.pages(
            STREAM_JOB, observed.namespace, fields=f"metadata.name={observed.name}"
        ):
            uids += [item["metadata"]["uid"] for item in items]
        uid = observed.job["metadata"]["uid"]
        if uid not in uids:
            self.index.remove_job((observed.namespace, observed.name), uid)
            raise ClusterError(404, "NotFound", f"the job {observed.name} is gone")

    async def _finalizer(self, observed: Observed, present: bool) -> None:
        metadata = observed.job["metadata"]
        finalizers = [name for name in metadata.get("finalizers") or [] if name != names.FINALIZER]
        if present:
            finalizers.append(names.FINALIZER)
        # The resourceVersion makes this fail where another has changed the list meanwhile.
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}}
        try:
            answer = await self.cluster.patch(STREAM_JOB, observed.namespace, observed.name, patch)
        except ClusterError as error:
            if error.code != 404:
                raise
            self._gone(observed)
            if present:
                raise
            return
        if present or answer["metadata"].get("finalizers"):
            self.index.put_job(answer, referenced_config_maps(answer))
        else:
            self._gone(observed)

    def _gone(self, observed: Observed) -> None:
        """Its deletion may have been in no watch: one that begins anew says nothing of what went meanwhile."""
        self.index.remove_job((observed.namespace, observed.name), observed.job["metadata"]["uid"])

    async def _emit(self, observed: Observed, event: Emit) -> None:
        metadata = observed.job["metadata"]
        # The same thing told twice, by a look that was cut off and its repetition, is one Event.
        told = f"{metadata['uid']}/{observed.generation}/{event.reason}/{event.message}"
        when = time_text(observed.now)
        minute = when[:16]
        name = f"{observed.name}.{hashlib.sha256(f'{told}/{minute}'.encode()).hexdigest()[:16]}"
        manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": observed.namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": observed.name,
                "namespace": observed.namespace,
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "message": event.message[:MAX_NOTE],
            "source": {"component": names.FIELD_MANAGER},
            "reportingComponent": names.FIELD_MANAGER,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }
        _log.info("event", namespace=observed.namespace, job=observed.name, reason=event.reason, note=event.message)
        try:
            await self.cluster.create(manifest)
        except ClusterError as error:
            # Telling must not stop doing. 409: told already; 404: the namespace is on its way out.
            if error.code not in (404, 409):
                _log.warning("event not written", namespace=observed.namespace, job=observed.name, error=str(error))

    def _ask(self, observed: Observed, action: AskCheckpoint, token: str | None) -> Answer | None:
        """The engine's answer, None while there is none."""
        key = (observed.namespace, observed.name)
        answer = self.engines.commits.take(key, _wanted(observed, action), token)
        if isinstance(answer, EngineError):
            _log.warning("no checkpoint", namespace=observed.namespace, job=observed.name, error=str(answer))
        elif isinstance(answer, Exception):
            raise answer
        return answer

    def _has_committed(self, observed: Observed, action: AskCheckpoint, token: str | None) -> bool:
        """Whether a roll may go on: the engine has answered.

        Where it could not commit the roll goes on without: the pod's preStop asks again, and state is durable anyway.
        """
        return self._ask(observed, action, token) is not None

    async def _checkpoint(
        self, observed: Observed, action: AskCheckpoint, status: Object | None, token: str | None
    ) -> tuple[Object | None, bool]:
        """Answers who asked for a checkpoint. Gives the status, and whether to ask once more."""
        if is_at_rest(observed):
            await self._emit(observed, Emit("CheckpointDone", NOTHING_TO_COMMIT))
            return _answered(observed, status, None), False
        answer = self._ask(observed, action, token)
        if answer is None:
            return status, False  # its answer brings the next look
        if isinstance(answer, Checkpoint):
            message = f"checkpoint {answer.number} took {answer.duration_s:.3f} s"
            await self._emit(observed, Emit("CheckpointDone", message))
            return _answered(observed, status, None), False
        operation = observed.operation("Checkpoint")
        if operation is None or time_text(observed.now) < operation["deadline"]:
            return status, True
        problem = str(answer)[:MAX_NOTE]
        await self._emit(observed, Emit("CheckpointFailed", problem, warning=True))
        return _answered(observed, status, problem), False


def _precedes_roll(action: Action | None) -> TypeGuard[AskCheckpoint]:
    return isinstance(action, AskCheckpoint) and not action.required


def _wanted(observed: Observed, action: AskCheckpoint) -> tuple[str, str | None]:
    """What a checkpoint is asked for: the annotation of whom it is an answer to, or None for a roll."""
    asked = observed.annotations.get(names.CHECKPOINT, "") if action.required else None
    return observed.job["metadata"]["uid"], asked


def _answered(observed: Observed, status: Object | None, problem: str | None) -> Object | None:
    """The status in which a request for a checkpoint is answered."""
    if status is None:
        return None
    left = [operation for operation in status["operations"] if operation["name"] != "Checkpoint"]
    rest = {name: value for name, value in status.items() if name != "checkpointProblem"}
    failed = {"checkpointProblem": problem} if problem is not None else {}
    return {**rest, "checkpointRequest": observed.annotations[names.CHECKPOINT], "operations": left, **failed}


def _as_told(actions: Iterable[Action]) -> Iterator[tuple[list[Emit], Action | None]]:
    """Each action with the Events to be told before it.

    Those of a roll come with the action after them: where that waits for a checkpoint it is decided, and told, again.
    """
    held: list[Emit] = []
    for action in actions:
        if not isinstance(action, Emit):
            yield held, action
            held = []
        elif action.reason in OF_ROLLS:
            held.append(action)
        else:
            yield [action], None
    yield held, None


def _sooner(wake: datetime | None, other: datetime | None) -> datetime | None:
    return min((time for time in (wake, other) if time is not None), default=None)


@asynccontextmanager
async def _meanwhile() -> AsyncIterator[Callable[[Coroutine[None, None, None]], None]]:
    """Work that nothing waits for but the end: as much of it as is given at once, which a decision bounds."""
    begun: list[asyncio.Task[None]] = []
    try:
        yield lambda work: begun.append(asyncio.create_task(work))
    except asyncio.CancelledError:
        for task in begun:
            task.cancel()
        raise
    finally:
        if begun:
            await asyncio.wait(begun)
    for task in begun:
        task.result()
