"""The operator against a real API server and the controller manager's StatefulSets, without nodes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiserver.network import cut_line, listens, make_certificate
from apiserver.running import Space
from kubeharness.engine import Engine, engine
from kubeharness.process import Operator, operator, until
from kubeharness.server import TOKEN, Server, free_port, kubeconfig
from streamjob_operator import names
from streamjob_operator.cluster import Cluster, ClusterError
from streamjob_operator.engine import Engines
from streamjob_operator.index import Index
from streamjob_operator.kinds import STATEFUL_SET
from streamjob_operator.lease import RENEW_DEADLINE_S, RETRY_S
from streamjob_operator.observe import Facts
from streamjob_operator.reconcile import Reconciler
from unit.jobs import CODE, job

WINDOWS = [{"name": "per_10s", "tumbling": "20s", "aggregates": {"n": "count()"}}]
CHILDREN = {
    "statefulsets": ["telemetry"],
    "services": ["telemetry", "telemetry-nodes"],
    "configmaps": ["telemetry-job", "telemetry-udfs"],
    "secrets": ["telemetry-control"],
    "serviceaccounts": ["telemetry"],
    "poddisruptionbudgets": ["telemetry"],
    "networkpolicies": ["telemetry"],
}


@pytest.fixture
def told() -> Iterator[Engine]:
    with engine() as known:
        yield known


@pytest.fixture
def running(server: Server, namespace: str, tmp_path: Path, told: Engine) -> Iterator[Operator]:
    url = f"http://127.0.0.1:{told.port}"
    with operator(server, namespace, tmp_path, engine_url=url, facts_s="0.2", resync_s="2") as found:
        until("leads", found.leads)
        yield found


def test_a_job_becomes_its_children_and_runs(running: Operator, space: Space, told: Engine) -> None:
    space.run_job()
    for plural, expected in CHILDREN.items():
        found = {_without_hash(thing["metadata"]["name"]): thing for thing in space.list(plural)}
        assert set(expected) <= set(found)
        for name in expected:
            metadata = found[name]["metadata"]
            assert names.FIELD_MANAGER in {entry["manager"] for entry in metadata["managedFields"]}
            assert metadata["ownerReferences"][0]["name"] == "telemetry"
    job = until(
        "facts", lambda: (found := space.get("streamjobs", "telemetry")) and found["status"].get("engine") and found
    )
    status = job["status"]
    assert status["engine"]["udfVersion"] == "0123456789ab"
    assert status["engine"]["rate"] == 12
    assert status["engine"]["lastCheckpoint"]["number"] == 7
    assert status["selector"] == names.selector_text("telemetry")
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert status["observedGeneration"] == job["metadata"]["generation"]
    assert names.FINALIZER in job["metadata"]["finalizers"]
    secret = space.get("secrets", "telemetry-control")
    assert secret is not None
    assert base64.b64decode(secret["data"]["token"]).decode() in told.tokens


def _without_hash(name: str) -> str:
    return re.sub(r"-[0-9a-f]{10}$", "", name)


def test_the_steady_state_makes_no_calls(running: Operator, space: Space) -> None:
    # The API server writes 1Gi for this: what it wants otherwise is not tried again and again.
    volume = {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1024Mi"}}]}
    for number in range(3):
        space.apply_job(f"job-{number}", udfs=[], suspend=True, podTemplate={"spec": volume})
    until("Suspended", lambda: all(space.phase(f"job-{number}") == "Suspended" for number in range(3)))
    looks = "streamjob_operator_reconcile_duration_seconds_count"
    settled = until("no more calls", lambda: _settled(running))
    before = running.metrics()[looks]
    until("resyncs", lambda: running.metrics()[looks] >= before + 9)
    assert running.calls() == settled


def _settled(running: Operator) -> dict[str, float] | None:
    """The calls made so far, if a whole resync has made none."""
    looks = "streamjob_operator_reconcile_duration_seconds_count"
    calls, before = running.calls(), running.metrics()[looks]
    until("a resync", lambda: running.metrics()[looks] >= before + 3)
    return calls if running.calls() == calls else None


def test_drift_is_put_right_and_told(running: Operator, space: Space) -> None:
    space.run_job()
    path = "?fieldManager=somebody"
    space.patch("services", "telemetry", {"spec": {"selector": {names.JOB_LABEL: "other"}}}, path)
    until("the selector", lambda: space.get("services", "telemetry")["spec"]["selector"] == names.selector("telemetry"))
    (message,) = until("told", lambda: space.events("DriftCorrected"))
    assert "Service telemetry" in message
    assert f"spec.selector.{names.JOB_LABEL}" in message
    space.delete("networkpolicies", "telemetry")
    until("the NetworkPolicy", lambda: space.get("networkpolicies", "telemetry"))
    space.patch("secrets", "telemetry-control", {"data": {"token": None}})
    until("a token", lambda: (space.get("secrets", "telemetry-control") or {}).get("data", {}).get("token"))


def test_members_of_others_are_left_and_ours_are_taken_back(running: Operator, space: Space) -> None:
    space.run_job()
    label = {
        "metadata": {"annotations": {"theirs": "1"}},
        "spec": {"template": {"metadata": {"annotations": {"t": "1"}}}},
    }
    container = [{"name": "engine", "image": "theirs:1"}]
    body: dict[str, Any] = {"apiVersion": "apps/v1", "kind": "StatefulSet", **label}
    body["spec"]["template"]["spec"] = {"containers": container}
    place = space.path("statefulsets", "telemetry") + "?fieldManager=theirs"
    status, answer = space.server.call("PATCH", place, body, "application/apply-patch+yaml")
    assert status == 409, "the API server tells them of the conflict"
    assert names.FIELD_MANAGER in answer["message"]
    status, answer = space.server.call("PATCH", place + "&force=true", body, "application/apply-patch+yaml")
    assert status == 200, answer

    def ours() -> bool:
        found = space.get("statefulsets", "telemetry")
        return bool(found) and found["spec"]["template"]["spec"]["containers"][0]["image"] == "engine:1"

    until("our image", ours)
    found = space.get("statefulsets", "telemetry")
    assert found is not None
    assert found["metadata"]["annotations"]["theirs"] == "1"
    assert found["spec"]["template"]["metadata"]["annotations"]["t"] == "1"
    until("no fight", lambda: _settled(running))


def test_a_roll_tells_its_first_changed_member_and_commits_before(
    running: Operator, space: Space, told: Engine
) -> None:
    space.run_job()
    old = space.get("pods", "telemetry-0")
    assert old is not None
    space.patch("streamjobs", "telemetry", {"spec": {"windows": WINDOWS}})
    until("another pod", lambda: space.rolled(old))
    assert space.events("Rolling") == ["job.windows[per_10s].tumbling.size_us: 10000000 -> 20000000"]
    assert told.checkpoints == 1
    operation = until("the operation", lambda: space.get("streamjobs", "telemetry")["status"].get("operations"))
    assert operation[0]["name"] == "Roll"
    assert operation[0]["blockedBy"]
    space.set_ready("telemetry-0")
    until("Running", lambda: space.phase() == "Running")
    assert not space.get("streamjobs", "telemetry")["status"].get("operations")


def _uid(thing: dict[str, Any]) -> str:
    return str(thing["metadata"]["uid"])


def test_a_changed_config_map_rolls_the_pod(running: Operator, space: Space) -> None:
    udf = {"name": "z", "code": {"configMap": {"name": "code", "key": "z.py"}}, "function": "score", "inputs": ["v"]}
    space.apply_job(udfs=[{**udf, "output": {"s": "float64"}}])
    until("Invalid", lambda: space.phase() == "Invalid")
    assert "the ConfigMap code is not there" in space.condition("SpecValid")["message"]
    space.create("configmaps", {"metadata": {"name": "code"}, "data": {"z.py": CODE}})
    until("the pod", lambda: space.get("pods", "telemetry-0"))
    space.set_ready("telemetry-0")
    until("Running", lambda: space.phase() == "Running")
    space.patch("configmaps", "code", {"data": {"z.py": CODE + "# better\n"}})
    (message,) = until("Rolling", lambda: space.events("Rolling"))
    assert message.startswith("the code of the UDF z: ")


@contextlib.contextmanager
def _refused_updates(space: Space) -> Iterator[None]:
    """An administrator's policy that lets no StatefulSet of the namespace change."""
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["statefulsets"], "operations": ["UPDATE"]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": "freeze"}],
    }
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}}}
    binding = {"policyName": space.name, "validationActions": ["Deny"], "matchResources": where}
    root = "/apis/admissionregistration.k8s.io/v1"
    places = {f"{root}/validatingadmissionpolicies": spec, f"{root}/validatingadmissionpolicybindings": binding}
    for place, body in places.items():
        status, answer = space.server.call("POST", place, {"metadata": {"name": space.name}, "spec": body})
        assert status == 201, answer
    try:
        change, probe = space.path("statefulsets", "telemetry"), {"metadata": {"annotations": {"probe": "1"}}}
        merge = "application/merge-patch+json"
        until("the policy", lambda: space.server.call("PATCH", change + "?dryRun=All", probe, merge)[0] == 422)
        yield
    finally:
        for place in places:
            space.server.call("DELETE", f"{place}/{space.name}")


