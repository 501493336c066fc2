"""JSON Schema of pydantic as Kubernetes' structural schema.

A structural schema has one type at each place, no references and no `additionalProperties: false`: unknown members are
refused by the API server's strict validation or pruned.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from streamjob.units import DURATION_PATTERN, SIZE_PATTERN

Schema = dict[str, Any]

MAX_ITEMS = 64
"""Most sources, windows, UDFs, sinks: the cost of CEL rules is estimated from it."""
MAX_MEMBERS = 4096
"""Most members of a free mapping; as many as the engine reads fields."""
MAX_QUANTITY = 48
"""Longest text of a duration or size."""
_KEPT = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "minProperties")


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model by its YAML names, with descriptions and defaults."""
    document = model.model_json_schema(by_alias=True)
    return _node(document, document.get("$defs", {}))


def _node(node: Schema, definitions: Schema) -> Schema:
    own = {key: value for key, value in node.items() if key in ("description", "default")}
    target = _target(node, definitions)
    described = own.get("description") or target.get("description")
    result: Schema = {"description": " ".join(described.split())} if described else {}
    result |= _typed(target, definitions)
    default = own.get("default")
    if default is not None:
        result["default"] = _default(default, result)
    return result


def _target(node: Schema, definitions: Schema) -> Schema:
    """What a node is once its reference is followed and `null` is left out: an absent member says the same."""
    if "$ref" in node:
        target: Schema = definitions[node["$ref"].rpartition("/")[2]]
        return target
    real = [choice for choice in node.get("anyOf", []) if choice.get("type") != "null"]
    return _target(real[0], definitions) if len(real) == 1 else node


def _typed(node: Schema, definitions: Schema) -> Schema:
    if "anyOf" in node or node.get("x-kubernetes-preserve-unknown-fields"):
        kept = {"type": "object"} if node.get("type") == "object" else {}
        return {**kept, "x-kubernetes-preserve-unknown-fields": True}
    if "const" in node:
        return {"type": "string", "enum": [node["const"]]}
    if node.get("pattern") == DURATION_PATTERN:
        return {"type": "string", "maxLength": MAX_QUANTITY}
    if node.get("pattern") == SIZE_PATTERN:
        choices = [{"type": "integer"}, {"type": "string"}]
        return {"x-kubernetes-int-or-string": True, "anyOf": choices, "maxLength": MAX_QUANTITY}
    result = {key: node[key] for key in _KEPT if key in node}
    kind = node.get("type")
    if kind == "integer":
        result["format"] = "int64"
    elif kind == "number":
        result["format"] = "double"
    elif node.get("format") == "date-time":
        result["format"] = "date-time"
    elif kind == "array":
        result |= {"items": _node(node["items"], definitions), "maxItems": node.get("maxItems", MAX_ITEMS)}
    elif kind == "object":
        result |= _object(node, definitions)
    return result


def _object(node: Schema, definitions: Schema) -> Schema:
    if "properties" not in node:
        free = node.get("additionalProperties")
        if not free:
            free = next(iter(node.get("patternProperties", {}).values()), None)
        if not isinstance(free, dict):
            return {}
        return {
            "additionalProperties": _node(free, definitions),
            "maxProperties": node.get("maxProperties", MAX_MEMBERS),
        }
    result: Schema = {"properties": {name: _node(member, definitions) for name, member in node["properties"].items()}}
    if node.get("required"):
        result["required"] = list(node["required"])
    return result


def _default(default: Any, schema: Schema) -> Any:
    if schema.get("type") == "object" and isinstance(default, dict) and "properties" in schema:
        # In full: the API server holds a default against the rules as it stands.
        return {name: member["default"] for name, member in schema["properties"].items() if "default" in member}
    return default
