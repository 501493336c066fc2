"""The product as its users run it: the command `streamjob` as a process of its own, on real files and a real port."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

Row = dict[str, Any]
T = TypeVar("T")

READY_WITHIN_S = 30.0
EXIT_WITHIN_S = 60.0
KILLED = -signal.SIGKILL


class TooLongError(AssertionError):
    """What was waited for did not come in time."""


def wait_until(what: str, look: Callable[[], T | None], within_s: float = 30.0) -> T:
    """What `look` gives, once that is true; `what` names it for whoever reads the failure."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TooLongError(f"{what} did not come within {within_s:g} s; last seen: {found!r}")
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def streamjob_command() -> list[str]:
    """The command `streamjob` of the virtual environment that runs the tests."""
    beside = Path(sys.executable).parent / "streamjob"
    found = str(beside) if beside.exists() else shutil.which("streamjob")
    if found is None:
        raise RuntimeError(f"there is no command streamjob beside {sys.executable}; install sdk and engine there")
    return [found]


def environment(engine: Path | None = None, **variables: str) -> dict[str, str]:
    """The environment of a `streamjob`; `engine` is a folder with another build of the module streamjob_engine."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMJOB_", "OTEL_"))}
    engine = engine or (Path(os.environ["STREAMJOB_ENGINE"]) if "STREAMJOB_ENGINE" in os.environ else None)
    if engine is not None:
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(engine), inherited.get("PYTHONPATH")]))
    return inherited | variables


@dataclass
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def totals(self) -> Row:
        """The last line of stdout."""
        return strict_json(self.stdout.strip().splitlines()[-1])


def run_command(
    *arguments: str | Path, cwd: Path, within_s: float = EXIT_WITHIN_S, engine: Path | None = None, **env: str
) -> Finished:
    """Runs `streamjob` to its end."""
    done = subprocess.run(
        [*streamjob_command(), *map(str, arguments)],
        cwd=cwd,
        env=environment(engine, **env),
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass
class Job:
    """A folder with a job's file and everything that its relative paths name."""

    folder: Path
    text: str
    engine: Path | None = None
    state: str = "state"
    port: int = field(default_factory=free_port)
    starts: int = 0

    def __post_init__(self) -> None:
        """Writes the job's file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.text, encoding="utf-8")

    @property
    def path(self) -> Path:
        """The job's file."""
        return self.folder / "job.yaml"

    @property
    def state_dir(self) -> Path:
        """Where the engine keeps its state."""
        return self.folder / self.state

    def write(self, name: str, content: str | bytes) -> Path:
        """A file beside the job's."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def start(self, *arguments: str, crash_at: str | None = None, **env: str) -> Running:
        """Starts the engine; it may not be ready yet."""
        self.starts += 1
        variables = env | ({"STREAMJOB_CRASH_AT": crash_at} if crash_at else {})
        return Running(self, list(arguments), variables)

    def run(self, *arguments: str, **env: str) -> Running:
        """Starts the engine and waits until it takes rows."""
        running = self.start(*arguments, **env)
        running.await_ready()
        return running

    def run_to_end(self, *arguments: str, within_s: float = EXIT_WITHIN_S, **env: str) -> Finished:
        """Runs the job until its sources have ended."""
        return self.start("--exit-at-end", *arguments, **env).await_success(within_s)

    def rows(self, sink: str) -> list[Row]:
        """What a file sink has made visible, in the order of shards and segments."""
        return read_segments(self.folder / sink)


class Running:
    """One process of the engine."""

    def __init__(self, job: Job, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
        self.job = job
        self.url = f"http://127.0.0.1:{job.port}"
        self._log = job.folder / f"stderr-{job.starts:03}.log"
        listen = () if "--listen" in arguments else ("--listen", f"127.0.0.1:{job.port}")
        command = [*streamjob_command(), "run", str(job.path), "--state-dir", str(job.state_dir), *listen, *arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=job.folder,
                env=environment(job.engine, **variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.stdout: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        _RUNNING.append(self)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.stdout.append(line.rstrip("\n"))
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def stderr(self) -> str:
        """Its log so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def becomes_ready(self, within_s: float = READY_WITHIN_S) -> bool:
        """True when it says READY, false if it ends first."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TooLongError(f"READY did not come within {within_s:g} s\n{self.stderr[-2000:]}") from None
            if line is None:
                return False
            if line.startswith("READY "):
                self.url = line.removeprefix("READY ").strip()
                return True

    def await_ready(self, within_s: float = READY_WITHIN_S) -> Running:
        """Waits until it takes rows."""
        assert self.becomes_ready(within_s), f"it ended before it was ready\n{self.stderr[-3000:]}"
        return self

    def await_exit(self, within_s: float = EXIT_WITHIN_S) -> Finished:
        """Waits until it has ended, however."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise TooLongError(f"the engine did not end within {within_s:g} s\n{self.stderr[-3000:]}") from None
        self._reader.join(5)
        return Finished(code, "\n".join(self.stdout), self.stderr)

    def await_success(self, within_s: float = EXIT_WITHIN_S) -> Finished:
        """Waits until it has ended well."""
        finished = self.await_exit(within_s)
        assert finished.code == 0, f"exit code {finished.code}\n{finished.stderr[-3000:]}"
        return finished

    def lives_for(self, seconds: float) -> bool:
        """Gives it some time; false if it ends meanwhile."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        assert self.kill_unless_ended()

    def kill_unless_ended(self) -> bool:
        """As `kill`; False where it came to its end before that."""
        self.process.kill()
        code = self.await_exit().code
        assert code in (KILLED, 0)
        return code == KILLED

    def stop(self, number: int = signal.SIGTERM, within_s: float = EXIT_WITHIN_S) -> Finished:
        """Asks it to stop, and waits until it has."""
        self.process.send_signal(number)
        return self.await_success(within_s)

    def http(self, **options: Any) -> httpx.Client:
        """A client of its listener."""
        return httpx.Client(base_url=self.url, timeout=30.0, trust_env=False, **options)

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """Posts JSON (or bytes as they are) to /ingest."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self.http() as client:
            return client.post("/ingest", content=content, headers={"Content-Type": "application/json"} | named)

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        """GETs a path."""
        with self.http() as client:
            return client.get(path, params=parameters)

    def metrics(self) -> Metrics:
        """A look at /metrics."""
        return Metrics(self.get("/metrics").text)

    def await_metric(self, name: str, at_least: float, within_s: float = 30.0, **labels: str) -> Metrics:
        """Waits until a figure is high enough."""
        seen: list[Metrics] = []

        def look() -> bool:
            try:
                answer = self.get("/metrics")
            except httpx.TransportError:
                # The state is opened anew: the next look finds it.
                assert self.process.poll() is None, f"the engine has ended\n{self.stderr[-3000:]}"
                return False
            if answer.status_code == 503:
                return False  # likewise
            seen[:] = [Metrics(answer.text)]
            return seen[0].sum(name, **labels) >= at_least

        try:
            wait_until(f"{name}{labels or ''} >= {at_least}", look, within_s)
        except TooLongError as error:
            last = seen[0].sum(name, **labels) if seen else "nothing"
            raise TooLongError(f"{error}; it was {last} in the end\n{self.stderr[-3000:]}") from None
        return seen[0]

    def await_processed(self, rows: int, within_s: float = 30.0) -> Metrics:
        """Waits until so many rows have met their fate."""
        return self.await_metric("events_processed_total", rows, within_s)


