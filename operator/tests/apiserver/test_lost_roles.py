"""A listed namespace that loses its roles, as one that is deleted does first, with a job that has not gone yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiserver.network import Line, cut_line
from apiserver.running import Space
from kubeharness.process import Operator, operator, until
from kubeharness.rights import WITH_JOBS, Rights
from kubeharness.server import LIMITED, LIMITED_TOKEN, Server, kubeconfig

RBAC = "/apis/rbac.authorization.k8s.io/v1"
LEASES = "default"
"""The operator's own namespace, which stays."""
LAST_RIGHT: Rights = {("streamjob.dev", "streamjobs"): "patch"}
"""What the chart gives for the whole cluster."""
DEADLINE = "45s"
"""Longer than UNWATCHED_RETRY_S, within which a refusal is no loss yet."""


def _rules(rights: Rights) -> list[dict[str, Any]]:
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs.split()}
        for (group, resource), verbs in rights.items()
    ]


@contextlib.contextmanager
def _given(server: Server, name: str, rights: Rights, namespace: str | None) -> Iterator[str]:
    """Rights of the limited user, in a namespace or everywhere; gives where the binding is."""
    kind = "Role" if namespace is not None else "ClusterRole"
    root = f"{RBAC}/namespaces/{namespace}" if namespace is not None else RBAC
    role, bindings = f"{root}/{kind.lower()}s", f"{root}/{kind.lower()}bindings"
    metadata = {"name": name}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": LIMITED}
    assert server.call("POST", role, {"metadata": metadata, "rules": _rules(rights)})[0] == 201
    assert server.call("POST", bindings, {"metadata": metadata, "roleRef": ref, "subjects": [subject]})[0] == 201
    try:
        yield f"{bindings}/{name}"
    finally:
        server.call("DELETE", f"{bindings}/{name}")
        server.call("DELETE", f"{role}/{name}")


def _allowed(server: Server, namespace: str) -> bool:
    wanted = {"namespace": namespace, "verb": "list", "resource": "statefulsets", "group": "apps"}
    body = {"spec": {"user": LIMITED, "resourceAttributes": wanted}}
    answer = server.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)[1]
    return bool(answer["status"]["allowed"])


@pytest.fixture
def roles(server: Server, namespace: str) -> Iterator[str]:
    """Where the namespace's RoleBinding is."""
    leases: Rights = {("coordination.k8s.io", "leases"): "get create update"}
    with (
        _given(server, f"last-{namespace}", LAST_RIGHT, None),
        _given(server, f"lease-{namespace}", leases, LEASES),
        _given(server, "jobs", WITH_JOBS, namespace) as binding,
    ):
        until("the rights", lambda: _allowed(server, namespace))
        yield binding


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    with cut_line(server) as found:
        yield found


@pytest.fixture
def running(server: Server, namespace: str, roles: str, line: Line, tmp_path: Path) -> Iterator[Operator]:
    assert roles
    config = str(kubeconfig(tmp_path, line.url, LIMITED_TOKEN, "limited"))
    own = {"lease_namespace": LEASES, "lease_name": namespace}
    with operator(server, namespace, tmp_path, kubeconfig=config, **own) as found:
        until("leads", found.leads)
        yield found


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_a_job_that_outlasts_the_watches_of_its_namespace_is_let_go(
    server: Server, space: Space, roles: str, line: Line, running: Operator, policy: str
) -> None:
    space.run_job(deletionPolicy=policy, deletionDeadline=DEADLINE)
    assert server.call("DELETE", roles)[0] == 200
    until("no rights", lambda: not _allowed(server, space.name))
    space.delete("streamjobs", "telemetry")
    until("it is seen", lambda: b"statefulsets" in running.log.read_bytes())
    line.drop()
    until("watches are refused", lambda: running.metrics()["streamjob_operator_unwatched"] > 0)
    assert space.get("streamjobs", "telemetry") is not None
    until("let go", lambda: space.get("streamjobs", "telemetry") is None, limit_s=120)
    claim = space.get("persistentvolumeclaims", "state-telemetry-0")
    assert claim is not None
    assert "deletionTimestamp" not in claim["metadata"]
    assert running.process.poll() is None, "the other namespaces' jobs go on meanwhile"
    until("healthy", running.healthy)
