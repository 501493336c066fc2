"""A client that never gives up: it repeats a request under the same Idempotency-Key until that is acknowledged."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
ROUND_WITHIN_S = 90.0
ACKNOWLEDGED = (202, 400)
RETRIED = (429, 503)


class RetryingClient:
    """Several connections that send in rounds: all requests of a round are acknowledged before the next begins.

    `make_round(number, connection)` gives the rows of one request. Now and then a connection is cut before the answer
    can come, as by a proxy, so that only the key tells that the rows are in.
    """

    def __init__(self, port: int, make_round: Callable[[int, int], list[Row]], connections: int, number: int) -> None:
        self._port = port
        self._make_round = make_round
        self._connections = connections
        self._number = number
        self._up = threading.Event()
        self._stop = threading.Event()
        self._barrier = threading.Barrier(connections, action=self._next_round)
        self._going_on = True
        self._given_up = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(connections)]
        self.rounds = 0
        self.pause_s = 0.02
        self.rows: list[Row] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.attempts = 0
        self.cut = 0
        self.answered_twice = 0

    def __enter__(self) -> RetryingClient:
        """Begins to send, once something listens."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Sends no more."""
        self._given_up = failed is not None
        self.ends()

    def goes_up(self) -> None:
        """Something listens."""
        self._up.set()

    def goes_down(self) -> None:
        """It has gone."""
        self._up.clear()

    def ends(self) -> None:
        """Lets the running round end and stops."""
        self._stop.set()
        for thread in self._threads:
            thread.join(ROUND_WITHIN_S)
            assert not thread.is_alive(), "a round did not end"
        if not self._given_up:
            self.check()

    def check(self) -> None:
        """Raises what went wrong."""
        if self._failure is not None:
            raise self._failure

    def _next_round(self) -> None:
        self.rounds += 1
        self._going_on = not self._stop.wait(self.pause_s)

    def _run(self, connection: int) -> None:
        rng = random.Random(self._number * 1000 + connection)
        try:
            link = _Link(self._port)
            while self._going_on:
                rows = self._make_round(self.rounds, connection)
                body = "\n".join(json.dumps(row) for row in rows).encode()
                self._until_acknowledged(link, f"{self.rounds}/{connection}", body, rng)
                with self._lock:
                    self.rows.extend(rows)
                self._barrier.wait(ROUND_WITHIN_S)
        except BaseException as failure:
            self._failure = self._failure or failure
            self._barrier.abort()

    def _until_acknowledged(self, link: _Link, key: str, body: bytes, rng: random.Random) -> None:
        deadline = time.monotonic() + ROUND_WITHIN_S
        again = rng.random() < 0.05
        while time.monotonic() < deadline:
            if self._given_up:
                break
            if not self._up.wait(0.2):
                continue
            self.attempts += 1
            cut = rng.random() < 0.1
            answer = link.post(key, body, cut_after_s=rng.choice([0, 0.0005, 0.002, 0.005]) if cut else None)
            if answer is None:
                self.cut += cut
                # Nobody listens for a moment, or not yet again: not to spin is all that this is for.
                self._stop.wait(0.005)
            elif answer[0] in ACKNOWLEDGED:
                first = self.answers.setdefault(key, answer)
                assert first == answer, f"the request {key} was answered {first}, then {answer}"
                if not again:
                    return
                again = False
                self.answered_twice += 1
            else:
                assert answer[0] in RETRIED, f"the request {key} was answered {answer}"
                self._stop.wait(0.02)
        raise AssertionError(f"the request {key} was not acknowledged within {ROUND_WITHIN_S:g} s")


class _Link:
    """One keep-alive connection, opened again when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: http.client.HTTPConnection | None = None

    def post(self, key: str, body: bytes, cut_after_s: float | None) -> tuple[int, bytes] | None:
        """The answer's status and body; None where there is none."""
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key}
        try:
            if self._open is None:
                self._open = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            self._open.request("POST", "/ingest", body, headers)
            if cut_after_s is not None:
                self._cut(cut_after_s)
                return None
            response = self._open.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._close()
            return None

    def _cut(self, after_s: float) -> None:
        assert self._open is not None
        time.sleep(after_s)
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
