"""The manifests that a cluster needs before its first StreamJob."""

from __future__ import annotations

from typing import Any

import yaml
from streamjob.models import JobSpec

from streamjob_operator.crd.rules import decorate
from streamjob_operator.crd.schema import Schema, structural
from streamjob_operator.crd.status import JobStatus
from streamjob_operator.names import GROUP, KIND, PLURAL, VERSION

HEADER = "# Generated from the models by `make manifests`. Do not edit.\n"

_COLUMNS = (
    ("Phase", "string", ".status.phase", "The state in one word"),
    ("Replicas", "integer", ".status.readyReplicas", "Pods that serve"),
    ("UDF", "string", ".status.engine.udfVersion", "Hashes of the running UDFs' code"),
    ("Lag", "integer", ".status.engine.lagRows", "Rows received and not applied yet"),
    ("Rate", "integer", ".status.engine.rate", "Events a second"),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the job was created"),
)


def open_api_schema() -> Schema:
    """The schema of a whole StreamJob."""
    schema: Schema = {
        "description": "One streaming job.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this interface."},
            "kind": {"type": "string", "description": "The kind of object."},
            "metadata": {"type": "object"},
            "spec": structural(JobSpec),
            "status": structural(JobStatus),
        },
    }
    decorate(schema)
    conditions = schema["properties"]["status"]["properties"]["conditions"]
    conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return schema


def custom_resource_definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": open_api_schema()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": text} for name, kind, path, text in _COLUMNS
        ],
    }
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": ["sj"],
        "categories": ["all"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


def immutable_key_policy() -> list[dict[str, Any]]:
    """A policy and its binding: the key cannot be changed.

    A key is a text or a mapping. The rules of a CustomResourceDefinition see only members of one type; a policy's see
    all.
    """
    name = f"immutable-key.{PLURAL}.{GROUP}"
    message = "spec.schema.key cannot be changed: the state is spread by it; create another job instead"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [GROUP], "apiVersions": [VERSION], "resources": [PLURAL], "operations": ["UPDATE"]}
                ]
            },
            "validations": [{"expression": "object.spec.schema.key == oldObject.spec.schema.key", "message": message}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return [policy, binding]


class _Dumper(yaml.SafeDumper):
    """Block style without aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(documents: list[dict[str, Any]]) -> str:
    return HEADER + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def manifests() -> dict[str, str]:
    """The generated files by name."""
    return {
        "streamjobs.yaml": _text([custom_resource_definition()]),
        "streamjobs-policy.yaml": _text(immutable_key_policy()),
    }
