"""Events over HTTP: as fast as they are acknowledged, then latencies below that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from driver import jobs, live
from driver.bench import Bench, Outcome
from driver.engine import Engine
from driver.live import Account
from driver.report import say
from driver.truth import Verdict, between

OPEN_SHARE = 0.5
"""The open load, of what the closed one reached."""

SPIKES_PER_S = 10
Load = dict[str, Any]


def http(bench: Bench) -> Outcome:
    """10,000 devices, 1,000 events a request."""
    return _windows(bench, {"devices": 10_000, "events_per_request": 1000, "connections": 32})


def http_500k(bench: Bench) -> Outcome:
    """500,000 devices; memory counts too."""
    return _windows(bench, {"devices": 500_000, "events_per_request": 1000, "connections": 32})


def http_single(bench: Bench) -> Outcome:
    """One JSON object a request, 512 connections."""
    return _windows(bench, {"devices": 10_000, "events_per_request": 1, "connections": 512, "format": "json"})


def udf(bench: Bench) -> Outcome:
    """The http case with a z-score on every event; spikes go to files, exactly once."""
    load = {"devices": 10_000, "events_per_request": 1000, "connections": 32, "spikes_per_s": SPIKES_PER_S}
    warmup = bench.scale.part(0.1)
    load["spikes_after"] = f"{warmup:.3f}s"
    spikes: list[int] = []

    def prepare(job: jobs.Spec) -> None:
        jobs.add_zscore(job)
        jobs.add_alerts(job, "exactly-once", {"file": {"path": "spikes", "format": "ndjson"}})

    verdict, measured = _windows(bench, load, prepare, spikes)
    files = sorted((bench.folder / "spikes").glob("part-*.ndjson"))
    rows = [pl.read_ndjson(path, schema={"_id": pl.String}) for path in files if path.stat().st_size > 0]
    ids = pl.concat(rows)["_id"] if rows else pl.Series([], dtype=pl.String)
    found = between(len(ids), sum(spikes)) + Verdict(0, len(ids) - ids.n_unique())
    return verdict.worst(found), {**measured, "spikes": sum(spikes), "spikes_found": len(ids)}


def _windows(
    bench: Bench, load: Load, prepare: Callable[[jobs.Spec], None] = lambda _: None, spikes: list[int] | None = None
) -> Outcome:
    load["devices"] = bench.scale.devices(load["devices"])
    rows_per_request = load["events_per_request"]
    job = jobs.spec([{"name": "in", "http": {}}], bench.scale.checkpoint_s, sent_us="spikes_per_s" in load)
    jobs.add_windows(job)
    prepare(job)
    account = Account()
    with bench.start(job) as engine:
        measured = _measure(bench, engine, load, account, spikes if spikes is not None else [], rows_per_request)
        live.flush_windows(engine, account)
        verdict, ledger = account.applied(engine)
        live.wait_windows(engine, load["devices"], bench.scale.checkpoint_s)
        engine.stop()
        usage = engine.usage
    verdict = verdict.worst(live.check_windows(bench.folder / "windows", ledger, account))
    measured |= {"rss_bytes": usage.rss_peak, "rss_anonymous_bytes": usage.anonymous_peak, "ledger": ledger}
    return verdict, measured


def _measure(
    bench: Bench, engine: Engine, load: Load, account: Account, spikes: list[int], rows_per_request: int
) -> dict[str, Any]:
    scale = bench.scale
    with engine.cpu() as cpu:
        closed = bench.tool.http(engine.url, seconds=scale.part(0.6), warmup=f"{scale.part(0.1):.3f}s", **load)
    account.add(closed, rows_per_request)
    rate = max(rows_per_request, round(closed["events_per_s"] * OPEN_SHARE))
    say(f"{closed['events_per_s']:,} events/s; latencies at {rate:,}")
    settled, _ = account.applied(engine)
    if settled.lost:
        say(f"{settled.lost:,} rows were not processed in time")
    opened = bench.tool.http(engine.url, seconds=scale.part(0.2), warmup=f"{scale.part(0.1):.3f}s", rate=rate, **load)
    account.add(opened, rows_per_request)
    spikes += [closed["spikes_accepted"], opened["spikes_accepted"]]
    refused = sum(run[name] for run in (closed, opened) for name in ("status_429", "status_503", "status_other"))
    return {
        "events_per_s": closed["events_per_s"],
        "offered_per_s": opened["offered_per_s"],
        **{name: opened[name] for name in ("p50_us", "p99_us", "p999_us")},
        "cpu_pct": cpu[0],
        "events_per_cpu_s": round(100 * closed["events_per_s"] / cpu[0]) if cpu[0] else None,
        "requests_per_s": closed["requests_per_s"],
        "closed_p99_us": closed["p99_us"],
        "reached_of_offered_per_s": opened["events_per_s"],
        "generator_cpu_pct": closed["generator_cpu_pct"],
        "refused_requests": refused,
        "unanswered_requests": closed["unanswered"] + opened["unanswered"],
    }
