"""`kubectl streamjob logs`: the engine's JSON lines, made readable. Pure."""

from __future__ import annotations

import json
from typing import Any

_KNOWN = ("timestamp", "level", "event", "message", "target", "logger")


def readable(line: str) -> str:
    """One line of a log as a person reads it: time, level, what happened, members. Other texts stay as they are."""
    try:
        members: Any = json.loads(line)
    except ValueError:
        return line
    if not isinstance(members, dict) or "level" not in members:
        return line
    what = str(members.get("event") or members.get("message") or "")
    message = members.get("message")
    if members.get("event") and message:
        what += f": {message}"
    rest = " ".join(f"{name}={_value(value)}" for name, value in members.items() if name not in _KNOWN)
    time = str(members.get("timestamp") or "").replace("T", " ")[:23]
    return f"{time:<23} {str(members['level']).upper():<5} {what} {rest}".rstrip()


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if " " in text and isinstance(value, str) else text
