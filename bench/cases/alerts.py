"""How long a spike takes from the moment at which it should have been sent to its alert at another process."""

from __future__ import annotations

from typing import Any

from driver import jobs, live, metrics
from driver.bench import Bench, Outcome
from driver.engine import Engine
from driver.live import Account
from driver.tool import Summary
from driver.truth import Verdict, between

DELIVERY_TIMEOUT_S = 30
ALERTS = 'sink="alerts"'


def alert(bench: Bench) -> Outcome:
    """200,000 events/s, 100 a request, at-least-once: alerts do not wait for the journal's fsync or for a commit."""
    load = {"devices": 10_000, "events_per_request": 100, "connections": 256, "rate": 200_000, "spikes_per_s": 100}
    return _alerts(bench, load, "at-least-once")


def alert_eo(bench: Bench) -> Outcome:
    """1 M events/s from 500,000 devices, exactly-once: an alert leaves after its shard's commit."""
    load = {"devices": 500_000, "events_per_request": 1000, "connections": 128, "rate": 1_000_000, "spikes_per_s": 10}
    return _alerts(bench, load, "exactly-once")


def job(bench: Bench, delivery: str, url: str) -> jobs.Spec:
    """HTTP, z-score, webhook."""
    made = jobs.spec([{"name": "in", "http": {}}], bench.scale.checkpoint_s, sent_us=True)
    jobs.add_zscore(made)
    jobs.add_alerts(made, delivery, {"http": {"url": f"{url}/alerts"}})
    return made


def _alerts(bench: Bench, load: dict[str, Any], delivery: str) -> Outcome:
    load["devices"] = bench.scale.devices(load["devices"])
    account = Account()
    with bench.tool.receive() as receiver:
        with bench.start(job(bench, delivery, receiver.url)) as engine:
            # Devices need some history before a spike is one: 10 values each.
            history_s = max(bench.scale.part(0.15), 10 * load["devices"] / load["rate"])
            sent, cpu = _send(bench, engine, load, history_s)
            account.add(sent, load["events_per_request"])
            verdict, ledger = account.applied(engine)
            wait_delivered(engine, sent["spikes_accepted"])
            engine.stop()
            usage = engine.usage
        received = receiver.stop()
    perhaps = sent["unanswered"] + sent["status_other"]
    arrived = check_alerts(received, sent["spikes_accepted"], perhaps)
    measured = {
        "events_per_s": sent["events_per_s"],
        "offered_per_s": sent["offered_per_s"],
        **{name: received[name] for name in ("p50_us", "p99_us", "p999_us", "max_us")},
        "rss_bytes": usage.rss_peak,
        "cpu_pct": cpu,
        "alerts": received["rows"],
        "spikes": sent["spikes_accepted"],
        "webhook_requests": received["requests"],
        "acknowledged_p50_us": sent["p50_us"],
        "acknowledged_p99_us": sent["p99_us"],
        "generator_backlog_max": sent["backlog_max"],
        "generator_cpu_pct": sent["generator_cpu_pct"],
        "refused_requests": sent["status_429"] + sent["status_503"] + sent["status_other"],
        "ledger": ledger,
    }
    return verdict + arrived, measured


def _send(bench: Bench, engine: Engine, load: dict[str, Any], history_s: float) -> tuple[Summary, float]:
    after = {"spikes_after": f"{history_s:.3f}s", "warmup": f"{history_s:.3f}s"}
    with engine.cpu() as cpu:
        sent = bench.tool.http(engine.url, seconds=bench.scale.part(0.85), **after, **load)
    return sent, cpu[0]


def wait_delivered(engine: Engine, alerts: int) -> None:
    """Waits until the webhook has confirmed so many rows and none is left."""

    def delivered() -> bool:
        samples = engine.metrics()
        # Other sinks have rows as well: theirs are no alerts.
        pending = metrics.total(samples, "streamjob_sink_pending_rows", ALERTS)
        return pending == 0 and metrics.total(samples, "streamjob_sink_rows_total", ALERTS) >= alerts

    live.wait_until(delivered, DELIVERY_TIMEOUT_S)


def check_alerts(received: Summary, spikes: int, perhaps: int) -> Verdict:
    """Every spike arrives once; one of a request without an answer may."""
    return between(received["rows"], spikes, spikes + perhaps) + Verdict(0, received["duplicates"])
