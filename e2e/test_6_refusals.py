"""What cannot run is refused, or told in a condition, with a message that says what to do. Other jobs never notice."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from client_pod import ClientPod
from cluster import Object, run, wait_until
from jobs import WINDOW, job
from steps import TOLD_WITHIN_S, Given, Then, When, World
from storage import default_class

Spec = dict[str, Any]


def refusal(world: World, made: Object) -> str:
    """What `kubectl apply` complains of."""
    return world.cluster.refused("-n", world.namespace, "apply", "-f", "-", stdin=json.dumps(made))


def with_spec(**spec: Any) -> Callable[[], Object]:
    """A job with other members."""
    return lambda: job(**spec)


def with_changed(change: Callable[[Spec], Any]) -> Callable[[], Object]:
    """A job that was changed within its spec."""

    def made() -> Object:
        changed = copy.deepcopy(job())
        change(changed["spec"])
        return changed

    return made


BY_THE_SCHEMA = {
    "two pods": (with_spec(replicas=2), "one pod runs all shards", "write replicas: 1"),
    "no duration": (with_spec(checkpoint={"interval": "soon"}), "spec.checkpoint.interval", 'such as "10s"'),
    "too short": (with_spec(checkpoint={"interval": "1ms"}), "at least 10ms", "use 10ms or more"),
    "min above max": (
        with_changed(
            lambda spec: spec["sinks"].append(
                {"name": "w", "from": WINDOW, "http": {"url": "http://h/", "backoff": {"initial": "9s", "max": "1s"}}}
            )
        ),
        "backoff.max must not be shorter",
        "use a longer one",
    ),
    "two kinds of source": (
        with_changed(lambda spec: spec["sources"][0].update(file={"path": "a.ndjson"})),
        "a source has exactly one of",
        "http, file",
    ),
    "a window that is not there": (
        with_changed(lambda spec: spec["sinks"][0].update({"from": "per_year"})),
        "the name of a window in spec.windows",
        "",
    ),
    "an unknown member": (with_spec(chekpoint={"interval": "1s"}), "unknown field", "spec.chekpoint"),
    "a function's file": (
        with_changed(lambda spec: [spec["udfs"][0].pop("code"), spec["udfs"][0].update(file="a.py")]),
        "only beside the job on one machine",
        "use code",
    ),
}
BY_THE_WEBHOOK = {
    "an expression": (with_spec(where="x >"), "spec.where", ""),
    "an unknown field": (with_spec(where="temperature > 3"), "spec.where", "temperature"),
    "code that is no Python": (
        with_changed(lambda spec: spec["udfs"][0].update(code={"inline": "def score(x:\n"})),
        "spec.udfs",
        "",
    ),
}
CHANGES = {
    "shards": ({"shards": 16}, "shards cannot be changed", "create another job"),
    "the storage class": ({"storage": {"storageClassName": "other"}}, "storageClassName cannot be changed", "create"),
    "the key": ({"schema": {"key": "id"}}, "schema.key cannot be changed", "create another job"),
}


@pytest.fixture(scope="module")
def serving_webhook(client: ClientPod) -> None:
    """The webhook is called once its certificate is there and trusted, some seconds after the installation."""
    assert client
    wrong = json.dumps({**job(where="x >"), "metadata": {"name": "probe", "namespace": "default"}})

    def refuses() -> bool:
        return "spec.where" in run(["kubectl", "apply", "--dry-run=server", "-f", "-"], wrong).stderr

    wait_until("a webhook that answers", refuses, TOLD_WITHIN_S)


@pytest.mark.parametrize("name", BY_THE_SCHEMA)
def test_the_schema_refuses(world: World, name: str) -> None:
    made, *words = BY_THE_SCHEMA[name]
    said = refusal(world, made())
    assert all(word in said for word in words), said


@pytest.mark.usefixtures("serving_webhook")
@pytest.mark.parametrize("name", BY_THE_WEBHOOK)
def test_the_webhook_refuses(world: World, name: str) -> None:
    made, *words = BY_THE_WEBHOOK[name]
    said = refusal(world, made())
    assert all(word in said for word in words), said


def test_what_the_state_hangs_on_cannot_change(world: World, given: Given, then: Then) -> None:
    made = given.a_running_job()
    pod = given.its_pod(made)
    for name, (change, *words) in CHANGES.items():
        patch = json.dumps({"spec": change})
        said = world.cluster.refused(
            "-n", world.namespace, "patch", "streamjob", made.name, "--type=merge", "-p", patch
        )
        assert all(word in said for word in words), f"{name}: {said}"
    then.its_pod_is_still(made, pod)


def test_a_smaller_volume_is_told_and_changes_nothing(given: Given, when: When, then: Then) -> None:
    made = given.a_running_job()
    pod = given.its_pod(made)
    when.it_is_applied(made, storage={"size": "512Mi"})
    then.its_condition_says(made, "StorageReady", "False", "ShrinkNotPossible", "never shrink")
    then.its_pod_is_still(made, pod)
    when.it_is_applied(made)
    then.its_condition_says(made, "StorageReady", "True", "Bound")
    then.its_pod_is_still(made, pod)


def test_a_volume_that_cannot_grow_is_told_and_changes_nothing(
    world: World, given: Given, when: When, then: Then
) -> None:
    if default_class(world.cluster).get("allowVolumeExpansion"):
        pytest.skip("the volumes of the default StorageClass can grow here")
    made = given.a_running_job()
    pod = given.its_pod(made)
    when.it_is_applied(made, storage={"size": "2Gi"})
    then.its_condition_says(made, "StorageReady", "False", "ExpansionNotAllowed", "put the old size back")
    then.its_claim_asks_for(made, "1Gi")
    when.it_is_applied(made)
    then.its_condition_says(made, "StorageReady", "True", "Bound")
    then.its_pod_is_still(made, pod)


def test_an_invalid_job_stops_no_other(given: Given, when: When, then: Then) -> None:
    good = given.a_running_job("good")
    udf = {"name": "score", "function": "score", "inputs": ["x"], "output": {"score": "int64"}}
    missing = {**udf, "code": {"configMap": {"name": "nowhere", "key": "score.py"}}}
    bad = given.a_job("bad", udfs=[missing])
    then.its_condition_says(bad, "SpecValid", "False", "Invalid", "the ConfigMap nowhere is not there")
    pod = given.its_pod(good)
    when.it_is_applied(good, checkpoint={"interval": "250ms"})
    then.its_pod_was_replaced(good, pod)
    then.it_runs(good)
    when.it_is_applied(bad)
    then.it_runs(bad)


def test_a_roll_to_an_image_that_is_nowhere_is_repaired_by_the_right_one(given: Given, when: When, then: Then) -> None:
    made = given.a_job_that_was_sent_events()
    when.it_is_applied(made, image="localhost/nowhere:1", imagePullPolicy="IfNotPresent")
    then.its_condition_says_one_of(made, "Degraded", "True", ("ErrImagePull", "ImagePullBackOff"), "check spec.image")
    when.it_is_applied(made)
    then.it_runs(made)
    then.nothing_was_repeated(made)


def test_what_a_namespace_does_not_let_run_is_told(given: Given, then: Then) -> None:
    privileged = {"name": "engine", "securityContext": {"privileged": True, "allowPrivilegeEscalation": True}}
    made = given.a_job(podTemplate={"spec": {"containers": [privileged]}})
    then.its_condition_says(made, "Degraded", "True", "PodNotCreated", "PodSecurity", "privileged")


def test_a_storage_class_that_is_not_there_is_told(given: Given, then: Then) -> None:
    made = given.a_job(storage={"size": "1Gi", "storageClassName": "nowhere"})
    then.its_condition_says(made, "StorageReady", "False", "StorageClassNotFound", "nowhere", "create")
