"""How much disk a job needs, from its windows, its history and the number of keys."""

from __future__ import annotations

from dataclasses import dataclass

from streamjob.models import StreamJob

_KEY_BYTES = 32  # a key of usual length with its hash and its place in the index
_STATISTICS_BYTES = 48  # count, mean, sum of squares, min, max and last of one numeric field
_PANE_BYTES = 16  # window and bookkeeping of one open window
_AGGREGATE_BYTES = 24  # the widest aggregate's state; a result takes a third of it
_OPEN_PANES = 2  # the window being filled and the one just closing
_ROW_BYTES = 24  # a closed window's key and times, packed
_STATE_COPIES = 2.0  # old and new files while the store merges them


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
    numeric = sum(kind in ("float64", "int64") for kind in job.spec.schema_.fields.values())
    slot = _KEY_BYTES + numeric * _STATISTICS_BYTES
    windows = []
    for window in job.spec.windows:
        count = len(window.aggregates)
        slot += _OPEN_PANES * (_PANE_BYTES + count * _AGGREGATE_BYTES)
        kept = max(1, -(-job.spec.history.raw // window.tumbling))
        row = _ROW_BYTES + count * _AGGREGATE_BYTES // 3
        rate = keys / (window.tumbling / 1_000_000)
        windows.append(WindowEstimate(window.name, rate, keys * kept, keys * kept * row))
    return Estimate(keys, int(keys * slot * _STATE_COPIES), tuple(windows))


def human_bytes(size: float) -> str:
    """`size` as a person reads it, for example `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} PB"
