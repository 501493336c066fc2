"""Decisions about single situations: what is done, what the status says."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamjob_operator import names
from streamjob_operator.conditions import time_text
from streamjob_operator.decide import (
    Apply,
    AskCheckpoint,
    Choices,
    Delete,
    Emit,
    ResizeClaim,
    Scale,
    SetFinalizer,
    Try,
    decide,
    worth_writing,
)
from streamjob_operator.decide.checkpoints import is_at_rest
from streamjob_operator.decide.decision import STUCK_GRACE
from streamjob_operator.decide.deletion import MAX_DEADLINE, decide_deletion
from streamjob_operator.decide.health import (
    MAX_SAID,
    MAX_TEXT,
    NOT_SERVING_GRACE,
    RESTART_RECENT,
    TERMINATION_GRACE,
    last_said,
)
from streamjob_operator.decide.operations import DEADLINES
from streamjob_operator.decide.status import FACTS_INTERVAL
from streamjob_operator.diff import Difference
from streamjob_operator.observed import Cluster, EngineFacts, EngineStatus, Observed
from unit.jobs import NOW, job, observed
from unit.world import World

FACTS: dict[str, Any] = {
    "version": "0.1.0",
    "shards": 8,
    "queue_rows": 5,
    "rate_events_per_s": 9.6,
    "blocked_shards": 0,
}


def settled(**spec: Any) -> World:
    world = World()
    assert world.job is not None
    world.job = job(**spec)
    world.settle()
    world.actions.clear()
    return world


def condition(decision: Any, kind: str) -> dict[str, Any]:
    return next(found for found in decision.status["conditions"] if found["type"] == kind)


def look(seen: Observed) -> Any:
    return decide(seen, Choices("engine:1", "token"))


def changed(seen: Observed, **members: Any) -> Observed:
    given = {name: getattr(seen, name) for name in Observed.__slots__}
    return Observed(**{**given, **members})


def test_a_token_that_is_there_is_kept() -> None:
    world = settled()
    decision = decide(world.observe(), Choices("engine:1", "another token"))
    assert decision.actions == ()


def test_a_token_that_was_changed_is_taken_over_without_a_roll() -> None:
    world = settled()
    world.things["Secret", "telemetry-control"]["data"] = {"token": "YW5vdGhlcg=="}
    world.settle()
    assert world.things["Secret", "telemetry-control"]["data"] == {"token": "YW5vdGhlcg=="}
    assert not [action for action in world.actions if isinstance(action, Emit)]


def test_a_roll_commits_first_and_names_what_changed() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["image"] = "engine:2"
    actions = look(world.observe()).actions
    assert [type(action) for action in actions] == [Emit, AskCheckpoint, Apply]
    assert actions[0] == Emit("Rolling", "spec.template.spec.containers[engine].image: engine:1 -> engine:2")


def test_a_larger_volume_with_a_new_image_is_told_as_a_roll_and_commits_first() -> None:
    world = settled(storage={"size": "10Gi", "storageClassName": "fast"})
    assert world.job is not None
    world.job["spec"]["storage"]["size"] = "20Gi"
    assert not [action for action in look(world.observe()).actions if isinstance(action, AskCheckpoint)]
    world.job["spec"]["image"] = "engine:2"
    actions = look(world.observe()).actions
    assert Emit("Rolling", "spec.template.spec.containers[engine].image: engine:1 -> engine:2") in actions
    asked = [place for place, action in enumerate(actions) if isinstance(action, AskCheckpoint)]
    removed = [place for place, action in enumerate(actions) if isinstance(action, Delete)]
    assert asked
    assert asked < removed
    world.look()
    assert world.of("StatefulSet") == []
    world.look()
    assert world.job["status"]["operations"][0]["name"] == "Roll", "it goes on while the StatefulSet is made anew"


def test_a_removed_member_is_named_as_well() -> None:
    world = settled(windows=[{"name": w, "tumbling": "10s", "aggregates": {"n": "count()"}} for w in ("per_10s", "b")])
    assert world.job is not None
    world.job["spec"]["windows"].pop()
    events = [action for action in look(world.observe()).actions if isinstance(action, Emit)]
    assert events[0].reason == "Rolling"
    assert events[0].message.startswith("job.windows[b]: ")


def told(world: World) -> str:
    return " ".join(action.message for action in look(world.observe()).actions if isinstance(action, Emit))


def test_what_may_be_secret_is_named_and_never_shown() -> None:
    sink = {"name": "out", "from": "per_10s", "http": {"url": "http://sink", "headers": {"X-Key": "old secret"}}}
    env = [{"name": "PASSWORD", "value": "old secret"}]
    template = {"metadata": {"annotations": {"note": "old secret"}}, "spec": {"containers": []}}
    before: dict[str, Any] = {"rest": {"bearerToken": "old secret"}, "sinks": [sink], "podTemplate": template}
    after: list[tuple[str, dict[str, Any]]] = [
        ("job.rest.bearer_token", {"rest": {"bearerToken": "new secret"}}),
        ("job.rest.bearer_token", {"rest": {}}),
        ("X-Key", {"sinks": [{**sink, "http": {**sink["http"], "headers": {"X-Key": "new secret"}}}]}),  # type: ignore[dict-item]
        ("job.sinks[more]", {"sinks": [sink, {**sink, "name": "more"}]}),
        ("env", {"podTemplate": {**template, "spec": {"containers": [{"name": "engine", "env": env}]}}}),
        ("containers[side]", {"podTemplate": {**template, "spec": {"containers": [{"name": "side", "env": env}]}}}),
        ("annotations.note", {"podTemplate": {"metadata": {"annotations": {"note": "new secret"}}}}),
        ("annotations.note", {"podTemplate": {}}),
    ]
    for path, edit in after:
        world = settled(**before)
        assert world.job is not None
        world.job["spec"] |= edit
        assert path in told(world)
        assert "secret" not in told(world), path


def test_drift_in_a_config_map_is_named_and_never_shown() -> None:
    world = settled()
    (found,) = [one for one in world.of("ConfigMap") if "-udfs-" in one["metadata"]["name"]]
    found["data"] = {"z.py": "secret"}
    assert told(world).endswith("data.z.py (its values are not shown)")


def test_what_the_cluster_wants_otherwise_is_not_fought_over() -> None:
    world = settled()
    seen = world.observe()
    service = copy.deepcopy(seen.children["Service", "telemetry"])
    service["spec"]["type"] = "NodePort"
    children = {**seen.children, ("Service", "telemetry"): service}
    assert look(changed(seen, children=children)).actions
    kept = Difference("spec.type", "ClusterIP", "NodePort").identity
    tolerated = {("Service", "telemetry"): frozenset({kept})}
    assert look(changed(seen, children=children, tolerated=tolerated)).actions == ()


def test_a_change_of_a_long_value_is_not_taken_for_the_one_that_the_cluster_keeps() -> None:
    """The cluster writes images otherwise: by its registry, which has names of any length."""
    image = f"registry.example.com/team/streamjob/engine@sha256:{'a' * 64}"
    world = settled(image=image)
    stateful_set = world.things["StatefulSet", "telemetry"]
    kept = f"mirror.example.com/{image}"
    for one in (stateful_set["spec"]["template"], world.things["Pod", "telemetry-0"]):
        one["spec"]["containers"][0]["image"] = kept
    path = "spec.template.spec.containers[engine].image"
    identity = Difference(path, image, kept).identity
    assert len(identity) < 200, "whatever the values"
    world.tolerated["StatefulSet", "telemetry"] = frozenset({identity})
    assert look(world.observe()).actions == ()
    assert world.job is not None
    world.job["spec"]["image"] = image[:-1] + "b"
    actions = look(world.observe()).actions
    assert [type(action) for action in actions] == [Emit, AskCheckpoint, Apply]
    assert actions[0].message.startswith(path)


def test_pods_that_have_lost_their_stateful_set_are_told_as_a_roll_where_the_template_has_changed() -> None:
    world = settled()
    assert world.job is not None
    del world.things["StatefulSet", "telemetry"]
    world.things["Pod", "telemetry-0"]["spec"]["tolerations"] = [{"key": "node.kubernetes.io/unreachable"}]
    world.job["spec"]["podTemplate"] = {"spec": {"tolerations": []}}
    assert not [action for action in look(world.observe()).actions if isinstance(action, (Emit, AskCheckpoint))]
    world.job["spec"]["where"] = "v > 1"
    actions = look(world.observe()).actions
    assert [type(action) for action in actions[-3:]] == [Emit, AskCheckpoint, Apply]
    assert actions[-3].reason == "Rolling"
    assert actions[-3].message.startswith("job.where")
    world.look()
    (operation,) = world.job["status"]["operations"]
    assert operation["name"] == "Roll"
    del world.things["StatefulSet", "telemetry"]
    assert not [action for action in look(world.observe()).actions if isinstance(action, Emit)], "told once"
    world.settle()
    assert world.job["status"]["phase"] == "Running"


def test_a_stuck_pod_of_an_old_template_is_replaced_after_its_grace() -> None:
    world = settled()
    world.broken_images.add("engine:2")
    assert world.job is not None
    world.job["spec"]["image"] = "engine:2"
    for _ in range(4):
        world.look()
        world.neighbours()
    world.job["spec"]["image"] = "engine:3"
    world.look()
    world.stateful_set_controller()
    decision = look(world.observe())
    assert not [action for action in decision.actions if isinstance(action, Delete)]
    assert decision.wake is not None
    assert decision.wake <= world.now + STUCK_GRACE
    world.now += STUCK_GRACE
    (deleted,) = [action for action in look(world.observe()).actions if isinstance(action, Delete)]
    assert (deleted.kind, deleted.name) == ("Pod", "telemetry-0")


def test_a_pod_that_serves_is_never_replaced_by_force() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["image"] = "engine:2"
    world.look()
    (stateful_set,) = world.of("StatefulSet")
    # The controller knows the new template and has not replaced the pod yet.
    stateful_set["status"] = {"observedGeneration": stateful_set["metadata"]["generation"], "updateRevision": "new"}
    world.now += 10 * STUCK_GRACE
    assert not [action for action in look(world.observe()).actions if isinstance(action, Delete)]


def test_a_job_is_held_before_anything_is_made() -> None:
    resource = job()
    del resource["metadata"]["finalizers"]
    actions = look(observed(resource)).actions
    assert actions[0] == SetFinalizer(True)
    assert isinstance(actions[1], Apply)
    resource["spec"]["where"] = "v >"
    assert look(observed(resource)).actions[0] == SetFinalizer(True)


def test_a_smaller_size_changes_no_volume_and_is_told() -> None:
    world = settled(storage={"size": "20Gi"})
    assert world.job is not None
    world.job["spec"]["storage"] = {"size": "10Gi"}
    decision = look(world.observe())
    assert decision.actions == ()
    assert condition(decision, "StorageReady")["reason"] == "ShrinkNotPossible"


def test_volumes_that_cannot_grow_are_told_and_left() -> None:
    world = settled()
    world.volumes_grow = False
    assert world.job is not None
    world.job["spec"]["storage"] = {"size": "20Gi"}
    decision = look(world.observe())
    assert not [action for action in decision.actions if isinstance(action, (ResizeClaim, Delete))]
    assert condition(decision, "StorageReady")["reason"] == "ExpansionNotAllowed"


def test_growth_resizes_the_claim_and_recreates_the_stateful_set_with_orphaned_pods() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["storage"] = {"size": "20Gi"}
    actions = [action for action in look(world.observe()).actions if not isinstance(action, Emit)]
    assert actions[0] == ResizeClaim("state-telemetry-0", "20Gi")
    assert isinstance(actions[1], Try), "it is deleted only where the new one is taken"
    assert (
        actions[1].manifest["spec"]["volumeClaimTemplates"]
        == (world.things["StatefulSet", "telemetry"]["spec"]["volumeClaimTemplates"])
    )
    assert isinstance(actions[2], Delete)
    assert (actions[2].kind, actions[2].propagation) == ("StatefulSet", "Orphan")


def test_a_copy_of_a_claim_makes_no_volume_grow_and_says_nothing_of_the_state() -> None:
    world = settled()
    copied = copy.deepcopy(world.things["PersistentVolumeClaim", "state-telemetry-0"])
    copied["metadata"] |= {"name": "backup-of-telemetry", "uid": "other", "annotations": {names.SHARDS: "999"}}
    copied["spec"]["resources"]["requests"]["storage"] = "50Gi"
    copied["status"] = {"phase": "Pending"}
    world.things["PersistentVolumeClaim", "backup-of-telemetry"] = copied
    decision = look(world.observe())
    assert decision.actions == ()
    assert condition(decision, "StorageReady")["reason"] == "Bound"


def test_what_somebody_has_changed_is_tried_before_it_is_called_a_roll() -> None:
    """A new leader does not know which members the cluster keeps in its own way."""
    world = settled()
    world.things["StatefulSet", "telemetry"]["spec"]["template"]["spec"]["serviceAccountName"] = "other"
    decision = look(world.observe())
    assert [type(action) for action in decision.actions] == [Try]
    assert decision.wake == world.now, "the next look knows"
    world.settle()
    assert world.things["StatefulSet", "telemetry"]["spec"]["template"]["spec"]["serviceAccountName"] != "other"
    world.tolerated.clear()
    assert look(world.observe()).actions == ()


def test_a_claim_that_is_not_bound_yet_grows_when_it_is() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["storage"] = {"size": "20Gi"}
    world.things["PersistentVolumeClaim", "state-telemetry-0"]["status"] = {"phase": "Pending"}
    decision = look(world.observe())
    assert not [action for action in decision.actions if isinstance(action, ResizeClaim)]
    assert condition(decision, "StorageReady")["reason"] == "VolumePending"
    world.neighbours()
    assert [action for action in look(world.observe()).actions if isinstance(action, ResizeClaim)]


def test_a_growth_without_a_pod_has_no_deadline() -> None:
    world = settled(suspend=False)
    assert world.job is not None
    world.job["spec"] |= {"suspend": True, "storage": {"size": "20Gi"}}
    world.settle()
    claim = world.things["PersistentVolumeClaim", "state-telemetry-0"]
    claim["status"] = {"phase": "Bound", "capacity": {"storage": "10Gi"}}
    decision = look(world.observe())
    assert decision.status["operations"] == []
    assert decision.wake is None
    assert condition(decision, "StorageReady")["reason"] == "Growing"
    assert condition(decision, "StorageReady")["message"].endswith("finishes when the pod starts")
    world.look()
    world.now += 2 * DEADLINES["Resize"]
    later = look(world.observe())
    assert later.status["phase"] == "Suspended"
    assert condition(later, "Degraded")["reason"] == "AsExpected"
    world.job["spec"]["suspend"] = False
    started = {one["name"]: one["startedAt"] for one in look(world.observe()).status["operations"]}
    assert started == {"Start": time_text(world.now), "Resize": time_text(world.now)}


def test_a_growth_that_waits_for_the_file_system_has_its_time_from_the_pods_start() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["storage"] = {"size": "20Gi"}
    world.settle()
    pending = [{"type": "FileSystemResizePending", "status": "True"}]
    claim = world.things["PersistentVolumeClaim", "state-telemetry-0"]
    claim["status"] = {"phase": "Bound", "capacity": {"storage": "10Gi"}, "conditions": pending}

    def operations() -> list[str]:
        return [operation["name"] for operation in look(world.observe()).status["operations"]]

    assert operations() == ["Resize"]
    pod = world.things.pop(("Pod", "telemetry-0"))
    assert operations() == ["Start"]
    world.things["Pod", "telemetry-0"] = pod
    assert operations() == ["Resize"]


def growth(has: str, asked: str, wanted: str, **status: Any) -> World:
    """A job whose volume has one size and was asked for another, while the spec wants a third."""
    world = settled(storage={"size": asked})
    assert world.job is not None
    claim = world.things["PersistentVolumeClaim", "state-telemetry-0"]
    claim["status"] = {"phase": "Bound", "capacity": {"storage": has}, **status}
    world.job["spec"]["storage"] = {"size": wanted}
    return world


QUOTA = {"type": "ControllerResizeError", "status": "True", "message": "quota of the backend exceeded"}
INFEASIBLE = {"storage": "ControllerResizeInfeasible"}


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        ({"conditions": [QUOTA]}, "ControllerResizeError", "ControllerResizeError: quota of the backend exceeded"),
        (
            {"conditions": [QUOTA], "allocatedResourceStatuses": INFEASIBLE},
            "ControllerResizeError",
            "quota of the backend exceeded; ControllerResizeInfeasible:",
        ),
        ({"allocatedResourceStatuses": INFEASIBLE}, "ControllerResizeInfeasible", "above 10Gi and below 20Gi"),
        ({"allocatedResourceStatuses": {"storage": "NodeResizeInfeasible"}}, "NodeResizeInfeasible", "does not grow"),
        ({"conditions": [QUOTA | {"type": "NodeResizeError"}]}, "NodeResizeError", "from 10Gi to 20Gi"),
        ({"conditions": [QUOTA | {"status": "False"}]}, "Growing", "waits"),
        ({"conditions": [QUOTA | {"type": "FileSystemResizePending"}]}, "FileSystemResizePending", "its node"),
        ({"conditions": [QUOTA | {"type": "Resizing"}]}, "Growing", "waits"),
    ],
)
def test_why_a_volume_does_not_grow_is_told(status: dict[str, Any], reason: str, said: str) -> None:
    told = condition(look(growth("10Gi", "20Gi", "20Gi", **status).observe()), "StorageReady")
    assert (told["status"], told["reason"]) == ("False", reason)
    assert said in told["message"]


def test_a_failure_of_a_growth_that_has_ended_is_none() -> None:
    world = growth("20Gi", "20Gi", "20Gi", conditions=[QUOTA])
    assert condition(look(world.observe()), "StorageReady")["reason"] == "Bound"
    other = copy.deepcopy(world.things["PersistentVolumeClaim", "state-telemetry-0"])
    other["metadata"]["name"] = "state-telemetry-1"
    other["status"] = {"phase": "Bound", "capacity": {"storage": "10Gi"}}
    world.things["PersistentVolumeClaim", "state-telemetry-1"] = other
    assert condition(look(world.observe()), "StorageReady")["reason"] == "Growing", "that of another volume"


def test_a_growth_that_has_not_ended_is_taken_back_to_what_is_above_the_volume() -> None:
    world = growth("10Gi", "20Gi", "15Gi", conditions=[QUOTA])
    assert world.job is not None
    decision = look(world.observe())
    assert decision.actions[1] == ResizeClaim("state-telemetry-0", "15Gi")
    assert decision.actions[0] == Emit(
        "VolumeGrowth", "spec.storage.size: the growth of volumes to 20Gi is taken back, they grow to 15Gi"
    )
    assert condition(decision, "StorageReady")["reason"] == "ControllerResizeError"
    refused = condition(decision, "StorageReady") | {"reason": "LoweringRefused"}
    world.job["status"]["conditions"] = [refused]
    assert not [one for one in look(world.observe()).actions if isinstance(one, Emit) and one.reason == "VolumeGrowth"]
    world.settle()
    (claim,) = world.of("PersistentVolumeClaim")
    assert claim["spec"]["resources"]["requests"]["storage"] == "15Gi"
    (stateful_set,) = world.of("StatefulSet")
    (template,) = stateful_set["spec"]["volumeClaimTemplates"]
    assert template["spec"]["resources"]["requests"]["storage"] == "15Gi"
    assert world.job["status"]["phase"] == "Running"


@pytest.mark.parametrize(
    ("has", "asked", "wanted", "said"),
    [
        ("10Gi", "20Gi", "10Gi", "spec.storage.size: 10241Mi; with 20Gi it goes on"),
        ("10Gi", "20Gi", "5Gi", "ControllerResizeError: quota of the backend exceeded"),
        ("20Gi", "20Gi", "10Gi", "never shrink"),
        ("30Gi", "20Gi", "10Gi", "never shrink"),
        ("0", "20Gi", "10Gi", "never shrink"),
    ],
)
def test_no_claim_asks_for_what_its_volume_has_or_for_less(has: str, asked: str, wanted: str, said: str) -> None:
    decision = look(growth(has, asked, wanted, conditions=[QUOTA]).observe())
    assert decision.actions == ()
    told = condition(decision, "StorageReady")
    assert told["reason"] == "ShrinkNotPossible"
    assert said in told["message"]


def test_a_claim_without_a_volume_is_not_lowered() -> None:
    decision = look(growth("10Gi", "20Gi", "15Gi", phase="Pending").observe())
    assert decision.actions == ()
    assert condition(decision, "StorageReady")["reason"] == "ShrinkNotPossible"


def test_a_job_that_is_suspended_and_has_no_pod_has_committed_everything() -> None:
    world = settled()
    assert world.job is not None
    world.job["metadata"]["annotations"] = {names.CHECKPOINT: "now"}
    world.job["spec"]["suspend"] = True
    assert is_at_rest(world.observe()) is False
    pod = world.things.pop(("Pod", "telemetry-0"))
    assert is_at_rest(world.observe()) is False, "another one may come"
    assert not [action for action in look(world.observe()).actions if isinstance(action, AskCheckpoint)]
    world.things["Pod", "telemetry-0"] = pod
    asked = world.job["metadata"].pop("annotations")  # nobody would answer it here
    world.settle()
    world.job["metadata"]["annotations"] = asked
    assert is_at_rest(world.observe())
    assert AskCheckpoint(required=True) in look(world.observe()).actions
    stateful_set = world.things["StatefulSet", "telemetry"]
    stateful_set["status"]["replicas"] = 1
    assert not is_at_rest(world.observe()), "its pod is not known yet"
    world.job["spec"]["where"] = "v >"
    stateful_set["status"]["replicas"] = 0
    assert AskCheckpoint(required=True) in look(world.observe()).actions, "whatever the spec says"


def test_names_that_are_no_text_stop_no_decision() -> None:
    containers = [{"name": {"a": "b"}, "image": "x"}, {"name": ["c"]}]
    assert look(observed(job(podTemplate={"spec": {"containers": containers}}))).status is not None
    world = settled()
    assert world.job is not None
    world.job["spec"]["podTemplate"] = {"spec": {"containers": containers}}
    assert look(world.observe()).status is not None


def test_code_that_is_nested_too_deeply_is_an_invalid_job() -> None:
    udf = job()["spec"]["udfs"][0]
    for code in ("-" * 20_000 + "1", "x = a" + ".b" * 10_000, "if a:\n  pass\n" + "elif b:\n  pass\n" * 5_000):
        decision = look(observed(job(udfs=[{**udf, "code": {"inline": code}}])))
        assert decision.status["phase"] == "Invalid"
        assert "nested too deeply" in condition(decision, "SpecValid")["message"]


def test_state_of_other_shards_is_not_opened() -> None:
    world = settled()
    assert world.job is not None
    for spec in ({"shards": 16}, {"schema": {**job()["spec"]["schema"], "key": {"const": "one"}}}):
        other = changed(world.observe(), job={**world.job, "spec": {**world.job["spec"], **spec}})
        decision = look(other)
        assert not [action for action in decision.actions if isinstance(action, (Apply, Delete))]
        assert decision.status["phase"] == "Invalid"
        assert condition(decision, "SpecValid")["reason"] == "ImmutableMember"
        assert condition(decision, "Ready")["status"] == "True", "what runs goes on"


def test_an_invalid_edit_leaves_what_runs() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["where"] = "v >"
    decision = look(world.observe())
    assert [type(action) for action in decision.actions] == [Emit]
    assert decision.status["phase"] == "Invalid"
    world.look()
    assert look(world.observe()).actions == (), "told once"


WRONG: list[tuple[dict[str, Any], str]] = [({"where": "v >"}, "Invalid"), ({"shards": 16}, "ImmutableMember")]


def test_an_invalid_job_is_stopped_where_somebody_wants_no_pod() -> None:
    for wrong, reason in WRONG:
        world = settled()
        assert world.job is not None
        before = copy.deepcopy(world.job["spec"])
        world.job["spec"] |= {**wrong, "suspend": True}
        decision = look(world.observe())
        (stop,) = [action for action in decision.actions if isinstance(action, Scale)]
        assert (stop.name, stop.replicas) == ("telemetry", 0)
        assert stop.uid == world.things["StatefulSet", "telemetry"]["metadata"]["uid"]
        assert not [action for action in decision.actions if isinstance(action, Apply)], "nothing of the invalid spec"
        assert [operation["name"] for operation in decision.status["operations"]] == ["Suspend"]
        assert decision.wake == world.now + DEADLINES["Suspend"]
        assert condition(decision, "SpecValid")["reason"] == reason
        assert condition(decision, "SpecValid")["message"].endswith("; the pod commits and stops")
        world.settle()
        assert world.of("Pod") == []
        assert world.of("PersistentVolumeClaim"), "its state stays"
        stopped = look(world.observe())
        assert stopped.actions == ()
        assert stopped.status["phase"] == "Invalid"
        assert condition(stopped, "Suspended")["status"] == "True"
        world.job["spec"]["suspend"] = False
        assert look(world.observe()).actions == (), "an invalid spec starts nothing"
        world.job["spec"] = before
        world.settle()
        assert world.job["status"]["phase"] == "Running"


def test_pods_of_an_invalid_job_that_have_lost_their_stateful_set_are_stopped_as_well() -> None:
    world = settled()
    assert world.job is not None
    del world.things["StatefulSet", "telemetry"]
    world.job["spec"] |= {"where": "v >", "suspend": True}
    world.settle()
    assert world.of("Pod") == []


def test_a_checkpoint_of_an_invalid_job_is_answered() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["where"] = "v >"
    world.job["metadata"]["annotations"] = {names.CHECKPOINT: "now"}
    decision = look(world.observe())
    assert AskCheckpoint(required=True) in decision.actions
    assert [operation["name"] for operation in decision.status["operations"]] == ["Checkpoint"]
    assert decision.wake == world.now + DEADLINES["Checkpoint"]
    world.job["status"] = {**decision.status, "checkpointRequest": "now"}
    assert look(world.observe()).actions == (), "answered once"


def test_an_engine_that_is_silent_makes_the_job_degraded_after_a_while() -> None:
    world = settled()
    since = world.now
    world.facts = EngineFacts(error="no answer", since=since)
    assert look(world.observe()).status["phase"] == "Running"
    world.now += FACTS_INTERVAL
    decision = look(world.observe())
    assert decision.status["phase"] == "Degraded"
    assert condition(decision, "EngineReachable")["message"] == "no answer"


def test_what_was_said_of_an_engine_stands_until_it_is_asked_again() -> None:
    world = settled()
    assert condition(look(world.observe()), "EngineReachable")["reason"] == "NotAsked", "nobody has asked yet"
    world.facts = EngineFacts(status=EngineStatus(**FACTS))
    world.settle()
    world.facts = None  # as a new operator knows it
    decision = look(world.observe())
    assert condition(decision, "EngineReachable")["reason"] == "Answers"
    assert not worth_writing(world.observe().status, decision.status, None, world.now), "so it writes nothing"
    seen = world.observe()
    (pod,) = seen.pods
    silent = {**pod, "status": {}}
    assert condition(look(changed(seen, pods=(silent,))), "EngineReachable")["reason"] == "NotAsked"


def test_what_a_serving_engine_complains_about_is_told() -> None:
    world = settled()
    complaints: list[tuple[dict[str, Any], str]] = [
        ({"disk_full": True}, "the volume is full"),
        ({"blocked_shards": 2}, "2 shards wait"),
    ]
    for fact, word in complaints:
        world.facts = EngineFacts(status=EngineStatus(**{**FACTS, **fact}))
        decision = look(world.observe())
        assert decision.status["phase"] == "Degraded"
        assert word in condition(decision, "Degraded")["message"]


def repeats(decision: Any) -> list[Emit]:
    return [one for one in decision.actions if isinstance(one, Emit) and one.reason == "OutputsMayRepeat"]


def test_a_restored_job_runs_and_says_for_ever_and_once_that_outputs_may_repeat() -> None:
    world = settled()
    assert not [one for one in look(world.observe()).status["conditions"] if one["type"] == "OutputsMayRepeat"]
    world.facts = EngineFacts(status=EngineStatus(**FACTS))
    assert condition(look(world.observe()), "OutputsMayRepeat")["status"] == "False"
    world.facts = EngineFacts(status=EngineStatus(**FACTS, outputs_may_repeat=True))
    decision = look(world.observe())
    assert decision.status["phase"] == "Running"
    assert condition(decision, "Ready")["status"] == "True"
    assert condition(decision, "Degraded")["status"] == "False"
    assert condition(decision, "OutputsMayRepeat")["status"] == "True"
    (event,) = repeats(decision)
    assert event.warning
    world.look()
    for facts in (world.facts, None):  # None is what a new operator knows
        world.facts = facts
        again = look(world.observe())
        assert repeats(again) == []
        assert condition(again, "OutputsMayRepeat")["status"] == "True"
    assert world.job is not None
    world.job["spec"]["where"] = "v >"
    assert condition(look(world.observe()), "OutputsMayRepeat")["status"] == "True", "an invalid spec as well"


def test_an_invalid_job_that_was_restored_says_so_as_well() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["where"] = "v >"
    world.facts = EngineFacts(status=EngineStatus(**FACTS, outputs_may_repeat=True))
    decision = look(world.observe())
    assert len(repeats(decision)) == 1
    assert condition(decision, "OutputsMayRepeat")["status"] == "True"


def test_a_start_that_takes_too_long_is_told_as_stuck() -> None:
    world = World()
    decision = world.look()
    assert decision is not None
    assert decision.status is not None
    assert decision.status["phase"] == "Pending"
    assert decision.status["operations"][0]["name"] == "Start"
    assert decision.wake == NOW + DEADLINES["Start"]
    world.stateful_set_controller()
    assert look(world.observe()).status["phase"] == "Starting"
    world.now += DEADLINES["Start"] - timedelta(seconds=1)
    assert look(world.observe()).status["phase"] == "Starting"
    world.now += timedelta(seconds=1)
    late = look(world.observe())
    assert late.status["phase"] == "Degraded"
    assert condition(late, "Degraded")["reason"] == "DeadlineExceeded"
    assert "kubectl describe pod" in condition(late, "Degraded")["message"]
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "no node has so much memory"}
    world.things["Pod", "telemetry-0"]["status"] = {"conditions": [unscheduled]}
    assert "no node" in degraded(world, "Unschedulable")
    world.now -= timedelta(seconds=1)
    assert look(world.observe()).status["phase"] == "Pending"


def test_a_roll_that_takes_too_long_is_told_as_stuck_whether_or_not_the_old_pod_serves() -> None:
    for serves in (True, False):
        world = settled()
        assert world.job is not None
        world.job["spec"]["image"] = "engine:2"
        world.look()
        if not serves:
            world.things["Pod", "telemetry-0"]["status"] = {}
        decision = look(world.observe())
        assert [one["name"] for one in decision.status["operations"]] == ["Roll"]
        assert decision.status["phase"] == "Progressing"
        world.now += DEADLINES["Roll"]
        late = look(world.observe())
        assert late.status["phase"] == "Degraded"
        assert condition(late, "Degraded")["reason"] == "DeadlineExceeded"


def test_a_stop_that_takes_too_long_is_told_as_stuck() -> None:
    world = settled()
    assert world.job is not None
    world.job["spec"]["suspend"] = True
    world.hung.add(("Pod", "telemetry-0"))
    world.look()
    assert world.job["status"]["phase"] == "Progressing"
    world.now += DEADLINES["Suspend"]
    assert look(world.observe()).status["phase"] == "Degraded"


def unready(world: World, *, began: datetime, since: datetime, **container: Any) -> dict[str, Any]:
    """The job's pod, whose container runs since `began` and which is not ready `since`."""
    pod: dict[str, Any] = world.things["Pod", "telemetry-0"]
    pod["spec"]["nodeName"] = "node-1"
    conditions = [
        {"type": "ContainersReady", "status": "False", "lastTransitionTime": time_text(since)},
        {"type": "Ready", "status": "False", "lastTransitionTime": time_text(since)},
    ]
    running = {"running": {"startedAt": time_text(began)}}
    engine = {"name": "engine", "image": "engine:1", "ready": False, "restartCount": 0, "state": running, **container}
    pod["status"] = {"phase": "Running", "conditions": conditions, "containerStatuses": [engine]}
    return pod


