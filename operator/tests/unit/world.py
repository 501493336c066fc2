"""A small model of a cluster: an API server that stores, a StatefulSet controller, a kubelet, a garbage collector.

Each knows only the rules that the operator relies on. `settle` runs the operator and all of them until nothing changes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from streamjob_operator import names
from streamjob_operator.conditions import time_text
from streamjob_operator.decide import (
    Action,
    Apply,
    AskCheckpoint,
    Choices,
    Decision,
    Delete,
    Discard,
    Emit,
    ResizeClaim,
    Scale,
    SetFinalizer,
    Try,
    decide,
    worth_writing,
)
from streamjob_operator.decide.changes import REFUSED
from streamjob_operator.decide.status import invalid_status
from streamjob_operator.diff import digest
from streamjob_operator.observed import Cluster, EngineFacts, Object, Observed, is_terminating
from unit.jobs import NOW, job

MAX_ROUNDS = 40
CHOICES = Choices("engine:1", "token")
KINDS_OF_CHILDREN = (
    "StatefulSet",
    "Service",
    "ConfigMap",
    "Secret",
    "ServiceAccount",
    "PodDisruptionBudget",
    "NetworkPolicy",
)


def configs_of(spec: Object) -> list[str]:
    """The ConfigMaps that a pod mounts."""
    return [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]


@dataclass
class World:
    """One job and its namespace."""

    job: Object | None = field(default_factory=job)
    things: dict[tuple[str, str], Object] = field(default_factory=dict)
    now: datetime = NOW
    actions: list[Action] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    broken_images: set[str] = field(default_factory=set)
    volumes_grow: bool = True
    hung: set[tuple[str, str]] = field(default_factory=set)
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    refuses_sets: bool = False
    """An admission plugin or a quota refuses every change of a StatefulSet."""
    tampered: bool = False
    """Somebody has put other content under the name of a ConfigMap of ours."""
    tolerated: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    facts: EngineFacts | None = None
    seen: Object | None = None
    """The StatefulSet as its controller last saw it."""
    _versions: int = 100

    def version(self) -> str:
        self._versions += 1
        return str(self._versions)

    def of(self, kind: str) -> list[Object]:
        return [thing for (known, _), thing in sorted(self.things.items()) if known == kind]

    def observe(self) -> Observed:
        assert self.job is not None
        rest = {ref: thing for ref, thing in self.things.items() if ref[0] not in ("Pod", "PersistentVolumeClaim")}
        return Observed(
            job=copy.deepcopy(self.job),
            now=self.now,
            children=copy.deepcopy(rest),
            pods=tuple(copy.deepcopy(self.of("Pod"))),
            claims=tuple(copy.deepcopy(self.of("PersistentVolumeClaim"))),
            config_maps=self.config_maps,
            cluster=Cluster(storage_classes={"fast": self.volumes_grow}, default_storage_class=True),
            engine=self.facts,
            tolerated=dict(self.tolerated),
        )

    # ------------------------------------------------------------------------------------------------- the operator

    def look(self) -> Decision | None:
        """One look of the operator, carried out."""
        if self.job is None:
            return None
        decision = decide(self.observe(), CHOICES)
        for action in decision.actions:
            changes = isinstance(action, (Apply, Try)) and action.manifest["kind"] == "StatefulSet"
            changes = changes or isinstance(action, Scale)
            if self.refuses_sets and changes:
                self.refused(Observed(self.job, self.now))
                return decision
            self.carry_out(action)
        if self.job is None or decision.status is None:
            return decision
        if worth_writing(self.job.get("status", {}), decision.status, None, self.now):
            self.job["status"] = copy.deepcopy(decision.status)
        return decision

    def refused(self, observed: Observed) -> None:
        """What the operator then says."""
        assert self.job is not None
        self.job["status"] = invalid_status(observed, REFUSED, "the API server refuses it: no")

    def carry_out(self, action: Action) -> None:
        self.actions.append(action)
        if isinstance(action, Apply):
            self.store(action.manifest)
        elif isinstance(action, Delete):
            self.delete(action.kind, action.name, action.uid, orphan=action.propagation == "Orphan")
        elif isinstance(action, Discard):
            assert action.name not in self.mentioned(), "somebody still reads it"
            self.delete(action.kind, action.name, action.uid)
        elif isinstance(action, Scale):
            found = self.things["StatefulSet", action.name]
            assert found["metadata"]["uid"] == action.uid
            found["spec"]["replicas"] = action.replicas
            found["metadata"]["generation"] += 1
        elif isinstance(action, ResizeClaim):
            claim = self.things["PersistentVolumeClaim", action.name]
            claim["spec"]["resources"]["requests"]["storage"] = action.size
        elif isinstance(action, Try):
            # The model's API server keeps everything as it is sent.
            self.tolerated[action.manifest["kind"], action.manifest["metadata"]["name"]] = frozenset()
        elif isinstance(action, SetFinalizer):
            self.finalizer(action.present)
        else:
            assert isinstance(action, (AskCheckpoint, Emit))

    def mentioned(self) -> set[str]:
        """The ConfigMaps that the StatefulSet and the pods name."""
        templates = [one["spec"]["template"]["spec"] for one in self.of("StatefulSet")]
        return {name for spec in (*templates, *(pod["spec"] for pod in self.of("Pod"))) for name in configs_of(spec)}

    def finalizer(self, present: bool) -> None:
        assert self.job is not None
        metadata = self.job["metadata"]
        left = [name for name in metadata.get("finalizers", ()) if name != names.FINALIZER]
        metadata["finalizers"] = [*left, names.FINALIZER] if present else left
        if not metadata["finalizers"] and "deletionTimestamp" in metadata:
            self.job = None

    def store(self, manifest: Object) -> None:
        """Server-side apply: what the manifest names is set, what the API server fills in stays."""
        ref = (manifest["kind"], manifest["metadata"]["name"])
        old = self.things.get(ref)
        new = copy.deepcopy(manifest)
        new["metadata"]["resourceVersion"] = self.version()
        if old is None:
            new["metadata"] |= {
                "uid": f"uid-{self.version()}",
                "creationTimestamp": time_text(self.now),
                "generation": 1,
            }
            new["status"] = {}
        else:
            if old.get("immutable"):
                assert new.get("data") == old.get("data"), "the API server refuses this"
            kept = {key: old["metadata"][key] for key in ("uid", "creationTimestamp", "generation")}
            new["metadata"] |= kept
            new["status"] = old.get("status", {})
            if ref[0] == "StatefulSet":
                for fixed in ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates"):
                    assert new["spec"][fixed] == old["spec"][fixed], "the API server refuses this"
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] += 1
        new.setdefault("spec", {})["filledIn"] = True
        self.things[ref] = new

    def delete(self, kind: str, name: str, uid: str, *, orphan: bool = False) -> None:
        ref = (kind, name)
        thing = self.things.get(ref)
        if thing is None or thing["metadata"]["uid"] != uid:
            return
        if kind in ("Pod", "PersistentVolumeClaim"):
            thing["metadata"].setdefault("deletionTimestamp", time_text(self.now))
            return
        self.removed.append(ref)
        del self.things[ref]
        if kind == "StatefulSet" and not orphan:
            for pod in self.of("Pod"):
                pod["metadata"].setdefault("deletionTimestamp", time_text(self.now))

    # ------------------------------------------------------------------------------------------------ its neighbours

    def neighbours(self) -> None:
        """Each of the cluster's own controllers once."""
        self.now += timedelta(seconds=20)
        self.kubelet()
        self.stateful_set_controller()
        if self.job is None:
            for ref in [ref for ref in self.things if ref[0] in KINDS_OF_CHILDREN]:
                self.removed.append(ref)
                del self.things[ref]

    def kubelet(self) -> None:
        for kind in ("Pod", "PersistentVolumeClaim"):
            for thing in self.of(kind):
                ref = (kind, thing["metadata"]["name"])
                used = kind == "PersistentVolumeClaim" and self.of("Pod")
                if is_terminating(thing) and ref not in self.hung and not used:
                    self.removed.append(ref)
                    del self.things[ref]
        for pod in self.of("Pod"):
            image = next(c["image"] for c in pod["spec"]["containers"] if c["name"] == "engine")
            mounted = self.mount(pod)
            ready = mounted and image not in self.broken_images and not is_terminating(pod)
            waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
            container = {"name": "engine", "image": image, "state": {} if ready else waiting}
            conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
            pod["status"] = {"conditions": conditions, "containerStatuses": [container]}
        for claim in self.of("PersistentVolumeClaim"):
            asked = claim["spec"]["resources"]["requests"]["storage"]
            claim["status"] = {"phase": "Bound", "capacity": {"storage": asked}}

    def mount(self, pod: Object) -> bool:
        """Whether all that a pod reads is there; it is always what its template was made for."""
        found = [self.things.get(("ConfigMap", name)) for name in configs_of(pod["spec"])]
        if not all(found):
            return False
        texts = [one["data"][names.JOB_KEY] for one in found if one is not None and names.JOB_KEY in one["data"]]
        wanted = pod["metadata"]["annotations"][names.JOB_HASH]
        assert self.tampered or [digest(text)[: len(wanted)] for text in texts] == [wanted], "another job than its own"
        return True

    def stateful_set_controller(self) -> None:
        found = self.of("StatefulSet")
        if not found:
            return
        stateful_set = found[0]
        self.seen = copy.deepcopy(stateful_set)
        name, template = stateful_set["metadata"]["name"], stateful_set["spec"]["template"]
        update = f"{name}-{digest(template)[:8]}"
        stateful_set["status"] = {
            "observedGeneration": stateful_set["metadata"]["generation"],
            "updateRevision": update,
        }
        self.seen["status"] = stateful_set["status"]
        pod_name, claim_name = names.pod(name, 0), names.claim(name, 0)
        pod = self.things.get(("Pod", pod_name))
        if not stateful_set["spec"]["replicas"]:
            if pod is not None:
                pod["metadata"].setdefault("deletionTimestamp", time_text(self.now))
        elif pod is None:
            self.make_pod(stateful_set, update, pod_name, claim_name)
        elif pod["metadata"]["labels"].get(names.REVISION) != update and self.is_ready(pod):
            pod["metadata"].setdefault("deletionTimestamp", time_text(self.now))  # a broken one is left, as it can be

    def make_pod_of_an_older_template(self) -> None:
        """The StatefulSet's controller has not seen yet that it has changed."""
        if self.seen is not None and self.seen["spec"]["replicas"] and ("Pod", "telemetry-0") not in self.things:
            revision = self.seen["status"]["updateRevision"]
            self.make_pod(self.seen, revision, "telemetry-0", names.claim("telemetry", 0))

    def is_ready(self, pod: Object) -> bool:
        return any(c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))

    def make_pod(self, stateful_set: Object, update: str, name: str, claim: str) -> None:
        if ("PersistentVolumeClaim", claim) not in self.things:
            made = copy.deepcopy(stateful_set["spec"]["volumeClaimTemplates"][0])
            made["metadata"] |= {"name": claim, "namespace": "shop", "uid": f"uid-{self.version()}"}
            made["spec"].setdefault("storageClassName", "fast")
            self.things["PersistentVolumeClaim", claim] = made
        template = copy.deepcopy(stateful_set["spec"]["template"])
        metadata: dict[str, Any] = {**template["metadata"], "name": name, "namespace": "shop"}
        metadata["labels"] = {**metadata["labels"], names.REVISION: update}
        metadata |= {"uid": f"uid-{self.version()}", "creationTimestamp": time_text(self.now)}
        self.things["Pod", name] = {"kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": {}}

    def settle(self) -> Decision | None:
        """Runs all until nothing changes; fails where that does not come."""
        for _ in range(MAX_ROUNDS):
            before = self.picture()
            done, looked = len(self.actions), self.now
            decision = self.look()
            self.neighbours()
            if len(self.actions) == done and self.picture() == before:
                wake = decision.wake if decision is not None else None
                if wake is None or wake <= looked:
                    return decision
                self.now = max(self.now, wake)  # nothing changes until then
        raise AssertionError(f"does not settle: {self.actions[-6:]}")

    def picture(self) -> str:
        """All objects, without the times of operations."""
        return digest([self.job, sorted((list(ref), thing) for ref, thing in self.things.items())])
