"""The index, the settings, the metrics, the liveness answer: small things at the edge."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kopf
import pytest

from streamjob_operator import names
from streamjob_operator.controller import LATE_BEAT_S, STUCK_S, Controller
from streamjob_operator.crd.status import PHASES
from streamjob_operator.handlers import alive, refuse_invalid, settings_of_kopf
from streamjob_operator.informer import Informer
from streamjob_operator.kinds import SERVICE
from streamjob_operator.metrics import Phases, job_phase_seconds, registry
from streamjob_operator.observed import EngineFacts, EngineStatus, EngineUdf
from streamjob_operator.poll import is_decisive
from streamjob_operator.queueing import Work
from streamjob_operator.settings import Settings, load
from unit.jobs import job


def test_a_thousand_jobs_are_heard_of_within_a_second() -> None:
    queueing = settings_of_kopf().queueing
    assert queueing.worker_limit is not None
    assert queueing.worker_limit / queueing.idle_timeout >= 1000, "a task is kept until its object has been silent"


def test_settings_come_from_flags_then_the_environment() -> None:
    environment = {"STREAMJOB_OPERATOR_WORKERS": "3", "STREAMJOB_OPERATOR_NAMESPACES": "a, b,"}
    settings = load({"workers": "5"}, environment)
    assert (settings.workers, settings.namespaces) == (5, ("a", "b"))
    with pytest.raises(ValueError, match=r"--workers .*'x' is no int"):
        load({"workers": "x"}, {})
    with pytest.raises(ValueError, match="at least 1"):
        load({"workers": "0"}, {})


def test_jobs_are_counted_by_phase() -> None:
    phases = Phases()
    phases.note(("shop", "a"), "Running", 10)
    phases.note(("shop", "a"), "Running", 20)
    phases.note(("shop", "b"), "Failed", 20)
    phases.show(30)

    def value(series: str, labels: dict[str, str]) -> float | None:
        return registry.get_sample_value(series, labels)

    assert [value("streamjob_operator_jobs", {"phase": phase}) for phase in PHASES].count(1.0) == 2
    series = {"namespace": "shop", "name": "a", "phase": "Running"}
    assert value("streamjob_operator_job_phase_seconds", series) == 20
    phases.forget(("shop", "a"))
    phases.show(40)
    assert value("streamjob_operator_job_phase_seconds", series) is None


def test_a_scrape_misses_no_job_while_phases_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = Phases()
    phases.note(("shop", "a"), "Failed", 10)
    phases.show(20)
    phases.note(("shop", "a"), "Starting", 20)
    phases.note(("shop", "b"), "Running", 20)
    scraped: list[set[str]] = []

    def series_of(job: str) -> set[str]:
        samples = [sample for metric in job_phase_seconds.collect() for sample in metric.samples]
        return {one.labels["phase"] for one in samples if one.labels["name"] == job}

    def seen(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*names: str) -> Any:
            scraped.append(series_of("a"))
            return change(*names)

        return changed

    for change in ("labels", "remove"):
        monkeypatch.setattr(job_phase_seconds, change, seen(getattr(job_phase_seconds, change)))
    phases.show(30)
    assert scraped
    assert all(scraped)
    assert series_of("a") == {"Starting"}


def test_only_decisive_facts_ask_for_a_look() -> None:
    status = EngineStatus(version="1", shards=8, queue_rows=1, udfs=(EngineUdf(version="a"),))

    def now(**facts: Any) -> EngineFacts:
        return EngineFacts(status=status.model_copy(update=facts))

    old = now()
    assert not is_decisive(old, now(queue_rows=2))
    assert is_decisive(old, now(blocked_shards=1))
    assert is_decisive(old, now(udfs=(EngineUdf(version="b"),)))
    assert is_decisive(old, EngineFacts(error="gone"))
    assert is_decisive(None, old)


def test_the_liveness_probe_says_what_is_dead() -> None:
    async def course() -> None:
        controller = Controller(None, Settings(dead_after_s=5))  # type: ignore[arg-type]
        now = asyncio.get_running_loop().time()
        assert alive(controller) == "ok"
        informer = Informer(None, SERVICE, "shop", lambda *_: None, list)  # type: ignore[arg-type]
        controller._informers = [informer]
        assert alive(controller) == "ok", "a watch that waits for the lists before it"
        informer.heard_at = now - 6
        with pytest.raises(kopf.PermanentError, match="nothing is heard of services in shop"):
            alive(controller)
        controller._informers = [replace(informer, refused=True)]
        assert alive(controller) == "ok"
        controller.work.started["shop", "a"] = now - STUCK_S - 1
        with pytest.raises(kopf.PermanentError, match="a look at a job has taken"):
            alive(controller)
        controller.work.started.clear()
        controller._beat_at = now - LATE_BEAT_S - 1
        with pytest.raises(kopf.PermanentError, match="event loop"):
            alive(controller)

    asyncio.run(course())


def test_the_liveness_probe_may_ask_while_looks_begin() -> None:
    work = Work(lambda: 10.0)

    class Since(float):
        def __rsub__(self, now: float) -> float:
            work.started[f"job-{len(work.started)}", "x"] = 9.0  # another thread's
            return now - float(self)

    work.started["shop", "a"] = Since(4)
    work.started["shop", "b"] = Since(7)
    assert work.longest() == 6


def test_the_liveness_probe_fails_where_the_watch_of_the_jobs_is_dead() -> None:
    async def course() -> None:
        controller = Controller(None, Settings(dead_after_s=5))  # type: ignore[arg-type]
        written = job()
        key = ("shop", "telemetry")
        controller.saw_job(None, job())
        written["metadata"]["resourceVersion"] = "7"
        controller._wrote(key, written)
        assert alive(controller) == "ok"
        controller._clock = lambda: controller._beat_at + 6  # type: ignore[method-assign]
        with pytest.raises(kopf.PermanentError, match="streamjobs were written, and their watch has not told of it"):
            alive(controller)
        controller.saw_job("MODIFIED", written)
        assert alive(controller) == "ok"

    asyncio.run(course())


def test_the_webhook_refuses_all_problems_at_once_and_never_a_deletion() -> None:
    wrong = job(where="v >", sinks=[{"name": "o", "from": "per_10s", "where": "nope > 1", "stdout": {}}])
    with pytest.raises(kopf.AdmissionError) as refused:
        refuse_invalid("CREATE", wrong)
    assert refused.value.code == 422
    assert "spec.where" in str(refused.value)
    assert "spec.sinks[0].where" in str(refused.value)
    refuse_invalid("DELETE", wrong)
    refuse_invalid("UPDATE", wrong, {"spec": wrong["spec"]})
    with pytest.raises(kopf.AdmissionError):
        refuse_invalid("UPDATE", wrong, {"spec": job()["spec"]})
    wrong["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    refuse_invalid("UPDATE", wrong)


def test_spans_reach_a_collector(tmp_path: Path) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    program = "from streamjob_operator import traces\n"
    program += (
        "assert traces.start('1')\nwith traces.span('reconcile', {'job': 'telemetry'}):\n    pass\ntraces.stop()\n"
    )
    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        # A process of its own: what is set up for traces is so for the whole process.
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, cwd=tmp_path, timeout=60)
        server.shutdown()
        thread.join()
    assert [path for path, _ in received] == ["/v1/traces"]
    assert b"reconcile" in received[0][1]
    assert b"telemetry" in received[0][1]


def test_logs_are_objects_with_the_engines_names(tmp_path: Path) -> None:
    program = "import logging\nfrom streamjob_operator.logs import configure\nimport structlog\nconfigure('info')\n"
    program += (
        "structlog.get_logger('a.b').info('hello', job='telemetry')\nlogging.getLogger('kopf.x').warning('late')\n"
    )
    program += "structlog.get_logger('a.b').debug('quiet')\n"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path, timeout=60)
    first, second = (json.loads(line) for line in done.stderr.splitlines())
    assert (first["level"], first["target"], first["message"]) == ("INFO", "a.b", "hello")
    assert first["job"] == "telemetry"
    assert (second["level"], second["target"], second["message"]) == ("WARNING", "kopf.x", "late")
    assert first["timestamp"].endswith("Z")


def test_a_status_that_was_written_asks_for_nothing_and_everything_else_does() -> None:
    async def course() -> None:
        controller = Controller(None, Settings())  # type: ignore[arg-type]
        controller._leads = True
        first = job()
        key = ("shop", "telemetry")

        async def asked() -> bool:
            try:
                async with asyncio.timeout(0):
                    taken = await controller.work.take()
            except TimeoutError:
                return False
            controller.work.done(taken, failed=False)
            return taken == key

        controller.saw_job(None, first)
        assert await asked()
        written = {**first, "metadata": {**first["metadata"], "resourceVersion": "2"}, "status": {"phase": "Running"}}
        controller.saw_job("MODIFIED", written)
        assert not await asked()
        for change in (
            {"generation": 2},
            {"annotations": {names.RESTART: "1"}},
            {"annotations": {names.CHECKPOINT: "1"}},
            {"deletionTimestamp": "2030-01-01T00:00:00Z"},
            {"finalizers": []},
            {"uid": "another"},
        ):
            changed = {**written, "metadata": {**written["metadata"], **change, "resourceVersion": "3"}}
            controller.saw_job("MODIFIED", changed)
            assert await asked(), change
            controller.index.remove_job(key, changed["metadata"]["uid"])
            controller.saw_job(None, written)
            assert await asked()
        controller.saw_job("DELETED", written)
        assert controller.index.jobs() == []

    asyncio.run(course())
