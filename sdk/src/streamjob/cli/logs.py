"""Logs: structured lines on stderr."""

from __future__ import annotations

import sys
from typing import Any

import structlog


def configure_logs(style: str) -> Any:
    """The logger; `style` is json (one object a line: timestamp, level, event, …) or text."""
    renderer: Any = structlog.processors.JSONRenderer()
    if style == "text":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger()
