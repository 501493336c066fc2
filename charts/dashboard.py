"""Writes the Grafana dashboard of the chart: `python charts/dashboard.py`.

The panels are listed here with what they ask of Prometheus; a test compares the file with this list and evaluates each
query in a real Prometheus.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "streamjob-operator" / "files" / "dashboards" / "streamjob.json"
# `PodMonitor.podTargetLabels` makes this of the pods' label streamjob.dev/job.
JOB = "streamjob_dev_job"
# Jobs of one name may run in several namespaces; `namespace` is a label that Prometheus' operator gives every target.
ONE_JOB = ("namespace", JOB)
WHERE = f'namespace=~"$namespace",{JOB}=~"$streamjob"'
QUEUE_BOUND_UNITS = 262_144
WIDTH = 24
HEIGHT = 8


@dataclass(frozen=True)
class Panel:
    """One graph: its title, its unit as Grafana names it, its queries by legend, and a sentence for the reader."""

    title: str
    unit: str
    queries: dict[str, str]
    description: str
    width: int = 8
    kind: str = "timeseries"


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def quantile(part: float, metric: str, *labels: str) -> str:
    """A quantile of a histogram over Grafana's own rate interval."""
    by = ", ".join((*ONE_JOB, *labels, "le"))
    return f"histogram_quantile({part}, sum by ({by}) (rate({metric}_bucket{{{WHERE}}}[$__rate_interval])))"


def by_job(function: str, metric: str, extra: str = "", *labels: str) -> str:
    """A gauge, brought together by job and `labels`."""
    return f"{function} by ({', '.join((*ONE_JOB, *labels))}) ({metric}{{{WHERE}{extra}}})"


def rate(metric: str, *labels: str, extra: str = "") -> str:
    """A counter's rate a second, by job and `labels`."""
    return f"sum by ({', '.join((*ONE_JOB, *labels))}) (rate({metric}{{{WHERE}{extra}}}[$__rate_interval]))"


NAME = "/".join(f"{{{{{label}}}}}" for label in ONE_JOB)

ENGINE = (
    Row(
        "At a glance",
        (
            Panel("Events a second", "cps", {NAME: rate("events_received_total")}, "Rows that come in.", 5, "stat"),
            Panel(
                "Queue", "short", {NAME: by_job("sum", "streamjob_queue_rows")}, "Rows in, not processed.", 5, "stat"
            ),
            Panel(
                "Checkpoint lag",
                "s",
                {NAME: by_job("max", "streamjob_checkpoint_lag_seconds")},
                "Time since the newest commit.",
                5,
                "stat",
            ),
            Panel(
                "Event time lag",
                "s",
                {NAME: by_job("max", "streamjob_event_time_lag_seconds")},
                "Wall clock less the watermark. Large while a job reads old events.",
                5,
                "stat",
            ),
            Panel(
                "Disk full",
                "bool_yes_no",
                {NAME: by_job("max", "streamjob_disk_full")},
                "Something waits for room on a disk.",
                4,
                "stat",
            ),
        ),
    ),
    Row(
        "Rows",
        (
            Panel("Ingestion rate", "cps", {NAME: rate("events_received_total")}, "Rows received a second."),
            Panel(
                "Rows by outcome",
                "cps",
                {f"{NAME} {{{{outcome}}}}": rate("events_processed_total", "outcome")},
                "Each row counts once. Late, rejected and failed ones are in the dead letters.",
            ),
            Panel(
                "Windows and anomalies",
                "cps",
                {
                    f"{NAME} windows": rate("streamjob_windows_closed_total"),
                    f"{NAME} anomalies": rate("streamjob_anomalies_total"),
                },
                "Rows of closed windows, and event rows that passed the `where` of a sink.",
            ),
        ),
    ),
    Row(
        "Latency",
        (
            Panel(
                "p99 latency",
                "s",
                {
                    f"{NAME} commit": quantile(0.99, "streamjob_commit_duration_seconds"),
                    f"{NAME} functions": quantile(0.99, "udf_latency_seconds"),
                    f"{NAME} queue": f"{by_job('sum', 'streamjob_queue_rows')} / ({rate('events_received_total')} > 0)",
                },
                "The parts of a row's way: waiting in the queue (rows that wait, divided by rows that come), "
                "functions, and the commit that makes its results durable.",
            ),
            Panel(
                "Checkpoint lag",
                "s",
                {
                    f"{NAME} since the newest": by_job("max", "streamjob_checkpoint_lag_seconds"),
                    f"{NAME} took": by_job("max", "streamjob_checkpoint_duration_seconds"),
                },
                "Far above `checkpoint.interval` while rows come in: the disk or the committer cannot follow.",
            ),
            Panel(
                "Event time lag",
                "s",
                {NAME: by_job("max", "streamjob_event_time_lag_seconds")},
                "Wall clock less the watermark.",
            ),
        ),
    ),
    Row(
        "Queues",
        (
            Panel("Queue depth", "short", {NAME: by_job("sum", "streamjob_queue_rows")}, "Rows in, not processed."),
            Panel(
                "Queue bound in use",
                "percentunit",
                {NAME: f"{by_job('max', 'streamjob_queue_units')} / {QUEUE_BOUND_UNITS}"},
                "At 100 % whoever brings rows waits, and is answered 429 in the end.",
            ),
            Panel(
                "Sinks",
                "cps",
                {f"{NAME} {{{{sink}}}}": rate("streamjob_sink_rows_total", "sink")},
                "Rows handed to each sink.",
            ),
            Panel(
                "Unconfirmed rows",
                "short",
                {f"{NAME} {{{{sink}}}}": by_job("sum", "streamjob_sink_pending_rows", "", "sink")},
                "What a webhook has not confirmed. Where this grows, back-pressure follows.",
                12,
            ),
            Panel(
                "Shards that wait",
                "short",
                {
                    f"{NAME} take no rows": by_job("max", "streamjob_blocked_shards"),
                    f"{NAME} are behind": by_job("max", "streamjob_behind_shards"),
                },
                "A webhook takes no rows of theirs; those that are behind read again what they have left.",
                12,
            ),
        ),
    ),
    Row(
        "Functions",
        (
            Panel(
                "UDF latency",
                "s",
                {
                    f"{NAME} {{{{udf}}}} p99": quantile(0.99, "udf_latency_seconds", "udf"),
                    f"{NAME} {{{{udf}}}} p50": quantile(0.5, "udf_latency_seconds", "udf"),
                },
                "One call, which takes a whole batch of rows.",
            ),
            Panel(
                "Wait for the interpreter",
                "s",
                {f"{NAME} {{{{udf}}}} p99": quantile(0.99, "udf_lock_wait_seconds", "udf")},
                "The part of a call in which a worker waited for the interpreter's lock.",
            ),
            Panel(
                "UDF errors",
                "cps",
                {f"{NAME} {{{{udf}}}}": rate("udf_errors_total", "udf")},
                "Calls that failed; a search for the failing rows makes several.",
            ),
        ),
    ),
    Row(
        "State",
        (
            Panel(
                "Keys in memory",
                "short",
                {NAME: by_job("sum", "streamjob_hot_keys")},
                "Others are read when they come.",
            ),
            Panel(
                "Memory",
                "bytes",
                {
                    f"{NAME} keys": by_job("sum", "streamjob_hot_bytes"),
                    f"{NAME} memtables": by_job("sum", "streamjob_rocksdb_memtable_bytes"),
                    f"{NAME} block cache": by_job("sum", "streamjob_rocksdb_block_cache_bytes"),
                },
                "What the state holds of it.",
            ),
            Panel(
                "Disk",
                "bytes",
                {
                    f"{NAME} state": by_job("sum", "streamjob_rocksdb_sst_bytes"),
                    f"{NAME} to compact": by_job("sum", "streamjob_rocksdb_pending_compaction_bytes"),
                },
                "Files of the state, and what compaction has still to rewrite.",
            ),
        ),
    ),
)

