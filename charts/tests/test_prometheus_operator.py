"""The chart's ServiceMonitor and PrometheusRule, on a real API server with the definitions of Prometheus' operator."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from chart_files import ROOT, Render, program

sys.path.insert(0, str(ROOT / "operator" / "harness"))
from kubeharness.server import Server, missing, running

VARIABLE = "STREAMJOB_MONITORING_CRDS"
"""The folder example/prometheus-operator-crd of its sources."""
GROUP = "/apis/monitoring.coreos.com/v1/namespaces/ops"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVED_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server that knows ServiceMonitors and PrometheusRules."""
    program("helm")
    folder = os.environ.get(VARIABLE)
    if folder is None:
        pytest.skip(f"{VARIABLE} names no folder with the CustomResourceDefinitions of Prometheus' operator")
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("server")) as server:
        server.call("POST", "/api/v1/namespaces", {"metadata": {"name": "ops"}})
        for name in ("servicemonitors", "prometheusrules"):
            text = (Path(folder) / f"monitoring.coreos.com_{name}.yaml").read_text(encoding="utf-8")
            status, answer = server.call("POST", CRDS, yaml.safe_load(text))
            assert status == 201, answer.get("message")
            limit = time.monotonic() + SERVED_WITHIN_S
            while server.call("GET", f"{GROUP}/{name}")[0] != 200:
                assert time.monotonic() < limit, f"no {name} are served"
                time.sleep(0.1)
        yield server


def test_prometheus_operator_takes_the_chart_s_objects_with_all_their_members(server: Server, render: Render) -> None:
    enabled = {"enabled": True, "labels": {"release": "prometheus"}}
    made = render(values={"metrics": {"serviceMonitor": enabled, "prometheusRule": enabled}})
    theirs = [one for one in made if one["apiVersion"].startswith("monitoring.coreos.com/")]
    assert {one["kind"] for one in theirs} == {"ServiceMonitor", "PrometheusRule"}
    for one in theirs:
        strict = f"{GROUP}/{one['kind'].lower()}s?fieldValidation=Strict"
        status, answer = server.call("POST", strict, one)
        assert status == 201, answer
        assert {name: answer["spec"].get(name) for name in one["spec"]} == one["spec"]
