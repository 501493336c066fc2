"""The chart's ServiceMonitor and PrometheusRule, on a real API server with the definitions of Prometheus' operator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chart_files import Render
from foreign_crds import Server, serving

VARIABLE = "STREAMJOB_MONITORING_CRDS"
"""The folder example/prometheus-operator-crd of its sources."""
FILE = "monitoring.coreos.com_{plural}.yaml"
GROUP = "/apis/monitoring.coreos.com/v1/namespaces/ops"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server that knows ServiceMonitors and PrometheusRules."""
    scratch, plurals = tmp_path_factory.mktemp("server"), ("servicemonitors", "prometheusrules")
    with serving(scratch, VARIABLE, "Prometheus' operator", FILE, GROUP, plurals) as server:
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