def degraded(world: World, reason: str) -> Any:
    decision = look(world.observe())
    assert decision.status["phase"] == "Degraded"
    told = condition(decision, "Degraded")
    assert (told["status"], told["reason"]) == ("True", reason)
    assert condition(decision, "Ready")["message"] == told["message"]
    return told["message"]


def well(world: World, phase: str = "Starting") -> Any:
    decision = look(world.observe())
    assert decision.status["phase"] == phase
    assert condition(decision, "Degraded")["status"] == "False"
    return decision


def test_a_pod_whose_node_is_lost_is_told() -> None:
    world = settled()
    hour = timedelta(hours=1)
    pod = unready(world, began=world.now - hour, since=world.now, started=True, ready=True)
    well(world)
    pod["status"]["conditions"][0]["status"] = "True"  # as the kubelet last said: only the cluster says not ready
    assert "kubectl delete node node-1" in degraded(world, "NodeLost")
    pod["spec"]["readinessGates"] = [{"conditionType": "a.dev/b"}]
    well(world)
    pod["status"]["reason"] = "NodeLost"
    degraded(world, "NodeLost")
    pod["metadata"]["deletionTimestamp"] = time_text(world.now)
    degraded(world, "NodeLost")


def test_a_pod_that_does_not_stop_in_time_is_told() -> None:
    world = settled()
    world.things["Pod", "telemetry-0"]["metadata"]["deletionTimestamp"] = time_text(world.now)
    decision = well(world)
    assert decision.wake == world.now + TERMINATION_GRACE
    world.now += TERMINATION_GRACE
    assert "kubectl describe pod telemetry-0" in degraded(world, "StuckTerminating")
    world.now += timedelta(minutes=15)
    assert look(world.observe()).status["phase"] == "Degraded"


