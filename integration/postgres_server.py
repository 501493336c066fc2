"""A real PostgreSQL server that the tests start, kill, pause and restart themselves."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from harness import Row, free_port, strict_json, wait_until

READY_WITHIN_S = 60.0
PLACES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/pgsql/bin"))


def _tool(name: str) -> str | None:
    beside = (str(place / name) for place in PLACES if (place / name).exists())
    return shutil.which(name) or next(beside, None)


def _user() -> str | None:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return getpass.getuser()
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None


def missing() -> str | None:
    """Why there can be no server here."""
    absent = [name for name in ("initdb", "postgres", "psql") if _tool(name) is None]
    if absent:
        return f"there is no {' and no '.join(absent)}: install postgresql to test with a real server"
    return None if _user() else "root can't run PostgreSQL, and there is no other user"


@dataclass
class Postgres:
    """One server with its files in a folder of its own; it keeps its port over restarts."""

    hba: Sequence[str] = ("host all all 127.0.0.1/32 trust",)
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Makes the files. They are not in a test's folder, which another user can't enter."""
        self.folder = Path(tempfile.mkdtemp(prefix="streamjob-postgres-"))
        user = _user()
        assert user is not None
        self._as: dict[str, str] = {} if os.geteuid() != 0 else {"user": user}
        if self._as:
            shutil.chown(self.folder, user)
        self._run("initdb", "-D", str(self.data), "-U", "admin", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        (self.data / "pg_hba.conf").write_text("local all all trust\n" + "\n".join(self.hba) + "\n", encoding="utf-8")

    @property
    def data(self) -> Path:
        """The server's own folder."""
        return self.folder / "data"

    def give(self, path: Path, name: str) -> Path:
        """Copies a file to where the server can read it, and nobody else."""
        given = self.folder / name
        shutil.copy(path, given)
        if self._as:
            shutil.chown(given, self._as["user"])
        given.chmod(0o600)
        return given

    def _run(self, tool: str, *arguments: str) -> str:
        found = _tool(tool)
        assert found is not None
        done = subprocess.run(
            [found, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120, check=False, **self._as
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> Postgres:
        """Starts it and waits until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), **self.settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        found = _tool("postgres")
        assert found is not None
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [found, "-D", str(self.data), "-k", str(self.folder), *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as,
            )
        wait_until("a server that answers", self._answers, READY_WITHIN_S)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended:\n{(self.folder / 'server.log').read_text()[-3000:]}"
        return self._psql("SELECT 1", "postgres").returncode == 0

    def _psql(self, sql: str, database: str) -> subprocess.CompletedProcess[str]:
        found = _tool("psql")
        assert found is not None
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "admin", "-d", database]
        command = [found, *where, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def run(self, sql: str, database: str = "postgres") -> str:
        """What statements answer."""
        done = self._psql(sql, database)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, database: str, tables: str = "") -> None:
        """A database for a test, with its tables."""
        self.run(f'CREATE DATABASE "{database}"')
        if tables:
            self.run(tables, database)

    def rows(self, query: str, database: str) -> list[Row]:
        """The rows that a query gives."""
        return [
            strict_json(line) for line in self.run(f"SELECT row_to_json(q) FROM ({query}) q", database).splitlines()
        ]

    def _processes(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        for process in self._processes():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def kill(self) -> None:
        """SIGKILL to all of its processes, and waits until they are gone."""
        assert self.process is not None
        processes = self._processes()
        self._signal(signal.SIGKILL)
        self.process.wait(30)
        psutil.wait_procs(processes, 30)

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it, if it runs, without waiting for its clients."""
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def remove(self) -> None:
        """Ends it and deletes its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
