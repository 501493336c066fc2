"""What a test is made of: given a state, when something happens, then something holds.

Each wait is for an event or a condition and has a bound with a name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import reference
from client_pod import ClientPod
from cluster import Cluster, Object, run, wait_until
from events import EXACT, Sender
from jobs import WINDOW, Job, functions, job
from release import Release, kill_container

Row = dict[str, Any]
RUNNING_WITHIN_S = 120.0
"""From any state to a serving pod: the volume, the image that is there, the start of the engine."""
ROLLED_WITHIN_S = 150.0
"""A checkpoint, the pod's stop, and RUNNING_WITHIN_S."""
STOPPED_WITHIN_S = 90.0
"""A pod's 60 s to commit and stop, and what the operator takes to see it."""
GONE_WITHIN_S = 120.0
TOLD_WITHIN_S = 45.0
"""Until the operator has looked at a change, also if another replica must take over first."""
FACTS_WITHIN_S = 90.0
"""The engine's facts are written once a minute where nothing else changes."""
VISIBLE_WITHIN_S = 45.0
"""Until rows stand in a sink's files: two checkpoints, on a machine that does much else."""
NODE_WITHIN_S = 240.0
OUTPUT = "/var/lib/streamjob/data/out"


@dataclass
class World:
    """What the steps of one test share."""

    cluster: Cluster
    release: Release
    client: ClientPod
    namespace: str
    jobs: list[Job] = field(default_factory=list)

    def one(self, of: Job) -> Object:
        """The job's object."""
        return self.cluster.one("StreamJob", of.namespace, of.name)

    def until_job(self, of: Job, what: str, holds: Any, within_s: float) -> Any:
        """Waits until something holds of the job's object."""

        def look(objects: dict[str, Object]) -> Any:
            return of.name in objects and holds(objects[of.name])

        return self.cluster.until(f"{what} of {of.name}", "StreamJob", of.namespace, look, within_s)

    def until_serving(self, of: Job, within_s: float, *, other_than: str | None = None) -> Object:
        """Waits for a pod that serves; `other_than` is the uid of one that does not count."""

        def serving(pods: dict[str, Object]) -> Object | None:
            pod = pods.get(of.pod)
            usable = pod is not None and pod["metadata"]["uid"] != other_than and is_ready(pod)
            return pod if usable else None

        return self.cluster.until(f"a serving pod of {of.name}", "Pod", of.namespace, serving, within_s)


def is_ready(pod: Object) -> bool:
    """Whether a pod serves and is to stay."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def condition(resource: Object, kind: str) -> Object:
    """A condition of a job; empty where it has none of that type."""
    found = [one for one in resource.get("status", {}).get("conditions", ()) if one["type"] == kind]
    return found[0] if found else {}


class Given:
    """States that a test begins in."""

    def __init__(self, world: World) -> None:
        self._world = world

    def a_job(self, name: str = "machines", **spec: Any) -> Job:
        """A job that was just applied, with the code of its function."""
        world = self._world
        made = Job(name, world.namespace, Sender(world.client, f"http://{name}.{world.namespace}.svc:8080"))
        world.jobs.append(made)
        world.cluster.apply(world.namespace, functions(1), job(name, **spec))
        return made

    def a_running_job(self, name: str = "machines", **spec: Any) -> Job:
        """A job whose pod serves."""
        made = self.a_job(name, **spec)
        ready = {"what": "the condition Ready", "within_s": RUNNING_WITHIN_S}
        self._world.until_job(made, holds=lambda one: condition(one, "Ready").get("status") == "True", **ready)
        return made

    def a_job_that_was_sent_events(self, name: str = "machines", rounds: int = 20, **spec: Any) -> Job:
        """A running job that has acknowledged rounds of events."""
        made = self.a_running_job(name, **spec)
        made.sender.send(rounds)
        return made

    def its_pod(self, of: Job) -> str:
        """The uid of the job's pod."""
        return str(self._world.cluster.one("Pod", of.namespace, of.pod)["metadata"]["uid"])

    def its_stateful_set(self, of: Job) -> str:
        """The uid of the job's StatefulSet."""
        return str(self._world.cluster.one("StatefulSet", of.namespace, of.name)["metadata"]["uid"])

    @contextmanager
    def events_all_the_while(self, of: Job) -> Iterator[None]:
        """Events keep coming to the job meanwhile."""
        of.sender.begin()
        try:
            yield
        finally:
            of.sender.end()


