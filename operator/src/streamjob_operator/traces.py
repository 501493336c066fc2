"""Traces by OTLP, where an endpoint is set; else nothing, and nothing is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer: Any = None
_provider: Any = None


def start(version: str) -> bool:
    """Begins to send traces if the environment names an endpoint; gives whether it does."""
    global _tracer, _provider
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "streamjob-operator", "service.version": version})
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("streamjob_operator")
    return True


def stop() -> None:
    """Sends what is left."""
    if _provider is not None:
        _provider.shutdown()


@contextmanager
def span(name: str, attributes: Mapping[str, str]) -> Iterator[None]:
    """A span around what is done inside."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes={f"streamjob.{key}": text for key, text in attributes.items()}):
        yield
