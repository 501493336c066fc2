"""Whatever is observed: all becomes what it should be, then nothing is done, and no volume goes unasked."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamjob_operator import names
from streamjob_operator.conditions import time_text
from streamjob_operator.decide import Delete, decide
from unit.jobs import NOW, job
from unit.world import CHOICES, KINDS_OF_CHILDREN, World

SPECS = st.fixed_dictionaries(
    {},
    optional={
        "suspend": st.booleans(),
        "storage": st.sampled_from([{"size": "10Gi"}, {"size": "20Gi"}, {"size": "5Gi"}, {"storageClassName": "fast"}]),
        "deletionPolicy": st.sampled_from(["Retain", "Delete"]),
        "deletionDeadline": st.sampled_from(["1s", "5m"]),
        "image": st.sampled_from(["engine:2", "broken:1"]),
        "where": st.sampled_from(["v > 1", "v >"]),
        "podTemplate": st.sampled_from([{"metadata": {"labels": {"a": "b"}}}, {"spec": {"priorityClassName": "high"}}]),
        "checkpoint": st.sampled_from([{"interval": "1s"}, {"interval": "9s"}]),
        "shards": st.sampled_from([8, 16]),
    },
)
ANNOTATIONS = st.dictionaries(st.sampled_from([names.RESTART, names.CHECKPOINT]), st.sampled_from(["1", "2"]))
DAMAGES = st.lists(
    st.tuples(st.sampled_from(["delete", "change", "strip", "terminate", "garbage", "crash"]), st.integers(0, 12)),
    max_size=6,
)


def is_volume(action: object) -> bool:
    return isinstance(action, Delete) and action.kind == "PersistentVolumeClaim"


def damage(world: World, how: str, which: int) -> None:
    """Somebody or something else changes the world."""
    refs = sorted(world.things)
    if how == "crash":
        world.look()  # a look whose neighbours have not reacted yet, and one that was cut off
        decision = decide(world.observe(), CHOICES) if world.job else None
        for action in (decision.actions if decision else ())[: which % 4]:
            world.carry_out(action)
        return
    if not refs:
        return
    kind, name = refs[which % len(refs)]
    thing = world.things[kind, name]
    if how in ("change", "garbage") and kind == "ConfigMap":
        world.tampered = True  # its content cannot change: another took its place
        del world.things[kind, name]
        world.things[kind, name] = {**thing, "data": {names.JOB_KEY: "{}"}, "immutable": which % 2 == 0}
    elif how == "delete" and kind in KINDS_OF_CHILDREN:
        del world.things[kind, name]
    elif how == "terminate" and kind == "Pod":
        thing["metadata"]["deletionTimestamp"] = time_text(world.now)
    elif how == "strip" and kind in KINDS_OF_CHILDREN:
        thing["metadata"]["labels"] = {}
        thing["metadata"].pop("annotations", None)
    elif how == "change" and kind in KINDS_OF_CHILDREN and kind != "StatefulSet":
        thing["spec"] = {"filledIn": False}
        thing.pop("data", None)
    elif how == "change" and kind == "StatefulSet":
        thing["spec"]["replicas"] = 3
        thing["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"
        thing["metadata"]["generation"] += 1
    elif how == "garbage" and world.job is not None:
        world.job["status"] = {"phase": "Running", "operations": [], "conditions": []}


def edit(world: World, spec: dict[str, Any], annotations: dict[str, str]) -> None:
    if world.job is None:
        return
    world.job["spec"] = job(**spec)["spec"]
    world.job["metadata"]["annotations"] = annotations
    world.job["metadata"]["generation"] += 1


def delete_job(world: World) -> None:
    if world.job is not None:
        world.job["metadata"].setdefault("deletionTimestamp", time_text(world.now))


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(first=SPECS, second=SPECS, annotations=ANNOTATIONS, damages=DAMAGES, settled=st.booleans(), grow=st.booleans())
def test_it_converges_and_then_does_nothing(
    first: dict[str, Any],
    second: dict[str, Any],
    annotations: dict[str, str],
    damages: list[tuple[str, int]],
    settled: bool,
    grow: bool,
) -> None:
    world = World(volumes_grow=grow, broken_images={"broken:1"})
    edit(world, first, {})
    if settled:
        world.settle()
    for how, which in damages:
        damage(world, how, which)
    edit(world, second, annotations)
    for how, which in damages[:2]:
        damage(world, how, which)
    annotations.pop(names.CHECKPOINT, None)  # only an engine can answer it
    world.settle()
    # Idempotence: the same world once more, and the very same decision.
    before = world.picture()
    decision = world.look()
    assert decision is not None
    assert decision.actions == ()
    assert world.picture() == before
    assert not any(map(is_volume, world.actions))
    assert world.job is not None
    check_children(world)


def check_children(world: World) -> None:
    """A valid job has all its children as they should be, and one pod of the newest template; a suspended one none."""
    assert world.job is not None
    status = world.job["status"]
    if world.job["spec"].get("suspend", False):
        assert world.of("Pod") == []
    if status["phase"] == "Invalid":
        return
    kinds = {kind for kind, _ in world.things}
    assert set(KINDS_OF_CHILDREN) <= kinds
    (stateful_set,) = world.of("StatefulSet")
    suspended = world.job["spec"].get("suspend", False)
    assert stateful_set["spec"]["replicas"] == (0 if suspended else 1)
    assert len(world.of("Pod")) == (0 if suspended else 1)
    for pod in world.of("Pod"):
        assert pod["metadata"]["labels"][names.REVISION] == stateful_set["status"]["updateRevision"]
    for kind in KINDS_OF_CHILDREN:
        for child in world.of(kind):
            assert child["metadata"]["labels"][names.JOB_LABEL] == "telemetry"
    if not suspended and world.job["spec"].get("image") != "broken:1":
        assert status["phase"] == "Running"


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(spec=SPECS, damages=DAMAGES, settled=st.booleans(), hung=st.booleans())
def test_a_deletion_ends_and_volumes_go_only_where_that_was_asked(
    spec: dict[str, Any], damages: list[tuple[str, int]], settled: bool, hung: bool
) -> None:
    world = World(broken_images={"broken:1"})
    edit(world, spec, {})
    if settled:
        world.settle()
    volumes = {name for kind, name in world.things if kind == "PersistentVolumeClaim"}
    if hung:
        world.hung = {ref for ref in world.things if ref[0] in ("Pod", "PersistentVolumeClaim")}
    for how, which in damages:
        damage(world, how, which)
    delete_job(world)
    world.settle()
    assert world.job is None, "no finalizer hangs for ever"
    asked = spec.get("deletionPolicy") == "Delete"
    if not asked:
        assert not any(map(is_volume, world.actions))
        assert volumes <= {name for kind, name in world.things if kind == "PersistentVolumeClaim"}
    elif not hung:
        assert not world.of("PersistentVolumeClaim")
    again = World(things=copy.deepcopy(world.things))
    assert again.of("StatefulSet") == []


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(spec=SPECS, now=st.integers(0, 10**7))
def test_decisions_hang_on_what_is_observed_alone(spec: dict[str, Any], now: int) -> None:
    world = World()
    edit(world, spec, {})
    assert decide(world.observe(), CHOICES) == decide(world.observe(), CHOICES)
    assert world.now >= NOW
