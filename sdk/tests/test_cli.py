"""The command line, as its own process; `run` with a stand-in for the engine."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from jobs import GOOD, load_text, write_job
from streamjob import __version__
from streamjob.cli.logs import Log
from streamjob.cli.progress import History, behind_text, column_texts, plain_line, rate_text, span_text, view_job
from streamjob.cli.view import render

FAKE = Path(__file__).parent / "fake_engine"


def streamjob(
    *arguments: object, fake: bool = False, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **env}
    if fake:
        environment["PYTHONPATH"] = f"{FAKE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", "streamjob", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False, timeout=60)


def test_check_of_a_good_job(tmp_path: Path) -> None:
    result = streamjob("check", write_job(tmp_path), "--keys", "500000")
    assert (result.returncode, result.stderr) == (0, "")
    assert "telemetry: 1 source, 1 window, 1 UDF, 2 sinks, 32 shards" in result.stdout
    assert "129,600,000,000 rows in 30d" in result.stdout
    assert "The history is large" in result.stdout


def test_check_of_a_bad_job_prints_all_problems(tmp_path: Path) -> None:
    text = GOOD.replace("tumbling: 10s", "tumbling: 10x").replace("from: per_10s", "from: per_1s")
    path = write_job(tmp_path, text)
    result = streamjob("check", path)
    assert (result.returncode, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["spec.windows[0].tumbling", "spec.sinks[0].from"]
    assert lines[0].startswith(f'{path}:18: spec.windows[0].tumbling: is not a duration (got "10x"; ')


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("[" * 3000 + "]" * 3000, "is nested too deeply"),
        ("{a: " * 1500 + "}" * 1500, "is nested too deeply"),
        (r'{const: "\ud800"}', "spec.schema.key.const: holds half of a character"),
    ],
)
def test_what_cannot_be_read_or_shown_is_a_problem_like_others(
    command: str, member: str, said: str, tmp_path: Path
) -> None:
    path = write_job(tmp_path, GOOD.replace("key: device_id", f"key: {member}"))
    result = streamjob(command, path, PYTHONIOENCODING="utf-8:strict")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{path}:6: ")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_missing_job_is_told(command: str, tmp_path: Path) -> None:
    result = streamjob(command, tmp_path / "nope.yaml")
    assert result.returncode == 2
    assert "nope.yaml:1: cannot be read: No such file" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("walk",),
        ("run",),
        ("run", "x", "--for", "10"),
        ("run", "x", "--listen", "here"),
        ("check", "x", "--keys", "-1"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments: tuple[str, ...]) -> None:
    result = streamjob(*arguments)
    assert result.returncode == 2
    assert "usage: streamjob" in result.stderr


def test_run_prints_ready_and_totals(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    result = streamjob("run", path, "--for", "20s", "--listen", "127.0.0.1:9", fake=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, last = result.stdout.splitlines()
    assert first == "READY http://127.0.0.1:9"
    totals = json.loads(last)
    assert (totals["received"], totals["resumed"]) == (12, False)
    assert totals["asked"][:5] == [
        "telemetry",
        str(tmp_path / ".streamjob" / "telemetry"),
        "127.0.0.1:9",
        False,
        20_000_000,
    ]
    log = json.loads(result.stderr)
    assert (log["event"], log["level"], log["job"]) == ("job_ready", "info", "telemetry")
    assert log["timestamp"].endswith("Z")


def test_logs_as_text(tmp_path: Path) -> None:
    result = streamjob("run", write_job(tmp_path), "--log-format", "text", fake=True, cwd=tmp_path)
    line = r"\S+Z \[info +\] job_ready +job=telemetry state_dir=\S+ url=http://127.0.0.1:8080\n"
    assert re.fullmatch(line, result.stderr), result.stderr


def test_run_with_live_prints_plain_lines_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    result = streamjob("run", write_job(tmp_path), "--live", "--exit-at-end", "--state-dir", tmp_path / "s", fake=True)
    assert result.returncode == 0, result.stderr
    assert "received 12  applied 10  late 1  rejected 1  windows 3  anomalies 1" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["asked"][1:4:2] == [str(tmp_path / "s"), True]


def test_run_reports_what_the_engine_says(tmp_path: Path) -> None:
    result = streamjob("run", write_job(tmp_path), fake=True, FAKE_ENGINE_FAILS="1")
    assert (result.returncode, result.stdout) == (1, "")
    log = json.loads(result.stderr)
    assert (log["event"], log["actor"], log["retryable"]) == ("job_failed", "user", False)
    assert "port 8080" in log["message"]


def test_run_refuses_a_config_map(tmp_path: Path) -> None:
    text = GOOD.replace("file: udfs.py", "code: {configMap: {name: a, key: b}}")
    result = streamjob("run", write_job(tmp_path, text), fake=True)
    assert result.returncode == 2
    assert "spec.udfs[0].code.configMap: a ConfigMap exists only on Kubernetes" in result.stderr


def test_run_without_the_engine_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "streamjob_engine.py").write_text("raise ModuleNotFoundError(name='streamjob_engine')")
    result = streamjob("run", write_job(tmp_path), PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "pip install streamjob[engine]" in json.loads(result.stderr)["message"]


def test_query_of_nobody() -> None:
    result = streamjob("query", "a", "--url", "http://127.0.0.1:1")
    assert (result.returncode, result.stdout) == (1, "")
    assert "http://127.0.0.1:1 does not answer" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "--url", "http://[::1"), "is no URL of a job (Invalid port: ':1'): write for example"),
        (("a", "--url", "127.0.0.1:8080"), '"127.0.0.1:8080" is no URL of a job: write http://127.0.0.1:8080'),
        (("a", "--token", "tökén"), "the token has a character that no header can hold"),
        (("\udcff",), "is not UTF-8 text"),
    ],
)
def test_a_query_that_cannot_be_asked_is_told(arguments: tuple[str, ...], said: str) -> None:
    result = streamjob("query", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("streamjob query: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_version() -> None:
    assert f"streamjob {__version__}" in streamjob("version").stdout


def test_import_is_light() -> None:
    code = "import sys, streamjob; print(*{'pydantic', 'sqlglot', 'rich', 'httpx', 'numpy', 'yaml'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


PROGRESS = {
    "uptime_us": 83_000_000,
    "received": 18012,
    "applied": 17990,
    "filtered": 0,
    "late": 2,
    "rejected": 1,
    "failed": 0,
    "duplicate": 0,
    "windows": 1201,
    "anomalies": 44,
    "rate_events_per_s": 217.2,
    "queue_rows": 12,
    "watermark_us": 1_365_076_800_000_000,
    "sinks": [
        {"name": "out", "sent_rows": 1198, "pending_rows": 3},
        {"name": "alerts", "sent_rows": 44, "pending_rows": 0},
    ],
    "latest_windows": [
        {
            "key": f"k{i}",
            "window_start": "2013-04-01T00:00:00Z",
            "window_end": "2013-04-01T00:00:10Z",
            "revision": 0,
            "n": 24,
            "mean": 45.123,
            "_id": f"per_10s/k{i}/1/0",
        }
        for i in range(20)
    ],
    "latest_events": [
        {"device_id": f"k{i}", "timestamp": 1_365_076_800_000 + i, "temperature": 39.2, "score": -3.92, "ok": None}
        for i in range(20)
    ],
    "message": None,
}


def drawn(progress: dict[str, object], width: int, height: int) -> str:
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    history = History()
    history.add(progress)
    job = view_job(load_text(GOOD))
    console.print(render(job, progress, history, "http://127.0.0.1:8080", width=width, height=height))
    return console.export_text()


def test_a_line_of_the_log_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine writes lines to the same place: none may come into the middle of another, buffered or not."""
    writes: list[str] = []

    class Unbuffered(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Unbuffered())
    log = Log("json")
    log.info("job_ready", url="here")
    log.error("job_failed")
    assert [(json.loads(text)["event"], text.endswith("}\n")) for text in writes] == [
        ("job_ready", True),
        ("job_failed", True),
    ]


