"""A whole engine process, started in one of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import streamjob_engine

from support import above, job, row, sink, udf

RUNNER = """
import json, sys
import streamjob_engine

def ready(url):
    print("READY", url, flush=True)
    if options.get("bad_callbacks"):
        raise RuntimeError("ready")

def progress(text):
    if options.get("print_progress"):
        print(json.dumps(json.loads(text)), flush=True)
    if options.get("bad_callbacks"):
        raise RuntimeError("progress")

options = json.loads(sys.argv[2])
totals = streamjob_engine.run(
    open(sys.argv[1]).read(), state_dir=options["state"], listen=options.get("listen"),
    exit_at_end=options.get("exit_at_end", False), for_us=options.get("for_us"),
    on_ready=ready, on_progress=progress, progress_interval_us=10_000,
)
print(totals, flush=True)
"""


def start(tmp_path: Path, job: dict, **options) -> subprocess.Popen[str]:
    """Runs a job in another process."""
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    options.setdefault("state", str(tmp_path / "state"))
    command = [sys.executable, "-c", RUNNER, str(path), json.dumps(options)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"LANG": "C"}
    )


def get(url: str) -> str:
    """A page's text."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def lines_of(directory: Path) -> list[dict]:
    """All rows of a file sink."""
    files = sorted(path for path in directory.iterdir() if path.name.startswith("part-"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


@pytest.fixture
def replay(tmp_path):
    """A job that reads a file, scores its rows and writes windows and alerts."""
    data = tmp_path / "data.ndjson"
    events = [row(second / 10, float(second % 10), f"d{second % 3}") for second in range(3000)]
    events[1500]["temperature"] = 1000.0
    data.write_text("".join(json.dumps(event) + "\n" for event in events))
    score = udf(
        """
        def f(x, mean, deviation):
            if (x == 7).all():
                raise ValueError("seven")
            return (x - mean) / deviation
        """,
        ["temperature", "stats.temperature.mean", "stats.temperature.stddev"],
        {"score": "float64"},
    )
    windows = sink("windows", "per_10s", kind="file") | {"file": {"path": str(tmp_path / "out"), "format": "ndjson"}}
    alerts = sink("alerts", "events", above("score", 10.0), kind="file")
    alerts |= {"file": {"path": str(tmp_path / "alerts"), "format": "ndjson"}}
    source = {"name": "replay", "http": None, "file": {"path": str(data), "format": "ndjson", "speed": 0.0}}
    return job(sources=[source], udfs=[score], sinks=[windows, alerts], engine=job()["engine"] | {"worker_threads": 2})


def test_a_replay_to_its_end(tmp_path, replay):
    process = start(tmp_path, replay, exit_at_end=True, bad_callbacks=True)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    totals = json.loads(out.splitlines()[-1])
    assert totals == {
        "received": 3000,
        "applied": 3000,
        "late": 0,
        "rejected": 0,
        "windows": 90,
        "anomalies": 1,
        "resumed": False,
    }
    assert sum(window["n"] for window in lines_of(tmp_path / "out")) == 3000
    assert [alert["temperature"] for alert in lines_of(tmp_path / "alerts")] == [1000.0]


def test_the_end_of_all_sources_is_told(tmp_path, replay):
    process = start(tmp_path, replay, print_progress=True, for_us=20_000_000)
    watermark = None
    for line in process.stdout:
        # The last line, where it comes to that, is the totals.
        watermark = json.loads(line).get("watermark_us")
        if watermark == 2**63 - 1:
            break
    assert watermark == 2**63 - 1
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_http_until_a_signal(tmp_path, number):
    double = udf("def f(x):\n    return 2 * x", ["temperature"], {"y": "float64"})
    process = start(tmp_path, job(udfs=[double]), listen="127.0.0.1:0")
    url = process.stdout.readline().split()[1]
    body = json.dumps([row(0, 1.0), row(1, 2.0)]).encode()
    request = urllib.request.Request(url + "/ingest", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer) == {"accepted": 2, "rejected": 0, "errors": []}
    deadline = time.monotonic() + 60
    while 'udf_latency_seconds_count{udf="u"} 1' not in get(url + "/metrics"):
        assert time.monotonic() < deadline
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["applied"] == 2


def test_a_buffered_answer_says_that_the_operating_system_has_the_rows(tmp_path):
    buffered = job(ingest=job()["ingest"] | {"durability": "buffered"})
    process = start(tmp_path, buffered, listen="127.0.0.1:0")
    url = process.stdout.readline().split()[1]
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    for number in range(200):
        body = json.dumps([row(0, 1.0, f"device-{number:05}")])
        connection.request("POST", "/ingest", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        # What another process reads of the file outlives a kill.
        segments = b"".join(path.read_bytes()[:100_000] for path in tmp_path.glob("state/journal/*/0*.log"))
        assert f"device-{number:05}".encode() in segments
        assert answer.status == 202, answer.read()
        answer.read()
    process.kill()
    process.communicate()
    process = start(tmp_path, buffered, listen="127.0.0.1:0")
    url = process.stdout.readline().split()[1]
    assert "\nevents_received_total 200\n" in get(url + "/metrics")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


IN_PROCESS = """
import os, signal, sys
import streamjob_engine

def run(number):
    return streamjob_engine.run(
        open(sys.argv[1]).read(), state_dir=sys.argv[2], listen="127.0.0.1:0", exit_at_end=False, for_us=600_000_000,
        on_ready=lambda url: os.kill(os.getpid(), number), on_progress=None, progress_interval_us=1_000_000,
    )

# A background job of a shell starts with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: print("terminated", flush=True))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
    run(number)
os.kill(os.getpid(), signal.SIGTERM)
try:
    os.kill(os.getpid(), signal.SIGINT)
    while True: pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_signals_end_each_run_and_are_pythons_again_after_it(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job()))
    command = [sys.executable, "-c", IN_PROCESS, str(path), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["terminated", "interrupted"]


def test_a_job_of_another_layout_is_refused(tmp_path):
    run = lambda job: streamjob_engine.run(  # noqa: E731
        json.dumps(job),
        state_dir=tmp_path / "state",
        listen=None,
        exit_at_end=False,
        for_us=50_000,
        on_ready=None,
        on_progress=None,
        progress_interval_us=1_000_000,
    )
    run(job())
    with pytest.raises(streamjob_engine.EngineError) as caught:
        run(job(shards=8))
    assert caught.value.actor == "user"
    assert not caught.value.retryable


@pytest.mark.parametrize("again", [False, True], ids=["first start", "restart"])
def test_a_signal_while_functions_are_loaded_ends_the_run_well(tmp_path, again):
    """User code that swallows what it gets must not swallow the signal."""
    source = """
        import os, signal
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            pass

        def f(x):
            return x
    """
    quiet = job(
        udfs=[udf("def f(x): return x", ["temperature"], {"y": "float64"})], sources=[{"name": "in", "http": {}}]
    )
    if again:
        process = start(tmp_path, quiet, listen="127.0.0.1:0")
        assert process.stdout.readline().startswith("READY")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    signalling = quiet | {"udfs": [udf(source, ["temperature"], {"y": "float64"})]}
    process = start(tmp_path, signalling, listen="127.0.0.1:0")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["received"] == 0