def _config_of(space: Space, pod: dict[str, Any]) -> dict[str, Any] | None:
    (name,) = [one["configMap"]["name"] for one in pod["spec"]["volumes"] if one["name"] == names.JOB_VOLUME]
    found = space.get("configmaps", name)
    return found and json.loads(found["data"][names.JOB_KEY])


def test_a_pod_that_starts_while_its_change_is_refused_reads_its_own_job(running: Operator, space: Space) -> None:
    space.run_job()
    old = space.get("pods", "telemetry-0")
    assert old is not None
    with _refused_updates(space):
        space.patch("streamjobs", "telemetry", {"spec": {"windows": WINDOWS}})
        until("told", lambda: "freeze" in space.condition("SpecValid").get("message", ""))
        space.delete("pods", "telemetry-0?gracePeriodSeconds=0")
        again = until(
            "another pod", lambda: (new := space.get("pods", "telemetry-0")) and _uid(new) != _uid(old) and new
        )
        assert _config_of(space, again)["windows"] == _config_of(space, old)["windows"]
        assert len([one for one in space.list("configmaps") if one.get("immutable")]) == 3
    space.set_ready("telemetry-0")
    newest = until("the new template's pod", lambda: space.rolled(again))
    assert _config_of(space, newest)["windows"][0]["tumbling"]["size_us"] == 20_000_000
    until("the old job is gone", lambda: _config_of(space, old) is None)
    assert len([one for one in space.list("configmaps") if one.get("immutable")]) == 2


