"""`streamjob check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from streamjob.cli.common import load_or_report, report
from streamjob.estimate import estimate_disk, human_bytes
from streamjob.loading import LoadedJob
from streamjob.models import StreamJob
from streamjob.native import EngineMissingError, engine_json, engine_module
from streamjob.problems import JobError
from streamjob.units import format_duration

_MUCH = 100 * 10**9


def check(path: str, keys: int, *, connect: bool = False) -> int:
    """Validates a job; prints a summary and what disk it needs with `keys` keys. Gives the exit code.

    With `connect` the servers of its sources and sinks are tried: 1 where one does not work.
    """
    loaded = load_or_report(path)
    if loaded is None:
        return 2
    print("\n".join([*_summary(loaded.job, path), *_disk(loaded.job, keys)]))
    return _connect(loaded, path) if connect else 0


def _connect(loaded: LoadedJob, path: str) -> int:
    try:
        tried = json.loads(engine_module().try_connections(engine_json(loaded)))
    except JobError as error:
        report(error.problems)
        return 2
    except EngineMissingError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(["servers:", *(f"  {one['place']}: {one['said']}" for one in tried if one["works"])]))
    for one in tried:
        if not one["works"]:
            again = " (trying again may help)" if one["retryable"] else ""
            print(f"{path}: {one['place']}: {one['said']}{again}", file=sys.stderr)
    return 0 if all(one["works"] for one in tried) else 1


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _summary(job: StreamJob, path: str) -> list[str]:
    spec = job.spec
    parts: list[tuple[Sequence[object], str]] = [
        (spec.sources, "source"),
        (spec.windows, "window"),
        (spec.udfs, "UDF"),
        (spec.sinks, "sink"),
    ]
    counts = ", ".join(_count(len(items), what) for items, what in parts if items)
    return [f"{path}: valid. {job.metadata.name}: {counts}, {_count(spec.shards, 'shard')}"]


def _disk(job: StreamJob, keys: int) -> list[str]:
    estimate = estimate_disk(job, keys)
    lines = [f"disk with {keys:,} keys, each in every window:"]
    lines.append(f"  {'state':<24}{human_bytes(estimate.state_bytes):>10}")
    kept = format_duration(job.spec.history.raw)
    for window in estimate.windows:
        detail = f"{window.rows:,} rows in {kept}, {_rate(window.rows_per_second)}"
        lines.append(f"  {'history of ' + window.name:<24}{human_bytes(window.bytes):>10}   {detail}")
    lines.append(f"  {'together':<24}{human_bytes(estimate.total_bytes):>10}   without what file sinks write")
    if estimate.history_bytes > _MUCH:
        lines.append("  The history is large: a shorter history.raw or longer windows need less.")
    return lines


def _rate(rows_per_second: float) -> str:
    if rows_per_second >= 1:
        return f"{rows_per_second:,.0f} rows/s"
    return f"{rows_per_second * 3600:,.0f} rows/h"
