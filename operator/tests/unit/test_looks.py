"""Looks at jobs against an API server that stores what it is sent, with others who write at the same time."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from streamjob_operator import names
from streamjob_operator.apply import CHECKPOINT_AGAIN
from streamjob_operator.cluster import ClusterError
from streamjob_operator.controller import Controller
from streamjob_operator.decide import AskCheckpoint, Decision
from streamjob_operator.engine import Checkpoint
from streamjob_operator.kinds import Kind
from streamjob_operator.metrics import queue_depth, registry
from streamjob_operator.observed import EngineFacts, EngineStatus, Observed
from streamjob_operator.runner import _kopf, _kopf_thread, refused_namespaces, until_granted
from streamjob_operator.settings import Settings
from unit.jobs import NOW, job

KEY = ("shop", "telemetry")
Object = dict[str, Any]


class Server:
    """Objects by kind and name; `meanwhile` runs once, just before the next write of a status."""

    def __init__(self, *things: Object) -> None:
        self.things = {(thing["kind"], thing["metadata"]["name"]): copy.deepcopy(thing) for thing in things}
        self.calls: list[tuple[str, str, str]] = []
        self.meanwhile: Callable[[], None] | None = None
        self.version = 100
        self.forbidden: set[str] = set()

    @property
    def job(self) -> Object:
        return self.things[names.KIND, KEY[1]]

    def changed(self, thing: Object) -> Object:
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(thing)

    async def apply(
        self, manifest: Object, *, subresource: str | None = None, absent: bool = False, dry_run: bool = False
    ) -> Object:
        ref = (manifest["kind"], manifest["metadata"]["name"])
        if dry_run:
            self.calls.append(("try", *ref))
            return self.kept(copy.deepcopy(manifest))
        if absent and ref in self.things:
            raise ClusterError(409, "Conflict", "it is there")
        self.calls.append(("apply", *ref))
        if subresource is None:
            new = copy.deepcopy(manifest)
            new["metadata"]["uid"] = f"uid-of-{ref[0]}-{ref[1]}"
            self.things[ref] = new
            return self.changed(new)
        if self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None
        if ref not in self.things:
            raise ClusterError(404, "NotFound", "it is gone")
        version = manifest["metadata"].get("resourceVersion")
        if version not in (None, self.things[ref]["metadata"].get("resourceVersion")):
            raise ClusterError(409, "Conflict", "it has another version")
        self.things[ref]["status"] = copy.deepcopy(manifest["status"])
        return self.changed(self.things[ref])

    async def patch(self, kind: Kind, _namespace: str, name: str, patch: Any) -> Object:
        self.calls.append(("patch", kind.kind, name))
        self.things[kind.kind, name]["metadata"]["finalizers"] = patch["metadata"]["finalizers"]
        return self.changed(self.things[kind.kind, name])

    async def delete(self, kind: Kind, _namespace: str, name: str, _uid: str, _propagation: str) -> None:
        self.calls.append(("delete", kind.kind, name))
        self.things.pop((kind.kind, name), None)

    async def create(self, manifest: Object) -> Object:
        self.calls.append(("create", manifest["kind"], manifest.get("reason", "")))
        return manifest

    async def serves(self, _kind: Kind) -> bool:
        return False

    async def may_list(self, _kind: Kind, namespace: str) -> bool | None:
        return namespace not in self.forbidden

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Object]:
        await asyncio.Event().wait()
        yield {}

    async def pages(
        self, kind: Kind, namespace: str | None, _selector: str = "", *, metadata_only: bool = False, fields: str = ""
    ) -> AsyncIterator[tuple[list[Object], str]]:
        self.calls.append(("list", kind.kind, fields))
        if namespace in self.forbidden:
            raise ClusterError(403, "Forbidden", "no Role here")
        found = self.things.get((kind.kind, fields.removeprefix("metadata.name=")))
        yield ([copy.deepcopy(found)] if found is not None else []), str(self.version)


def with_controller(server: Server, course: Callable[[Controller], Coroutine[Any, Any, None]]) -> None:
    """Runs a course with a controller of this server that has heard of the job."""

    async def run() -> None:
        controller = Controller(server, Settings())  # type: ignore[arg-type]
        controller._leads = True
        controller.saw_job(None, copy.deepcopy(server.job))
        await course(controller)
        await controller.close()

    asyncio.run(run())


async def look(controller: Controller) -> bool:
    """One look, as a worker does it; False where none was asked for."""
    try:
        async with asyncio.timeout(0):
            key = await controller.work.take()
    except TimeoutError:
        return False
    failed = True
    try:
        await controller._reconciler.look(key)
        failed = False
    finally:
        controller.work.done(key, failed=failed)
    return True


@pytest.mark.parametrize(
    "edit", [{"generation": 2}, {"annotations": {names.RESTART: "1"}}, {"deletionTimestamp": "2030-01-01T00:00:00Z"}]
)
def test_an_edit_that_the_answer_to_a_status_holds_is_looked_at(edit: Object) -> None:
    server = Server(job())

    async def course(controller: Controller) -> None:
        server.meanwhile = lambda: server.job["metadata"].update(edit)
        assert await look(controller)
        controller.saw_job("MODIFIED", copy.deepcopy(server.job))  # its event comes after the answer
        assert await look(controller)

    with_controller(server, course)


def test_a_settled_job_is_not_looked_at_again_and_a_look_asks_nothing_of_the_server() -> None:
    unheld = job()
    del unheld["metadata"]["finalizers"]
    server = Server(unheld)

    async def course(controller: Controller) -> None:
        assert await look(controller)
        controller.saw_job("MODIFIED", copy.deepcopy(server.job))
        assert not await look(controller), "what the operator wrote is no news"
        server.calls.clear()
        controller.work.add(KEY)
        assert await look(controller)
        assert server.calls == []

    with_controller(server, course)


def test_what_was_written_is_no_news_and_what_others_wrote_before_it_is() -> None:
    server = Server(job())

    async def course(controller: Controller) -> None:
        assert await look(controller)
        service = copy.deepcopy(server.things["Service", "telemetry"])
        controller._saw_child("MODIFIED", service)
        assert not await look(controller), "the answer was known"
        older = copy.deepcopy(service)
        older["metadata"]["resourceVersion"] = "50"
        controller._saw_child("MODIFIED", older)
        assert await look(controller), "the answer holds what the look before it had not seen"
        controller._saw_child("LISTED", service)
        assert await look(controller), "a list tells of no change before it"

    with_controller(server, course)


def test_jobs_do_not_queue_where_nobody_works() -> None:
    """A replica that waits would tell of them as of a queue, for as long as it waits."""

    async def course() -> None:
        controller = Controller(Server(job()), Settings())  # type: ignore[arg-type]
        for number in range(3):
            seen = job()
            seen["metadata"]["name"] = f"job-{number}"
            controller.saw_job("ADDED", seen)
        assert registry.get_sample_value("streamjob_operator_queue_depth") == 0
        assert len(controller.index.jobs()) == 3, "who begins to lead looks at them all"

    queue_depth.set(0)
    asyncio.run(course())


def test_the_end_of_an_older_job_of_that_name_ends_no_newer_one() -> None:
    server = Server(job())

    async def course(controller: Controller) -> None:
        older = copy.deepcopy(server.job)
        newer = copy.deepcopy(older)
        newer["metadata"] |= {"uid": "uid-2", "resourceVersion": "50"}
        controller.saw_job("ADDED", newer)
        controller.saw_job("DELETED", older)
        known = controller.index.job(KEY)
        assert known is not None
        assert known["metadata"]["uid"] == "uid-2"
        controller.saw_job("DELETED", newer)
        assert controller.index.job(KEY) is None

    with_controller(server, course)


def test_a_look_at_a_job_that_is_gone_leaves_a_newer_one_of_that_name() -> None:
    server = Server(job())

    async def course(controller: Controller) -> None:
        newer = copy.deepcopy(server.job)
        newer["metadata"] |= {"uid": "uid-2", "resourceVersion": "500"}

        def made_anew() -> None:
            del server.things[names.KIND, KEY[1]]
            controller.saw_job("ADDED", newer)

        server.meanwhile = made_anew
        assert await look(controller)
        assert controller.index.job(KEY) is not None, "the status had nowhere to go, and the newer job stays"

    with_controller(server, course)


def owned_by(kind: str, name: str, group: str = names.API_VERSION) -> list[Object]:
    return [{"apiVersion": group, "kind": kind, "name": name, "uid": "uid-0", "controller": True}]


def thing(kind: str, name: str, **metadata: Any) -> Object:
    return {"kind": kind, "metadata": {"name": name, "namespace": "shop", "uid": "x", **metadata}, "spec": {}}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "was not made for this job"),
        ({"labels": names.labels("other")}, "was not made for this job"),
        ({"labels": names.labels("telemetry"), "ownerReferences": owned_by("Web", "w")}, "belongs to Web w"),
        ({"ownerReferences": owned_by(names.KIND, "other")}, "belongs to StreamJob other"),
        ({"ownerReferences": owned_by(names.KIND, "telemetry", "example.com/v1")}, "belongs to StreamJob telemetry"),
    ],
)
@pytest.mark.parametrize("indexed", [False, True])
def test_what_belongs_to_another_is_left_and_told(metadata: Object, said: str, indexed: bool) -> None:
    taken = thing("Service", "telemetry-nodes", **metadata)
    server = Server(job(), taken)

    async def course(controller: Controller) -> None:
        if indexed:
            mine = {**metadata.get("labels", {}), names.JOB_LABEL: "telemetry"}
            labelled = copy.deepcopy(taken)
            labelled["metadata"]["labels"] = mine
            if not metadata.get("ownerReferences"):
                return  # such a label would make it the job's
            controller.index.put(labelled)
            assert await look(controller)
        else:
            with pytest.raises(ClusterError, match="the name is taken: Service telemetry-nodes"):
                await look(controller)
        assert server.things["Service", "telemetry-nodes"] == taken
        applied = {call[1] for call in server.calls if call[0] == "apply"}
        assert "StatefulSet" not in applied, "nothing runs"
        assert names.KIND in applied
        told = [found for found in server.job["status"]["conditions"] if found["type"] == "SpecValid"]
        assert (told[0]["status"], told[0]["reason"]) == ("False", "NameTaken")
        assert said in told[0]["message"]

    with_controller(server, course)


def conditions(server: Server) -> dict[str, Object]:
    return {found["type"]: found for found in server.job["status"]["conditions"]}


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize(
    "labels", [{}, names.labels("other"), {names.JOB_LABEL: "telemetry"}, {names.MANAGED_BY: names.FIELD_MANAGER}]
)
def test_no_pod_gets_a_claim_that_was_not_made_for_its_job(labels: dict[str, str], suspend: bool) -> None:
    claim = thing("PersistentVolumeClaim", "state-telemetry-0", labels=labels)
    server = Server(job(suspend=suspend), claim)

    async def course(controller: Controller) -> None:
        with pytest.raises(ClusterError, match="PersistentVolumeClaim state-telemetry-0"):
            await look(controller)
        assert ("StatefulSet", "telemetry") not in server.things, "nothing runs"
        assert server.things["PersistentVolumeClaim", "state-telemetry-0"] == claim
        told = conditions(server)["SpecValid"]
        assert (told["status"], told["reason"]) == ("False", "NameTaken")
        assert f"{names.MANAGED} and {names.JOB_LABEL}=telemetry; or delete it" in told["message"]
        claim_now = server.things["PersistentVolumeClaim", "state-telemetry-0"]
        claim_now["metadata"]["labels"] = names.labels("telemetry")
        controller.work.add(KEY)
        assert await look(controller)
        assert ("StatefulSet", "telemetry") in server.things, "it was given to the job"

    with_controller(server, course)


def test_a_claim_that_took_its_place_while_the_job_was_suspended_is_not_taken_either() -> None:
    server = Server(job(suspend=True))

    async def course(controller: Controller) -> None:
        assert await look(controller)
        server.things["PersistentVolumeClaim", "state-telemetry-0"] = thing("PersistentVolumeClaim", "x", labels={})
        server.job["spec"]["suspend"] = False
        server.job["metadata"]["generation"] = 2
        controller.saw_job("MODIFIED", server.changed(server.job))
        with pytest.raises(ClusterError, match="was not made for this job"):
            await look(controller)
        assert server.things["StatefulSet", "telemetry"]["spec"]["replicas"] == 0

    with_controller(server, course)


def test_a_claim_of_the_job_is_known_by_its_watch_and_not_asked_for() -> None:
    server = Server(job())

    async def course(controller: Controller) -> None:
        controller.index.put(thing("PersistentVolumeClaim", "state-telemetry-0", labels=names.labels("telemetry")))
        assert await look(controller)
        assert "PersistentVolumeClaim" not in {kind for verb, kind, _ in server.calls if verb == "list"}

    with_controller(server, course)


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": names.labels("telemetry")},
        {"labels": names.labels("telemetry"), "ownerReferences": owned_by(names.KIND, "telemetry")},
    ],
)
def test_what_an_earlier_job_of_that_name_left_is_taken_over(metadata: Object) -> None:
    server = Server(job(), thing("Service", "telemetry-nodes", **metadata))

    async def course(controller: Controller) -> None:
        assert await look(controller)
        (owner,) = server.things["Service", "telemetry-nodes"]["metadata"]["ownerReferences"]
        assert owner["uid"] == "uid-1"

    with_controller(server, course)


def test_a_foreign_stateful_set_is_not_deleted_with_the_job() -> None:
    foreign = thing(
        "StatefulSet", "telemetry", labels=names.labels("telemetry"), ownerReferences=owned_by("Web", "w", "a/v1")
    )
    deleted = job()
    deleted["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    server = Server(deleted, foreign)

    async def course(controller: Controller) -> None:
        controller.index.put(foreign)
        assert await look(controller)
        assert ("StatefulSet", "telemetry") in server.things
        assert server.job["metadata"]["finalizers"] == []

    with_controller(server, course)


def test_a_job_that_the_operator_has_let_go_is_forgotten_though_no_watch_says_that_it_went() -> None:
    deleted = job()
    deleted["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    server = Server(deleted)

    async def course(controller: Controller) -> None:
        controller._reconciler.phases.note(KEY, "Deleting", 1.0)
        assert await look(controller)
        assert server.job["metadata"]["finalizers"] == []
        assert controller.index.job(KEY) is None
        assert KEY not in controller._reconciler.phases._since

    with_controller(server, course)


def test_facts_do_not_undo_a_status_that_was_written_meanwhile() -> None:
    server = Server(job())

    async def course(controller: Controller) -> None:
        assert await look(controller)
        status = EngineStatus(version="1", shards=4, rate_events_per_s=5.0)
        controller._facts.engines[KEY] = EngineFacts(status)
        controller._reconciler._written.clear()

        def newer() -> None:
            server.job["status"]["phase"] = "Newer"
            server.changed(server.job)

        server.meanwhile = newer
        await controller._reconciler.write_facts(KEY)
        assert server.job["status"]["phase"] == "Newer"
        assert "engine" not in server.job["status"]
        controller.saw_job("MODIFIED", copy.deepcopy(server.job))
        await controller._reconciler.write_facts(KEY)
        assert server.job["status"]["engine"]["shards"] == 4
        assert server.job["status"]["phase"] == "Newer"

    with_controller(server, course)


def test_a_namespace_without_its_role_holds_up_no_other() -> None:
    server = Server(job())
    server.forbidden = {"bare"}
    settings = Settings(namespaces=("bare", "shop"))

    async def run() -> None:
        controller = Controller(server, settings)  # type: ignore[arg-type]
        bare = job()
        bare["metadata"] |= {"namespace": "bare", "name": "waits"}
        controller.saw_job(None, bare)
        controller.saw_job(None, copy.deepcopy(server.job))
        leading = asyncio.create_task(controller.lead())
        try:
            async with asyncio.timeout(20):
                while server.job.get("status") is None:
                    await asyncio.sleep(0.01)
            assert controller.problem() is None
            assert not [call for call in server.calls if call[2] == "waits"], "nothing is known of what is there"
            assert controller._unwatched()
            assert await refused_namespaces(settings, server) == ("bare",)  # type: ignore[arg-type]
        finally:
            leading.cancel()
            await asyncio.wait({leading})
            await controller.close()

    asyncio.run(run())


def test_a_checkpoint_that_failed_is_told_as_such_until_one_succeeds() -> None:
    asked = job()
    asked["metadata"]["annotations"] = {names.CHECKPOINT: "first"}
    server = Server(asked)

    async def course(controller: Controller) -> None:
        observed = Observed(
            asked | {"status": {"operations": [{"name": "Checkpoint", "deadline": "2029-01-01T00:00:00Z"}]}}, NOW
        )
        decision = Decision((AskCheckpoint(required=True),), {"operations": []})
        applier = controller._reconciler._applier
        status = (await applier.carry_out(observed, decision, None)).status
        assert status is not None
        assert status["checkpointRequest"] == "first"
        assert status["checkpointProblem"] == "there is no control token yet"

        async def checkpoint(*_: Any) -> Checkpoint:
            return Checkpoint(number=7, duration_s=0.1)

        applier.engines.checkpoint = checkpoint  # type: ignore[method-assign]
        status = (await applier.carry_out(observed, Decision(decision.actions, status), "token")).status
        assert status is not None
        assert status["checkpointRequest"] == "first"
        assert "checkpointProblem" not in status

    with_controller(server, course)


def test_a_checkpoint_that_somebody_wants_is_asked_for_again_soon() -> None:
    server = Server(job())

    async def course(controller: Controller) -> None:
        applier = controller._reconciler._applier
        pending = {"operations": [{"name": "Checkpoint", "deadline": "2030-01-01T00:05:00Z"}]}
        observed = Observed(job() | {"status": pending}, NOW)
        deadline = NOW + timedelta(minutes=5)
        for wake, expected in ((deadline, CHECKPOINT_AGAIN), (None, CHECKPOINT_AGAIN), (NOW, timedelta(0))):
            decision = Decision((AskCheckpoint(required=True),), pending, wake)
            done = await applier.carry_out(observed, decision, None)
            assert done.wake == NOW + expected
            assert done.status == pending, "not answered yet"
        roll = Decision((AskCheckpoint(),), {"operations": []}, deadline)
        assert (await applier.carry_out(observed, roll, None)).wake == deadline, "a roll goes on without"

    with_controller(server, course)


class Leaving(Server):
    """A namespace that loses its roles, and with them the watches that are open; the right to patch its job is left."""

    def __init__(self, thing: Object) -> None:
        super().__init__(thing)
        self.lost = asyncio.Event()

    def lose_roles(self) -> None:
        self.forbidden = {"shop"}
        self.lost.set()

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Object]:
        await self.lost.wait()
        raise ClusterError(403, "Forbidden", "no Role here")
        yield {}

    async def patch(self, kind: Kind, _namespace: str, name: str, patch: Any) -> Object:
        if (kind.kind, name) not in self.things:
            raise ClusterError(404, "NotFound", "it is gone")
        if patch:
            metadata = self.things[kind.kind, name]["metadata"]
            if patch["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
                raise ClusterError(409, "Conflict", "it has another version")
            return await super().patch(kind, _namespace, name, patch)
        self.calls.append(("ask", kind.kind, name))
        return copy.deepcopy(self.things[kind.kind, name])


def out_of_sight(
    server: Callable[[], Leaving], course: Callable[[Controller, Leaving], Coroutine[Any, Any, None]]
) -> None:
    """Runs a course once the operator has looked at the job and has then lost sight of it."""

    async def run() -> None:
        made = server()
        controller = Controller(made, Settings(namespaces=("shop",), workers=1))  # type: ignore[arg-type]
        controller.saw_job(None, copy.deepcopy(made.job))
        lead = asyncio.create_task(controller.lead())
        try:
            async with asyncio.timeout(20):
                while made.job.get("status") is None:
                    await asyncio.sleep(0.01)
                made.lose_roles()
                while not all(one.refused for one in controller._needed("shop")):
                    await asyncio.sleep(0.01)
                made.calls.clear()
                await course(controller, made)
        finally:
            lead.cancel()
            await asyncio.wait({lead})
            await controller.close()

    asyncio.run(run())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamjob_operator.controller.UNWATCHED_RETRY_S", 0.05)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_a_job_whose_namespace_has_lost_its_roles_is_let_go_at_its_deadline(policy: str) -> None:
    async def course(controller: Controller, server: Leaving) -> None:
        claim = thing("PersistentVolumeClaim", "state-telemetry-0", labels=names.labels("telemetry"))
        controller.index.put(claim)
        deleted = copy.deepcopy(server.job)
        deleted["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
        controller.saw_job("MODIFIED", deleted)
        # What changes the job now is told by no watch.
        server.job["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
        server.changed(server.job)
        while server.job["metadata"]["finalizers"]:
            await asyncio.sleep(0.01)
        while controller.index.job(KEY) is not None:
            await asyncio.sleep(0.01)
        assert {call[0] for call in server.calls} <= {"list", "ask", "create", "patch"}, "nothing is deleted or made"

    out_of_sight(lambda: Leaving(job(deletionPolicy=policy)), course)


@pytest.mark.usefixtures("impatient")
def test_a_job_that_nobody_may_see_is_held_until_its_deadline_and_one_that_stays_is_not_asked_for() -> None:
    async def course(controller: Controller, server: Leaving) -> None:
        controller.work.add(KEY)
        await asyncio.sleep(0.3)
        assert {call[0] for call in server.calls} <= {"list"}
        server.job["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z"
        controller.saw_job("MODIFIED", server.changed(server.job))
        while ("ask", names.KIND, "telemetry") not in server.calls:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert server.job["metadata"]["finalizers"] == [names.FINALIZER]
        server.things.clear()
        controller.work.add(KEY)
        while controller.index.job(KEY) is not None:
            await asyncio.sleep(0.01)

    out_of_sight(lambda: Leaving(job()), course)


def test_a_refusal_that_has_just_come_lets_no_job_go() -> None:
    async def course(controller: Controller, server: Leaving) -> None:
        server.job["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
        controller.saw_job("MODIFIED", server.changed(server.job))
        await asyncio.sleep(0.3)
        assert {call[0] for call in server.calls} <= {"list"}
        assert server.job["metadata"]["finalizers"] == [names.FINALIZER]

    out_of_sight(lambda: Leaving(job()), course)


class Kopf:
    """In the place of kopf's thread: notes what it is given; the first one ends by an error once `broken` is set."""

    def __init__(self) -> None:
        self.given: list[tuple[tuple[str, ...], bool]] = []
        self.broken = threading.Event()

    def __call__(
        self, settings: Settings, _controller: Any, _certificate: Any, _loop: Any, stop: threading.Event, watched: bool
    ) -> None:
        self.given.append((settings.namespaces, watched))
        if len(self.given) > 1:
            stop.wait()
        elif self.broken.wait(20):
            raise RuntimeError("forbidden")


