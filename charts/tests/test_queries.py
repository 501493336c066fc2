"""Each query of the dashboard and of the alerts, evaluated by a real Prometheus that scrapes a real engine."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import start_http_server
from streamjob_operator import metrics

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dashboard
from chart_files import CHART, ROOT, program

RULES = CHART / "files" / "rules" / "streamjob.yaml"
EXAMPLE = ROOT / "examples" / "telemetry"
START_S = 60
SAMPLES = 4
STARTING = 503
"""What Prometheus answers, as plain text, until it has opened its database."""
OF_TOPICS = {f"streamjob_source_{name}" for name in ("bytes_total", "lag_rows", "lost_total", "skipped_total")}
"""Metrics of sources that read a broker, which these tests have not."""
BROKEN = "broken"
"""The one job that the operator of these tests has in trouble."""
NAMESPACES = ("shop", "other")
"""In each of them a job of the same name runs, as Prometheus sees it."""
LABELS = {dashboard.JOB: "telemetry", "pod": "telemetry-0"}

ENGINE_QUERIES = {
    f"{row.title}: {panel.title}: {legend}": (legend, query)
    for row in dashboard.ENGINE
    for panel in row.panels
    for legend, query in panel.queries.items()
}
OPERATOR_QUERIES = {
    f"{panel.title}: {legend}": query for panel in dashboard.OPERATOR.panels for legend, query in panel.queries.items()
}
GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS = {rule["alert"]: rule["expr"] for group in GROUPS for rule in group["rules"]}
OF_ENGINES = {rule["alert"] for group in GROUPS if group["name"] == "streamjob-engine" for rule in group["rules"]}


class Receiver(http.server.BaseHTTPRequestHandler):
    """A webhook that takes everything."""

    def do_POST(self) -> None:
        """Reads a batch and confirms it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    """The URL of a webhook."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, receiver: str) -> Iterator[str]:
    """The address of an engine that runs the telemetry example, with a webhook beside its files."""
    pytest.importorskip("streamjob_engine", reason="the engine's wheel is not installed: make setup")
    data = EXAMPLE / "data" / "weather.ndjson"
    if not data.exists():
        pytest.skip(f"{data.relative_to(ROOT)} is not there: make setup && make test prepares it")
    folder = tmp_path_factory.mktemp("engine")
    shutil.copy(EXAMPLE / "udfs.py", folder)
    # As text: a YAML reader of another version takes the member `on` for a truth value.
    text = (EXAMPLE / "job.yaml").read_text(encoding="utf-8").replace("data/weather.ndjson", str(data))
    webhook = f'    - {{name: alerts, from: events, where: abs(score) > 2, http: {{url: "{receiver}"}}}}\n'
    text = text.replace("  checkpoint: {interval: 5s}", f"{webhook}  checkpoint: {{interval: 1s}}")
    assert webhook in text
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "streamjob", "run", "job.yaml", "--listen", "127.0.0.1:0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("READY http://"), (folder / "log").read_text(encoding="utf-8")
            yield ready.split("//")[1].strip()
        finally:
            process.terminate()
            process.wait(30)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its API; raises what it says where it refuses."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == STARTING:
                raise
            raise ValueError(json.load(error)["error"]) from None

    def query(self, query: str) -> list[dict[str, Any]]:
        """The vector that a query gives now; a scalar counts as a vector of one."""
        data = self.get("/api/v1/query", query=query)
        return [{"metric": {}, "value": data["result"]}] if data["resultType"] == "scalar" else list(data["result"])

    def wait_for(self, query: str) -> list[dict[str, Any]]:
        """What a query gives, once that is something: a scrape that came late leaves a gap of a second."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                if numbers(found := self.query(query)):
                    return found
            except OSError:
                pass
            time.sleep(0.2)
        pytest.fail(f"after {START_S} s Prometheus has nothing for {query}")

    def wait_for_each_job(self, query: str) -> list[dict[str, Any]]:
        """What a query gives, once it gives something in each namespace."""
        found = self.wait_for(query)
        assert all(one["metric"].get("namespace") in NAMESPACES for one in found), f"merges namespaces: {query}"
        self.wait_for(f"count(count by (namespace) ({query})) == {len(NAMESPACES)}")
        return self.query(query)


