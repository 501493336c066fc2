"""The live view: a pure function from the engine's progress to what rich draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamjob.cli.progress import (
    END_OF_TIME_US,
    History,
    Progress,
    ViewJob,
    behind_text,
    column_texts,
    count_text,
    rate_text,
    span_text,
    time_text,
    window_groups,
    with_time,
)

_ACCENT, _DIM, _GOOD, _WARN, _ALARM = "cyan", "bright_black", "green", "yellow", "bold red"
_HIDDEN = {"_id", "revision", "window_end", "window"}
_LABELS = {"window_start": "start"}
_FIXED_LINES = 10  # all but the tables and the sinks
_TABLE_LINES = 4  # a table without its rows
_LOW = 32  # in a terminal lower than this there is room for one window
_MAX_WIDTH = 120


def render(job: ViewJob, progress: Progress, history: History, url: str, *, width: int, height: int) -> RenderableType:
    """The whole view for a terminal of `width` columns and `height` lines."""
    width = min(width, _MAX_WIDTH)
    groups = list(window_groups(progress.get("latest_windows", ())).items())[: 1 if height < _LOW else 2]
    tables = max(1, len(groups)) + 1
    sinks = progress.get("sinks", ())
    rows = max(2, min(8, (height - 1 - _FIXED_LINES - len(sinks)) // tables - _TABLE_LINES))
    parts: list[RenderableType] = [_header(job, progress, url), _figures(progress, history, width)]
    for name, group in groups:
        parts.append(_table(f"Latest windows · {name}", group, _window_columns(group), rows, width))
    if not groups:
        parts.append(_table("Latest windows", (), ("start", "key"), rows, width, "none has closed yet"))
    title = "Latest anomalies" if job.anomalies else "Latest events"
    events = [with_time(row, job) for row in progress.get("latest_events", ())]
    columns = [column for column in job.interesting if any(column in row for row in events)] or job.interesting[:4]
    parts.append(_table(title, events, columns, rows, width, "none so far", job.scores))
    parts += [Text(), _sinks(sinks), _footer(progress)]
    return Padding(Group(*parts), (0, 1), expand=False)


def _header(job: ViewJob, progress: Progress, url: str) -> Text:
    text = Text()
    text.append("● ", style=_GOOD)
    text.append(job.name, style="bold")
    text.append(f"  {url}  up {span_text(progress['uptime_us'] / 1e6)}", style=_DIM)
    return text


def _figures(progress: Progress, history: History, width: int) -> RenderableType:
    rate = history.smooth or 0.0
    top = Text("\n")
    top.append(f"{rate_text(rate):>8}", style=f"bold {_ACCENT}")
    top.append(" events/s  ", style=_DIM)
    top.append(history.sparkline(min(60, max(10, width - 24))), style=_ACCENT)
    watermark = progress.get("watermark_us")
    time = Text("watermark ", style=_DIM)
    if watermark is not None and abs(watermark) <= END_OF_TIME_US:
        time.append(f"{time_text(watermark)} UTC", style="bold default")
        time.append(f"  {behind_text(watermark)}")
    else:
        time.append(behind_text(watermark))
    queue = progress["queue_rows"]
    time.append(f"   queue {count_text(queue)} rows", style=_WARN if queue > 100_000 else _DIM)
    counts = Table.grid(padding=(0, 3))
    named = ("received", "applied", "filtered", "late", "rejected", "failed", "duplicate", "windows", "anomalies")
    shown = [name for name in named if progress[name] or name not in ("filtered", "failed", "duplicate")]
    counts.add_row(*(Text(name, style=_DIM) for name in shown))
    counts.add_row(*(Text(count_text(progress[name]), style=_style(name, progress[name])) for name in shown))
    return Group(top, time, Text(), counts)


def _style(name: str, number: int) -> str:
    if not number:
        return _DIM
    return {"rejected": _WARN, "failed": _ALARM, "late": _WARN, "anomalies": f"bold {_WARN}"}.get(name, "bold")


def _window_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row if name not in _HIDDEN)
    first = [name for name in ("window_start", "key") if name in names]
    return [*first, *(name for name in names if name not in first)]


def _table(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Iterable[str],
    limit: int,
    width: int,
    empty: str = "none",
    alarming: frozenset[str] = frozenset(),
) -> RenderableType:
    """The newest `limit` rows with as many columns as fit. It is as high with fewer rows, so that nothing jumps."""
    newest = list(rows)[-limit:][::-1]
    cells = {column: column_texts([row.get(column) for row in newest]) for column in columns}
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style=_DIM, border_style=_DIM
    )
    room = width - 2
    kept: list[str] = []
    for column, values in cells.items():
        need = max(len(_LABELS.get(column, column)), *(min(24, len(value)) for value in values), 1) + 3
        if need > room and kept:
            break
        room -= need
        kept.append(column)
        number = any(isinstance(row.get(column), (int, float)) for row in newest)
        style = _ALARM if column in alarming else ""
        label = _LABELS.get(column, column)
        table.add_column(
            label, justify="right" if number else "left", no_wrap=True, overflow="ellipsis", max_width=24, style=style
        )
    for index in range(len(newest)):
        # As texts: what stands in the rows is no markup.
        table.add_row(*(Text(cells[column][index]) for column in kept))
    for index in range(limit - len(newest)):
        table.add_row(Text(empty if not newest and index == 0 else "", style=_DIM))
    return Group(Text(f"\n{title}", style="bold"), table)


def _sinks(sinks: Sequence[Mapping[str, Any]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for sink in sinks:
        pending = sink["pending_rows"]
        waiting = pending > 100_000
        grid.add_row(
            Text("!" if waiting else "✓", style=_WARN if waiting else _GOOD),
            Text(sink["name"]),
            Text(f"{count_text(sink['sent_rows'])} sent", style="bold"),
            Text(f"{count_text(pending)} on the way" if pending else "", style=_WARN if waiting else _DIM),
        )
    return grid


def _footer(progress: Progress) -> Text:
    message = progress.get("message")
    if message:
        return Text(f"\n{message}", style=_WARN)
    return Text("\nCtrl-C stops; the next start goes on from here", style=_DIM)
