"""A trace from a request through the engine into a user function, as a collector gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from support import job, row, udf

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
STAGES = ["ingest", "output", "parse", "route", "score", "udf", "window"]

RUNNER = """
import json, sys
import streamjob_engine
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(insecure=True)))
trace.set_tracer_provider(provider)
print(streamjob_engine.run(
    open(sys.argv[1]).read(), state_dir=sys.argv[2], listen="127.0.0.1:0", exit_at_end=False, for_us=None,
    on_ready=lambda url: print("READY", url, flush=True), on_progress=None, progress_interval_us=1_000_000,
), flush=True)
provider.shutdown()
"""

SCORE = """
import pathlib
from opentelemetry import trace
from streamjob import current_traceparent

def f(x):
    pathlib.Path({seen!r}).open("a").write(f"{{current_traceparent()}}\\n")
    with trace.get_tracer("user").start_as_current_span("score"):
        return 2 * x
"""


class Collector(TraceServiceServicer):
    """Keeps every span that it is sent."""

    def __init__(self) -> None:
        self.spans = []

    def Export(self, request, context):  # noqa: N802 - its name in the protocol
        """One export of either side."""
        self.spans += [span for group in request.resource_spans for scope in group.scope_spans for span in scope.spans]
        return ExportTraceServiceResponse()


@pytest.fixture
def collector():
    """A collector with its address."""
    collected = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(collected, server)
    collected.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collected
    server.stop(None)


def start(tmp_path: Path, collector: Collector, sampled: str) -> tuple[subprocess.Popen[str], str]:
    """The engine in a process of its own, and its URL."""
    score = udf(SCORE.format(seen=str(tmp_path / "seen")), ["temperature"], {"y": "float64"})
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job(udfs=[score], checkpoint={"interval_us": 3_600_000_000})))
    command = [sys.executable, "-c", RUNNER, str(path), str(tmp_path / "state")]
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "OTEL_TRACES_SAMPLER_ARG": sampled}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | told
    )
    return process, process.stdout.readline().split()[1]


def post(url: str, traceparent: str) -> None:
    """One row within a trace."""
    headers = {"Content-Type": "application/json", "traceparent": traceparent}
    request = urllib.request.Request(url + "/ingest", json.dumps([row(0, 1.0)]).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["accepted"] == 1


def wait_applied(url: str, rows: int) -> None:
    """Until the engine has processed so many rows."""
    wanted = f'events_processed_total{{outcome="applied"}} {rows}'
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
            if wanted in answer.read().decode():
                return
    pytest.fail(f"not {rows} rows were applied")


def stop(process: subprocess.Popen[str]) -> None:
    """Ends the engine, which sends what it has."""
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def test_a_trace_crosses_into_a_function(tmp_path, collector):
    process, url = start(tmp_path, collector, "0.000001")
    post(url, f"00-{TRACE}-{CALLER}-01")
    # Else both rows may come to the function in one batch.
    wait_applied(url, 1)
    # A sender that does not trace decides as well.
    post(url, f"00-{TRACE}-{CALLER}-00")
    wait_applied(url, 2)
    stop(process)
    ours = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    assert sorted(ours) == STAGES
    assert ours["ingest"].parent_span_id.hex() == CALLER
    assert ours["udf"].parent_span_id == ours["ingest"].span_id
    assert ours["score"].parent_span_id == ours["udf"].span_id
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen == [f"00-{TRACE}-{ours['udf'].span_id.hex()}-01", "None"]


def test_rows_that_are_read_again_are_traced(tmp_path, collector):
    process, url = start(tmp_path, collector, "1")
    post(url, f"00-{TRACE}-{CALLER}-01")
    process.kill()
    process.communicate()
    process, url = start(tmp_path, collector, "1")
    wait_applied(url, 1)
    stop(process)
    (recovery,) = [span for span in collector.spans if span.name == "recovery"]
    (replay,) = [span for span in collector.spans if span.name == "replay"]
    assert [link.span_id for link in replay.links] == [recovery.span_id]
    children = {span.name for span in collector.spans if span.parent_span_id == replay.span_id}
    assert children == {"route", "udf", "window", "output"}
