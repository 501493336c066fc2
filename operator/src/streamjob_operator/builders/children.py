"""All children of a job, in the order in which they are applied: what a pod needs comes before it."""

from __future__ import annotations

from streamjob_operator.builders.access import disruption_budget, pod_monitor, service_account
from streamjob_operator.builders.base import Inputs, Manifest
from streamjob_operator.builders.config import job_config, secret, udf_config
from streamjob_operator.builders.network import client_service, network_policy, nodes_service
from streamjob_operator.builders.statefulset import stateful_set
from streamjob_operator.diff import stamped

__all__ = ["Inputs", "children", "secret"]


def children(inputs: Inputs, token: str) -> list[Manifest]:
    """The manifests, each with its digest; `token` is the control token."""
    manifests = [
        service_account(inputs),
        secret(inputs, token),
        job_config(inputs),
        udf_config(inputs),
        network_policy(inputs),
        nodes_service(inputs),
        client_service(inputs),
        disruption_budget(inputs),
    ]
    if inputs.pod_monitors:
        manifests.append(pod_monitor(inputs))
    return [stamped(manifest) for manifest in (*manifests, stateful_set(inputs))]