def test_a_pod_that_has_served_and_does_not_is_told_after_a_while() -> None:
    world = settled()
    unready(world, began=world.now - timedelta(hours=1), since=world.now, started=True)
    assert well(world).wake == world.now + NOT_SERVING_GRACE
    world.now += NOT_SERVING_GRACE
    assert "kubectl logs telemetry-0" in degraded(world, "NotServing")


def test_a_pod_that_recovers_for_long_and_has_not_served_yet_starts() -> None:
    world = settled()
    began = world.now
    for started in (False, True):  # the kubelet says that it has started before it says that it is ready
        unready(world, began=began, since=began - timedelta(seconds=5), started=started)
        world.now += timedelta(minutes=10)
        well(world)


ENDED = {"reason": "Error", "exitCode": 1, "message": "no such folder"}
OUT_OF_MEMORY = {"reason": "OOMKilled", "exitCode": 137, "message": '{"event": "job_ready"}'}


def test_a_container_that_begins_again_and_again_is_told_while_it_runs() -> None:
    for ended, reason, words in (
        (ENDED, "ContainerEnded", "by Error with exit code 1: no such folder; 27 restarts, see kubectl logs"),
        (OUT_OF_MEMORY, "OOMKilled", "with exit code 137: it needs more memory than its limit: raise the limit in"),
        ({}, "ContainerEnded", "has ended; 27 restarts"),
    ):
        world = settled()
        last = {"terminated": {**ended, "finishedAt": time_text(world.now)}} if ended else {}
        restarted = {"restartCount": 27, "lastState": last}
        began = world.now
        unready(world, began=began, since=began, started=False, **restarted)
        assert words in degraded(world, reason)
        world.now += RESTART_RECENT
        assert words in degraded(world, reason), "it has not come up since, however long that takes"
        unready(world, began=began, since=began, started=True, **restarted)
        well(world)
        unready(world, began=began, since=began, ready=True, started=True, **restarted)
        world.now -= timedelta(minutes=1)
        well(world)  # another container of the pod keeps it from serving
        world.now += timedelta(minutes=1)
        unready(world, began=began, since=began, started=True, **restarted)
        world.now -= timedelta(seconds=1)
        degraded(world, reason)


