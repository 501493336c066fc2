"""Logs: structured lines on stderr, in the style of the engine's own."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any


class Log:
    """Writes events with their fields; `style` is json (one object a line) or text.

    structlog is imported with the first line, since a restart waits for whatever is imported before it.
    """

    def __init__(self, style: str) -> None:
        self._style = style

    def info(self, event: str, **fields: Any) -> None:
        """Something that happened as it should."""
        self._logger.info(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that somebody must look at."""
        self._logger.error(event, **fields)

    def job_failed(self, error: Exception, **fields: Any) -> None:
        """What an EngineError says: who must act, and whether a retry helps."""
        actor, retryable = getattr(error, "actor", "engine"), getattr(error, "retryable", False)
        self.error("job_failed", **fields, message=str(error), actor=actor, retryable=retryable)

    @cached_property
    def _logger(self) -> Any:
        import structlog

        renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
        if self._style == "text":
            renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        return structlog.wrap_logger(
            # A line in one write, also where nothing is buffered: the engine writes lines to the same place.
            structlog.WriteLogger(file=sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                renderer,
            ],
        )
