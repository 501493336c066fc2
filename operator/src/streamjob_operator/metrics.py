"""The operator's metrics. Jobs are named only in a bounded number of series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streamjob_operator.crd.status import PHASES

MAX_JOB_SERIES = 2000
"""Jobs whose time in their phase has a series of its own; the others are counted by phase alone."""
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

registry = CollectorRegistry()
reconcile_duration = Histogram(
    "streamjob_operator_reconcile_duration_seconds", "Time of one look at a job", buckets=_BUCKETS, registry=registry
)
reconcile_errors = Counter(
    "streamjob_operator_reconcile_errors", "Looks at a job that failed, by who can act", ["actor"], registry=registry
)
queue_wait = Histogram(
    "streamjob_operator_queue_wait_seconds", "Time that a job waited in the queue", buckets=_BUCKETS, registry=registry
)
queue_depth = Gauge("streamjob_operator_queue_depth", "Jobs in the queue", registry=registry)
queue_refused = Gauge("streamjob_operator_queue_refused", "Jobs left to the next resync", registry=registry)
jobs = Gauge("streamjob_operator_jobs", "Jobs by phase", ["phase"], registry=registry)
job_phase_seconds = Gauge(
    "streamjob_operator_job_phase_seconds",
    "Seconds that a job has been in its phase",
    ["namespace", "name", "phase"],
    registry=registry,
)
api_calls = Counter("streamjob_operator_api_calls", "Requests to the API server", ["verb", "kind"], registry=registry)
unwatched = Gauge("streamjob_operator_unwatched", "Watches that are refused or have not listed", registry=registry)
leader = Gauge("streamjob_operator_leader", "1 where this replica leads", registry=registry)


class Phases:
    """Which job is in which phase since when."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[str, float]] = {}
        self._shown: set[tuple[str, str, str]] = set()

    def note(self, key: tuple[str, str], phase: str, now: float) -> None:
        """A job is in a phase at `now`, seconds since 1970."""
        known = self._since.get(key)
        if known is None or known[0] != phase:
            self._since[key] = (phase, now)

    def forget(self, key: tuple[str, str]) -> None:
        """A job is gone."""
        self._since.pop(key, None)

    def show(self, now: float) -> None:
        """Sets the gauges."""
        counts = dict.fromkeys(PHASES, 0)
        shown: set[tuple[str, str, str]] = set()
        for place, ((namespace, name), (phase, since)) in enumerate(self._since.items()):
            counts[phase] = counts.get(phase, 0) + 1
            if place < MAX_JOB_SERIES:
                job_phase_seconds.labels(namespace, name, phase).set(now - since)
                shown.add((namespace, name, phase))
        # Last: a scrape comes from another thread, and a job that it misses begins anew in every alert.
        for stale in self._shown - shown:
            job_phase_seconds.remove(*stale)
        self._shown = shown
        for phase, count in counts.items():
            jobs.labels(phase).set(count)
