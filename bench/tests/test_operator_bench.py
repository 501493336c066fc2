"""The operator's benchmark with a few jobs on a real API server: what its lines say, and never how fast it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "operator"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "operator" / "harness"))

from fleet import report
from fleet.audit import Audit
from kubeharness.server import missing

RUN = Path(__file__).resolve().parents[1] / "operator" / "run.py"
JOBS = 20
EDITS = 8
LIMIT_S = 600
PROCESSES = ("etcd", "apiserver", "manager")


def test_percentiles_are_values_that_were_measured() -> None:
    assert report.latencies([0.003, 0.001, 0.002]) == {"p50_ms": 2.0, "p99_ms": 3.0, "max_ms": 3.0}
    assert report.percentile([float(value) for value in range(1, 201)], 0.99) == 198.0


@pytest.mark.parametrize(("p99", "met"), [(1000.0, True), (1000.1, False)])
def test_a_target_is_the_most_that_may_be(p99: float, met: bool) -> None:
    measured = {"p99_ms": p99, "operator_rss_bytes": 1}
    assert report.result("edits", measured, quick=False)["met"] is met
    assert report.result("edits", measured, quick=True)["met"] is None


def entry(verb: str, resource: str, stage: str, subresource: str = "") -> str:
    reference = {"resource": resource, **({"subresource": subresource} if subresource else {})}
    return json.dumps({"verb": verb, "stage": stage, "objectRef": reference, "requestURI": "/"}) + "\n"


def test_requests_are_counted_once_and_by_what_they_are_for(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    lines = [
        entry("watch", "pods", "ResponseStarted"),
        entry("watch", "pods", "ResponseComplete"),
        entry("update", "leases", "ResponseComplete"),
        entry("patch", "streamjobs", "ResponseComplete", "status"),
        entry("patch", "streamjobs", "ResponseComplete"),
        entry("list", "pods", "ResponseComplete"),
    ]
    audit.log.write_text("".join(lines) + '{"cut')
    found = audit.take()
    assert (found.watches, found.lease, found.facts, found.others) == (1, 1, 1, 2)
    audit.log.write_text("".join(lines) + lines[-1])
    assert audit.take().by_verb == {"list pods": 1}


@pytest.fixture(scope="module")
def lines() -> dict[str, dict]:
    """The lines of a short run, by case."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    command = [sys.executable, str(RUN), "--quick"]
    command += ["--jobs", str(JOBS), "--edits", str(EDITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["case"]: line for line in found}


def test_every_case_has_a_line(lines: dict[str, dict]) -> None:
    assert list(lines) == list(report.TARGETS)
    for case, line in lines.items():
        assert line["jobs"] == JOBS
        assert line["met"] is None, "a short run says nothing of targets"
        assert line["target"] == report.TARGETS[case]
        assert set(report.TARGETS[case]) <= set(line)


def test_processor_time_and_memory_are_told(lines: dict[str, dict]) -> None:
    for case in ("statefulsets", "converge", "steady", "facts", "edits"):
        assert all(lines[case][f"{name}_cpu_s"] >= 0 for name in PROCESSES)
    for case in ("converge", "steady", "facts", "edits", "restart"):
        assert lines[case]["operator_cpu_s"] > 0
        assert lines[case]["operator_rss_bytes"] >= lines[case]["operator_rss_now_bytes"] > 0
    assert "operator_cpu_s" not in lines["statefulsets"]


def test_calls_are_those_that_a_job_takes(lines: dict[str, dict]) -> None:
    for case in ("converge", "steady", "facts", "edits", "restart"):
        line = lines[case]
        parts = ("watch_calls", "lease_calls", "status_calls", "discovery_calls", "other_calls")
        assert line["calls"] == sum(line["calls_by_verb"].values()) == sum(line[part] for part in parts)
    assert lines["converge"]["calls_by_verb"]["patch statefulsets"] == JOBS
    assert lines["edits"]["calls_by_verb"]["patch statefulsets"] == EDITS


def test_every_job_is_looked_at_and_nothing_is_asked_in_the_steady_state(lines: dict[str, dict]) -> None:
    for case in ("converge", "steady", "facts", "restart"):
        assert lines[case]["reconciles"] >= JOBS
    for case in ("steady", "facts"):
        assert lines[case]["other_calls"] == 0, lines[case]["calls_by_verb"]
    assert lines["steady"]["status_calls"] == 0
