"""Carrying out decisions against a cluster that refuses."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streamjob_operator import names
from streamjob_operator.cluster import ClusterError
from streamjob_operator.conditions import time_text
from streamjob_operator.engine import Engines
from streamjob_operator.index import Index
from streamjob_operator.kinds import Kind
from streamjob_operator.observe import Facts
from streamjob_operator.reconcile import Reconciler
from streamjob_operator.validation import referenced_config_maps
from unit.jobs import job
from unit.world import World

KEY = ("shop", "telemetry")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Refusing:
    """A cluster that takes everything but what `refuses` names, with its code."""

    refuses: Callable[[str, str], int]
    done: list[tuple[str, str, Any]] = field(default_factory=list)
    job: dict[str, Any] = field(default_factory=dict)

    def take(self, verb: str, kind: str, body: Any) -> None:
        code = self.refuses(verb, kind)
        if code:
            raise ClusterError(code, "Forbidden", f"{verb} of {kind} is forbidden")
        self.done.append((verb, kind, body))

    async def apply(
        self, manifest: dict[str, Any], *, subresource: str | None = None, absent: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        self.take(subresource or ("try" if dry_run else "apply"), manifest["kind"], manifest)
        answer = copy.deepcopy(manifest)
        if subresource == "status":
            answer = {**copy.deepcopy(self.job), "status": answer["status"]}
        answer["metadata"] |= {"uid": "uid-1", "resourceVersion": "1000"}
        return answer

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.take("create", manifest["kind"], manifest)
        return manifest

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Any) -> dict[str, Any]:
        self.take("patch", kind.kind, patch)
        metadata = {"name": name, "namespace": namespace, "uid": "uid", "resourceVersion": "1000"}
        return {"kind": kind.kind, "metadata": metadata}

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, propagation: str) -> None:
        self.take("delete", kind.kind, name)

    def of(self, verb: str, kind: str) -> list[Any]:
        return [body for known, what, body in self.done if (known, what) == (verb, kind)]


def looked(
    world: World,
    cluster: Refusing,
    facts: Facts | None = None,
    *,
    config_map: dict[str, Any] | None = None,
    later: Callable[[float], None] = lambda _: None,
) -> None:
    """One look by the real reconciler at a world's objects; a refusal ends it as it does in a worker.

    Where it asks the engine first, the look that the answer brings as well.
    """

    async def course() -> None:
        index = Index()
        resource = copy.deepcopy(world.job)
        assert resource is not None
        index.put_job(resource, referenced_config_maps(resource))
        cluster.job = resource
        if config_map is not None:
            index.see_config_map(config_map)
        for (kind, name), thing in world.things.items():
            seen = copy.deepcopy(thing)
            seen["kind"] = kind
            seen["metadata"].setdefault("resourceVersion", "1")
            seen["metadata"] |= {"namespace": "shop", "name": name}
            seen["metadata"].setdefault("labels", {})[names.JOB_LABEL] = "telemetry"
            index.put(seen)
        known = facts or Facts(storage_classes={"fast": (True, True)})
        answered = asyncio.Event()
        engines = Engines("", lambda _: answered.set())
        reconciler = Reconciler(
            cluster,  # type: ignore[arg-type]
            engines,
            index,
            known,
            "engine:1",
            lambda _: None,
            later=lambda _key, seconds: later(seconds),
        )
        with contextlib.suppress(ClusterError):
            await reconciler.look(KEY)
            if engines.commits._asked or engines.commits._answers:
                await answered.wait()
                cluster.done = [one for one in cluster.done if one[0] != "status"]
                await reconciler.look(KEY)

    asyncio.run(course())


def deleted(age: timedelta, policy: str = "Retain") -> World:
    world = World(job=job(deletionPolicy=policy))
    world.settle()
    assert world.job is not None
    world.job["metadata"]["deletionTimestamp"] = time_text(datetime.now(UTC) - age)
    return world


def test_a_deletion_that_is_overdue_ends_whatever_is_refused() -> None:
    cluster = Refusing(lambda verb, _kind: 403 if verb == "delete" else 0)
    looked(deleted(timedelta(hours=1), "Delete"), cluster)
    assert cluster.of("patch", "StreamJob") == [{"metadata": {"finalizers": [], "resourceVersion": "1"}}]
    (event,) = cluster.of("create", "Event")
    assert event["reason"] == "DeletionForced"
    for thing in ("StatefulSet telemetry", "PersistentVolumeClaim state-telemetry-0"):
        assert f"{thing} is left: delete of" in event["message"]


def test_a_deletion_asks_nothing_that_may_be_refused() -> None:
    """Neither for code nor for why no pod comes: its roles may be gone, and its deadline holds all the same."""
    world = deleted(timedelta(hours=1))
    assert world.job is not None
    code = {"configMap": {"name": "code", "key": "z.py"}}
    world.job["spec"]["udfs"][0]["code"] = code
    del world.things["Pod", "telemetry-0"]

    asked: list[str] = []

    class Rightless(Refusing):
        async def get(self, kind: Kind, _namespace: str, _name: str) -> None:
            asked.append(kind.kind)
            self.take("get", kind.kind, None)

        async def pages(self, kind: Kind, *_: Any, **__: Any) -> AsyncIterator[Any]:
            asked.append(kind.kind)
            self.take("list", kind.kind, None)
            yield [], "1"

    cluster = Rightless(lambda verb, _kind: 0 if verb in ("patch", "create") else 403)
    known = {"metadata": {"name": "code", "namespace": "shop", "resourceVersion": "1"}}
    looked(world, cluster, Facts(creation={KEY: (EPOCH, None)}), config_map=known)
    assert asked == []
    assert len(cluster.of("patch", "StreamJob")) == 1


def test_a_job_is_corrected_though_nobody_says_why_its_pod_does_not_come() -> None:
    for code in (0, 403, 500):
        world = World()
        world.settle()
        assert world.job is not None
        del world.things["Pod", "telemetry-0"]
        world.job["spec"]["image"] = "engine:2"

        class Silent(Refusing):
            async def pages(self, kind: Kind, *_: Any, **__: Any) -> AsyncIterator[Any]:
                if kind.kind == "Event":
                    raise ClusterError(code, "", "no")  # noqa: B023 - used within the same round
                yield [], "1"

        cluster = Silent(lambda _verb, _kind: 0)
        looked(world, cluster, Facts(storage_classes={"fast": (True, True)}, creation={KEY: (EPOCH, "quota")}))
        (manifest,) = cluster.of("apply", "StatefulSet")
        assert manifest["spec"]["template"]["spec"]["containers"][0]["image"] == "engine:2"


def test_a_deadline_does_not_wait_for_the_next_try_of_a_look_that_failed() -> None:
    cluster = Refusing(lambda verb, _kind: 403 if verb == "delete" else 0)
    due: list[float] = []
    looked(deleted(timedelta(seconds=100)), cluster, later=due.append)
    assert [round(seconds, -1) for seconds in due] == [200]
    looked(deleted(timedelta(hours=1)), cluster, later=due.append)
    assert len(due) == 1, "one that has passed is not due again"


def test_a_deletion_tells_what_is_refused_before_its_deadline() -> None:
    cluster = Refusing(lambda verb, _kind: 403 if verb == "delete" else 0)
    looked(deleted(timedelta(seconds=1)), cluster)
    assert cluster.of("patch", "StreamJob") == []
    (manifest,) = cluster.of("status", "StreamJob")
    (operation,) = manifest["status"]["operations"]
    assert operation["blockedBy"] == "the API server refuses it: delete of StatefulSet is forbidden"


def test_a_refused_event_does_not_stop_a_look() -> None:
    for code in (0, 403, 409, 413, 422, 500):
        world = World()
        world.settle()
        assert world.job is not None
        world.job["spec"]["image"] = "engine:2"
        cluster = Refusing(lambda _verb, kind, code=code: code or 599 if kind == "Event" else 0)  # type: ignore[misc]
        looked(world, cluster)
        (manifest,) = cluster.of("apply", "StatefulSet")
        assert manifest["spec"]["template"]["spec"]["containers"][0]["image"] == "engine:2"
        assert len(cluster.of("status", "StreamJob")) == 1


def test_a_growth_that_is_refused_is_told_and_everything_else_goes_on() -> None:
    for code in (403, 422, 500):
        world = World()
        world.settle()
        assert world.job is not None
        world.job["spec"] |= {"storage": {"size": "20Gi"}, "where": "v > 1"}
        cluster = Refusing(lambda _verb, kind, code=code: code if kind == "PersistentVolumeClaim" else 0)  # type: ignore[misc]
        looked(world, cluster)
        assert len(cluster.of("apply", "ConfigMap")) == 1
        assert cluster.of("delete", "StatefulSet") == ["telemetry"]
        (manifest,) = cluster.of("status", "StreamJob")
        (told,) = [found for found in manifest["status"]["conditions"] if found["type"] == "StorageReady"]
        assert (told["status"], told["reason"]) == ("False", "GrowthRefused")
        assert "patch of PersistentVolumeClaim is forbidden" in told["message"]
        assert manifest["status"]["phase"] != "Invalid"
        # Told once: the next look asks again without another Event.
        world.job["status"] = manifest["status"]
        again = Refusing(cluster.refuses)
        looked(world, again)
        assert not [event for event in again.of("create", "Event") if event["reason"] == "VolumeGrowth"]


def test_a_growth_that_may_not_be_taken_back_is_told_with_the_size_that_goes_on() -> None:
    world = World(job=job(storage={"size": "20Gi"}))
    world.settle()
    assert world.job is not None
    claim = world.things["PersistentVolumeClaim", "state-telemetry-0"]
    claim["status"]["capacity"]["storage"] = "10Gi"
    world.job["spec"]["storage"]["size"] = "15Gi"
    cluster = Refusing(lambda _verb, kind: 422 if kind == "PersistentVolumeClaim" else 0)
    looked(world, cluster)
    (manifest,) = cluster.of("status", "StreamJob")
    (told,) = [found for found in manifest["status"]["conditions"] if found["type"] == "StorageReady"]
    assert (told["status"], told["reason"]) == ("False", "LoweringRefused")
    assert "set spec.storage.size to 20Gi" in told["message"]
    world.job["status"] = manifest["status"]
    again = Refusing(cluster.refuses)
    looked(world, again)
    assert not [event for event in again.of("create", "Event") if event["reason"] == "VolumeGrowth"], "told once"
    allowed = Refusing(lambda _verb, _kind: 0)
    looked(world, allowed)
    patch = {"spec": {"resources": {"requests": {"storage": "15Gi"}}}}
    assert allowed.of("patch", "PersistentVolumeClaim") == [patch]


def test_a_job_that_is_refused_can_be_suspended_all_the_same() -> None:
    for code in (400, 403):
        world = World()
        world.settle()
        assert world.job is not None
        world.job["spec"] |= {"where": "v > 1", "suspend": True}
        cluster = Refusing(lambda verb, kind, code=code: code if (verb, kind) == ("apply", "ConfigMap") else 0)  # type: ignore[misc]
        looked(world, cluster)
        uid = world.things["StatefulSet", "telemetry"]["metadata"]["uid"]
        assert cluster.of("patch", "StatefulSet") == [{"metadata": {"uid": uid}, "spec": {"replicas": 0}}]
        assert cluster.of("apply", "StatefulSet") == [], "nothing of the refused spec"
        assert [event["reason"] for event in cluster.of("create", "Event")] == ["Suspending"]
        (manifest,) = cluster.of("status", "StreamJob")
        assert manifest["status"]["phase"] == "Invalid"
        assert [operation["name"] for operation in manifest["status"]["operations"]] == ["Suspend"]


def test_a_stop_that_is_refused_is_not_told_and_the_job_says_why_it_is_invalid() -> None:
    world = World()
    world.settle()
    assert world.job is not None
    world.job["spec"] |= {"image": "engine:2", "suspend": True}
    cluster = Refusing(lambda _verb, kind: 422 if kind == "StatefulSet" else 0)
    looked(world, cluster)
    assert "Suspending" not in [event["reason"] for event in cluster.of("create", "Event")][1:]
    (manifest,) = cluster.of("status", "StreamJob")
    (told,) = [found for found in manifest["status"]["conditions"] if found["type"] == "SpecValid"]
    assert (told["status"], told["reason"]) == ("False", "Refused")
    assert "apply of StatefulSet is forbidden" in told["message"]


def test_a_mistake_of_the_operator_is_told_on_that_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> None:
        raise TypeError("secret")

    world = World()
    world.settle()
    assert world.job is not None
    monkeypatch.setattr("streamjob_operator.reconcile.decide", mistaken)
    cluster = Refusing(lambda _verb, _kind: 0)
    with pytest.raises(TypeError):
        looked(world, cluster)
    (manifest,) = cluster.of("status", "StreamJob")
    status = manifest["status"]
    (told,) = [found for found in status["conditions"] if found["type"] == "Degraded"]
    assert (told["status"], told["reason"]) == ("True", "InternalError")
    assert "TypeError" in told["message"]
    assert "secret" not in told["message"]
    assert status["phase"] == "Degraded", "its pod serves"
    world.job["status"] = status
    again = Refusing(cluster.refuses)
    with pytest.raises(TypeError):
        looked(world, again)
    assert again.done == [], "told once"
    with pytest.raises(TypeError):
        looked(world, Refusing(lambda _verb, kind: 500 if kind == "StreamJob" else 0))


def test_nothing_that_is_done_waits_for_what_is_told_and_no_event_is_lost() -> None:
    world = World()
    world.settle()
    assert world.job is not None
    world.job["spec"]["image"] = "engine:2"
    for refused in (0, 403):
        cluster = Slow(lambda _verb, kind, code=refused: code if kind == "StatefulSet" else 0)  # type: ignore[misc]
        looked(world, cluster)
        assert [event["reason"] for event in cluster.of("create", "Event")] == ["Rolling"]
        assert cluster.tried.index("StatefulSet") < cluster.tried.index("told")


class Slow(Refusing):
    """A cluster that takes an Event only when a StatefulSet has been tried."""

    def __init__(self, refuses: Callable[[str, str], int]) -> None:
        super().__init__(refuses)
        self.tried: list[str] = []
        self.was_tried = asyncio.Event()

    async def apply(self, manifest: dict[str, Any], **more: Any) -> dict[str, Any]:
        self.tried.append(manifest["kind"])
        if manifest["kind"] == "StatefulSet":
            self.was_tried.set()
        return await super().apply(manifest, **more)

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        await asyncio.wait_for(self.was_tried.wait(), 20)
        self.tried.append("told")
        return await super().create(manifest)
