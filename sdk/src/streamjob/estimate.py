"""How much disk a job needs, from its windows, its history and the number of keys.

The figures are those of what the engine writes: a record for each key with 64-bit words, and closed windows as JSON in
compressed chunks of 64 rows. Keys are taken to be 14 characters long.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamjob.models import StreamJob

_KEY_BYTES = 44  # a key of usual length with its hash, its count of rows and its place in the index
_STATISTICS_BYTES = 48  # count, mean, sum of squares, min, max and last of one numeric field
_PANE_BYTES = 12  # window, length and start of one open window
_WORD_BYTES = 8
_WORDS = {"variance": 2, "stddev": 2, "first": 2, "last": 2, "count": 0}  # beside the argument's count; others: 1
_SHARED = {"mean": "sum", "stddev": "variance"}
_SAME = {"avg": "mean", "var_pop": "variance", "stddev_pop": "stddev"}
_OPEN_PANES = 2  # the window being filled and the one just closing
_MERGED_COPIES = 2  # old and new files while the store merges them
_COMMIT_COPIES = 8  # commits whose files wait to be merged
_ROW_BYTES = 32  # a closed window's row as compressed JSON, without results: key, times and `_id`
_RESULT_BYTES = {"count": 4, "min": 8, "max": 8, "first": 8, "last": 8}  # as long as the events' values are
_COMPUTED_BYTES = 20  # a calculated result has all digits of a float64


@dataclass(frozen=True, slots=True)
class WindowEstimate:
    """One window: rows a second while all keys are active, rows and bytes in its history."""

    name: str
    rows_per_second: float
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job keeps on disk with `keys` active keys; sizes in bytes. Outputs of file sinks are not in it."""

    keys: int
    state_bytes: int
    windows: tuple[WindowEstimate, ...]

    @property
    def history_bytes(self) -> int:
        """All windows' history."""
        return sum(window.bytes for window in self.windows)

    @property
    def total_bytes(self) -> int:
        """State and history."""
        return self.state_bytes + self.history_bytes


def estimate_disk(job: StreamJob, keys: int) -> Estimate:
    """The disk that `job` needs once its history is full, with events of each of `keys` keys in every window."""
    numeric = sum(kind in ("float64", "int64") for kind in job.spec.schema_.types().values())
    slot = _KEY_BYTES + numeric * _STATISTICS_BYTES
    windows = []
    for window in job.spec.windows:
        aggregates = [_parts(text) for text in window.aggregates.values()]
        slot += _OPEN_PANES * (_PANE_BYTES + _WORD_BYTES * _words(aggregates))
        kept = max(1, -(-job.spec.history.raw // window.tumbling))
        row = _ROW_BYTES + sum(_RESULT_BYTES.get(function, _COMPUTED_BYTES) for function, _ in aggregates)
        row += _COMPUTED_BYTES * _outputs(job, window.name)
        rate = keys / (window.tumbling / 1_000_000)
        windows.append(WindowEstimate(window.name, rate, keys * kept, keys * kept * row))
    return Estimate(keys, round(keys * slot * _copies(job)), tuple(windows))


def _parts(text: str) -> tuple[str, str]:
    """The engine's function of an aggregate, and its argument's text."""
    function, _, argument = text.partition("(")
    name = function.strip().lower()
    return _SAME.get(name, name), argument.strip().removesuffix(")").strip()


def _words(aggregates: list[tuple[str, str]]) -> int:
    """The words of a window's state: aggregates of one argument share its count and what they both need."""
    needs = {(argument, _SHARED.get(function, function)): _WORDS.get(function, 1) for function, argument in aggregates}
    return len({argument for _, argument in aggregates}) + sum(needs.values())


def _outputs(job: StreamJob, window: str) -> int:
    """How many columns UDFs add to a window's rows, as far as the job itself says it."""
    only = len(job.spec.windows) == 1
    udfs = [
        udf for udf in job.spec.udfs if udf.on == "window" and (udf.window == window or (udf.window is None and only))
    ]
    return sum(len(udf.output or {"output": "float64"}) for udf in udfs)


def _copies(job: StreamJob) -> float:
    """How often a key's record is on the disk at most: a commit's file has those of the keys that changed meanwhile."""
    shortest = min((window.tumbling for window in job.spec.windows), default=job.spec.checkpoint.interval)
    changed = min(1.0, job.spec.checkpoint.interval / shortest)
    return _MERGED_COPIES + _COMMIT_COPIES * changed


def human_bytes(size: float) -> str:
    """`size` as a person reads it, for example `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} PB"
