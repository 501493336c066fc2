"""The span of the engine's call is the current one within a user function, with and without OpenTelemetry."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from streamjob import current_traceparent
from streamjob.tracing import _attached, call_traced

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    _attached.cache_clear()
    yield
    _attached.cache_clear()


def test_the_span_is_current_while_the_function_runs() -> None:
    trace = pytest.importorskip("opentelemetry.trace")

    def function(x: int) -> tuple[int, str | None, str]:
        span = trace.get_current_span().get_span_context()
        assert span.is_remote
        assert span.trace_flags.sampled
        return x, current_traceparent(), f"{span.trace_id:032x}-{span.span_id:016x}"

    assert call_traced(HEADER, function, 3) == (3, HEADER, HEADER[3:-3])
    assert current_traceparent() is None
    assert not trace.get_current_span().get_span_context().is_valid


def test_without_opentelemetry_the_header_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert call_traced(HEADER, current_traceparent) == HEADER
    assert current_traceparent() is None


def test_what_the_function_raises_comes_through() -> None:
    def function() -> None:
        raise KeyError("seven")

    with pytest.raises(KeyError, match="seven"):
        call_traced(HEADER, function)
    assert current_traceparent() is None
