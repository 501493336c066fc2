"""StreamJob: real-time stream processing described by one YAML object.

Importing this package is cheap: what needs pydantic, sqlglot or the engine is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamjob.problems import JobError, Problem
from streamjob.udf import register, udf

if TYPE_CHECKING:
    from streamjob.client import Client
    from streamjob.connectors import Batch, Event, Rejected, Sink, SinkContext, SourceContext
    from streamjob.engine import Engine, Result
    from streamjob.loading import load_job
    from streamjob.models import StreamJob
    from streamjob.testing import JobHarness
    from streamjob.tracing import current_traceparent

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Client",
    "Engine",
    "Event",
    "JobError",
    "JobHarness",
    "Problem",
    "Rejected",
    "Result",
    "Sink",
    "SinkContext",
    "SourceContext",
    "StreamJob",
    "__version__",
    "current_traceparent",
    "load_job",
    "register",
    "udf",
]

_LAZY = {
    "Batch": "streamjob.connectors",
    "Client": "streamjob.client",
    "Engine": "streamjob.engine",
    "Event": "streamjob.connectors",
    "JobHarness": "streamjob.testing",
    "Rejected": "streamjob.connectors",
    "Result": "streamjob.engine",
    "Sink": "streamjob.connectors",
    "SinkContext": "streamjob.connectors",
    "SourceContext": "streamjob.connectors",
    "StreamJob": "streamjob.models",
    "current_traceparent": "streamjob.tracing",
    "load_job": "streamjob.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'streamjob' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