def test_a_changed_token_is_used_at_once(running: Operator, space: Space, told: Engine) -> None:
    space.run_job()
    pod = space.get("pods", "telemetry-0")
    assert pod is not None
    token = "another-token-of-some-length"
    space.patch("secrets", "telemetry-control", {"data": {"token": base64.b64encode(token.encode()).decode()}})
    until("a question with it", lambda: token in told.tokens)
    assert space.get("pods", "telemetry-0") == pod, "no roll"


def test_an_invalid_job_stops_no_other(running: Operator, space: Space) -> None:
    space.apply_job("broken", where="v >")
    space.apply_job("refused", podTemplate={"spec": {"priority": "no number"}})
    space.run_job("good")
    until("Invalid", lambda: space.phase("broken") == "Invalid")
    assert "spec.where" in space.condition("SpecValid", "broken")["message"]
    until("refused", lambda: space.condition("SpecValid", "refused").get("reason") == "Refused")
    assert "priority" in space.condition("SpecValid", "refused")["message"]
    space.patch("streamjobs", "broken", {"spec": {"where": "v > 1"}})
    until("the pod", lambda: space.get("pods", "broken-0"))


def test_an_invalid_job_can_be_stopped_and_starts_once_it_is_valid(
    running: Operator, space: Space, told: Engine
) -> None:
    space.run_job()
    space.patch("streamjobs", "telemetry", {"spec": {"where": "v >"}})
    until("Invalid", lambda: space.phase() == "Invalid")
    space.patch("streamjobs", "telemetry", {"metadata": {"annotations": {names.CHECKPOINT: "now"}}})
    until("the answer", lambda: space.get("streamjobs", "telemetry")["status"].get("checkpointRequest") == "now")
    assert told.checkpoints == 1
    before = space.get("statefulsets", "telemetry")
    assert before is not None
    space.patch("streamjobs", "telemetry", {"spec": {"suspend": True}})
    until("no pod", lambda: space.get("pods", "telemetry-0") is None)
    until("told", lambda: space.condition("Suspended").get("status") == "True")
    assert space.phase() == "Invalid"
    after = space.get("statefulsets", "telemetry")
    assert after is not None
    assert {**after["spec"], "replicas": 1} == before["spec"], "nothing else has changed"
    space.patch("streamjobs", "telemetry", {"spec": {"suspend": False, "where": "v > 1"}})
    until("the pod", lambda: space.get("pods", "telemetry-0"))
    space.set_ready("telemetry-0")
    until("Running", lambda: space.phase() == "Running")


