"""Logs: structured lines on stderr, in the style of the engine's own.

A restart waits for what is imported here, and there are few lines to write: hence no library for it.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any


class Log:
    """Writes events with their fields; `style` is json (one object a line) or text."""

    def __init__(self, style: str) -> None:
        self._style = style

    def info(self, event: str, **fields: Any) -> None:
        """Something that happened as it should."""
        self._write("info", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that somebody must look at."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        if self._style == "text":
            said = " ".join(f"{name}={value}" for name, value in fields.items())
            line = f"{now} {level.upper():>5} {event} {said}".rstrip()
        else:
            line = json.dumps({"timestamp": now, "level": level, "event": event, **fields}, ensure_ascii=False)
        print(line, file=sys.stderr, flush=True)