class Metrics:
    """Figures in Prometheus' text format."""

    LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
    LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: list[tuple[str, dict[str, str], float]] = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                matched = self.LINE.fullmatch(line)
                assert matched, f"no line of Prometheus' text format: {line!r}"
                labels = dict(self.LABEL.findall(matched[2] or ""))
                self.samples.append((matched[1], labels, float(matched[3])))

    def names(self) -> set[str]:
        """The names of all series."""
        return {name for name, _, _ in self.samples}

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the series of this name and these labels."""
        return sum(value for known, has, value in self.samples if known == name and labels.items() <= has.items())

    def ledger(self) -> dict[str, int]:
        """Rows by outcome."""
        return {has["outcome"]: int(value) for name, has, value in self.samples if name == "events_processed_total"}


_RUNNING: list[Running] = []


def end_all(folder: Path) -> None:
    """Kills what a test has left running in its folder."""
    for running in [running for running in _RUNNING if running.job.folder.is_relative_to(folder)]:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(EXIT_WITHIN_S)
        _RUNNING.remove(running)


def strict_json(text: str | bytes) -> Any:
    """JSON as the standard has it: neither NaN nor Infinity, no name twice in an object."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def pairs(members: list[tuple[str, Any]]) -> Row:
        row = dict(members)
        assert len(row) == len(members), f"a name stands twice in {members}"
        return row

    return json.loads(text, parse_constant=refuse, object_pairs_hook=pairs)


def segments(folder: Path) -> Iterator[Path]:
    """The visible segments of a file sink."""
    name = re.compile(r"part-\d{5}-\d{12}(-r\d+)?\.ndjson")
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if not path.name.startswith("."):
            assert name.fullmatch(path.name), f"{path} is no name of a segment"
            yield path


def read_segments(folder: Path) -> list[Row]:
    """All rows of a file sink; each line is whole and strict JSON."""
    rows: list[Row] = []
    for path in segments(folder):
        content = path.read_bytes()
        assert content.endswith(b"\n"), f"{path} does not end with a line's end"
        rows.extend(strict_json(line) for line in content.splitlines())
    return rows


def duplicates(values: Sequence[Any]) -> list[Any]:
    """Values that come more than once."""
    seen: set[Any] = set()
    return [value for value in values if value in seen or seen.add(value)]
