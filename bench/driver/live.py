"""What the cases with a running engine share: waiting for all rows, and checking them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from driver import metrics, truth
from driver.engine import BenchError, Engine
from driver.tool import Summary
from driver.truth import Verdict

APPLY_TIMEOUT_S = 120
FLUSH_KEY = "flush"
FLUSH_AHEAD_S = 60


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class Account:
    """What the load generators were told: rows accepted, and rows that came in perhaps."""

    def __init__(self) -> None:
        self.accepted = 0
        self.rejected = 0
        self.perhaps = 0

    def add(self, summary: Summary, rows_per_request: int) -> None:
        """A load generator's summary."""
        self.accepted += summary["accepted_rows"]
        self.rejected += summary["rejected_rows"]
        self.perhaps += (summary["unanswered"] + summary["status_other"]) * rows_per_request

    def add_rows(self, rows: int) -> None:
        """Rows that the driver posted itself."""
        self.accepted += rows

    def applied(self, engine: Engine) -> tuple[Verdict, dict[str, int]]:
        """Waits until every row is processed; compares the engine's ledger with what was acknowledged."""
        acknowledged = self.accepted + self.rejected

        def done() -> bool:
            samples = engine.metrics()
            processed = sum(metrics.outcomes(samples).values())
            return processed >= acknowledged and processed >= samples.get("events_received_total", 0)

        wait_until(done, APPLY_TIMEOUT_S)
        ledger = metrics.outcomes(engine.metrics())
        if not ledger:
            raise BenchError("/metrics has no events_processed_total")
        return truth.between(sum(ledger.values()), acknowledged, acknowledged + self.perhaps), ledger


def flush_windows(engine: Engine, account: Account) -> None:
    """One event far enough ahead closes all windows of all keys; its own window stays open."""
    now_ms = time.time_ns() // 1_000_000
    row = {"device_id": FLUSH_KEY, "timestamp": now_ms + FLUSH_AHEAD_S * 1000, "temperature": 22.0, "humidity": 50.0}
    engine.post(json.dumps({**row, "sent_us": now_ms * 1000}).encode() + b"\n")
    account.add_rows(1)


def wait_windows(engine: Engine, keys: int, checkpoint_s: int) -> None:
    """Waits until closed windows are in files: until no more close, and two checkpoints have passed."""
    seen = [-1.0, 0.0]

    def settled() -> bool:
        seen.append(metrics.total(engine.metrics(), "streamjob_windows_closed_total"))
        return seen[-1] >= keys and seen[-1] == seen[-2] == seen[-3] == seen[-4]

    wait_until(settled, 30)
    time.sleep(2 * checkpoint_s + 0.5)


def check_windows(folder: Path, ledger: dict[str, int], account: Account) -> Verdict:
    """The windows' counts against what was accepted; the flushing row's own window is not among them."""
    least = account.accepted - 1 - ledger.get("late", 0) - ledger.get("failed", 0) - ledger.get("filtered", 0)
    return truth.counted(truth.window_rows(folder), least, least + account.perhaps)