class When:
    """What happens."""

    def __init__(self, world: World) -> None:
        self._world = world

    def it_is_applied(self, of: Job, **spec: Any) -> None:
        """The job is applied anew, with other members of its spec."""
        self._world.cluster.apply(of.namespace, job(of.name, **spec))

    def its_function_changes(self, of: Job, version: int) -> None:
        """The ConfigMap with the code of its function is applied anew."""
        self._world.cluster.apply(of.namespace, functions(version))

    def it_is_annotated(self, of: Job, annotation: str, text: str) -> None:
        """An annotation of the job is written."""
        words = ("annotate", "streamjob", of.name, f"streamjob.dev/{annotation}={text}", "--overwrite")
        self._world.cluster.kubectl("-n", of.namespace, *words)

    def it_is_suspended(self, of: Job, suspend: bool = True) -> None:
        """`spec.suspend` is written."""
        self._patch(of, {"spec": {"suspend": suspend}})

    def it_is_resumed(self, of: Job) -> None:
        """`spec.suspend` is taken back."""
        self.it_is_suspended(of, suspend=False)

    def it_is_deleted(self, of: Job) -> None:
        """`kubectl delete`, which does not wait."""
        self._world.cluster.kubectl("-n", of.namespace, "delete", "streamjob", of.name, "--wait=false")

    def its_pod_is_deleted_by_force(self, of: Job) -> None:
        """The pod's object is gone at once, whatever becomes of its processes."""
        words = ("delete", "pod", of.pod, "--grace-period=0", "--force")
        self._world.cluster.kubectl("-n", of.namespace, *words)

    def its_engine_is_killed(self, of: Job) -> None:
        """SIGKILL for the engine's process, on a node of kind's."""
        pod = self._world.cluster.one("Pod", of.namespace, of.pod)
        kill_container(pod["spec"]["nodeName"], of.namespace, of.pod, "engine")

    def somebody_changes(self, kind: str, of: Job, name: str, patch: Object) -> None:
        """Another hand changes an object of the job."""
        words = ("patch", kind, name, "--type=merge", "-p", json.dumps(patch))
        self._world.cluster.kubectl("-n", of.namespace, *words)

    def somebody_deletes(self, kind: str, of: Job, name: str) -> None:
        """Another hand deletes an object of the job."""
        self._world.cluster.kubectl("-n", of.namespace, "delete", kind, name)

    def its_node_is_restarted(self, of: Job) -> None:
        """`docker restart` of the node, which of a cluster of one node takes the whole control plane along."""
        node = self._world.cluster.one("Pod", of.namespace, of.pod)["spec"]["nodeName"]
        done = run(["docker", "restart", node], within_s=NODE_WITHIN_S)
        assert done.code == 0, done.stderr
        self._world.cluster.until_reachable()

    def the_operator_is_killed_during(self, of: Job, operation: str) -> None:
        """The leader is killed as soon as the job's status tells of the operation."""

        def begun(one: Object) -> bool:
            running = one.get("status", {}).get("operations") or ()
            return any(each["name"] == operation for each in running)

        self._world.until_job(of, f"the operation {operation}", begun, TOLD_WITHIN_S)
        self.the_operator_is_killed()

    def the_operator_is_killed(self) -> None:
        """The leading operator is killed without a word."""
        self._world.release.kill(self._world.release.leader())

    def _patch(self, of: Job, patch: Object) -> None:
        self.somebody_changes("streamjob", of, of.name, patch)


