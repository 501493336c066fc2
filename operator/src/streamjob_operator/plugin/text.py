"""Figures, times and tables as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

NOTHING = "-"
_SPANS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def parse_time(text: object) -> datetime | None:
    """A time as Kubernetes writes it (RFC 3339), or None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def span(seconds: float) -> str:
    """A length of time in its two largest units: 3d4h, 5m, 42s. Below 0 counts as 0."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for index, (unit, size) in enumerate(_SPANS):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
            if index + 1 < len(_SPANS) and left >= _SPANS[index + 1][1]:
                following, size = _SPANS[index + 1]
                parts.append(f"{left // size}{following}")
            break
    return "".join(parts) or "0s"


def since(time: object, now: datetime) -> str:
    """How long ago a time was, or a dash where there is none."""
    parsed = parse_time(time)
    return NOTHING if parsed is None else span((now - parsed).total_seconds())


def number(value: object) -> str:
    """A count with its thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING
    return f"{value:,.0f}"


def size(value: object) -> str:
    """Bytes in binary units."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING
    amount, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lines of a table whose columns are as wide as they must be; the last one is not filled up."""
    lines = [list(head), *[[cell or NOTHING for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return [
        (indent + "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]


def one_line(text: object, most: int = 160) -> str:
    """A text on one line, cut where it is longer than `most` characters."""
    flat = " ".join(str(text or "").split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
