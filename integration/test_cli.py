"""The command as a user meets it: ports, directories, signals, ends, exit codes, a full disk."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import skip_or_fail
from harness import Job, Running, free_port, run_command, strict_json, wait_until

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: cli}
spec:
  shards: 4
  schema:
    key: device
    time: {field: at, unit: s}
    fields: {device: string, x: float64}
  sources: [{name: in, http: {}}]
  windows:
    - {name: per_10s, tumbling: 10s, aggregates: {n: count()}}
  sinks:
    - {name: windows, from: per_10s, delivery: exactly-once, file: {path: out}}
  checkpoint: {interval: 200ms}
  engine: {workerThreads: 2}
"""
FILE_JOB = JOB.replace("[{name: in, http: {}}]", "[{name: replay, file: {path: data.ndjson, speed: 10}}]")
BROKEN = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {name: broken}
spec:
  shards: 0
  schema:
    key: nobody
    time: {field: at, unit: weeks}
    fields: {device: string, x: flaot64}
  sources: [{name: in, http: {}}]
  windows:
    - {name: per_10s, tumbling: 10 bananas, aggregates: {n: cuont()}}
  sinks:
    - {name: windows, from: per_1s, file: {path: out}}
  unknown: 1
"""
TOTALS = ["received", "applied", "late", "rejected", "windows", "anomalies", "resumed"]


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(JOB)


def rows(count: int) -> bytes:
    return json.dumps([{"device": f"d{number % 7}", "at": number, "x": 1.0} for number in range(count)]).encode()


def test_the_port_of_another_process_is_named(job: Job) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        finished = job.start("--listen", address).await_exit()
    assert finished.code == 1
    assert address in finished.stderr
    assert "READY" not in finished.stdout
    assert "Traceback" not in finished.stderr


def test_a_state_directory_has_one_process(job: Job) -> None:
    first = job.run()
    assert int((job.state_dir / "pid").read_text()) == first.process.pid
    second = job.start("--listen", f"127.0.0.1:{free_port()}").await_exit()
    assert second.code == 1
    assert str(first.process.pid) in second.stderr
    assert str(job.state_dir) in second.stderr
    assert first.post(rows(1)).status_code == 202
    first.kill()
    job.run().stop()


def test_a_directory_that_is_not_streamjobs_is_left_alone(job: Job) -> None:
    precious = job.write("state/thesis.txt", "all my work")
    finished = job.start().await_exit()
    assert finished.code == 1
    assert str(job.state_dir) in finished.stderr
    assert sorted(os.listdir(job.state_dir)) == ["thesis.txt"]
    assert precious.read_text() == "all my work"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("metadata: {name: cli}", "metadata: {name: other}"),
        ("shards: 4", "shards: 8"),
        ("key: device", "key: {const: all}"),
    ],
    ids=["job", "shards", "key"],
)
def test_the_state_of_another_job_is_refused(job: Job, before: str, after: str) -> None:
    job.run().stop()
    job.path.write_text(JOB.replace(before, after))
    finished = job.start().await_exit()
    assert finished.code == 1
    assert "READY" not in finished.stdout
    assert "--state-dir" in finished.stderr
    job.path.write_text(JOB)
    job.run().stop()


def test_an_output_folder_belongs_to_one_state(job: Job) -> None:
    job.run().stop()
    finished = job.start("--state-dir", str(job.folder / "other")).await_exit()
    assert finished.code == 1
    assert str(job.folder / "out") in finished.stderr


def test_without_a_state_directory_it_is_beside_where_one_stands(job: Job) -> None:
    finished = run_command("run", job.path, "--for", "300ms", "--listen", "127.0.0.1:0", cwd=job.folder)
    assert finished.code == 0, finished.stderr
    assert (job.folder / ".streamjob" / "cli" / "manifest.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_well(job: Job, number: signal.Signals) -> None:
    running = job.run()
    assert running.post(rows(25)).status_code == 202
    running.await_processed(25)
    finished = running.stop(number, within_s=20)
    totals = finished.totals
    assert list(totals) == TOTALS
    assert (totals["received"], totals["applied"], totals["resumed"]) == (25, 25, False)
    # Stopping fires no window: only those that the rows had closed.
    assert totals["windows"] == len(job.rows("out"))
    assert {row["window_start"] for row in job.rows("out")} == {"1970-01-01T00:00:00Z", "1970-01-01T00:00:10Z"}
    assert not (job.state_dir / "pid").exists()
    assert "Traceback" not in finished.stderr
    again = job.run().stop().totals
    assert (again["received"], again["resumed"]) == (25, True)


def test_a_stop_under_load_loses_nothing_that_was_acknowledged(job: Job) -> None:
    running = job.run()
    acknowledged = []
    body = rows(100)

    def send() -> None:
        with running.http() as client:
            try:
                while True:
                    response = client.post("/ingest", content=body, headers={"Content-Type": "application/json"})
                    if response.status_code == 202:
                        acknowledged.append(100)
                    elif response.status_code == 503:
                        return
            except Exception:
                return

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until("some load", lambda: len(acknowledged) > 100)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 20, "a stop waits for requests under way, not for their timeouts"
    for thread in threads:
        thread.join(30)
    totals = job.run_to_end().totals
    assert sum(acknowledged) <= totals["received"] <= sum(acknowledged) + 400
    assert totals["received"] == totals["applied"] + totals["late"]


def test_for_ends_it_after_that_time(job: Job) -> None:
    began = time.monotonic()
    running = job.run("--for", "3s")
    finished = running.await_success()
    assert time.monotonic() - began >= 3
    assert list(finished.totals) == TOTALS


def test_exit_at_end_closes_everything_and_goes(make_job: Callable[..., Job]) -> None:
    job = make_job(FILE_JOB)
    job.write("data.ndjson", "".join(f'{{"device":"a","at":{at},"x":1}}\n' for at in range(15)))
    finished = job.run_to_end()
    assert [row["n"] for row in job.rows("out")] == [10, 5]
    assert finished.totals["windows"] == 2
    again = job.run_to_end()
    assert again.totals == finished.totals | {"resumed": True}
    assert len(job.rows("out")) == 2


def test_exit_at_end_takes_pushed_rows_until_files_have_ended(make_job: Callable[..., Job]) -> None:
    both = FILE_JOB.replace("sources: [", "sources: [{name: in, http: {}}, ")
    # Slow enough that the file has not ended when the row comes, and faster than a source turns idle.
    job = make_job(both.replace("speed: 10", "speed: 3.5"))
    job.write("data.ndjson", "".join(f'{{"device":"a","at":{at},"x":1}}\n' for at in range(15)))
    running = job.run("--exit-at-end")
    assert running.post(b'{"device":"pushed","at":3,"x":1}').status_code == 202
    assert running.await_success().totals["received"] == 16
    assert [row["n"] for row in job.rows("out") if row["key"] == "pushed"] == [1]


@pytest.mark.parametrize("command", ["check", "run"])
def test_all_errors_of_a_job_are_told_at_once(make_job: Callable[..., Job], command: str) -> None:
    job = make_job(BROKEN)
    finished = run_command(command, job.path, cwd=job.folder)
    assert (finished.code, finished.stdout) == (2, "")
    lines = finished.stderr.splitlines()
    wrong = ("spec.shards", "spec.schema.time", "spec.schema.fields.x", "spec.windows[0].tumbling", "spec.unknown")
    for path in wrong:
        [line] = [line for line in lines if f": {path}" in line]
        assert line.startswith(f"{job.path}:"), line
        assert "(got " in line or "unknown" in line, line
    assert not (job.folder / ".streamjob").exists()


def test_errors_of_meaning_are_told_at_once(make_job: Callable[..., Job]) -> None:
    text = (
        JOB.replace("key: device", "key: nobody").replace("from: per_10s", "from: per_1s").replace("count()", "cuont()")
    )
    job = make_job(text)
    finished = run_command("check", job.path, cwd=job.folder)
    assert finished.code == 2
    for path in ("spec.schema.key", "spec.sinks[0].from", "spec.windows[0].aggregates.n"):
        assert f": {path}: " in finished.stderr
    assert finished.stderr.count("; ") >= 3, "each says how to mend it"


def test_wrong_arguments_are_refused(job: Job) -> None:
    for arguments in (["run"], ["run", job.path, "--for", "soon"], ["run", job.path, "--listen", "here"], ["walk"]):
        assert run_command(*arguments, cwd=job.folder).code == 2


def test_a_missing_file_is_named(make_job: Callable[..., Job]) -> None:
    job = make_job(FILE_JOB)
    finished = job.start().await_exit()
    assert finished.code in (1, 2)
    assert str(job.folder / "data.ndjson") in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_function_that_does_not_load_is_explained(make_job: Callable[..., Job]) -> None:
    udf = "udfs: [{name: z, file: f.py, function: score, on: event, inputs: [x], output: {score: float64}}]\n  sinks:"
    job = make_job(JOB.replace("sinks:", udf))
    job.write("f.py", "import nothing_like_this\n\ndef score(x):\n    return x\n")
    finished = job.start().await_exit()
    assert finished.code == 1
    assert "nothing_like_this" in finished.stderr
    assert f"{job.folder / 'f.py'}, line 1" in finished.stderr


def test_starts_leave_nothing_behind(job: Job) -> None:
    for _ in range(4):
        running = job.run()
        assert running.post(rows(20)).status_code == 202
        running.kill()
    running = job.run()
    running.await_processed(80)
    wait_until("old journals to be deleted", lambda: len(list((job.state_dir / "journal").iterdir())) == 1)
    running.stop()
    assert not [path for path in (job.folder / "out").iterdir() if path.suffix == ".tmp"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        skip_or_fail(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Takes all room but `leave` bytes."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    with filler.open("ab") as file:
        os.posix_fallocate(file.fileno(), file.tell(), max(1, free.f_bavail * free.f_frsize - leave))
    return filler


def test_a_full_disk_is_answered_503_and_nothing_acknowledged_is_lost(
    make_job: Callable[..., Job], small_disk: Path
) -> None:
    """Segments are preallocated: what was promised fits, and what does not is refused before any row is taken."""
    job = make_job(JOB)
    job.state = str(small_disk / "state")
    job.text = JOB
    job.path.write_text(JOB.replace("interval: 200ms", "interval: 1h"))
    running = job.run()
    body = json.dumps([{"device": os.urandom(400).hex(), "at": 1, "x": 1.0} for _ in range(1000)]).encode()
    sent = 0
    filler = fill(small_disk, leave=1 << 20)

    def refused() -> int:
        nonlocal sent
        response = running.post(body)
        if response.status_code == 202:
            sent += 1000
            return 0
        assert strict_json(response.content)["error"]
        return response.status_code

    assert wait_until("the disk to be full", refused, within_s=120) == 503
    assert running.process.poll() is None
    assert refused() == 503
    filler.unlink()
    wait_until("rows to be taken again", lambda: refused() == 0)
    assert_running_and_counted(running, sent)
    running.kill()
    again = job.run()
    assert_running_and_counted(again, sent)
    again.stop()


def assert_running_and_counted(running: Running, sent: int) -> None:
    ledger = running.await_processed(sent).ledger()
    assert sum(ledger.values()) == sent
    assert ledger["applied"] == sent