@pytest.fixture(scope="module")
def operator() -> Iterator[str]:
    """The address of the operator's own metrics, with two jobs looked at."""
    phases = metrics.Phases()
    phases.note(("shop", "telemetry"), "Running", time.time() - 60)
    phases.note(("shop", BROKEN), "Invalid", time.time() - 60)
    phases.show(time.time())
    metrics.leader.set(1)
    metrics.queue_depth.set(0)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=metrics.registry)
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.1):
            metrics.reconcile_duration.observe(0.004)
            metrics.api_calls.labels("patch", "StreamJob").inc()
            metrics.reconcile_errors.labels("user")

    worker = threading.Thread(target=work)
    worker.start()
    yield f"127.0.0.1:{server.server_port}"
    ended.set()
    worker.join()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, engine: str, operator: str) -> Iterator[Prometheus]:
    """Prometheus with some scrapes of the engine, which stands for a job in each of the namespaces."""
    folder = tmp_path_factory.mktemp("prometheus")
    engines = [{"targets": [engine], "labels": {**LABELS, "namespace": namespace}} for namespace in NAMESPACES]
    scrape = {"job_name": "engines", "static_configs": engines}
    own = {"namespace": "streamjob", "pod": "streamjob-operator-0"}
    static = [{"targets": [operator], "labels": own}]
    other = {"job_name": "operator", "honor_labels": True, "static_configs": static}
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape, other]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        running.wait_for_each_job(f"count_over_time(streamjob_checkpoint_lag_seconds[1m]) >= {SAMPLES}")
        running.wait_for("streamjob_windows_closed_total > 0")
        running.wait_for(f"count_over_time(streamjob_operator_leader[1m]) >= {SAMPLES}")
        yield running
    finally:
        process.terminate()
        process.wait(30)


def for_prometheus(query: str) -> str:
    """A panel's query with Grafana's variables filled in."""
    filled = query.replace("$__rate_interval", "1m").replace("$namespace", "shop|other").replace("$streamjob", ".*")
    assert "$" not in filled
    return filled


def filled(legend: str, labels: dict[str, str]) -> str:
    """A legend as Grafana writes it beside a series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), legend)


def numbers(vector: list[dict[str, Any]]) -> list[float]:
    """The values of a vector that are numbers."""
    values = [float(one["value"][1]) for one in vector]
    return [value for value in values if value == value]


def without_threshold(alert: str) -> str:
    """An alert's condition as a vector of 0 and 1: it has a value wherever the condition can be judged."""
    return re.sub(r" (>|<|>=|<=) (?=[\d.])", r" \1 bool ", alert)


@pytest.mark.parametrize("name", ENGINE_QUERIES)
def test_a_panel_shows_data_of_each_job(prometheus: Prometheus, name: str) -> None:
    legend, query = ENGINE_QUERIES[name]
    found = prometheus.wait_for_each_job(for_prometheus(query))
    assert all(one["metric"].get(dashboard.JOB) == "telemetry" for one in found), "a panel tells jobs apart"
    shown = [filled(legend, one["metric"]) for one in found]
    assert len(set(shown)) == len(shown), "a legend tells series apart"


@pytest.mark.parametrize("name", ENGINE_QUERIES)
def test_a_panel_of_another_namespace_is_empty(prometheus: Prometheus, name: str) -> None:
    query = for_prometheus(ENGINE_QUERIES[name][1].replace("$namespace", "nobody"))
    assert prometheus.query(query) == []


@pytest.mark.parametrize("name", OPERATOR_QUERIES)
def test_a_panel_of_the_operator_shows_data(prometheus: Prometheus, name: str) -> None:
    query = for_prometheus(OPERATOR_QUERIES[name])
    prometheus.wait_for(query)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_can_be_judged_and_is_silent(prometheus: Prometheus, name: str) -> None:
    judged = without_threshold(ALERTS[name])
    assert judged != ALERTS[name], "an alert compares with a number"
    if name in OF_ENGINES:
        prometheus.wait_for_each_job(judged)
    else:
        prometheus.wait_for(judged)
    # Of a job that is in trouble some wait for longer than this test takes.
    well = [one for one in prometheus.query(ALERTS[name]) if one["metric"].get("name") != BROKEN]
    assert well == [], "a job that runs well sets off nothing"


def test_every_metric_of_the_documents_can_be_scraped(prometheus: Prometheus) -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram)", text, re.MULTILINE))
    scraped = set(prometheus.get("/api/v1/label/__name__/values"))
    assert documented >= OF_TOPICS
    missing = {name for name in documented - OF_TOPICS if name not in scraped and f"{name}_bucket" not in scraped}
    assert not missing


def test_the_rules_are_valid() -> None:
    done = subprocess.run(
        [program("promtool"), "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_set_off_by_what_it_is_for(tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "alerts.yaml").read_text(encoding="utf-8")
    assert not {name for name in ALERTS if f'alertname="{name}"' not in cases}
    (tmp_path / "alerts.yaml").write_text(cases.replace("RULES", str(RULES)), encoding="utf-8")
    command = [program("promtool"), "test", "rules", str(tmp_path / "alerts.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_to_do() -> None:
    for group in GROUPS:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert set(rule["annotations"]) == {"summary", "description"}


def test_the_dashboard_is_as_generated() -> None:
    assert dashboard.TARGET.read_text(encoding="utf-8") == dashboard.text(), "run python charts/dashboard.py"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.render()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= dashboard.WIDTH
        taken |= cells


def test_what_was_asked_for_has_a_panel() -> None:
    titles = {panel.title for row in dashboard.ENGINE for panel in row.panels}
    assert titles >= {"Ingestion rate", "p99 latency", "Checkpoint lag", "Queue depth", "UDF latency"}
