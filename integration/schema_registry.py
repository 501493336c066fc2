"""A schema registry for tests: a small server that conforms to the part of Confluent's protocol that is used here.

It is no registry for anything else: what it knows is gone with it, and compatibility is not checked.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


class Registry:
    """Schemas by their numbers on a port of 127.0.0.1."""

    def __init__(self, user: str | None = None, password: str | None = None, port: int = 0) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.requests: list[tuple[str, int]] = []
        """Path and status of each request."""
        self.failures: list[int] = []
        """Statuses that the next requests are answered with."""
        pair = f"{user}:{password}".encode()
        self._authorization = None if user is None else f"Basic {base64.b64encode(pair).decode()}"
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, answer = registry.answer(self.path, self.headers.get("Authorization"))
                registry.requests.append((self.path, status))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", MEDIA_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def register(self, number: int, schema: Any, kind: str | None = None) -> None:
        """Knows a schema by a number."""
        entry = {"schema": json.dumps(schema)}
        self.schemas[number] = entry if kind is None else entry | {"schemaType": kind}

    def answer(self, path: str, authorization: str | None) -> tuple[int, Any]:
        """Status and body for a GET."""
        if self.failures:
            return self.failures.pop(0), {"error_code": 50001, "message": "asked to fail"}
        if self._authorization is not None and authorization != self._authorization:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        number = path.removeprefix("/schemas/ids/")
        if number == path or not number.isdigit():
            return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
        entry = self.schemas.get(int(number))
        if entry is None:
            return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
        return 200, entry

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
