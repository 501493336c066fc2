"""Events that a device sends, and what must become of them.

Rows come in numbered rounds. Those of a round lie within ROUND_S seconds of event time, and a round is acknowledged
before the next begins: so whatever happens to the job meanwhile, no row is late, and each window has one right content.
"""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import polars as pl
import reference
from client_pod import ClientPod

Row = dict[str, Any]
ROUND_S = 2
WINDOW_S = 10
KEYS = 20
ROWS_A_ROUND = 40
SECOND_US = 1_000_000
ACKNOWLEDGED_WITHIN_S = 180.0
"""How long a request is repeated: as long as a pod may be away in these tests."""
AGAIN_AFTER_S = 0.1
PACE_S = 0.05
"""Between two rounds, so that what is tested and what sends share the processors."""
TAKEN = 202
RETRIED = (0, 429, 502, 503, 504)
EXACT = ("n", "total", "low", "high")


def rows_of(round_: int) -> list[Row]:
    """The rows of a round, always the same ones."""
    rng = random.Random(round_)
    return [
        {
            "device": f"device-{rng.randrange(KEYS):02}",
            "at": round_ * ROUND_S + rng.randrange(ROUND_S * 1000) / 1000,
            "x": rng.randrange(-50, 50),
            "id": f"{round_}/{number}",
        }
        for number in range(ROWS_A_ROUND)
    ]


class Sender:
    """Sends round after round to a job, each until it is acknowledged, always under the round's own key."""

    def __init__(self, pod: ClientPod, url: str) -> None:
        self._pod, self._url = pod, url
        self.rows: list[Row] = []
        self.rounds = 0
        self.repeated = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def send(self, rounds: int) -> None:
        """Sends that many rounds."""
        for _ in range(rounds):
            self._send(rows_of(self.rounds))
            self.rounds += 1

    def close_windows(self) -> None:
        """Sends one row so much later that every window before it closes."""
        self.rounds += 2 * WINDOW_S // ROUND_S
        self._send([{"device": "closer", "at": float(self.rounds * ROUND_S), "x": 0, "id": f"{self.rounds}/closer"}])
        self.rounds += 1

    def begin(self) -> None:
        """Sends in the background until `end`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Lets the running round end; raises what went wrong."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(ACKNOWLEDGED_WITHIN_S + 30)
        assert not self._thread.is_alive(), "a round did not end"
        self._thread = None
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stop.wait(PACE_S):
                self.send(1)
        except BaseException as failure:
            self._failure = failure

    def _send(self, rows: list[Row]) -> None:
        body = "\n".join(json.dumps(row) for row in rows)
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"round-{self.rounds}"}
        deadline = time.monotonic() + ACKNOWLEDGED_WITHIN_S
        while True:
            status, said = self._pod.request("POST", f"{self._url}/ingest", content=body, headers=headers)
            if status == TAKEN:
                assert json.loads(said)["accepted"] == len(rows), said
                self.rows.extend(rows)
                return
            assert status in RETRIED, f"round {self.rounds} was answered {status}: {said}"
            assert time.monotonic() < deadline, f"round {self.rounds} was not acknowledged: {status} {said}"
            self.repeated += 1
            time.sleep(AGAIN_AFTER_S)

    def expected_windows(self) -> dict[tuple[str, int], Row]:
        """Every window that must have closed, by key and start."""
        table = pl.DataFrame(
            {
                "key": [row["device"] for row in self.rows],
                "time_us": [round(row["at"] * SECOND_US) for row in self.rows],
                "x": [row["x"] for row in self.rows],
            }
        )
        found = reference.aggregate(reference.with_watermarks(table, ROUND_S * SECOND_US), WINDOW_S * SECOND_US)
        watermark = max(round(row["at"] * SECOND_US) for row in self.rows) - ROUND_S * SECOND_US
        return {at: row for at, row in found.items() if at[1] + WINDOW_S * SECOND_US <= watermark}