def test_a_container_that_has_ended_is_told() -> None:
    world = settled()
    unready(world, began=world.now, since=world.now, state={"terminated": OUT_OF_MEMORY})
    message = degraded(world, "OOMKilled")
    assert message.endswith("or lower spec.state.memory; see kubectl logs telemetry-0")


def test_a_container_that_has_prepared_the_pod_has_done_its_work() -> None:
    world = settled()
    pod = unready(world, began=world.now, since=world.now)
    first = {"name": "first", "restartCount": 2, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    pod["status"]["initContainerStatuses"] = [first]
    well(world)
    first["state"] = {"terminated": ENDED}
    assert "the container first of telemetry-0 has ended" in degraded(world, "ContainerEnded")


def test_a_pod_that_was_evicted_is_told_by_why() -> None:
    world = settled()
    pod = unready(world, began=world.now, since=world.now, state={"terminated": OUT_OF_MEMORY})
    pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    assert "low on resource" in degraded(world, "Evicted")


def test_a_pod_of_a_job_that_starts_for_the_first_time_and_has_run_is_degraded_and_not_pending() -> None:
    world = settled()
    assert world.job is not None
    world.job["status"]["phase"] = "Starting"
    unready(world, began=world.now, since=world.now, state={"terminated": ENDED})
    degraded(world, "ContainerEnded")


def crashes(**ended: Any) -> str:
    """What is told of a pod whose container ends again and again."""
    world = settled()
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
    last = {"terminated": {"exitCode": 1, "reason": "Error", **ended}}
    unready(world, began=world.now, since=world.now, restartCount=9, state=waiting, lastState=last)
    decision = look(world.observe())
    assert decision.status["phase"] == "Failed"
    assert condition(decision, "Degraded")["reason"] == "CrashLoopBackOff"
    return str(condition(decision, "Degraded")["message"])


def test_an_engine_that_ends_again_and_again_says_why() -> None:
    line = {"event": "job_failed", "message": "the disk is full:\n make room", "actor": "user"}
    log = f'ut": 1}}\n{{"event": "job_ready"}}\n{json.dumps(line)}\n'
    by = "the container engine of telemetry-0 ends by Error with exit code 1: "
    look = "; see kubectl logs telemetry-0 --previous"
    assert crashes(message=log) == f"{by}the disk is full: make room{look}"
    assert crashes(message="thread main panicked\nat the disco\n") == f"{by}thread main panicked at the disco{look}"
    assert crashes() == f"{by}back-off 5m0s{look}"
    assert crashes(**OUT_OF_MEMORY).startswith(
        "the container engine of telemetry-0 ends by OOMKilled with exit code 137: it needs more memory than its limit"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("  \n\n", ""),
        ('{"event": "job_failed"}', "job_failed"),
        ('{"message": 5, "event": 6}', '{"message": 5, "event": 6}'),
        ('{"message": "of before"}\nSegmentation\nfault', "Segmentation fault"),
        ('cut"}\n{"message": "of before"}\n{"message": "the last"}', "the last"),
        ("7", "7"),
        ('{"message": "a\\ud800\\u0000b"}', "a b"),
        ("[" * 2 * MAX_SAID, "[" * MAX_TEXT),
        (json.dumps({"message": "x" * MAX_TEXT + "end"}), "x" * (MAX_TEXT - 3) + "end"),
    ],
)
def test_what_a_container_said_last_is_read_with_care(text: str, said: str) -> None:
    assert last_said(text) == said


