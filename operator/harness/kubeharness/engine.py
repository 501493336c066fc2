"""An engine's control interface: a real HTTP server that speaks its contract."""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kubeharness.server import free_port

STATUS: dict[str, Any] = {
    "name": "telemetry",
    "version": "0.1.0",
    "phase": "running",
    "started_at": "2030-01-01T00:00:00Z",
    "shards": 8,
    "received": 10,
    "applied": 10,
    "queue_rows": 0,
    "rate_events_per_s": 12.4,
    "watermark": "2030-01-01T00:00:00Z",
    "event_time_lag_s": 0.5,
    "last_checkpoint": {"number": 7, "completed_at": "2030-01-01T00:00:00Z", "duration_s": 0.01},
    "udfs": [{"name": "z", "version": "0123456789ab"}],
    "disk_full": False,
}
"""What an engine that runs says of itself."""


@dataclass
class Engine:
    """An engine's control interface, as its contract says."""

    port: int
    tokens: list[str] = field(default_factory=list)
    checkpoints: int = 0
    status: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """A control interface on loopback."""
    known = Engine(free_port())
    known.status = copy.deepcopy(STATUS)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, code: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def allowed(self) -> bool:
            found = re.fullmatch(r"Bearer (\S{20,})", self.headers.get("Authorization", ""))
            if found is None:
                self.answer(401, {"error": "a token is needed"})
                return False
            known.tokens.append(found[1])
            return True

        def do_GET(self) -> None:
            if self.path != "/v1/control/status":
                self.answer(404, {})
            elif self.allowed():
                self.answer(200, known.status)

        def do_POST(self) -> None:
            if self.path != "/v1/control/checkpoint":
                self.answer(404, {})
            elif self.allowed():
                known.checkpoints += 1
                self.answer(200, {"number": known.checkpoints, "duration_s": 0.012})

    with http.server.ThreadingHTTPServer(("127.0.0.1", known.port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()
