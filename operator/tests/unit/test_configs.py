"""A pod reads the job of its own template, whenever it starts; what nobody reads any more goes, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamjob_operator import names
from streamjob_operator.decide import Apply, AskCheckpoint, Delete, Discard, Emit, decide
from unit.jobs import CODE, job
from unit.world import CHOICES, World, configs_of


def running(**spec: Any) -> World:
    world = World(job=job(**spec))
    world.settle()
    world.actions.clear()
    return world


def edit(world: World, **spec: Any) -> None:
    assert world.job is not None
    world.job["spec"] |= spec
    world.job["metadata"]["generation"] += 1


def code(text: str) -> dict[str, Any]:
    udf = {"name": "z", "function": "score", "inputs": ["v"], "output": {"s": "float64"}}
    return {"udfs": [{**udf, "code": {"inline": text}}]}


def configs(world: World) -> set[str]:
    return {name for kind, name in world.things if kind == "ConfigMap"}


def discarded(world: World) -> set[str]:
    return {action.name for action in world.actions if isinstance(action, Discard)}


def restart(world: World) -> None:
    """The pod's node is lost; the StatefulSet's controller makes another."""
    del world.things["Pod", "telemetry-0"]
    world.neighbours()
    world.neighbours()


def test_a_pod_that_starts_while_the_change_is_refused_reads_the_job_of_its_own_template() -> None:
    world = running()
    before = configs(world)
    world.refuses_sets = True
    edit(world, where="v > 1", **code(CODE + "# better\n"))
    world.look()
    restart(world)
    (pod,) = world.of("Pod")
    assert world.mount(pod), "and it is the old job, or the world would have said so"
    assert set(configs_of(pod["spec"])) == before
    world.look()
    assert before < configs(world)


def test_tries_that_were_refused_leave_nothing() -> None:
    world = running()
    before = configs(world)
    world.refuses_sets = True
    for limit in range(5):
        edit(world, where=f"v > {limit}")
        world.look()
        world.look()
    assert len(configs(world) - before) == 1, "what the newest try needs"
    world.refuses_sets = False
    world.settle()
    assert len(configs(world)) == 2


def test_a_roll_is_told_and_the_engine_commits_once_however_often_the_change_is_refused() -> None:
    world = running()
    world.refuses_sets = True
    edit(world, where="v > 1")
    for _ in range(4):
        world.look()
    world.refuses_sets = False
    world.settle()
    told = [action for action in world.actions if isinstance(action, Emit) and action.reason == "Rolling"]
    assert len(told) == 2, "when it is tried first, and when it is taken"
    assert sum(isinstance(action, AskCheckpoint) for action in world.actions) == 2


def test_a_growth_whose_new_stateful_set_is_refused_leaves_the_old_one() -> None:
    world = running(storage={"size": "10Gi", "storageClassName": "fast"})
    world.refuses_sets = True
    edit(world, storage={"size": "20Gi", "storageClassName": "fast"})
    world.look()
    world.look()
    assert world.of("StatefulSet"), "nobody else would make its pods anew"
    world.refuses_sets = False
    world.settle()
    (stateful_set,) = world.of("StatefulSet")
    requested = stateful_set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    assert requested == "20Gi"


def test_what_was_replaced_goes_when_the_new_pod_is_there_and_not_before() -> None:
    world = running()
    before = configs(world)
    edit(world, where="v > 1")
    world.look()
    del world.things["Pod", "telemetry-0"]
    world.look()
    assert discarded(world) == set(), "the controller has not seen the change, and may make another old pod"
    world.make_pod_of_an_older_template()
    world.neighbours()
    world.look()
    assert before < configs(world), "the old pod is on its way out"
    world.settle()
    assert len(configs(world)) == 2
    assert len(discarded(world)) == 1, "the code is the same"


def test_a_broken_roll_keeps_nothing_for_ever() -> None:
    world = World(job=job(), broken_images={"broken:1"})
    world.settle()
    for limit in range(4):
        edit(world, image="broken:1", where=f"v > {limit}")
        world.settle()
    assert len(configs(world)) == 2
    edit(world, image="engine:1")
    world.settle()
    assert len(configs(world)) == 2


def test_a_suspended_job_keeps_what_it_goes_on_with() -> None:
    world = running()
    edit(world, suspend=True)
    world.settle()
    kept = configs(world)
    edit(world, where="v > 1")
    world.settle()
    assert len(configs(world)) == 2
    assert configs(world) != kept
    edit(world, suspend=False)
    world.settle()
    (pod,) = world.of("Pod")
    assert set(configs_of(pod["spec"])) == configs(world)


def test_pods_that_were_orphaned_keep_what_they_read() -> None:
    world = running(storage={"size": "10Gi", "storageClassName": "fast"})
    before = configs(world)
    edit(world, storage={"size": "20Gi", "storageClassName": "fast"}, where="v > 1")
    world.look()
    assert not world.of("StatefulSet")
    assert before < configs(world)
    world.look()
    assert before < configs(world), "the new StatefulSet has not adopted the pod yet"
    world.settle()
    assert len(configs(world)) == 2


def test_fixed_names_of_an_older_operator_are_rolled_away_from() -> None:
    world = running()
    stateful_set, pod = world.things["StatefulSet", "telemetry"], world.things["Pod", "telemetry-0"]
    for name in configs(world):
        old = name[: -names.CONTENT_HASH - 1]
        thing = world.things.pop(("ConfigMap", name))
        thing["metadata"]["name"] = old
        world.things["ConfigMap", old] = {key: value for key, value in thing.items() if key != "immutable"}
        for spec in (stateful_set["spec"]["template"]["spec"], pod["spec"]):
            volume = next(one for one in spec["volumes"] if one.get("configMap", {}).get("name") == name)
            volume["configMap"]["name"] = old
    world.stateful_set_controller()
    pod["metadata"]["labels"][names.REVISION] = stateful_set["status"]["updateRevision"]
    world.look()  # tries first whether the cluster keeps it so
    decision = decide(world.observe(), CHOICES)
    (reason,) = [action.message for action in decision.actions if isinstance(action, Emit)]
    assert reason.startswith("spec.template.spec.volumes[job].configMap.name: telemetry-job -> telemetry-job-")
    world.settle()
    assert len(configs(world)) == 2
    assert discarded(world) == {"telemetry-job", "telemetry-udfs"}


def test_what_belongs_to_others_or_is_read_in_another_way_stays() -> None:
    env = {"name": "OLD", "valueFrom": {"configMapKeyRef": {"name": "telemetry-job-00000000aa", "key": "job.json"}}}
    world = running(podTemplate={"spec": {"containers": [{"name": "engine", "env": [env]}]}})
    own = copy.deepcopy(world.of("ConfigMap")[0])
    for name in ("telemetry-job-00000000aa", "telemetry-mine", "telemetry-job-extra", "other-job-00000000aa"):
        world.things["ConfigMap", name] = copy.deepcopy(own)
        world.things["ConfigMap", name]["metadata"] |= {"name": name, "uid": name}
    foreign = copy.deepcopy(own)
    foreign["metadata"] = {"name": "telemetry-job-00000000bb", "uid": "b", "labels": {}, "ownerReferences": []}
    world.things["ConfigMap", "telemetry-job-00000000bb"] = foreign
    before = configs(world)
    world.settle()
    assert configs(world) == before
    assert discarded(world) == set()


def test_other_content_under_a_name_of_ours_is_replaced() -> None:
    world = running()
    name = next(one for one in configs(world) if "-udfs-" in one)
    world.things["ConfigMap", name]["data"] = {"z.py": "other"}
    actions = decide(world.observe(), CHOICES).actions
    assert [type(action) for action in actions] == [Emit, Delete, Apply]
    world.settle()
    assert world.things["ConfigMap", name]["data"] == {"z.py": CODE}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["edit", "code", "image", "suspend", "grow", "refuse", "lose", "late", "look", "others", "cut"]
        ),
        st.integers(0, 3),
    ),
    max_size=14,
)


def do(world: World, what: str, which: int) -> None:
    """One thing that happens."""
    assert world.job is not None
    if what == "edit":
        edit(world, where=f"v > {which}")
    elif what == "code":
        edit(world, **code(CODE + f"# {which}\n"))
    elif what == "image":
        edit(world, image="broken:1" if which == 0 else f"engine:{which}")
    elif what == "suspend":
        edit(world, suspend=which == 0)
    elif what == "grow":
        edit(world, storage={"size": f"{10 + which}Gi", "storageClassName": "fast"})
    elif what == "refuse":
        world.refuses_sets = which == 0
    elif what == "lose":
        world.things.pop(("Pod", "telemetry-0"), None)
    elif what == "late" and world.seen is not None and world.of("StatefulSet"):
        current = world.of("StatefulSet")[0]
        if current["status"].get("observedGeneration", 0) < current["metadata"]["generation"]:
            world.make_pod_of_an_older_template()
            world.kubelet()
    elif what == "look":
        world.look()
    elif what == "others":
        world.neighbours()
    elif not world.refuses_sets:  # a look that is cut off
        for action in decide(world.observe(), CHOICES).actions[:which]:
            world.carry_out(action)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_nothing_that_is_read_goes_and_nothing_that_is_not_stays(steps: list[tuple[str, int]]) -> None:
    spec = job(storage={"size": "10Gi", "storageClassName": "fast"})
    world = World(job=spec, broken_images={"broken:1"})
    for what, which in steps:
        do(world, what, which)  # the world itself asserts that each pod reads its own job, and nothing read goes
    world.refuses_sets = False
    world.settle()
    assert len(configs(world)) == 2
    assert configs(world) == set(configs_of(world.of("StatefulSet")[0]["spec"]["template"]["spec"]))
    world.actions.clear()
    world.look()
    assert world.actions == []
