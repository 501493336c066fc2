"""The generated CustomResourceDefinition: what is checked in, and what Kubernetes demands of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamjob_operator.crd import custom_resource_definition, manifests
from streamjob_operator.crd.rules import BOUNDS, NAMED_LISTS, RULES

CRDS = Path(__file__).parents[3] / "crds"
MAX_BYTES = 256 * 1024
FORBIDDEN = {"$ref", "title", "const", "patternProperties", "propertyNames", "oneOf"}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        yield from nodes(member, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def version() -> dict[str, Any]:
    return custom_resource_definition()["spec"]["versions"][0]


SCHEMA = dict(nodes(version()["schema"]["openAPIV3Schema"]))


@pytest.mark.parametrize("name", sorted(manifests()))
def test_what_is_checked_in_is_what_the_models_say(name: str) -> None:
    assert (CRDS / name).read_text() == manifests()[name], "run `make manifests`"


def test_nothing_else_is_checked_in() -> None:
    assert {path.name for path in CRDS.iterdir()} == set(manifests())


def test_plain_apply_can_store_it() -> None:
    # `kubectl apply` keeps a copy in an annotation, and annotations end at 256 KB.
    assert len(manifests()["streamjobs.yaml"].encode()) < MAX_BYTES


@pytest.mark.parametrize("path", sorted(SCHEMA))
def test_it_is_structural(path: str) -> None:
    node = SCHEMA[path]
    assert not FORBIDDEN & node.keys()
    typed = "type" in node or node.get("x-kubernetes-int-or-string") or node.get("x-kubernetes-preserve-unknown-fields")
    assert typed
    assert node.get("additionalProperties") is not False
    if node.get("type") == "array":
        assert "maxItems" in node
    if "additionalProperties" in node:
        assert "maxProperties" in node


@pytest.mark.parametrize("path", sorted({*RULES, *BOUNDS, *NAMED_LISTS}))
def test_rules_and_bounds_are_of_members_that_exist(path: str) -> None:
    assert path in SCHEMA


@pytest.mark.parametrize("path", sorted(path for path in SCHEMA if path.startswith(("spec", "status"))))
def test_members_are_described(path: str) -> None:
    if not path.endswith(("[]", "{}")):
        assert SCHEMA[path].get("description")


def test_subresources_are_what_autoscalers_need() -> None:
    scale = version()["subresources"]["scale"]
    assert scale == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    for path in scale.values():
        assert path.removeprefix(".") in SCHEMA
    assert version()["subresources"]["status"] == {}


def test_columns_show_members_of_the_status() -> None:
    columns = {column["name"]: column["jsonPath"] for column in version()["additionalPrinterColumns"]}
    assert list(columns) == ["Phase", "Replicas", "UDF", "Lag", "Rate", "Age"]
    for path in columns.values():
        assert path.removeprefix(".") in SCHEMA or path == ".metadata.creationTimestamp"


def test_defaults_are_those_of_the_models() -> None:
    assert SCHEMA["spec.shards"]["default"] == 32
    assert SCHEMA["spec.deletionDeadline"]["default"] == "5m"
    assert SCHEMA["spec.storage"]["default"] == {"size": "10Gi"}
    assert SCHEMA["spec.storage.size"]["default"] == "10Gi"
    assert SCHEMA["spec.replicas"]["default"] == 1


def test_every_document_is_yaml_that_kubectl_reads() -> None:
    kinds = [document["kind"] for text in manifests().values() for document in yaml.safe_load_all(text)]
    assert sorted(kinds) == [
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]