@given(st.text() | st.text(alphabet='{}[]":,\\ud80message\n').map(lambda text: f'{{"message": "{text}"}}'))
def test_whatever_a_container_said_fits_into_a_status(text: str) -> None:
    said = last_said(text)
    assert len(said) <= MAX_TEXT
    assert not said or said.isprintable()
    said.encode()


def test_without_a_serving_pod_there_is_no_rate_and_no_lag() -> None:
    world = settled()
    assert world.job is not None
    watermark = "2030-01-01T00:00:00Z"
    checkpoint = {"number": 7, "completed_at": watermark}
    facts = EngineStatus(**FACTS, watermark=watermark, last_checkpoint=checkpoint)
    world.facts = EngineFacts(status=facts)
    world.look()
    engine = world.job["status"]["engine"]
    assert (engine["rate"], engine["lagRows"]) == (10, 5)
    world.facts = None  # as a new operator knows it
    assert look(world.observe()).status["engine"] == engine, "a pod that serves is asked again soon"
    lasting = {name: value for name, value in engine.items() if name not in ("rate", "lagRows")}
    assert set(lasting) == {"version", "shards", "watermark", "lastCheckpoint"}
    serves = world.things["Pod", "telemetry-0"]["status"]
    for asked in (None, EngineFacts(status=facts)):  # what it said last may still be known
        world.facts = asked
        world.things["Pod", "telemetry-0"]["status"] = {}
        assert look(world.observe()).status["engine"] == lasting
        world.things["Pod", "telemetry-0"]["status"] = serves
    world.facts = None
    world.job["spec"]["suspend"] = True
    world.settle()
    assert (world.job["status"]["phase"], world.job["status"]["engine"]) == ("Suspended", lasting)


