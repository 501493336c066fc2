#!/usr/bin/env python3
"""Prints the anomalies that are posted to it."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 9000


class Handler(BaseHTTPRequestHandler):
    """Takes JSON arrays."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Prints a line for each row."""
        now_us = time.time_ns() // 1000
        for row in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            old_ms = (now_us - row["sent_us"]) / 1000
            print(
                f"{row['sensor']}: {row['temperature']:.1f} °C, score {row['score']:.1f}, {old_ms:.0f} ms old",
                flush=True,
            )
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