def test_another_stateful_set_of_that_name_is_not_stopped(server: Server, space: Space) -> None:
    """What stopping an invalid job relies on: the patch holds the uid, which cannot be changed."""

    async def course() -> None:
        cluster = await Cluster.connect()
        with pytest.raises(ClusterError) as refused:
            await cluster.patch(STATEFUL_SET, space.name, "made", {"metadata": {"uid": "x"}, "spec": {"replicas": 0}})
        assert refused.value.code in (409, 422)
        await cluster.close()

    labels = {"app": "made"}
    container = {"name": "a", "image": "a:1"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"serviceName": "a", "selector": {"matchLabels": labels}, "template": template, "replicas": 1}
    space.create("statefulsets", {"metadata": {"name": "made"}, "spec": spec})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(server.kubeconfig))
        asyncio.run(course())
    assert (space.get("statefulsets", "made") or {})["spec"]["replicas"] == 1


def test_a_claim_that_was_not_made_for_a_job_is_not_taken(running: Operator, space: Space) -> None:
    resources = {"requests": {"storage": "1Gi"}}
    claim = {
        "metadata": {"name": "state-telemetry-0"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": resources},
    }
    space.create("persistentvolumeclaims", claim)
    space.apply_job()
    until("NameTaken", lambda: space.condition("SpecValid").get("reason") == "NameTaken")
    message = space.condition("SpecValid")["message"]
    assert "PersistentVolumeClaim state-telemetry-0" in message
    assert space.get("statefulsets", "telemetry") is None
    labels = names.labels("telemetry")
    assert all(f"{name}={labels[name]}" in message for name in (names.MANAGED_BY, names.JOB_LABEL))
    space.patch("persistentvolumeclaims", "state-telemetry-0", {"metadata": {"labels": labels}})
    until("the pod", lambda: space.get("pods", "telemetry-0"))
    assert [found["metadata"]["name"] for found in space.list("persistentvolumeclaims")] == ["state-telemetry-0"]


def test_suspend_and_resume(running: Operator, space: Space) -> None:
    space.run_job()
    space.patch("streamjobs", "telemetry", {"spec": {"suspend": True}})
    until("Suspended", lambda: space.phase() == "Suspended")
    assert space.get("pods", "telemetry-0") is None
    assert space.get("persistentvolumeclaims", "state-telemetry-0") is not None
    space.patch("streamjobs", "telemetry", {"spec": {"suspend": False}})
    until("the pod", lambda: space.get("pods", "telemetry-0"))
    space.set_ready("telemetry-0")
    until("Running", lambda: space.phase() == "Running")


def test_restart_and_checkpoint_by_annotation(running: Operator, space: Space, told: Engine) -> None:
    space.run_job()
    space.patch("streamjobs", "telemetry", {"metadata": {"annotations": {names.CHECKPOINT: "now"}}})
    until("the answer", lambda: space.get("streamjobs", "telemetry")["status"].get("checkpointRequest") == "now")
    assert told.checkpoints == 1
    assert space.events("CheckpointDone") == ["checkpoint 1 took 0.012 s"]
    old = space.get("pods", "telemetry-0")
    assert old is not None
    space.patch("streamjobs", "telemetry", {"metadata": {"annotations": {names.RESTART: "1"}}})
    until("another pod", lambda: space.rolled(old))


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_deletion_keeps_or_deletes_the_volumes(running: Operator, space: Space, policy: str) -> None:
    space.run_job(deletionPolicy=policy)
    space.delete("streamjobs", "telemetry")
    until("gone", lambda: space.get("streamjobs", "telemetry") is None)
    assert space.get("pods", "telemetry-0") is None
    if policy == "Delete":
        until("the claim to go", lambda: space.get("persistentvolumeclaims", "state-telemetry-0") is None)
        return
    claim = space.get("persistentvolumeclaims", "state-telemetry-0")
    assert claim is not None
    assert "deletionTimestamp" not in claim["metadata"]
    assert "state-telemetry-0" in until("told", lambda: space.events("VolumesRetained"))[0]
    space.apply_job(shards=16)
    until("refused", lambda: space.condition("SpecValid").get("reason") == "ImmutableMember")
    assert "holds state with 8" in space.condition("SpecValid")["message"]


def test_a_deletion_does_not_hang(running: Operator, space: Space) -> None:
    space.run_job(deletionDeadline="1s", deletionPolicy="Delete")
    space.patch("persistentvolumeclaims", "state-telemetry-0", {"metadata": {"finalizers": ["example.com/stuck"]}})
    space.delete("streamjobs", "telemetry")
    until("gone", lambda: space.get("streamjobs", "telemetry") is None)
    assert "state-telemetry-0" in space.events("DeletionForced")[0]
    space.patch("persistentvolumeclaims", "state-telemetry-0", {"metadata": {"finalizers": None}})


def test_volumes_grow_and_the_pod_stays(running: Operator, space: Space) -> None:
    body = {"provisioner": "example.com/none", "allowVolumeExpansion": True, "metadata": {"name": space.name}}
    status, answer = space.server.call("POST", "/apis/storage.k8s.io/v1/storageclasses", body)
    assert status == 201, answer
    space.run_job(storage={"size": "1Gi", "storageClassName": space.name})
    space.bind_claim("state-telemetry-0", "1Gi")
    pod, old = space.get("pods", "telemetry-0"), space.get("statefulsets", "telemetry")
    assert pod is not None
    assert old is not None

    def asked(claim: str) -> str | None:
        found = space.get("persistentvolumeclaims", claim)
        return found and found["spec"]["resources"]["requests"]["storage"]

    space.patch("streamjobs", "telemetry", {"spec": {"storage": {"size": "2Gi"}}})
    until("another StatefulSet", lambda: (new := space.get("statefulsets", "telemetry")) and _uid(new) != _uid(old))
    until("a larger claim", lambda: asked("state-telemetry-0") == "2Gi")
    until("Growing", lambda: space.condition("StorageReady").get("reason") == "Growing")
    space.patch("streamjobs", "telemetry", {"spec": {"storage": {"size": "1Gi"}}})
    until("told", lambda: space.condition("StorageReady").get("reason") == "ShrinkNotPossible")
    assert asked("state-telemetry-0") == "2Gi", "no claim asks for what its volume has"
    space.patch("streamjobs", "telemetry", {"spec": {"storage": {"size": "1025Mi"}}})
    until("the growth taken back", lambda: asked("state-telemetry-0") == "1025Mi")
    space.patch("streamjobs", "telemetry", {"spec": {"storage": {"size": "2Gi"}}})
    until("a larger claim again", lambda: asked("state-telemetry-0") == "2Gi")
    space.bind_claim("state-telemetry-0", "2Gi")
    until("grown", lambda: space.condition("StorageReady").get("reason") == "Bound")
    kept = space.get("pods", "telemetry-0")
    assert kept is not None
    assert _uid(kept) == _uid(pod)


def test_what_keeps_a_pod_from_running_is_told(running: Operator, space: Space) -> None:
    space.apply_job("classless", storage={"storageClassName": "missing"})
    until("told", lambda: space.condition("StorageReady", "classless").get("reason") == "StorageClassNotFound")
    space.apply_job("runtime", podTemplate={"spec": {"runtimeClassName": "gvisor"}})
    until("told", lambda: space.condition("Degraded", "runtime").get("reason") == "RuntimeClassNotFound")
    space.apply_job("imageless")
    until("the pod", lambda: space.get("pods", "imageless-0"))
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    container = {
        "name": "engine",
        "image": "engine:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": waiting,
    }
    space.set_ready("imageless-0", ready=False, containerStatuses=[container])
    until("told", lambda: space.condition("Degraded", "imageless").get("reason") == "ImagePullBackOff")
    assert "engine:1" in space.condition("Degraded", "imageless")["message"]


def test_what_happened_while_the_api_server_was_down_is_noticed(
    server: Server, running: Operator, space: Space
) -> None:
    space.run_job()

    def down() -> None:
        until("interrupted", lambda: b"watch interrupted" in running.log.read_bytes())

    began = time.monotonic()
    server.restart_api(down)
    away_s = time.monotonic() - began
    space.delete("services", "telemetry")
    until("the Service", lambda: space.get("services", "telemetry") or running.process.poll() is not None)
    if away_s > RENEW_DEADLINE_S - 2 * RETRY_S and b"no longer leads" in running.log.read_bytes():
        pytest.skip(f"the API server was away for {away_s:.0f} s, longer than a leader goes on without its Lease")
    assert space.get("services", "telemetry")
    assert running.healthy()


def test_two_replicas_hand_over(server: Server, namespace: str, space: Space, tmp_path: Path) -> None:
    with (
        operator(server, namespace, tmp_path, identity="a") as first,
        operator(server, namespace, tmp_path, identity="b") as second,
    ):
        leader = until("one leads", lambda: next((one for one in (first, second) if one.leads()), None))
        other = second if leader is first else first
        space.apply_job("one", suspend=True)
        until("Suspended", lambda: space.phase("one") == "Suspended")
        until("the other waits", other.healthy)
        assert not other.leads()
        # Whether there are StreamJobs, and whether it may see them in the one listed namespace.
        asked = {
            f'streamjob_operator_api_calls_total{{kind="StreamJob",verb="{verb}"}}' for verb in ("discover", "list")
        }
        assert other.calls() == dict.fromkeys(asked, 1), "who does not lead asks no more than that, and waits"
        leader.process.send_signal(signal.SIGTERM)
        assert leader.process.wait(60) == 0
        # At once: the Lease's 15 s have not to run out.
        until("handed over", other.leads, limit_s=12)
        space.apply_job("two", suspend=True)
        until("Suspended", lambda: space.phase("two") == "Suspended")


def test_another_takes_over_from_a_killed_leader(server: Server, namespace: str, space: Space, tmp_path: Path) -> None:
    with operator(server, namespace, tmp_path, identity="a") as first:
        until("leads", first.leads)
        with operator(server, namespace, tmp_path, identity="b") as second:
            space.apply_job("one", suspend=True)
            until("Suspended", lambda: space.phase("one") == "Suspended")
            first.process.kill()
            until("takes over", second.leads)
            space.delete("statefulsets", "one")
            until("made again", lambda: space.get("statefulsets", "one"))


def test_an_object_is_made_only_where_there_is_none(server: Server, space: Space) -> None:
    """What making children relies on, in one request each."""

    async def course() -> None:
        cluster = await Cluster.connect()
        metadata = {"name": "made", "namespace": space.name}
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}
        made = await cluster.apply(manifest, absent=True)
        assert made["metadata"]["managedFields"][0]["operation"] == "Apply"
        with pytest.raises(ClusterError) as refused:
            await cluster.apply({**manifest, "data": {"a": "2"}}, absent=True)
        assert refused.value.code == 409
        await cluster.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(server.kubeconfig))
        asyncio.run(course())
    assert (space.get("configmaps", "made") or {})["data"] == {"a": "1"}


