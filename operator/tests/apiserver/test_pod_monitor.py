"""PodMonitors on an API server that has Prometheus' operator's own CustomResourceDefinition of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiserver.running import Space
from kubeharness.manifests import apply_manifests
from kubeharness.process import operator, until
from kubeharness.server import Server, running
from streamjob_operator import names

VARIABLE = "STREAMJOB_MONITORING_CRDS"
"""The folder example/prometheus-operator-crd of its sources."""
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAMESPACE = "shop"
MONITORS = f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/podmonitors"


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip(f"{VARIABLE} names no folder with the CustomResourceDefinitions of Prometheus' operator")
    text = (Path(folder) / "monitoring.coreos.com_podmonitors.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="module")
def monitored(crd: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own: with PodMonitors all jobs of a server have one."""
    with running(tmp_path_factory.mktemp("monitors")) as server:
        apply_manifests(server)
        assert server.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})[0] == 201
        status, answer = server.call("POST", CRDS, crd)
        assert status == 201, answer.get("message")
        until("PodMonitors are served", lambda: server.call("GET", MONITORS)[0] == 200)
        yield server


def _monitor(server: Server) -> dict[str, Any] | None:
    status, answer = server.call("GET", f"{MONITORS}/telemetry")
    return answer if status == 200 else None


def test_a_job_has_a_pod_monitor_where_there_is_such_an_api(monitored: Server, tmp_path: Path) -> None:
    space = Space(monitored, NAMESPACE)
    with operator(monitored, NAMESPACE, tmp_path, resync_s="1") as found:
        until("leads", found.leads)
        space.run_job()
        made = until("the PodMonitor", lambda: _monitor(monitored))
        # What a schema does not know is pruned without a word: it must have known everything.
        assert made["spec"]["selector"] == {"matchLabels": names.selector("telemetry")}
        assert made["spec"]["podTargetLabels"] == [names.JOB_LABEL]
        assert made["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics"}]
        assert made["metadata"]["ownerReferences"][0]["name"] == "telemetry"
        assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {names.FIELD_MANAGER}
        monitored.call("DELETE", f"{MONITORS}/telemetry")
        until("another one", lambda: _monitor(monitored))
