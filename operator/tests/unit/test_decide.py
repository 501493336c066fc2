"""Decisions about single situations: what is done, what the status says."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

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
from streamjob_operator.decide.decision import STUCK_GRACE
from streamjob_operator.decide.deletion import MAX_DEADLINE, decide_deletion
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


def test_names_that_are_no_text_stop_no_decision() -> None:
    containers = [{"name": {"a": "b"}, "image": "x"}, {"name": ["c"]}]
    assert look(observed(job(podTemplate={"spec": {"containers": containers}}))).status is not None
    world = settled()
    assert world.job is not None
    world.job["spec"]["podTemplate"] = {"spec": {"containers": containers}}
    assert look(world.observe()).status is not None


def test_code_that_is_nested_too_deeply_is_an_invalid_job() -> None:
    udf = job()["spec"]["udfs"][0]
    for code in ("-" * 100_000 + "1", "x = a" + ".b" * 50_000, "if a:\n  pass\n" + "elif b:\n  pass\n" * 20_000):
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
        ({"outputs_may_repeat": True}, "outputs may repeat"),
    ]
    for fact, word in complaints:
        world.facts = EngineFacts(status=EngineStatus(**{**FACTS, **fact}))
        decision = look(world.observe())
        assert decision.status["phase"] == "Degraded"
        assert word in condition(decision, "Degraded")["message"]


def test_a_start_that_takes_too_long_is_told_as_stuck() -> None:
    world = World()
    decision = world.look()
    assert decision is not None
    assert decision.status is not None
    assert decision.status["operations"][0]["name"] == "Start"
    assert decision.wake == NOW + DEADLINES["Start"]
    world.now += DEADLINES["Start"]
    assert condition(look(world.observe()), "Degraded")["reason"] == "DeadlineExceeded"


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
