"""A namespace of the API server, and a kubelet that only says what its pods do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubeharness.process import until
from kubeharness.server import Server
from streamjob_operator import names
from unit.jobs import job


@dataclass
class Space:
    """A namespace of the API server."""

    server: Server
    name: str

    def path(self, plural: str, name: str = "") -> str:
        group = {
            "streamjobs": "/apis/streamjob.dev/v1alpha1",
            "statefulsets": "/apis/apps/v1",
            "poddisruptionbudgets": "/apis/policy/v1",
            "networkpolicies": "/apis/networking.k8s.io/v1",
            "leases": "/apis/coordination.k8s.io/v1",
        }.get(plural, "/api/v1")
        return f"{group}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        status, answer = self.server.call("GET", self.path(plural, name))
        return answer if status == 200 else None

    def list(self, plural: str) -> list[dict[str, Any]]:
        return self.server.call("GET", self.path(plural))[1]["items"]

    def create(self, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        status, answer = self.server.call("POST", self.path(plural), body)
        assert status == 201, answer
        return answer

    def patch(self, plural: str, name: str, patch: dict[str, Any], query: str = "") -> dict[str, Any]:
        place = self.path(plural, name) + query
        status, answer = self.server.call("PATCH", place, patch, "application/merge-patch+json")
        assert status == 200, answer
        return answer

    def delete(self, plural: str, name: str) -> None:
        status, answer = self.server.call("DELETE", self.path(plural, name))
        assert status in (200, 202), answer

    def apply_job(self, name: str = "telemetry", **spec: Any) -> dict[str, Any]:
        body = job(**spec)
        body["metadata"] = {"name": name}
        return self.create("streamjobs", body)

    def phase(self, name: str = "telemetry") -> str | None:
        found = self.get("streamjobs", name)
        return (found or {}).get("status", {}).get("phase")

    def condition(self, kind: str, name: str = "telemetry") -> dict[str, Any]:
        found = (self.get("streamjobs", name) or {}).get("status", {}).get("conditions", [])
        return next((condition for condition in found if condition["type"] == kind), {})

    def events(self, reason: str) -> list[str]:
        return [event["message"] for event in self.list("events") if event["reason"] == reason]

    def set_ready(self, pod: str, ready: bool = True, **status: Any) -> None:
        """What a kubelet would say of a pod."""
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        self.patch("pods", f"{pod}/status", {"status": {"phase": "Running", "conditions": conditions, **status}})

    def bind_claim(self, claim: str, size: str) -> None:
        """What a volume controller would say of a claim."""
        status = {"phase": "Bound", "capacity": {"storage": size}}
        self.patch("persistentvolumeclaims", f"{claim}/status", {"status": status})

    def rolled(self, old: dict[str, Any], job: str = "telemetry") -> dict[str, Any] | None:
        """The pod that has come in place of another, once it is of the newest template.

        The controller may make one more of the old template before it has seen the new one.
        """
        pod, stateful_set = self.get("pods", f"{job}-0"), self.get("statefulsets", job)
        if pod is None or stateful_set is None or pod["metadata"]["uid"] == old["metadata"]["uid"]:
            return None
        status, metadata = stateful_set.get("status", {}), stateful_set["metadata"]
        newest = status.get("observedGeneration") == metadata["generation"] and status.get("updateRevision")
        return pod if pod["metadata"]["labels"].get(names.REVISION) == newest else None

    def run_job(self, name: str = "telemetry", **spec: Any) -> None:
        """A job whose pod serves."""
        self.apply_job(name, **spec)
        until("the pod", lambda: self.get("pods", f"{name}-0"))
        self.set_ready(f"{name}-0")
        until("Running", lambda: self.phase(name) == "Running")