class Then:
    """What must hold, at once or within a bound."""

    def __init__(self, world: World) -> None:
        self._world = world

    def it_runs(self, of: Job) -> None:
        """The phase is Running, for the spec as it is now."""

        def runs(one: Object) -> bool:
            status = one.get("status", {})
            current = status.get("observedGeneration") == one["metadata"]["generation"]
            return current and status.get("phase") == "Running" and not status.get("operations")

        self._world.until_job(of, "the phase Running", runs, ROLLED_WITHIN_S)

    def its_phase_is(self, of: Job, phase: str, within_s: float = STOPPED_WITHIN_S) -> None:
        """The phase becomes this one."""
        holds = {"holds": lambda one: one.get("status", {}).get("phase") == phase, "within_s": within_s}
        self._world.until_job(of, f"the phase {phase}", **holds)

    def its_condition_says(self, of: Job, kind: str, status: str, reason: str, *words: str) -> None:
        """A condition gets this status and reason, and its message has these words."""

        def says(one: Object) -> bool:
            found = condition(one, kind)
            same = (found.get("status"), found.get("reason")) == (status, reason)
            return same and all(word in found["message"] for word in words)

        what = f"the condition {kind}={status} ({reason}) with {words}"
        self._world.until_job(of, what, says, RUNNING_WITHIN_S)

    def its_condition_says_one_of(self, of: Job, kind: str, status: str, reasons: Sequence[str], words: str) -> None:
        """A condition gets this status and one of these reasons, and its message has these words."""

        def says(one: Object) -> bool:
            found = condition(one, kind)
            return found.get("status") == status and found["reason"] in reasons and words in found["message"]

        self._world.until_job(of, f"the condition {kind}={status}, one of {reasons}", says, RUNNING_WITHIN_S)

    def its_udf_version_is(self, of: Job, *, other_than: str = "") -> str:
        """The status tells the version of the function, and it is not this one; gives it."""

        def version(one: Object) -> str | None:
            told = one.get("status", {}).get("engine", {}).get("udfVersion")
            return told if told != other_than else None

        return str(self._world.until_job(of, "another version of the function", version, FACTS_WITHIN_S))

    def there_is_again(self, kind: str, of: Job, name: str) -> None:
        """An object is there."""
        what = f"the {kind} {name}"
        self._world.cluster.until(what, kind, of.namespace, lambda found: name in found, TOLD_WITHIN_S)

    def its_pod_was_replaced(self, of: Job, old: str) -> None:
        """Another pod than the one of uid `old` serves."""
        self._world.until_serving(of, ROLLED_WITHIN_S, other_than=old)

    def its_pod_is_still(self, of: Job, old: str) -> None:
        """The pod is the one of uid `old`, and serves."""
        pod = self._world.cluster.one("Pod", of.namespace, of.pod)
        assert pod["metadata"]["uid"] == old, f"{of.pod} is another pod: {pod['metadata']}"
        assert is_ready(pod), f"{of.pod} is not ready: {pod['status']}"

    def its_stateful_set_was_made_anew(self, of: Job, old: str) -> None:
        """Another StatefulSet than the one of uid `old` is there."""

        def anew(sets: dict[str, Object]) -> bool:
            return of.name in sets and sets[of.name]["metadata"]["uid"] != old

        what = f"another StatefulSet {of.name}"
        self._world.cluster.until(what, "StatefulSet", of.namespace, anew, TOLD_WITHIN_S)

    def its_claim_asks_for(self, of: Job, size: str) -> None:
        """The claim of its volume wants this size."""

        def asks(claims: dict[str, Object]) -> bool:
            return of.claim in claims and claims[of.claim]["spec"]["resources"]["requests"]["storage"] == size

        what, kind = f"a claim {of.claim} of {size}", "PersistentVolumeClaim"
        self._world.cluster.until(what, kind, of.namespace, asks, TOLD_WITHIN_S)

    def its_engine_was_started_again(self, of: Job) -> None:
        """The container has been restarted, and serves."""

        def again(pods: dict[str, Object]) -> bool:
            pod = pods.get(of.pod)
            if pod is None or not is_ready(pod):
                return False
            return bool(pod["status"]["containerStatuses"][0]["restartCount"])

        what = f"a restarted container of {of.name}"
        self._world.cluster.until(what, "Pod", of.namespace, again, NODE_WITHIN_S)

    def it_has_no_pod(self, of: Job) -> None:
        """No pod of the job is left."""
        what, labels = f"the end of {of.pod}", f"streamjob.dev/job={of.name}"
        self._world.cluster.until(what, "Pod", of.namespace, lambda pods: not pods, STOPPED_WITHIN_S, labels)

    def an_event_says(self, of: Job, reason: str, *words: str) -> str:
        """An Event of the job has this reason and these words; gives its message."""

        def said(events: dict[str, Object]) -> str | None:
            for one in events.values():
                about = (one["involvedObject"]["name"], one.get("reason")) == (of.name, reason)
                if about and all(word in one["message"] for word in words):
                    return str(one["message"])
            return None

        what = f"an Event {reason} with {words}"
        return self._world.cluster.until(what, "Event", of.namespace, said, TOLD_WITHIN_S)

    def it_is_gone(self, of: Job) -> None:
        """The job is gone, and all that was made for it but its volume."""
        cluster = self._world.cluster
        gone = f"the end of {of.name}"
        cluster.until(gone, "StreamJob", of.namespace, lambda jobs: of.name not in jobs, GONE_WITHIN_S)
        labels = f"streamjob.dev/job={of.name}"
        kinds = ("StatefulSet", "Pod", "Service", "ConfigMap", "Secret", "ServiceAccount")
        for kind in (*kinds, "NetworkPolicy", "PodDisruptionBudget"):
            cluster.until(f"{gone}'s {kind}", kind, of.namespace, lambda found: not found, GONE_WITHIN_S, labels)

    def its_volume_is_there(self, of: Job) -> None:
        """The claim stays."""
        claim = self._world.cluster.one("PersistentVolumeClaim", of.namespace, of.claim)
        assert "deletionTimestamp" not in claim["metadata"]
        assert claim["status"]["phase"] == "Bound"

    def its_volume_is_gone(self, of: Job) -> None:
        """No claim is left."""
        what, labels = f"the end of {of.claim}", f"streamjob.dev/job={of.name}"
        kind = "PersistentVolumeClaim"
        self._world.cluster.until(what, kind, of.namespace, lambda claims: not claims, GONE_WITHIN_S, labels)

    # ---- results

    def its_windows_are_there_by_rest(self, of: Job) -> None:
        """The Service tells each closed window of every device, with the right values."""
        expected = of.sender.expected_windows()
        found: list[Row] = []
        for key in sorted({key for key, _ in expected}):
            path = f"/v1/keys/{key}/windows?window={WINDOW}&limit=1000"
            found += [{"key": key, **row} for row in self._asked(of, path)["items"]]
        wrong = reference.differences(expected, found, EXACT)
        assert not wrong, wrong[:5]

    def its_statistics_count_all(self, of: Job) -> None:
        """Each device's statistics have counted every event that was acknowledged, once."""
        counts = Counter(row["device"] for row in of.sender.rows)
        for key, count in sorted(counts.items()):
            stats = self._asked(of, f"/v1/keys/{key}/stats")
            assert _count_of(stats, "x") == count, f"{key}: {stats}, {count} expected"

    def each_window_was_written_once(self, of: Job) -> None:
        """The files of the sink `windows` have each closed window exactly once, with the right values.

        Closes the windows first; every event has to be acknowledged by then.
        """
        of.sender.close_windows()
        expected = of.sender.expected_windows()
        found = self._written(of, "windows", len(expected))
        wrong = reference.differences(expected, found, EXACT)
        assert not wrong, f"{len(wrong)} of {len(expected)}: {wrong[:5]}"

    def each_event_was_written_once(self, of: Job) -> list[Row]:
        """The files of the sink `events` have each acknowledged event exactly once. Gives their rows."""
        expected = Counter(row["id"] for row in of.sender.rows)
        rows = self._written(of, "events", len(expected))
        found = Counter(str(row["id"]) for row in rows)
        assert found == expected, f"missing {list(expected - found)[:5]}, too many {list(found - expected)[:5]}"
        return rows

    def nothing_was_repeated(self, of: Job) -> None:
        """Windows and events stand in the files exactly once, and the statistics count them all."""
        self.each_window_was_written_once(of)
        self.each_event_was_written_once(of)
        self.its_statistics_count_all(of)

    def _asked(self, of: Job, path: str) -> Row:
        def answer() -> Row | None:
            status, body = self._world.client.request("GET", of.url + path)
            return dict(json.loads(body)) if status == 200 else None

        return wait_until(f"{path} of {of.name}", answer, VISIBLE_WITHIN_S)

    def its_files_have(self, of: Job, pattern: str, rows: int, within_s: float = VISIBLE_WITHIN_S) -> list[Row]:
        """The rows in files of its pod, once they are at least so many."""
        script = f'for part in {pattern}; do [ -e "$part" ] && cat "$part"; done; true'
        last = 0

        def look() -> list[Row] | None:
            nonlocal last
            done = run(["kubectl", "-n", of.namespace, "exec", of.pod, "--", "sh", "-c", script])
            found = [json.loads(line) for line in done.stdout.splitlines()] if done.code == 0 else []
            last = len(found)
            return found if len(found) >= rows else None

        try:
            return wait_until(f"{rows} rows in {pattern}", look, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last} rows") from None

    def _written(self, of: Job, sink: str, rows: int) -> list[Row]:
        return self.its_files_have(of, f"{OUTPUT}/{sink}/part-*", rows)


def _count_of(stats: Row, column: str) -> int:
    return int(stats["fields"][column]["count"])