OPERATOR = Row(
    "Operator",
    (
        Panel("Jobs by phase", "short", {"{{phase}}": "sum by (phase) (streamjob_operator_jobs)"}, "StreamJobs.", 6),
        Panel(
            "Reconcile",
            "s",
            {
                "p99": "histogram_quantile(0.99, sum by (le) "
                "(rate(streamjob_operator_reconcile_duration_seconds_bucket[$__rate_interval])))",
                "p50": "histogram_quantile(0.5, sum by (le) "
                "(rate(streamjob_operator_reconcile_duration_seconds_bucket[$__rate_interval])))",
            },
            "From a job's turn to its status.",
            6,
        ),
        Panel(
            "Errors and queue",
            "short",
            {
                "errors a second ({{actor}})": "sum by (actor) "
                "(rate(streamjob_operator_reconcile_errors_total[$__rate_interval]))",
                "queue": "max(streamjob_operator_queue_depth)",
            },
            "Whose errors they are: the user's, something outside, or the operator's own.",
            6,
        ),
        Panel(
            "API calls",
            "cps",
            {"{{verb}} {{kind}}": "sum by (verb, kind) (rate(streamjob_operator_api_calls_total[$__rate_interval]))"},
            "None but watches where nothing changes, and engine facts once a minute.",
            6,
        ),
    ),
)


def render() -> dict[str, Any]:
    """The dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in (*ENGINE, OPERATOR):
        panels.append(_heading(len(panels) + 1, row.title, top))
        top += 1
        left = 0
        for panel in row.panels:
            height = HEIGHT if panel.kind == "timeseries" else HEIGHT // 2
            if left + panel.width > WIDTH:
                left, top = 0, top + height
            panels.append(_panel(len(panels) + 1, panel, {"h": height, "w": panel.width, "x": left, "y": top}))
            left += panel.width
        top += HEIGHT
    return {
        "uid": "streamjob",
        "title": "StreamJob",
        "description": "Jobs of the StreamJob operator: rows, latency, queues, functions, state.",
        "tags": ["streamjob"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    several = {"type": "query", "datasource": source, "multi": True, "includeAll": True, "allValue": ".*", "refresh": 2}
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            **several,
            "name": "namespace",
            "label": "Namespace",
            "query": "label_values(events_received_total, namespace)",
            "current": {"text": "All", "value": "$__all"},
        },
        {
            **several,
            "name": "streamjob",
            "label": "Job",
            "query": f'label_values(events_received_total{{namespace=~"$namespace"}}, {JOB})',
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def _heading(number: int, title: str, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {"refId": chr(ord("A") + index), "datasource": source, "expr": query, "legendFormat": legend}
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def text() -> str:
    """The file's text."""
    return json.dumps(render(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text(), encoding="utf-8")