def test_what_could_not_be_created_is_cited() -> None:
    seen = changed(World().observe(), creation_problem="exceeded quota: pods=0")
    decision = look(seen)
    assert decision.status["phase"] == "Failed"
    assert "exceeded quota" in condition(decision, "Degraded")["message"]


def test_missing_classes_are_named() -> None:
    cluster = Cluster(storage_classes={}, default_storage_class=False, runtime_classes=frozenset())
    decision = look(observed(cluster=cluster))
    assert condition(decision, "StorageReady")["reason"] == "NoDefaultStorageClass"
    resource = job(storage={"storageClassName": "fast"}, podTemplate={"spec": {"runtimeClassName": "gvisor"}})
    decision = look(observed(resource, cluster=cluster))
    assert condition(decision, "StorageReady")["reason"] == "StorageClassNotFound"
    assert condition(decision, "Degraded")["reason"] == "RuntimeClassNotFound"
    assert condition(look(observed()), "Degraded")["reason"] == "AsExpected", (
        "without the right to see, nothing is said"
    )


def test_transition_times_stay_while_the_status_stays() -> None:
    world = settled()
    assert world.job is not None
    before = {c["type"]: c["lastTransitionTime"] for c in world.job["status"]["conditions"]}
    world.now += timedelta(hours=1)
    world.job["metadata"]["generation"] = 7
    decision = look(world.observe())
    assert {c["type"]: c["lastTransitionTime"] for c in decision.status["conditions"]} == before
    assert {c["observedGeneration"] for c in decision.status["conditions"]} == {7}


