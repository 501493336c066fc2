"""The chart's release: one a session, installed by helm as a user does it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cluster import Cluster, Object, TooLongError, run

CHART = Path(__file__).resolve().parents[1] / "charts" / "streamjob-operator"
NAME = "e2e"
NAMESPACE = "streamjob-e2e"
FULL_NAME = f"{NAME}-streamjob-operator"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{FULL_NAME}"
CRD = "streamjobs.streamjob.dev"
HELM_WITHIN_S = 300.0
LEADS_WITHIN_S = 60.0
"""A leader that was killed is followed after 15 s; the rest is for pods that start."""
OPERATOR_IMAGE = os.environ.get("STREAMJOB_E2E_OPERATOR_IMAGE", "streamjob-operator:e2e")
NEXT_ENGINE_IMAGE = os.environ.get("STREAMJOB_E2E_NEXT_ENGINE_IMAGE", "")
ENGINE_IMAGE = os.environ.get("STREAMJOB_E2E_ENGINE_IMAGE", "streamjob-engine:e2e")


def _image(image: str) -> Object:
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


@dataclass
class Release:
    """The operator as helm has installed it."""

    cluster: Cluster
    values: Object = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    """What operators that were killed have logged."""

    def helm(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs helm on the release's namespace, which must succeed."""
        done = run(["helm", "--namespace", NAMESPACE, *arguments], stdin, HELM_WITHIN_S)
        assert done.code == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def install(self) -> None:
        """Installs the chart and waits until its pods serve."""
        # Facts of engines every second, so that nobody here waits for them.
        facts = {"extraArgs": ["--facts-s", "1"]}
        self.values = {"image": _image(OPERATOR_IMAGE), "engine": {"image": _image(ENGINE_IMAGE)}, "operator": facts}
        self.upgrade("--install", "--create-namespace")

    def upgrade(self, *arguments: str, chart: Path = CHART) -> None:
        """`helm upgrade --wait` with the release's values."""
        words = ("upgrade", NAME, str(chart), "--wait", "--timeout", "180s", "-f", "-", *arguments)
        try:
            self.helm(*words, stdin=json.dumps(self.values))
        except (AssertionError, TooLongError):
            print(self.cluster.kubectl("-n", NAMESPACE, "describe", "pods"))
            raise

    def name_another_engine_image(self) -> None:
        """Calls the default image of engines otherwise: by its full name, or as the variable says."""
        repository = self.values["engine"]["image"]["repository"]
        if not NEXT_ENGINE_IMAGE and "/" in repository:
            pytest.skip("STREAMJOB_E2E_NEXT_ENGINE_IMAGE names no other image of the engine")
        self.values["engine"] = {"image": _image(NEXT_ENGINE_IMAGE or f"docker.io/library/{ENGINE_IMAGE}")}

    def test(self) -> str:
        """`helm test`; gives what it printed."""
        return self.helm("test", NAME, "--timeout", "240s")

    def uninstall(self) -> None:
        """Takes away all that the installation made, also the CRD, which helm keeps."""
        if not absent(self.cluster):
            self.cluster.kubectl("delete", "streamjobs", "-A", "--all", "--timeout=90s", within_s=120)
        self.helm("uninstall", NAME, "--ignore-not-found", "--wait", "--timeout", "60s")
        for kind in ("crd", "validatingadmissionpolicy", "validatingadmissionpolicybinding"):
            self.cluster.kubectl("delete", kind, "-l", f"app.kubernetes.io/instance={NAME}", "--ignore-not-found")
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", "--ignore-not-found")

    def pods(self) -> dict[str, Object]:
        """The operator's pods by name, those on their way out left aside."""
        found = self.cluster.objects("Pod", NAMESPACE, "app.kubernetes.io/name=streamjob-operator")
        return {name: pod for name, pod in found.items() if "deletionTimestamp" not in pod["metadata"]}

    def leader(self) -> str:
        """The name of the pod that leads."""

        def holder(leases: dict[str, Object]) -> str | None:
            name = str(leases.get(FULL_NAME, {}).get("spec", {}).get("holderIdentity") or "")
            return name if name in self.pods() else None

        return self.cluster.until("a leading operator", "Lease", NAMESPACE, holder, LEADS_WITHIN_S)

    def kill(self, pod: str) -> None:
        """Ends an operator without a word: by SIGKILL where the node is at hand, then by force through the API.

        A new pod comes for it. Containers that are killed again and again are started later each time, and then no
        replica is left to take over.
        """
        self.ended.append(self._log(pod))
        if self.cluster.kind is not None:
            kill_container(self.pods()[pod]["spec"]["nodeName"], NAMESPACE, pod, "operator")
        self.cluster.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")

    def _log(self, pod: str, *more: str) -> str:
        return run(["kubectl", "-n", NAMESPACE, "logs", pod, *more]).stdout

    def complaints(self) -> list[str]:
        """Lines of the operators' logs, also of containers that have ended, that tell of missing rights."""

        def complains(line: str) -> bool:
            # In a namespace that is on its way out nobody may make anything.
            return "is forbidden" in line and "being terminated" not in line

        logs = [self._log(pod, *more) for pod in self.pods() for more in ((), ("--previous",))]
        return [line for log in (*self.ended, *logs) for line in log.splitlines() if complains(line)]


def kill_container(node: str, namespace: str, pod: str, container: str) -> None:
    """SIGKILL for the first process of a container, on a node that is a container of docker's itself."""
    # By containerd's own client, which every image of kind's nodes has: kind itself loads images by it.
    labels = {"pod.namespace": namespace, "pod.name": pod, "container.name": container}
    wanted = ",".join(f'labels."io.kubernetes.{label}"=={value}' for label, value in labels.items())
    known = _on(node, "ctr", "-n", "k8s.io", "containers", "ls", "-q", wanted).split()
    running = set(_on(node, "ctr", "-n", "k8s.io", "tasks", "ls", "-q").split())
    found = [each for each in known if each in running]
    assert found, f"no container {container} of {pod} runs on {node}"
    _on(node, "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", found[0])


def _on(node: str, *command: str) -> str:
    done = run(["docker", "exec", node, *command])
    assert done.code == 0, f"{' '.join(command)} on {node}: {done.stderr}"
    return done.stdout


def absent(cluster: Cluster) -> bool:
    """Whether nobody has installed StreamJobs in this cluster."""
    return not cluster.kubectl("get", "crd", CRD, "--ignore-not-found", "-o", "name").strip()
