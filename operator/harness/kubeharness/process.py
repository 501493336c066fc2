"""An operator as a process, and what it says of itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kubeharness.server import Server, free_port

T = TypeVar("T")
WAIT_S = 60.0
_POLL_S = 0.05


def until(what: str, ask: Callable[[], T | None], limit_s: float = WAIT_S) -> T:
    """Asks until there is an answer that counts; the API server is seen by asking alone."""
    end = time.monotonic() + limit_s
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(_POLL_S)


@dataclass
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    health_port: int
    log: Path

    def metrics(self) -> dict[str, float]:
        text = _get(f"http://127.0.0.1:{self.metrics_port}/metrics")[1]
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def calls(self) -> dict[str, float]:
        """Requests by kind and verb, but for the Lease's."""
        found = {name: value for name, value in self.metrics().items() if "api_calls_total" in name}
        return {name: value for name, value in found.items() if "Lease" not in name}

    def healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return _get(f"http://127.0.0.1:{self.health_port}/healthz")[0] == 200
        return False

    def leads(self) -> bool:
        with contextlib.suppress(OSError):
            return self.metrics().get("streamjob_operator_leader") == 1.0
        return False


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextlib.contextmanager
def operator(server: Server, namespace: str, folder: Path, **flags: str) -> Iterator[Operator]:
    """An operator that looks after one namespace; ended at the end, whatever it does."""
    metrics_port, health_port = free_port(), free_port()
    given = {
        "namespaces": namespace,
        "lease-namespace": namespace,
        "metrics-port": str(metrics_port),
        "health-port": str(health_port),
        "engine-image": "engine:1",
        **{name.replace("_", "-"): value for name, value in flags.items()},
    }
    kubeconfig = given.pop("kubeconfig", str(server.kubeconfig))
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    log = folder / f"operator-{metrics_port}.log"
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    command = [sys.executable, "-m", "streamjob_operator", "run", *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stderr=stream, stdout=stream)
    try:
        yield Operator(process, metrics_port, health_port, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
