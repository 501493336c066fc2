"""The engine as a process: started as a user starts it, watched, asked, stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from driver import metrics

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
SAMPLE_S = 0.05


class BenchError(RuntimeError):
    """A case could not be run or verified."""


class Usage:
    """Peak memory of a process, by a thread that looks often. VmHWM is the kernel's own peak: it misses none."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self.rss_peak = 0
        self.anonymous_peak = 0
        self.file_peak = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S) and self._sample():
            pass

    def _sample(self) -> bool:
        try:
            found = parse_status(self._status.read_text())
        except (OSError, ValueError):
            return False
        self.rss_peak = max(self.rss_peak, found.get("VmHWM", 0))
        self.anonymous_peak = max(self.anonymous_peak, found.get("RssAnon", 0))
        self.file_peak = max(self.file_peak, found.get("RssFile", 0))
        return True

    def stop(self) -> None:
        """Looks a last time."""
        self._sample()
        self._ended.set()
        self._thread.join()


def parse_status(text: str) -> dict[str, int]:
    """The sizes of /proc/PID/status in bytes."""
    sizes = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            sizes[name] = int(value.split()[0]) * 1024
    return sizes


class Engine:
    """One run of a job. Leaving the context kills what is still running."""

    def __init__(self, job: Path, folder: Path, *, exit_at_end: bool = False, native: Path | None = None) -> None:
        state = folder / "state"
        if native:
            command = [str(native), str(_normalised(job)), str(state)]
        else:
            command = [str(Path(sys.executable).parent / "streamjob"), "run", str(job), "--state-dir", str(state)]
            command.append("--no-live")
        command += ["--listen", "127.0.0.1:0", *(["--exit-at-end"] if exit_at_end else [])]
        self._log = folder / "engine.log"
        self.started_wall_us = time.time_ns() // 1000
        self.started = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
        self.usage = Usage(self._process.pid)
        self._times = psutil.Process(self._process.pid)
        self._cpu_at_exit = 0.0
        self.url = self._wait_ready()
        self.ready = time.perf_counter()
        self.cpu_at_ready = self.cpu_seconds()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.kill()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def _wait_ready(self) -> str:
        stdout = self._process.stdout
        assert stdout is not None
        timer = threading.Timer(START_TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            for line in stdout:
                if line.startswith("READY "):
                    return line.split()[1]
        finally:
            timer.cancel()
        self._process.wait()
        raise BenchError(f"the engine did not become ready (exit code {self._process.returncode}): {self._log_tail()}")

    def cpu_seconds(self) -> float:
        """Processor time since the process began, in user and kernel."""
        try:
            times = self._times.cpu_times()
        except psutil.NoSuchProcess:
            return self._cpu_at_exit
        return times.user + times.system

    @contextmanager
    def cpu(self) -> Iterator[list[float]]:
        """Appends the percentage of one core that the engine used meanwhile."""
        percent: list[float] = []
        wall, used = time.perf_counter(), self.cpu_seconds()
        yield percent
        percent.append(round(100 * (self.cpu_seconds() - used) / (time.perf_counter() - wall), 1))

    def metrics(self) -> metrics.Samples:
        """What /metrics says now."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
                return metrics.parse(answer.read().decode())
        except (OSError, urllib.error.URLError) as error:
            raise BenchError(f"the engine does not answer: {error}. {self._log_tail()}") from error

    def post(self, body: bytes) -> None:
        """One request with NDJSON that must be accepted."""
        request = urllib.request.Request(f"{self.url}/ingest", body, {"Content-Type": "application/x-ndjson"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 202:
                raise BenchError(f"the engine answered {answer.status}")

    def wait_exit(self, timeout_s: float) -> float:
        """Waits for the end by itself; the moment at which it came."""
        deadline = time.perf_counter() + timeout_s
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            now = time.perf_counter()
            if pid:
                break
            if now > deadline:
                self.kill()
                raise BenchError(f"the engine did not end within {timeout_s:.0f} s: {self._log_tail()}")
            time.sleep(0.002)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._cpu_at_exit = usage.ru_utime + usage.ru_stime
        self.usage.stop()
        if self._process.returncode != 0:
            raise BenchError(f"the engine ended with {self._process.returncode}: {self._log_tail()}")
        return now

    def stop(self) -> None:
        """Ends it as a user does; it commits."""
        self.usage.stop()
        self._process.send_signal(signal.SIGTERM)
        self.wait_exit(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """kill -9."""
        self.usage.stop()
        self._process.kill()
        self._process.wait()

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:].strip()


def _normalised(job: Path) -> Path:
    """The JSON that an engine without Python takes."""
    from streamjob.loading import load_job
    from streamjob.normalise import normalised_json

    path = job.with_suffix(".json")
    path.write_text(normalised_json(load_job(str(job))), encoding="utf-8")
    return path
