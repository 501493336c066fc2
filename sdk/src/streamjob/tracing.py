"""The trace that a user function runs in.

The engine traces few batches. While it calls a function for one of them, `current_traceparent` names the span of that
call; and where the package `opentelemetry-api` is installed, that span is the current one, so that spans which the
function or a library under it begins become its children. Spans are exported by whatever the process has set up for
OpenTelemetry; the engine's own go where `OTEL_EXPORTER_OTLP_ENDPOINT` says.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["call_traced", "current_traceparent"]

_current: ContextVar[str | None] = ContextVar("streamjob_traceparent", default=None)


def current_traceparent() -> str | None:
    """The span that a user function runs in, as a W3C `traceparent` header; None where its batch is not traced."""
    return _current.get()


def call_traced(traceparent: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function` within the span that `traceparent` names; gives what it returns and raises what it raises."""
    token = _current.set(traceparent)
    try:
        with _attached()(traceparent):
            return function(*arguments)
    finally:
        _current.reset(token)


@contextmanager
def _alone(_: str) -> Iterator[None]:
    yield


@cache
def _attached() -> Callable[[str], AbstractContextManager[None]]:
    """Makes a span OpenTelemetry's current one; does nothing where that is not installed."""
    try:
        from opentelemetry import context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return _alone
    propagator = TraceContextTextMapPropagator()

    @contextmanager
    def attached(traceparent: str) -> Iterator[None]:
        token = context.attach(propagator.extract({"traceparent": traceparent}))
        try:
            yield
        finally:
            context.detach(token)

    return attached
