"""Writes the reference tables of docs/job.md from the models of the StreamJob, so that the two cannot differ.

    python docs/generate.py            writes docs/job.md anew
    python docs/generate.py --check    says whether it is as it would be written; exit code 1 if not

Only what stands between `<!-- generated -->` and `<!-- end of generated -->` is replaced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamjob.models import StreamJob
from streamjob.units import DURATION_PATTERN, SIZE_PATTERN

TARGET = Path(__file__).resolve().parent / "job.md"
BEGIN, END = "<!-- generated -->", "<!-- end of generated -->"
Schema = dict[str, Any]


def reference() -> str:
    """The reference: one table for each mapping of a StreamJob, in the order in which they are written."""
    schema = StreamJob.model_json_schema()
    definitions = schema["$defs"]
    lines: list[str] = []
    for path, definition in _mappings(schema, definitions, ""):
        lines += [f"### `{path or 'StreamJob'}`", "", definition["description"].replace("\n", " "), ""]
        members = definition.get("properties", {})
        if not members:
            lines += ["It has no members: write `{}`.", ""]
            continue
        required = definition.get("required", [])
        lines += ["| member | type | default | meaning |", "| --- | --- | --- | --- |"]
        for name, member in members.items():
            said = member.get("description") or _referred(member, definitions)
            text = " ".join(said.split())
            lines.append(f"| `{name}` | {_type(member)} | {_default(name, member, required)} | {_cell(text)} |")
        lines.append("")
    return "\n".join(lines)


def _mappings(schema: Schema, definitions: dict[str, Schema], path: str) -> Iterator[tuple[str, Schema]]:
    """Each mapping under its path; `[]` stands for an item of a list."""
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        for target, suffix in _targets(member):
            yield from _mappings(definitions[target], definitions, inner + suffix)


def _targets(member: Schema) -> Iterator[tuple[str, str]]:
    """The mappings that a member refers to, with what is added to its path."""
    if "$ref" in member:
        yield member["$ref"].rpartition("/")[2], ""
    for choice in member.get("anyOf", ()):
        yield from _targets(choice)
    if "$ref" in member.get("items", {}):
        yield member["items"]["$ref"].rpartition("/")[2], "[]"
    for value in member.get("patternProperties", {}).values():
        yield from ((target, f".NAME{suffix}") for target, suffix in _targets(value))


def _referred(member: Schema, definitions: dict[str, Schema]) -> str:
    """What a mapping says of itself, for a member that says nothing."""
    return next((definitions[target]["description"] for target, _ in _targets(member)), "")


def _type(member: Schema) -> str:
    if "$ref" in member:
        return "mapping"
    if "anyOf" in member:
        return " or ".join(dict.fromkeys(_type(choice) for choice in member["anyOf"] if choice.get("type") != "null"))
    if "enum" in member:
        return ", ".join(f"`{value}`" for value in member["enum"])
    if "const" in member:
        return f"`{member['const']}`"
    kind = member.get("type")
    if kind == "array":
        return f"list of {_plural(member['items'])}"
    if kind == "object":
        values = next(iter(member.get("patternProperties", {}).values()), member.get("additionalProperties"))
        return f"names to {_plural(values)}" if isinstance(values, dict) else "mapping"
    if member.get("pattern") == DURATION_PATTERN:
        return "duration"
    if member.get("pattern") == SIZE_PATTERN:
        return "size"
    low, high = member.get("minimum"), member.get("maximum")
    bounds = f", {low} to {high}" if high is not None else f", from {low:g}" if low is not None else ""
    return {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}[str(kind)] + bounds


def _plural(member: Schema) -> str:
    kind = _type(member)
    return {"text": "texts", "mapping": "mappings"}.get(kind, kind)


def _default(name: str, member: Schema, required: list[str]) -> str:
    if name in required:
        return "required"
    value = member.get("default")
    if value is None:
        return ""
    if isinstance(value, dict):
        return "`{}`" if not value or "$ref" in member else f"`{value}`"
    if isinstance(value, (list, tuple)):
        return "`[]`" if not value else f"`{list(value)}`"
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def render(text: str) -> str:
    """`text` of job.md with its generated part made anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def main() -> int:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description="Writes the reference tables of docs/job.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if something would change")
    arguments = parser.parse_args()
    old = TARGET.read_text(encoding="utf-8")
    new = render(old)
    if arguments.check:
        if old != new:
            sys.stderr.write("docs/job.md differs from the models: run python docs/generate.py\n")
        return int(old != new)
    TARGET.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