def test_facts_are_written_at_most_once_a_minute_and_states_at_once() -> None:
    old = {"phase": "Running", "engine": {"rate": 1, "version": "1"}}
    facts = {"phase": "Running", "engine": {"rate": 2, "version": "1"}}
    assert not worth_writing(old, facts, NOW, NOW + FACTS_INTERVAL - timedelta(seconds=1))
    assert worth_writing(old, facts, NOW, NOW + FACTS_INTERVAL)
    assert not worth_writing(old, old, None, NOW + FACTS_INTERVAL)
    assert worth_writing(old, {**old, "phase": "Degraded"}, NOW, NOW)
    assert worth_writing(old, {**old, "engine": {"rate": 1, "version": "2"}}, NOW, NOW)


def test_an_orphaning_deletion_leaves_all_children() -> None:
    resource = settled().job
    assert resource is not None
    resource["metadata"] |= {"deletionTimestamp": time_text(NOW), "finalizers": [names.FINALIZER, "orphan"]}
    (action,) = decide_deletion(changed(settled().observe(), job=resource)).actions
    assert getattr(action, "present", None) is False


def test_children_that_the_garbage_collector_has_taken_the_job_off_already_are_left_as_well() -> None:
    world = settled(deletionPolicy="Delete")
    resource = copy.deepcopy(world.job)
    assert resource is not None
    resource["metadata"] |= {"deletionTimestamp": time_text(NOW), "finalizers": [names.FINALIZER]}
    assert decide_deletion(changed(world.observe(), job=resource)).status is not None
    for child in world.observe().children:
        world.things[child]["metadata"].pop("ownerReferences")
    (action,) = decide_deletion(changed(world.observe(), job=resource)).actions
    assert getattr(action, "present", None) is False