def test_what_stands_in_rows_is_no_markup() -> None:
    rows = [{**PROGRESS["latest_windows"][0], "key": "[/dev/sda] :ab: [error]"}]  # type: ignore[index]
    assert "[/dev/sda] :ab: [error]" in drawn({**PROGRESS, "latest_windows": rows}, 120, 50)


def test_a_thread_that_does_not_end_does_not_keep_the_process() -> None:
    """The interpreter waits for threads of an executor, however long they take."""
    code = (
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from streamjob.cli import console\n"
        "console.EXIT_WITHIN_S = 0.2\n"
        "ThreadPoolExecutor().submit(threading.Event().wait)\n"
        "print('done')\n"
        "console.exit_with(lambda: 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "done\n")
    assert "has not ended within 0.2 s" in done.stderr


def test_a_command_that_is_told_to_end_ends_well() -> None:
    """Also before the engine runs, which takes over the signals."""
    code = (
        "import threading\n"
        "from streamjob.cli import console\n"
        "def main():\n"
        "    print('begun', flush=True)\n"
        "    threading.Event().wait()\n"
        "    return 3\n"
        "console.exit_with(main)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(("width", "height"), [(120, 50), (80, 24), (60, 20), (200, 10)])
def test_the_view_fits_and_shows_the_newest(width: int, height: int) -> None:
    text = drawn(PROGRESS, width, height)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "telemetry",
        "217 events/s",
        "2013-04-04 12:00:00 UTC",
        "behind now",
        "18,012",
        "1,198 sent",
        "Latest anomalies",
    ):
        assert part in text
    assert "k19" in text
    assert "-3.92" in text
    assert "…" not in text


def test_the_view_keeps_its_height() -> None:
    empty = {**PROGRESS, "latest_windows": [], "latest_events": [], "watermark_us": None}
    assert len(drawn(empty, 100, 40).splitlines()) == len(drawn(PROGRESS, 100, 40).splitlines())
    assert "waiting for events" in drawn(empty, 100, 40)
    assert "watermark waiting for events" in plain_line(empty)


def test_the_end_of_all_sources_is_told() -> None:
    ended = {**PROGRESS, "watermark_us": 2**63 - 1}
    assert "watermark all sources finished" in drawn(ended, 100, 40)
    assert "watermark all sources finished" in plain_line(ended)


def test_the_view_fits_a_usual_terminal() -> None:
    assert len(drawn(PROGRESS, 100, 40).splitlines()) <= 40
    assert len(drawn(PROGRESS, 80, 24).splitlines()) <= 24


def test_figures_are_readable() -> None:
    assert [rate_text(rate) for rate in (0, 3.14, 217.2, 12_345, 4_210_000)] == ["0", "3.1", "217", "12.3 k", "4.21 M"]
    assert [span_text(seconds) for seconds in (0.25, 5, 200, 3600, 90_000)] == [
        "250 ms",
        "5.0s",
        "3m 20s",
        "1h",
        "1d 1h",
    ]
    assert behind_text(1_000_000, 11_000_000) == "10s behind now"
    assert behind_text(None) == "waiting for events"
    assert behind_text(2**63 - 1) == "all sources finished"
    assert column_texts([1.0, 2.5, None]) == ["1.00", "2.50", "–"]
    assert column_texts([1.0, 2.0]) == ["1", "2"]
    assert column_texts(["2013-04-01T00:00:00Z", True, 12345]) == ["2013-04-01", "yes", "12,345"]
    assert "received 18,012" in plain_line(PROGRESS)
