"""Paths to members of members: names with dots between them, names with dots or quotes in quotes.

`sensor.temperature` is the member `temperature` of the member `sensor`; `labels."host.name"` the member `host.name` of
`labels`; a quote within quotes is doubled.
"""

from __future__ import annotations

import re

MAX_MEMBERS = 16
"""The engine's readers go through up to this many members."""

_PART = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')


def parse_path(text: str) -> tuple[str, ...]:
    """The names of the members, outermost first. Raises ValueError that says what is wrong."""
    names: list[str] = []
    at = 0
    while True:
        part = _PART.match(text, at)
        if part is None:
            raise ValueError("has an open quote" if text[at : at + 1] == '"' else "has a part without a name")
        quoted, plain = part.groups()
        names.append(plain if quoted is None else quoted.replace('""', '"'))
        at = part.end()
        if at == len(text):
            break
        if text[at] != ".":
            raise ValueError("has a quote inside of a name")
        at += 1
    if len(names) > MAX_MEMBERS:
        raise ValueError(f"leads through more than {MAX_MEMBERS} members")
    return tuple(names)