def test_a_deletion_that_nobody_may_see_ends_at_its_deadline_and_deletes_nothing() -> None:
    for policy in ("Retain", "Delete"):
        world = settled(deletionPolicy=policy)
        seen = changed(world.observe(), unseen=True)
        assert look(changed(seen, children={}, pods=())).actions == (), "what is not seen would be made anew"
        seen.job["metadata"]["deletionTimestamp"] = time_text(seen.now)
        due = seen.now + timedelta(minutes=5)
        early = look(seen)
        assert (early.actions, early.status, early.wake) == ((), None, due)
        late = look(changed(seen, now=due))
        event, last = late.actions
        assert isinstance(event, Emit)
        assert event.reason == "DeletionForced"
        assert last == SetFinalizer(False)
        assert late.forced


def test_pods_whose_stateful_set_is_gone_are_stopped_with_their_job() -> None:
    world = settled(deletionPolicy="Delete")
    assert world.job is not None
    del world.things["StatefulSet", "telemetry"]
    world.job["metadata"]["deletionTimestamp"] = time_text(world.now)
    (pod,) = world.of("Pod")
    assert look(world.observe()).actions == (Delete("Pod", "telemetry-0", pod["metadata"]["uid"]),)
    world.settle()
    assert world.job is None
    assert world.of("Pod") == world.of("PersistentVolumeClaim") == []


def test_a_deadline_of_a_deletion_has_a_bound_and_a_default() -> None:
    for deadline, expected in (
        ("400d", MAX_DEADLINE),
        ("nonsense", timedelta(minutes=5)),
        (None, timedelta(minutes=5)),
    ):
        resource = job(deletionDeadline=deadline)
        resource["metadata"]["deletionTimestamp"] = time_text(NOW)
        decision = decide_deletion(changed(settled().observe(), job=resource))
        assert decision.wake == NOW + expected


def test_only_the_claims_of_this_job_are_its_own() -> None:
    world = settled(deletionPolicy="Delete")
    claim = world.things["PersistentVolumeClaim", "state-telemetry-0"]
    others = ["20260105", "backup-of-telemetry", "state-telemetry-0-copy", "state-telemetry-other-0"]
    for name in others:
        other = copy.deepcopy(claim)
        other["metadata"] |= {"name": name, "uid": name}
        world.things["PersistentVolumeClaim", name] = other
    assert world.job is not None
    world.job["metadata"]["deletionTimestamp"] = time_text(world.now)
    world.settle()
    assert world.job is None
    assert [claim["metadata"]["name"] for claim in world.of("PersistentVolumeClaim")] == others