def test_a_job_that_is_gone_does_not_run_again(server: Server, space: Space, tmp_path: Path) -> None:
    """A look that still sees a job which was deleted by force, as a late watch shows it."""

    async def course() -> None:
        cluster = await Cluster.connect()
        index, facts, engines = Index(), Facts(), Engines("http://127.0.0.1:1")
        resource = space.apply_job(suspend=True)
        index.put_job({**resource, "metadata": {**resource["metadata"], "finalizers": [names.FINALIZER]}}, {})
        space.delete("streamjobs", "telemetry")
        reconciler = Reconciler(cluster, engines, index, facts, "engine:1", lambda _key: None)
        with pytest.raises(ClusterError, match="the job telemetry is gone"):
            await reconciler.look((space.name, "telemetry"))
        assert index.jobs() == []
        await cluster.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(server.kubeconfig))
        asyncio.run(course())
    assert space.get("statefulsets", "telemetry") is None


def test_dead_watches_fail_the_liveness_probe(server: Server, space: Space, tmp_path: Path) -> None:
    with cut_line(server) as line:
        config = kubeconfig(tmp_path, line.url, TOKEN, "through-the-line")
        with operator(server, space.name, tmp_path, kubeconfig=str(config), dead_after_s="10") as found:
            until("leads", found.leads)
            until("healthy", found.healthy)
            line.cut()
            until("the probe fails or the Lease is lost", lambda: not found.healthy())


