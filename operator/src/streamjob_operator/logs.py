"""Logs: one JSON object a line on stderr, those of libraries as well."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

QUIET = ("kopf", "aiohttp", "asyncio", "urllib3", "opentelemetry")
"""Libraries of which only warnings are of interest."""


class Refusals(logging.Filter):
    """Takes out kopf's errors about the webhook's refusals: they are answers, and the webhook notes them itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep a record."""
        said = record.getMessage()
        return not (said.startswith("Webhook ") and "failed permanently" in said)


def _like_the_engine(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The members by the engine's names: level in capitals, target for the module."""
    entry["level"] = str(entry.get("level", "")).upper()
    if "logger" in entry:
        entry["target"] = entry.pop("logger")
    return entry


def configure(level: str) -> None:
    """Sets up logging for the process. `level` is debug, info, warning or error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        _like_the_engine,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(Refusals())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
