"""An operator as a process, engines that speak the control contract, and a kubelet that only says what pods do."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from apiserver.server import Server, free_port
from streamjob_operator import names
from unit.jobs import job

T = TypeVar("T")
WAIT_S = 20.0
_POLL_S = 0.05


def until(what: str, ask: Callable[[], T | None], limit_s: float = WAIT_S) -> T:
    """Asks until there is an answer that counts; the API server is seen by asking alone."""
    end = time.monotonic() + limit_s
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(_POLL_S)


@dataclass
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    health_port: int
    log: Path

    def metrics(self) -> dict[str, float]:
        text = _get(f"http://127.0.0.1:{self.metrics_port}/metrics")[1]
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def calls(self) -> dict[str, float]:
        """Requests by kind and verb, but for the Lease's."""
        found = {name: value for name, value in self.metrics().items() if "api_calls_total" in name}
        return {name: value for name, value in found.items() if "Lease" not in name}

    def healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return _get(f"http://127.0.0.1:{self.health_port}/healthz")[0] == 200
        return False

    def leads(self) -> bool:
        with contextlib.suppress(OSError):
            return self.metrics().get("streamjob_operator_leader") == 1.0
        return False


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextlib.contextmanager
def operator(server: Server, namespace: str, folder: Path, **flags: str) -> Iterator[Operator]:
    """An operator that looks after one namespace; ended at the end, whatever it does."""
    metrics_port, health_port = free_port(), free_port()
    given = {
        "namespaces": namespace,
        "lease-namespace": namespace,
        "metrics-port": str(metrics_port),
        "health-port": str(health_port),
        "engine-image": "engine:1",
        **{name.replace("_", "-"): value for name, value in flags.items()},
    }
    kubeconfig = given.pop("kubeconfig", str(server.kubeconfig))
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    log = folder / f"operator-{metrics_port}.log"
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    command = [sys.executable, "-m", "streamjob_operator", "run", *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stderr=stream, stdout=stream)
    try:
        yield Operator(process, metrics_port, health_port, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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


@dataclass
class Engine:
    """An engine's control interface, as its contract says."""

    port: int
    tokens: list[str] = field(default_factory=list)
    checkpoints: int = 0
    status: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """A control interface on loopback."""
    known = Engine(free_port())
    known.status = {
        "name": "telemetry",
        "version": "0.1.0",
        "phase": "running",
        "started_at": "2030-01-01T00:00:00Z",
        "shards": 8,
        "received": 10,
        "applied": 10,
        "queue_rows": 0,
        "rate_events_per_s": 12.4,
        "watermark": "2030-01-01T00:00:00Z",
        "event_time_lag_s": 0.5,
        "last_checkpoint": {"number": 7, "completed_at": "2030-01-01T00:00:00Z", "duration_s": 0.01},
        "udfs": [{"name": "z", "version": "0123456789ab"}],
        "disk_full": False,
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, code: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def allowed(self) -> bool:
            found = re.fullmatch(r"Bearer (\S{20,})", self.headers.get("Authorization", ""))
            if found is None:
                self.answer(401, {"error": "a token is needed"})
                return False
            known.tokens.append(found[1])
            return True

        def do_GET(self) -> None:
            if self.path != "/v1/control/status":
                self.answer(404, {})
            elif self.allowed():
                self.answer(200, known.status)

        def do_POST(self) -> None:
            if self.path != "/v1/control/checkpoint":
                self.answer(404, {})
            elif self.allowed():
                known.checkpoints += 1
                self.answer(200, {"number": known.checkpoints, "duration_s": 0.012})

    with http.server.ThreadingHTTPServer(("127.0.0.1", known.port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()