def test_the_webhook_says_what_cel_cannot(server: Server, space: Space, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    port = free_port()
    with operator(server, space.name, tmp_path, webhook_port=str(port), webhook_cert_dir=str(folder)) as found:
        until("leads", found.leads)
        bundle = make_certificate(folder)  # comes later than the operator, as a Secret's volume does
        until("the webhook", lambda: listens(port))
        rules = [{"apiGroups": [names.GROUP], "apiVersions": ["*"], "resources": [names.PLURAL]}]
        webhook = {
            "name": "streamjobs.streamjob.dev",
            "clientConfig": {"url": f"https://127.0.0.1:{port}/streamjobs", "caBundle": bundle},
            "rules": [{**rules[0], "operations": ["CREATE", "UPDATE"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        body = {"metadata": {"name": space.name}, "webhooks": [webhook]}
        place = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
        assert server.call("POST", place, body)[0] == 201
        try:
            made = {**job(where="v >"), "metadata": {"name": "wrong"}}

            def refused() -> str | None:
                made["metadata"]["name"] += "x"  # until the API server knows of the webhook it takes the job
                status, answer = server.call("POST", space.path("streamjobs"), made)
                return answer["message"] if status == 422 else None

            message = until("refused", refused)
            assert "spec.where: is no SQL expression" in message
            udf = {"name": "z", "code": {"inline": "def score(v:\n"}, "function": "score", "inputs": ["v"]}
            made = {**job(udfs=[{**udf, "output": {"s": "float64"}}]), "metadata": {"name": "code"}}
            status, answer = server.call("POST", space.path("streamjobs"), made)
            assert status == 422
            assert "Python syntax error" in answer["message"]
            large = {**udf, "code": {"inline": CODE + f"# {'x' * 500_000}\n"}, "output": {"s": "float64"}}
            made = {**job(udfs=[large], suspend=True), "metadata": {"name": "large"}}
            assert server.call("POST", space.path("streamjobs"), made)[0] == 201
            merge = {"spec": {"where": "v >"}}  # its review has the job twice
            place_of = space.path("streamjobs", "large")
            status, answer = server.call("PATCH", place_of, merge, "application/merge-patch+json")
            assert status == 422, answer["message"]
            space.apply_job("right", suspend=True)
            lines = [json.loads(line) for line in found.log.read_text().splitlines()]
            assert "refused" in {line["message"] for line in lines}
            assert [line for line in lines if line["level"] == "ERROR"] == [], "a refusal is an answer"
        finally:
            server.call("DELETE", f"{place}/{space.name}")