@pytest.mark.parametrize(
    ("namespaces", "left"), [(("lab", "shop"), (("lab",), True)), (("shop",), ((), False))], ids=["others", "none"]
)
def test_a_refused_watch_of_the_jobs_ends_no_process(
    namespaces: tuple[str, ...], left: tuple[tuple[str, ...], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    kopf = Kopf()
    monkeypatch.setattr("streamjob_operator.runner._kopf_thread", kopf)
    server = Server(job())

    async def run() -> None:
        watching = asyncio.create_task(_kopf(Settings(namespaces=namespaces), server, None))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while not kopf.given:
                await asyncio.sleep(0.01)
            server.forbidden = {"shop"}
            kopf.broken.set()
            while len(kopf.given) < 2:
                assert not watching.done(), watching
                await asyncio.sleep(0.01)
        assert kopf.given == [(namespaces, True), left]
        watching.cancel()
        await asyncio.wait({watching})

    asyncio.run(run())


def test_any_other_error_of_kopf_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    kopf = Kopf()
    kopf.broken.set()
    monkeypatch.setattr("streamjob_operator.runner._kopf_thread", kopf)
    work = _kopf(Settings(namespaces=("shop",)), Server(job()), None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="forbidden"):
        asyncio.run(asyncio.wait_for(work, 20))


def test_an_error_of_kopf_ends_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def operator(*, stop_flag: threading.Event, **_: Any) -> None:
        asyncio.get_running_loop().run_in_executor(None, stop_flag.wait)  # as kopf does
        raise RuntimeError("forbidden")

    async def run() -> None:
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        work = asyncio.to_thread(_kopf_thread, Settings(), None, None, loop, stop, True)  # type: ignore[arg-type]
        try:
            with pytest.raises(RuntimeError, match="forbidden"):
                await asyncio.wait_for(work, 10)
        finally:
            stop.set()

    monkeypatch.setattr("kopf.operator", operator)
    asyncio.run(run())


class Discovery(Server):
    """Gives answers to whether there are PodMonitors, the last one for ever."""

    def __init__(self, *answers: bool | ClusterError) -> None:
        super().__init__(job(suspend=True))
        self.answers = list(answers)

    async def serves(self, _kind: Kind) -> bool:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ClusterError):
            raise answer
        return answer


BUSY = ClusterError(429, "TooManyRequests", "later")
AWAY = ClusterError(503, "ServiceUnavailable", "later")


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for five minutes."""
    for name in ("DISCOVERY_S", "DISCOVERY_RETRY_S"):
        monkeypatch.setattr(f"streamjob_operator.controller.{name}", 0.01)


@asynccontextmanager
async def leading(server: Discovery) -> AsyncIterator[tuple[Controller, asyncio.Task[None]]]:
    """A controller that knows the job and leads, until the block ends."""
    controller = Controller(server, Settings())  # type: ignore[arg-type]
    controller.saw_job(None, copy.deepcopy(server.job))
    lead = asyncio.create_task(controller.lead())
    try:
        yield controller, lead
    finally:
        lead.cancel()
        await asyncio.wait({lead})
        await controller.close()


@pytest.mark.parametrize("answers", [(True,), (False, True), (BUSY, AWAY, True), (False, BUSY, False, True)])
def test_pod_monitors_come_with_their_api_and_no_answer_ends_nothing(
    answers: tuple[bool | ClusterError, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Discovery(*answers)
    soon(monkeypatch)

    async def run() -> None:
        async with leading(server) as (controller, lead):
            async with asyncio.timeout(20):
                while ("PodMonitor", "telemetry") not in server.things:
                    assert not lead.done(), lead
                    await asyncio.sleep(0.01)
            assert [one.name for one in controller._informers].count("podmonitors") == 1
            first = next(place for place, call in enumerate(server.calls) if call[1] == "PodMonitor")
            assert server.calls[first][0] == "list", "what is there is known before any is made"

    asyncio.run(run())


def test_pod_monitors_that_may_not_be_watched_hold_up_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)

    class Forbidden(Discovery):
        async def pages(self, kind: Kind, *rest: Any, **more: Any) -> AsyncIterator[tuple[list[Object], str]]:
            if kind.kind == "PodMonitor":
                self.calls.append(("list", kind.kind, ""))
                raise ClusterError(403, "Forbidden", "no rule")
            async for page in super().pages(kind, *rest, **more):
                yield page

    server = Forbidden(False, True)

    async def run() -> None:
        async with leading(server) as (controller, _):
            async with asyncio.timeout(20):
                while ("list", "PodMonitor", "") not in server.calls:
                    await asyncio.sleep(0.01)
                server.calls.clear()
                del server.things["Service", "telemetry"]
                controller.index.remove("Service", "shop", "telemetry")
                controller.work.add(KEY)
                while ("Service", "telemetry") not in server.things:
                    await asyncio.sleep(0.01)
            assert controller._unwatched() == []
            assert not controller._facts.pod_monitors

    asyncio.run(run())


def test_no_answer_is_neither_a_right_nor_its_refusal() -> None:
    class Silent(Server):
        async def may_list(self, _kind: Kind, namespace: str) -> bool | None:
            return None if namespace == "silent" else await super().may_list(_kind, namespace)

    server = Silent(job())
    server.forbidden = {"bare"}
    asked = refused_namespaces(Settings(namespaces=("bare", "silent")), server)  # type: ignore[arg-type]
    assert asyncio.run(asked) == ("bare",)

    async def given() -> None:
        async with asyncio.timeout(20):
            waiting = asyncio.create_task(until_granted(server, ("silent",), check_s=0))  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
            assert not waiting.done(), "kopf is started anew only by a right"
            waiting.cancel()
            await until_granted(server, ("silent", "shop"), check_s=0)  # type: ignore[arg-type]

    asyncio.run(given())
