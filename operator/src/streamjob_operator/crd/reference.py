"""The reference of the status and of the settings, as tables for the documents, from the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamjob_operator.crd.schema import structural
from streamjob_operator.crd.status import JobStatus

BEGIN, END = "<!-- generated -->", "<!-- end of generated -->"


def _members(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, member in schema.get("properties", {}).items():
        inner = f"{path}.{name}"
        items = member.get("items", {})
        yield inner + ("[]" if items else ""), member
        yield from _members(items or member, inner + ("[]" if items else ""))


def _type(member: dict[str, Any]) -> str:
    if "enum" in member:
        return ", ".join(f"`{value}`" for value in member["enum"])
    if member.get("format") == "date-time":
        return "time"
    return {"string": "text", "array": "list", "object": "mapping"}.get(member["type"], str(member["type"]))


def status_table() -> str:
    """One row for each member of the status."""
    lines = ["| member | type | meaning |", "| --- | --- | --- |"]
    for path, member in _members(structural(JobStatus), "status"):
        lines.append(f"| `{path}` | {_type(member)} | {member.get('description', '')} |")
    return "\n".join(lines)


def render(text: str) -> str:
    """A document with its generated part made anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{status_table()}\n\n{END}{after}"
