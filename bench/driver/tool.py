"""The load generator and the receiver of alerts, each a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from driver.engine import BenchError

Summary = dict[str, Any]


class Tool:
    """The program `streamjob-bench`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def generate_file(self, out: Path, *, devices: int, events: int, per_window_key: int) -> Summary:
        """A file of events."""
        arguments = ["--out", str(out), "--devices", str(devices), "--events", str(events)]
        return self._run(["generate-file", *arguments, "--events-per-window-key", str(per_window_key)])

    def http(self, url: str, *, seconds: float, **options: object) -> Summary:
        """Load until it ends; `options` are those of the command line."""
        return self._run(_http(url, seconds, options))

    def start_http(self, url: str, *, seconds: float, **options: object) -> Background:
        """Load beside what comes next."""
        return Background([str(self.path), *_http(url, seconds, options)])

    def receive(self, address: str = "127.0.0.1:0") -> Receiver:
        """A receiver of webhooks."""
        return Receiver([str(self.path), "receive", "--listen", address])

    def _run(self, arguments: list[str]) -> Summary:
        done = subprocess.run([str(self.path), *arguments], stdout=subprocess.PIPE, text=True, check=False)
        return _summary(done.returncode, done.stdout, arguments[0])


def _http(url: str, seconds: float, options: dict[str, object]) -> list[str]:
    arguments = ["http", "--url", f"{url}/ingest", "--duration", f"{seconds:.3f}s"]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        arguments += [flag] if value is True else [flag, str(value)]
    return arguments


def _summary(code: int, stdout: str, name: str) -> Summary:
    lines = stdout.strip().splitlines()
    if code != 0 or not lines:
        raise BenchError(f"the load generator ({name}) ended with {code}")
    return json.loads(lines[-1])


class Background:
    """A process that runs until it is told to end, and then prints a summary."""

    def __init__(self, command: list[str]) -> None:
        self._name = command[1]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait(self) -> Summary:
        """Its summary, when it ends by itself."""
        stdout, _ = self._process.communicate()
        return _summary(self._process.returncode, stdout, self._name)

    def stop(self) -> Summary:
        """Ends it."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()


class Receiver(Background):
    """`receive`, listening."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        assert self._process.stdout is not None
        ready = self._process.stdout.readline().split()
        if len(ready) != 2 or ready[0] != "READY":
            raise BenchError("the receiver of alerts does not listen")
        self.url = ready[1]

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self.url.removeprefix("http://")

    def __enter__(self) -> Receiver:
        return self
