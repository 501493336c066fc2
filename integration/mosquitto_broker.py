"""A real MQTT broker (mosquitto) that the tests start and restart themselves. It keeps its sessions on the disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import free_port, wait_until
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

READY_WITHIN_S = 30.0
ANSWER_WITHIN_S = 30.0


def program() -> str | None:
    """Where mosquitto is."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def missing() -> str | None:
    """Why there can be no broker here."""
    return None if program() else "there is no mosquitto: install it to test with a real MQTT broker"


@dataclass
class Mosquitto:
    """One broker with its files in a folder; it keeps its port over restarts."""

    folder: Path
    settings: Sequence[str] = ("allow_anonymous true",)
    """Who may do what: further lines of its configuration."""
    username: str | None = None
    password: str | None = None
    """Of the tests' own clients."""
    tls: Path | None = None
    """A folder of certificates: connections are encrypted, and clients have a certificate too."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        """Starts it and waits until it takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "mosquitto.conf"
        lines = (
            f"listener {self.port} 127.0.0.1",
            *self.settings,
            *(self._tls_settings(self.tls) if self.tls else ()),
            "persistence true",
            f"persistence_location {self.folder}/",
            # Else one that root starts is somebody who may not read the tests' folders.
            *(["user root"] if os.geteuid() == 0 else []),
            "max_queued_messages 0",
        )
        config.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(program()), "-c", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until("a broker that answers", self._answers, READY_WITHIN_S)
        return self

    @staticmethod
    def _tls_settings(folder: Path) -> tuple[str, ...]:
        files = (f"cafile {folder}/ca.pem", f"certfile {folder}/server.pem", f"keyfile {folder}/server.key")
        return (*files, "require_certificate true")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"it ended:\n{(self.folder / 'broker.log').read_text()[-2000:]}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Ends it, if it runs; sessions and messages are written before."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(ANSWER_WITHIN_S)

    def kill(self) -> None:
        """SIGKILL: what it has not written yet is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(ANSWER_WITHIN_S)

    def send(self, messages: Iterable[tuple[str, str | bytes]], *, retain: bool = False) -> None:
        """Publishes with QoS 1, and waits until the broker has all of them."""
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"tests-{uuid.uuid4()}")
        client.max_inflight_messages_set(200)
        if self.username is not None:
            client.username_pw_set(self.username, self.password)
        if self.tls is not None:
            client.tls_set(str(self.tls / "ca.pem"), str(self.tls / "server.pem"), str(self.tls / "server.key"))
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        try:
            sent = [client.publish(topic, payload, qos=1, retain=retain) for topic, payload in messages]
            for one in sent:
                one.wait_for_publish(ANSWER_WITHIN_S)
                assert one.is_published(), "the broker has not taken a message"
        finally:
            client.disconnect()
            client.loop_stop()

    def has_session(self, client_id: str) -> bool:
        """Whether somebody is connected under this name now, by what the log says last."""
        log = (self.folder / "broker.log").read_text(encoding="utf-8", errors="replace")
        said = [line for line in log.splitlines() if client_id in line]
        return bool(said) and f"as {client_id} " in said[-1]
