"""The StatefulSet of a job: its pod, its volume, how it starts and stops."""

from __future__ import annotations

import json

from streamjob.units import format_size

from streamjob_operator import names
from streamjob_operator.builders.base import Inputs, Manifest, child
from streamjob_operator.builders.config import job_config, udf_config
from streamjob_operator.diff import digest
from streamjob_operator.merge import merge
from streamjob_operator.placement import wanted_pods

GRACE_SECONDS = 60
"""What a pod gets to commit and stop."""
STARTUP_PERIOD_SECONDS = 1
"""A pod serves so much later, at most, than it could; clients wait for it meanwhile."""
STARTUP_CHECKS = 1800
"""Half an hour in which a pod may recover its state."""
_OVERHEAD_BYTES = 256 * 2**20
_HASH = 32


def stateful_set(inputs: Inputs) -> Manifest:
    """The StatefulSet."""
    spec = {
        "serviceName": names.nodes_service(inputs.name),
        "replicas": wanted_pods(inputs.spec),
        "podManagementPolicy": "Parallel",
        # Said, though it is the default: what an older template names may go because no pod is made of one.
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": names.selector(inputs.name)},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "template": pod_template(inputs),
        "volumeClaimTemplates": [_claim(inputs)],
    }
    return child(inputs, "apps/v1", "StatefulSet", inputs.name, spec=spec)


def key_text(config: str) -> str:
    """The key of a normalised job as one text, for the claim's annotation."""
    return json.dumps(json.loads(config)["schema"]["key"], sort_keys=True, separators=(",", ":"))


def _claim(inputs: Inputs) -> Manifest:
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": format_size(inputs.size)}},
    }
    if inputs.spec.storage.storage_class_name is not None:
        spec["storageClassName"] = inputs.spec.storage.storage_class_name
    annotations = {names.SHARDS: str(inputs.spec.shards), names.KEY: key_text(inputs.valid.config)}
    metadata = {"name": names.CLAIM, "labels": names.labels(inputs.name), "annotations": annotations}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def pod_template(inputs: Inputs) -> Manifest:
    """The pod, with the job's podTemplate merged in. What makes it ours stays: labels and hashes."""
    hashes = {name: digest(text)[:_HASH] for name, text in inputs.valid.udfs.items()}
    annotations = {
        names.JOB_HASH: digest(inputs.valid.config)[:_HASH],
        names.UDF_HASHES: json.dumps(hashes, sort_keys=True, separators=(",", ":")),
        names.TOKEN_SECRET: names.control_secret(inputs.name),
    }
    if inputs.restart is not None:
        annotations[names.RESTART] = inputs.restart
    own = {"metadata": {"labels": names.labels(inputs.name), "annotations": annotations}, "spec": _pod(inputs)}
    template = inputs.spec.pod_template
    added = {"labels": dict(template.metadata.labels), "annotations": dict(template.metadata.annotations)}
    merged: Manifest = {
        "metadata": {kind: {**added[kind], **values} for kind, values in own["metadata"].items()},
        "spec": merge(own["spec"], template.spec),
    }
    return merged


def _pod(inputs: Inputs) -> Manifest:
    selector = {"matchLabels": names.selector(inputs.name)}
    return {
        "serviceAccountName": inputs.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.USER,
            "runAsGroup": names.USER,
            "fsGroup": names.USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
        "containers": [_container(inputs)],
        "volumes": [
            {"name": names.JOB_VOLUME, "configMap": {"name": job_config(inputs)["metadata"]["name"]}},
            {"name": "udfs", "configMap": {"name": udf_config(inputs)["metadata"]["name"]}},
            {"name": "control", "secret": {"secretName": names.control_secret(inputs.name)}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _container(inputs: Inputs) -> Manifest:
    command = ["streamjob", "engine", "--job", f"{names.JOB_DIR}/{names.JOB_KEY}", "--udfs", names.UDF_DIR]
    command += ["--state-dir", names.STATE_DIR, "--listen", f"{inputs.listen}:{names.PORT}"]
    mounts = ((names.CLAIM, names.STATE_MOUNT), ("tmp", "/tmp"))  # noqa: S108 - the pod's own
    secured = ((names.JOB_VOLUME, names.JOB_DIR), ("udfs", names.UDF_DIR), ("control", names.CONTROL_DIR))
    container = {
        "name": names.CONTAINER,
        "image": inputs.image,
        "command": command,
        "env": [
            {"name": "STREAMJOB_CONTROL_TOKEN_FILE", "value": f"{names.CONTROL_DIR}/{names.TOKEN_KEY}"},
            {"name": "STREAMJOB_LOG_FORMAT", "value": "json"},
        ],
        "ports": [{"name": "http", "containerPort": names.PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "100m", "memory": format_size(inputs.spec.state.memory + _OVERHEAD_BYTES)},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # Why it ended is in the pod's status then, for whoever may not read logs: the operator cites it.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts]
        + [{"name": name, "mountPath": path, "readOnly": True} for name, path in secured],
        **_life(),
    }
    if inputs.spec.image_pull_policy is not None:
        container["imagePullPolicy"] = inputs.spec.image_pull_policy
    return container


def _life() -> Manifest:
    """Real readiness: shards are open and rows are taken. A pod that goes has committed before it is told to stop."""
    ready = {"httpGet": {"path": "/readyz", "port": "http"}}
    startup = {"periodSeconds": STARTUP_PERIOD_SECONDS, "failureThreshold": STARTUP_CHECKS}
    return {
        "startupProbe": {**ready, **startup, "timeoutSeconds": 3},
        "readinessProbe": {**ready, "periodSeconds": 5, "failureThreshold": 2, "timeoutSeconds": 3},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "failureThreshold": 6,
            "timeoutSeconds": 5,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["streamjob", "control", "checkpoint"]}}},
    }
