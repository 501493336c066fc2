"""A real NATS server with JetStream that the tests start, kill, pause and restart themselves."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import nats
from harness import Row, free_port, strict_json, wait_until
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig

T = TypeVar("T")
READY_WITHIN_S = 30.0
FETCHED = 1000


def missing() -> str | None:
    """Why there can be no server here."""
    if shutil.which("nats-server") is None:
        return "there is no nats-server: install nats-server to test with a real one"
    return None


@dataclass
class Nats:
    """One server with its files in a folder; it keeps its port over restarts."""

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the server's configuration."""
    client: Mapping[str, Any] = field(default_factory=dict)
    """What the tests' own clients need besides the address."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Writes the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        members = {
            "listen": f"127.0.0.1:{self.port}",
            "jetstream": {"store_dir": str(self.folder / "data")},
            **self.settings,
        }
        (self.folder / "server.conf").write_text(json.dumps(members), encoding="utf-8")

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Nats:
        """Starts it and waits until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["nats-server", "-c", str(self.folder / "server.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until("a server that answers", self._answers, READY_WITHIN_S)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended:\n{(self.folder / 'server.log').read_text()[-3000:]}"
        try:
            self.ask(lambda stream: stream.account_info())
        except (NatsError, OSError):
            return False
        return True

    def ask(self, question: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """What the server answers to a question of a client of its own."""

        async def run() -> T:
            quiet: dict[str, Any] = {"error_cb": _hear_nothing, "allow_reconnect": False, "connect_timeout": 2}
            client = await nats.connect(f"nats://{self.address}", **quiet, **self.client)
            try:
                return await question(client.jetstream(timeout=10))
            finally:
                await client.close()

        return asyncio.run(run())

    def create(self, name: str, *subjects: str, **config: Any) -> None:
        """Makes a stream; `duplicate_window` in seconds."""
        self.ask(lambda stream: stream.add_stream(StreamConfig(name=name, subjects=list(subjects), **config)))

    def messages(self, name: str) -> list[Any]:
        """Everything in a stream, in its order."""

        async def read(stream: JetStreamContext) -> list[Any]:
            wanted = (await stream.stream_info(name)).state.messages
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE)
            consumer = await stream.pull_subscribe("", stream=name, config=config)
            found: list[Any] = []
            while len(found) < wanted:
                try:
                    found += await consumer.fetch(min(FETCHED, wanted - len(found)), timeout=10)
                except NatsTimeoutError:
                    raise AssertionError(f"{name} gave {len(found)} of {wanted} messages") from None
            return found

        return self.ask(read)

    def rows(self, name: str) -> list[Row]:
        """The same as rows."""
        return [strict_json(message.data) for message in self.messages(name)]

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


async def _hear_nothing(_: Exception) -> None:
    """Clients of tests say by exceptions what went wrong."""
