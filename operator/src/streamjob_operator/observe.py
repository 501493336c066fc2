"""Observing a job: from the index, but for code in a ConfigMap that has changed and a pod that does not come."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from streamjob_operator.cluster import Cluster as Api
from streamjob_operator.cluster import ClusterError
from streamjob_operator.index import Index, Key, References
from streamjob_operator.kinds import CONFIG_MAP, EVENT, STREAM_JOB
from streamjob_operator.observed import Cluster, EngineFacts, Object, Observed, Ref, is_terminating
from streamjob_operator.validation import MAX_REFERRED_BYTES, referenced_config_maps

_log = structlog.get_logger("streamjob_operator.observe")

CREATION_GRACE = timedelta(seconds=10)
"""What the StatefulSet's controller gets to create a pod, before it is looked for why it does not."""
CREATION_INTERVAL = timedelta(minutes=1)


@dataclass
class Facts:
    """What is known besides the indexes."""

    engines: dict[Key, EngineFacts] = field(default_factory=dict)
    tolerated: dict[Key, dict[Ref, frozenset[str]]] = field(default_factory=dict)
    creation: dict[Key, tuple[datetime, str | None]] = field(default_factory=dict)
    storage_classes: dict[str, tuple[bool, bool]] | None = None
    runtime_classes: set[str] | None = None
    pod_monitors: bool = False

    def forget(self, key: Key) -> None:
        """A job is gone."""
        self.engines.pop(key, None)
        self.tolerated.pop(key, None)
        self.creation.pop(key, None)

    def cluster(self) -> Cluster:
        """As a decision looks at it."""
        classes = self.storage_classes
        return Cluster(
            storage_classes=None if classes is None else {name: grows for name, (grows, _) in classes.items()},
            default_storage_class=None if classes is None else any(default for _, default in classes.values()),
            runtime_classes=None if self.runtime_classes is None else frozenset(self.runtime_classes),
            pod_monitors=self.pod_monitors,
        )


async def observe(api: Api, index: Index, facts: Facts, key: Key, now: datetime) -> Observed | None:
    """Everything about a job, or None where it is gone. For one on its way out nothing is asked: it may be refused."""
    job = index.job(key)
    if job is None:
        return None
    things = index.of_job(key)
    pods = tuple(thing for thing in things if thing["kind"] == "Pod")
    claims = tuple(thing for thing in things if thing["kind"] == "PersistentVolumeClaim")
    rest = [thing for thing in things if thing["kind"] not in ("Pod", "PersistentVolumeClaim")]
    children = {(thing["kind"], thing["metadata"]["name"]): thing for thing in rest}
    stateful_set = children.get(("StatefulSet", key[1]))
    leaves = is_terminating(job)
    return Observed(
        job=job,
        now=now,
        children=children,
        pods=tuple(sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))),
        claims=tuple(sorted(claims, key=lambda claim: str(claim["metadata"]["name"]))),
        config_maps={} if leaves else await _config_maps(api, index, key[0], referenced_config_maps(job)),
        engine=facts.engines.get(key),
        cluster=facts.cluster(),
        tolerated=facts.tolerated.get(key, {}),
        creation_problem=None if leaves else await _creation_problem(api, facts, key, stateful_set, pods, now),
    )


async def observe_unseen(api: Api, index: Index, key: Key, now: datetime) -> Observed | None:
    """A job in a namespace that may not be seen any more, or None where it is gone.

    The right to patch it is left, and the answer to a patch of nothing is the job as it is now.
    """
    known = index.job(key)
    if known is None:
        return None
    try:
        job = await api.patch(STREAM_JOB, *key, {})
    except ClusterError as error:
        if error.code != 404:
            raise
        index.remove_job(key, known["metadata"]["uid"])
        return None
    index.put_job(job, referenced_config_maps(job))
    return Observed(job, now, unseen=True)


async def _config_maps(api: Api, index: Index, namespace: str, wanted: References) -> dict[str, dict[str, str]]:
    """What the job reads of users' ConfigMaps that exist; one is read when its watch has told of another version.

    It ends where there is more than a job may have: the check says so, and no more has to be held for it.
    """
    result: dict[str, dict[str, str]] = {}
    held = 0
    for name, keys in sorted(wanted.items()):
        if held > MAX_REFERRED_BYTES:
            break
        newest, data = index.config_map(namespace, name, keys)
        if newest is not None and data is None:
            found = await api.get(CONFIG_MAP, namespace, name)
            if found is not None:
                index.put_config_map(found)
                whole = found.get("data") or {}
                data = {key: whole[key] for key in sorted(keys) if key in whole}
        if data is not None:
            result[name] = data
            held += sum(map(len, data.values()))
    return result


async def _creation_problem(
    api: Api, facts: Facts, key: Key, stateful_set: Object | None, pods: tuple[Object, ...], now: datetime
) -> str | None:
    """What an Event says of a pod that the StatefulSet's controller could not create; no look fails for want of it."""
    status = (stateful_set or {}).get("status", {})
    if stateful_set is None or pods or not stateful_set["spec"].get("replicas") or not status.get("observedGeneration"):
        facts.creation.pop(key, None)
        return None
    looked, said = facts.creation.get(key, (None, None))
    if looked is None:
        facts.creation[key] = (now - CREATION_INTERVAL + CREATION_GRACE, None)
        return None
    if now - looked < CREATION_INTERVAL:
        return said
    fields = f"involvedObject.kind=StatefulSet,involvedObject.name={key[1]},reason=FailedCreate"
    newest: tuple[str, str | None] = ("", None)
    try:
        async for items, _ in api.pages(EVENT, key[0], fields=fields):
            for event in items:
                time = str(event.get("lastTimestamp") or event.get("eventTime") or "")
                newest = max(newest, (time, str(event.get("message", ""))), key=lambda pair: pair[0])
    except ClusterError as error:
        _log.warning("not known why the pod does not come", namespace=key[0], job=key[1], error=str(error))
        newest = ("", said)
    facts.creation[key] = (now, newest[1])
    return newest[1]
