"""kill -9 under load with a million keys: how long until the first new result."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from cases.alerts import check_alerts, job, wait_delivered
from driver import jobs, live, metrics
from driver.bench import Bench, Outcome
from driver.engine import BenchError, Engine
from driver.live import Account
from driver.report import say
from driver.tool import Receiver
from driver.truth import Verdict

KEYS = 1_000_000
ROWS_PER_REQUEST = 1000
VALUES_PER_KEY = 5
"""Before the kill, so that a spike is one."""

RATE = 100_000
"""The load during which it is killed: its rows since the last commit are replayed from the journal."""

ROUNDS = 3
PROBES = 40
FIRST_PROBE = 1
"""Not the first device: each run of the load generator begins with it, always at the same temperature. So it has no
deviation, and a spike of it no score."""

MEMORY = "640Mi"
"""For all keys, with their open windows."""

PROBE_S = 0.01


def recovery(bench: Bench) -> Outcome:
    """Several kills; what counts is the slowest recovery."""
    keys = bench.scale.devices(KEYS)
    account, verdict = Account(), Verdict()
    receiver = bench.tool.receive()
    address = receiver.address
    spec = job(bench, "at-least-once", receiver.url)
    jobs.add_windows(spec)
    spec["state"] = {"memory": MEMORY}
    rounds: list[dict[str, Any]] = []
    engine = bench.start(spec)
    try:
        _load(bench, engine, keys, account)
        for _ in range(1 if bench.scale.quick else ROUNDS):
            _kill_under_load(bench, engine, keys, account)
            verdict += check_alerts(receiver.stop(), 0, 0)
            receiver = bench.tool.receive(address)
            engine = bench.start(spec)
            found, measured = _first_result(engine, receiver, account, FIRST_PROBE + len(rounds) * PROBES)
            verdict += found
            rounds.append(measured)
            say(f"recovery: first new result after {measured['recovery_us'] / 1000:.0f} ms")
            receiver = bench.tool.receive(address)
        live.flush_windows(engine, account)
        applied, ledger = account.applied(engine)
        live.wait_windows(engine, keys, bench.scale.checkpoint_s)
        engine.stop()
    finally:
        engine.__exit__()
        receiver.__exit__()
    verdict += applied.worst(live.check_windows(bench.folder / "windows", ledger, account))
    slowest = max(rounds, key=lambda measured: measured["recovery_us"])
    return verdict, {**slowest, "rss_bytes": engine.usage.rss_peak, "keys": keys, "rounds": rounds, "ledger": ledger}


def _load(bench: Bench, engine: Engine, keys: int, account: Account) -> None:
    wanted = keys * VALUES_PER_KEY
    while account.accepted < wanted:
        sent = bench.tool.http(engine.url, seconds=2, devices=keys, connections=32, events_per_request=ROWS_PER_REQUEST)
        account.add(sent, ROWS_PER_REQUEST)
        if not sent["accepted_rows"]:
            raise BenchError("the engine accepts no rows")
    account.applied(engine)


def _kill_under_load(bench: Bench, engine: Engine, keys: int, account: Account) -> None:
    """Under an open load, after all was committed once."""
    load = {"devices": keys, "rate": RATE, "connections": 16, "events_per_request": ROWS_PER_REQUEST, "drain": "1s"}
    with bench.tool.start_http(engine.url, seconds=3600, **load) as background:
        before = metrics.total(engine.metrics(), "streamjob_commits_total")
        time.sleep(2.5 * bench.scale.checkpoint_s)
        if metrics.total(engine.metrics(), "streamjob_commits_total") <= before:
            raise BenchError("nothing was committed before the kill")
        engine.kill()
        account.add(background.stop(), ROWS_PER_REQUEST)


def _first_result(engine: Engine, receiver: Receiver, account: Account, first_probe: int) -> Outcome:
    """Posts spikes, each of another device, and has the receiver say when the first alert came."""
    url = urlsplit(engine.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    for number in range(PROBES):
        now_us = time.time_ns() // 1000
        row = {"device_id": f"device-{first_probe + number:06}", "timestamp": now_us // 1000, "sent_us": now_us}
        body = json.dumps({**row, "temperature": jobs.SPIKE, "humidity": 50.0})
        connection.request("POST", "/ingest", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 202:
            raise BenchError(f"the engine answered {answer.status} after its restart")
        account.add_rows(1)
        time.sleep(PROBE_S)
    connection.close()
    wait_delivered(engine, PROBES)
    resumed = engine.metrics()
    received = receiver.stop()
    if received["first_row_us"] is None:
        raise BenchError("no alert came after the restart")
    measured = {
        "recovery_us": received["first_row_us"] - engine.started_wall_us,
        "ready_us": round((engine.ready - engine.started) * 1e6),
        "replayed_and_new_rows": int(metrics.total(resumed, "events_received_total")),
    }
    return check_alerts(received, PROBES, 0), measured
