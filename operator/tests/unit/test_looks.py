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

from streamjob_operator import names, reconcile
from streamjob_operator.apply import CHECKPOINT_AGAIN
from streamjob_operator.cluster import ClusterError
from streamjob_operator.controller import Controller
from streamjob_operator.decide import AskCheckpoint, Choices, Decision, decide
from streamjob_operator.engine import MAX_CHECKPOINTS, Checkpoint
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
        if kind.kind == names.KIND and not fields:
            jobs = [one for (known, _), one in self.things.items() if known == names.KIND]
            yield [copy.deepcopy(one) for one in jobs if namespace in (None, one["metadata"]["namespace"])], "100"
            return
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
        for _ in range(2):  # the question, then its answer
            status = (await applier.carry_out(observed, Decision(decision.actions, status), "token")).status
            await asyncio.sleep(0)
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


class Asked:
    """In the place of an engine's checkpoint: notes who is asked, and answers once it is let."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.jobs: list[str] = []
        self.ended: list[str] = []
        self.at_once = 0
        self.let = asyncio.Event()

    async def checkpoint(self, _namespace: str, name: str, _token: str) -> Checkpoint:
        self.jobs.append(name)
        self.at_once = max(self.at_once, len(self.jobs) - len(self.ended))
        try:
            await self.let.wait()
        finally:
            self.ended.append(name)
        self.server.calls.append(("committed", names.KIND, name))
        return Checkpoint(number=7, duration_s=0.1)


def serving(name: str) -> Object:
    """A pod that serves, of the job of its name."""
    pod = thing("Pod", f"{name}-0", labels=names.labels(name), resourceVersion="1")
    return pod | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}


def edited(server: Server, **spec: Any) -> Object:
    """The job as somebody has changed it."""
    server.job["spec"] |= spec
    server.job["metadata"]["generation"] = server.job["metadata"].get("generation", 1) + 1
    return server.changed(server.job)


def with_hanging_engine(server: Server, course: Callable[[Controller, Asked], Coroutine[Any, Any, None]]) -> None:
    """Runs a course with a job that has run, and an engine that does not answer before it is let."""

    async def run(controller: Controller) -> None:
        asked = Asked(server)
        controller._engines.checkpoint = asked.checkpoint  # type: ignore[method-assign]
        assert await look(controller)
        controller.index.put(serving("telemetry"))
        server.calls.clear()
        async with asyncio.timeout(20):
            await course(controller, asked)

    with_controller(server, run)


def test_a_roll_waits_for_the_checkpoint_and_no_worker_waits_with_it() -> None:
    server = Server(job())

    async def course(controller: Controller, asked: Asked) -> None:
        controller.saw_job("MODIFIED", edited(server, image="engine:2"))
        assert await look(controller)
        applied = [call for call in server.calls if call[:2] == ("apply", "StatefulSet")]
        assert applied == [], "the look is over, and nothing rolls before the engine has answered"
        assert ("create", "Event", "Rolling") not in server.calls
        (operation,) = server.job["status"]["operations"]
        assert (operation["name"], operation["blockedBy"]) == ("Roll", "the engine to commit")
        assert conditions(server)["Progressing"]["message"].endswith("waits for the engine to commit")
        assert server.job["status"]["observedGeneration"] == server.job["metadata"]["generation"]
        since = operation["startedAt"]
        controller.work.add(KEY)
        assert await look(controller)
        assert server.job["status"]["operations"][0]["startedAt"] == since
        assert asked.jobs == ["telemetry"], "one question a job"
        assert not await look(controller)
        asked.let.set()
        while not await look(controller):  # its answer brings it
            await asyncio.sleep(0)
        calls = [call for call in server.calls if call[0] == "committed" or call[1] in ("StatefulSet", "Event")]
        assert calls[0] == ("committed", names.KIND, "telemetry")
        assert sorted(calls[1:]) == [("apply", "StatefulSet", "telemetry"), ("create", "Event", "Rolling")]
        assert asked.jobs == ["telemetry"]
        (operation,) = server.job["status"]["operations"]
        assert operation["message"].startswith("spec.template")

    with_hanging_engine(server, course)


def test_an_answer_counts_for_the_roll_that_was_asked_for_and_no_later_one() -> None:
    server = Server(job())

    async def course(controller: Controller, asked: Asked) -> None:
        for image in ("engine:2", "streamjob-engine:0.1.0", "engine:3"):
            controller.saw_job("MODIFIED", edited(server, image=image))
            assert await look(controller)
            await asyncio.sleep(0)
        assert len(asked.jobs) == 2, "the roll that was taken back is not what the engine has committed for"
        assert len(asked.ended) == 1
        assert ("apply", "StatefulSet", "telemetry") not in server.calls

    with_hanging_engine(server, course)


def test_an_old_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(job())

    async def course(controller: Controller, asked: Asked) -> None:
        asked.let.set()
        monkeypatch.setattr("streamjob_operator.engine.ANSWER_S", 0.0)
        controller.saw_job("MODIFIED", edited(server, image="engine:2"))
        assert await look(controller)
        await asyncio.sleep(0)
        assert await look(controller)
        assert ("apply", "StatefulSet", "telemetry") not in server.calls
        await asyncio.sleep(0)
        assert asked.jobs == ["telemetry"] * 2

    with_hanging_engine(server, course)


def test_a_job_that_goes_and_a_lead_that_is_lost_end_the_question() -> None:
    server = Server(job())

    async def course(controller: Controller, asked: Asked) -> None:
        ends: list[Callable[[], None]] = [
            lambda: controller.saw_job("DELETED", copy.deepcopy(server.job)),
            controller._engines.commits.stop,
            lambda: controller._engines.commits.keep_jobs([]),
        ]
        for number, end in enumerate(ends, 1):
            controller._engines.commits.take(KEY, "a roll", "token")
            await asyncio.sleep(0)
            assert len(asked.jobs) == number
            end()
            await asyncio.sleep(0)
            assert len(asked.ended) == number
            assert not controller._engines.commits._asked

    with_hanging_engine(server, course)


def test_a_mistake_in_a_question_is_told_as_any_other() -> None:
    server = Server(job())

    async def course(controller: Controller, _: Asked) -> None:
        async def mistaken(*_: Any) -> Checkpoint:
            raise TypeError("secret")

        controller._engines.checkpoint = mistaken  # type: ignore[method-assign]
        controller.saw_job("MODIFIED", edited(server, image="engine:2"))
        assert await look(controller)
        await asyncio.sleep(0)
        with pytest.raises(TypeError):
            await look(controller)
        assert conditions(server)["Degraded"]["reason"] == "InternalError"

    with_hanging_engine(server, course)


def test_jobs_whose_engines_hang_hold_up_no_other() -> None:
    """More of them than there are workers, and than are asked at once."""
    hanging = [f"hangs-{number}" for number in range(MAX_CHECKPOINTS + 4)]
    jobs = [job() for _ in hanging]
    for name, one in zip(hanging, jobs, strict=True):
        one["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    server = Server(job(), *jobs)

    async def run() -> None:
        controller = Controller(server, Settings(workers=2))  # type: ignore[arg-type]
        asked = Asked(server)
        controller._engines.checkpoint = asked.checkpoint  # type: ignore[method-assign]
        lead = asyncio.create_task(controller.lead())
        try:
            async with asyncio.timeout(30):
                while not all(server.things[names.KIND, name].get("status") for name in (*hanging, KEY[1])):
                    await asyncio.sleep(0.01)
                for name in hanging:
                    controller.index.put(serving(name))
                    one = server.things[names.KIND, name]
                    one["spec"]["image"] = "engine:2"
                    one["metadata"]["generation"] = 2
                    controller.saw_job("MODIFIED", server.changed(one))
                while len(asked.jobs) < MAX_CHECKPOINTS:
                    await asyncio.sleep(0.01)
                controller.saw_job("MODIFIED", edited(server, image="engine:2"))
                while server.job["status"]["observedGeneration"] != 2:
                    await asyncio.sleep(0.01)
            assert asked.at_once == MAX_CHECKPOINTS
            assert sorted(asked.jobs) == sorted(set(asked.jobs)), "one question a job"
            assert asked.ended == []
            assert controller.work.longest() < 5
        finally:
            lead.cancel()
            await asyncio.wait({lead})
            assert not controller._engines.commits._asked, "who no longer leads asks nothing"
            await controller.close()

    asyncio.run(run())


def test_a_checkpoint_of_a_job_at_rest_is_answered_at_once_and_without_the_engine() -> None:
    asked_for = job(suspend=True)
    asked_for["metadata"]["annotations"] = {names.CHECKPOINT: "now"}
    server = Server(asked_for)

    async def course(controller: Controller) -> None:
        asked = Asked(server)
        controller._engines.checkpoint = asked.checkpoint  # type: ignore[method-assign]
        assert await look(controller)
        assert server.job["status"]["checkpointRequest"] == "now"
        assert "checkpointProblem" not in server.job["status"]
        assert server.job["status"]["operations"] == []
        assert ("create", "Event", "CheckpointDone") in server.calls
        assert asked.jobs == []

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
async def leading(server: Server, *known: Object) -> AsyncIterator[tuple[Controller, asyncio.Task[None]]]:
    """A controller that knows the job, or of it and others what is given, and leads, until the block ends."""
    controller = Controller(server, Settings())  # type: ignore[arg-type]
    for one in known or (copy.deepcopy(server.job),):
        controller.saw_job(None, one)
    lead = asyncio.create_task(controller.lead())
    try:
        yield controller, lead
    finally:
        lead.cancel()
        await asyncio.wait({lead})
        await controller.close()


async def first_status(server: Server, lead: asyncio.Task[None]) -> None:
    """Waits until the job has a status."""
    async with asyncio.timeout(20):
        while server.job.get("status") is None:
            assert not lead.done(), lead
            await asyncio.sleep(0.01)


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
                made = ("Service", "telemetry")
                while ("list", "PodMonitor", "") not in server.calls or made not in server.things:
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


def test_who_begins_to_lead_lists_the_jobs_before_the_first_look() -> None:
    """The watch of a replica that waits may have hung, without a word, since before the last edit."""
    server = Server(job())

    async def run() -> None:
        old, gone = copy.deepcopy(server.job), copy.deepcopy(server.job)
        gone["metadata"] |= {"name": "gone", "uid": "uid-gone"}
        edited(server, image="engine:9")
        async with leading(server, old, gone) as (controller, lead):
            await first_status(server, lead)
            assert [key[1] for key in controller.index.jobs()] == ["telemetry"]
            made = {call for call in server.calls if call[0] == "apply"}
            assert not {call for call in made if call[2].startswith("gone")}
            template = server.things["StatefulSet", "telemetry"]["spec"]["template"]
            assert template["spec"]["containers"][0]["image"] == "engine:9"
            assert server.calls[0] == ("list", names.KIND, "")
            controller.saw_job("MODIFIED", old)
            known = controller.index.job(KEY)
            assert known is not None
            assert known["spec"]["image"] == "engine:9", "what comes late is older"

    asyncio.run(run())


def test_no_job_is_looked_at_before_its_namespace_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)
    monkeypatch.setattr("streamjob_operator.controller.UNWATCHED_RETRY_S", 0.05)

    class Late(Server):
        refused = 3

        async def pages(self, kind: Kind, *rest: Any, **more: Any) -> AsyncIterator[tuple[list[Object], str]]:
            if kind.kind == names.KIND and not more.get("fields") and self.refused:
                self.refused -= 1
                assert not [call for call in self.calls if call[0] == "apply"]
                raise ClusterError(503, "ServiceUnavailable", "later")
            async for page in super().pages(kind, *rest, **more):
                yield page

    server = Late(job())

    async def run() -> None:
        async with leading(server) as (controller, lead):
            await first_status(server, lead)
            assert server.refused == 0
            assert controller._unwatched() == []

    asyncio.run(run())


# --------------------------------------------------------------------------------------------------- a long decision


def test_the_loop_goes_on_while_a_job_is_decided_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Lease is renewed, and the probe answered, by the same loop."""
    went_on = threading.Event()

    def slow(observed: Observed, choices: Choices) -> Decision:
        assert went_on.wait(60), "the loop waits for the decision"
        return decide(observed, choices)

    monkeypatch.setattr(reconcile, "decide", slow)

    async def course(controller: Controller) -> None:
        asyncio.get_running_loop().call_later(0.01, went_on.set)
        assert await look(controller)

    with_controller(Server(job()), course)


def test_who_does_not_lead_any_more_after_a_long_decision_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(job())
    leads = True

    def lost(observed: Observed, choices: Choices) -> Decision:
        nonlocal leads
        leads = False
        return decide(observed, choices)

    monkeypatch.setattr(reconcile, "decide", lost)

    async def course(controller: Controller) -> None:
        controller._reconciler._leads = lambda: leads
        server.calls.clear()
        assert await look(controller)
        assert server.calls == []
        assert "status" not in server.job

    with_controller(server, course)
