"""A webhook's receiver as real ones are: it fails, it loses its answers, it recognises repeats by their key."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness import strict_json

Row = dict[str, Any]


@dataclass
class Taken:
    """What one path has taken."""

    rows: list[Row] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    repeats: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


class Receiver:
    """Takes POSTs on any path; each path is a receiver of its own."""

    def __init__(self, number: int) -> None:
        self._rng = random.Random(number)
        self._lock = threading.Lock()
        self._paths: dict[str, Taken] = {}
        self.fails = True
        self.answers: dict[str, int] = {}
        self.url = ""

    def of(self, path: str) -> Taken:
        """What has come to a path."""
        with self._lock:
            return self._paths.setdefault(path, Taken())

    def whim(self) -> str:
        """What it does with the next request."""
        with self._lock:
            if not self.fails or self._rng.random() < 0.7:
                return "take"
            return self._rng.choice(["500", "503", "429", "drop", "take and drop"])

    def take(self, path: str, key: str | None, body: bytes) -> None:
        """Keeps the rows of a body, once for each key."""
        taken = self.of(path)
        with self._lock:
            if not key:
                taken.wrong.append("a request without an Idempotency-Key")
            elif key in taken.bodies:
                taken.repeats += 1
                if taken.bodies[key] != body:
                    taken.wrong.append(f"key {key} came with another body: {body[:200]!r}, {taken.bodies[key][:200]!r}")
            else:
                taken.bodies[key] = body
                taken.rows.extend(strict_json(body))


@contextmanager
def receiving(number: int) -> Iterator[Receiver]:
    """A receiver that listens; `number` seeds its failures."""
    receiver = Receiver(number)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            whim = str(receiver.answers.get(self.path, "")) or receiver.whim()
            if whim.startswith("take"):
                receiver.take(self.path, self.headers["Idempotency-Key"], body)
            else:
                receiver.of(self.path).refused += 1
            if whim.endswith("drop"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(204 if whim == "take" else int(whim))
            self.send_header("Content-Length", "0")
            if whim == "429":
                self.send_header("Retry-After", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A killed engine leaves broken connections behind."""

    server = Server(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
