"""Who the pod is, how it may be disturbed and who looks at its metrics."""

from __future__ import annotations

from streamjob_operator import names
from streamjob_operator.builders.base import Inputs, Manifest, child


def service_account(inputs: Inputs) -> Manifest:
    """An account of its own, without access to the API."""
    return child(inputs, "v1", "ServiceAccount", inputs.name, automountServiceAccountToken=False)


def disruption_budget(inputs: Inputs) -> Manifest:
    """One pod at a time: a drain is allowed, since a pod commits before it goes."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": names.selector(inputs.name)}}
    return child(inputs, "policy/v1", "PodDisruptionBudget", inputs.name, spec=spec)


def pod_monitor(inputs: Inputs) -> Manifest:
    """How Prometheus' operator finds the metrics."""
    spec = {
        "selector": {"matchLabels": names.selector(inputs.name)},
        # A label of the series by which the dashboard and the alerts tell jobs apart.
        "podTargetLabels": [names.JOB_LABEL],
        "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}],
    }
    return child(inputs, "monitoring.coreos.com/v1", "PodMonitor", inputs.name, spec=spec)
