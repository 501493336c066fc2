"""Durations and sizes with their unit in the value: `10s`, `1h30m`, `250ms`, `64Mi`, `500k`."""

from __future__ import annotations

import re

MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
BYTES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d|w))+$"
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$"
_DURATION = re.compile(DURATION_PATTERN)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d|w)")
_SIZE = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(k|M|G|T|Ki|Mi|Gi|Ti)?$")
_MAX = 2**63 - 1


class UnitError(ValueError):
    """A value that is no duration or size; `fix` says how to write one."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def _scaled(number: str, factor: int) -> int | None:
    """`number` (decimal text) times `factor`, exactly; None where that is no whole number."""
    whole, _, fraction = number.partition(".")
    scale = 10 ** len(fraction)
    product = int(whole + fraction) * factor
    return product // scale if product % scale == 0 else None


def parse_duration(value: object) -> int:
    """A duration such as `10s`, `250ms` or `1h30m` in microseconds.

    Raises UnitError for anything else, for a number without a unit and for fractions of a microsecond.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise UnitError("a duration needs a unit", f'write "{value:g}s" or "{value:g}ms"')
    if not isinstance(value, str):
        raise UnitError("must be a duration", 'write for example "10s", "250ms" or "1h30m"')
    if not _DURATION.match(value):
        raise UnitError(
            "is not a duration", f'write a number and a unit ({", ".join(MICROSECONDS)}), for example "10s" or "1h30m"'
        )
    total = 0
    for number, unit in _DURATION_PART.findall(value):
        part = _scaled(number, MICROSECONDS[unit])
        if part is None:
            raise UnitError("is finer than a microsecond", "use whole microseconds")
        total += part
    if total > _MAX:
        raise UnitError("is too long", "at most 292,000 years fit")
    return total


def format_duration(microseconds: int) -> str:
    """The shortest text that parse_duration reads back as `microseconds` (not negative)."""
    if microseconds < 0:
        raise ValueError("a duration is not negative")
    if microseconds == 0:
        return "0s"
    text = ""
    rest = microseconds
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, rest = divmod(rest, MICROSECONDS[unit])
        if count:
            text += f"{count}{unit}"
    return text


def parse_size(value: object) -> int:
    """A size such as `64Mi`, `1Gi` or `500k` (or a plain number of bytes) in bytes. Raises UnitError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.match(value) if isinstance(value, str) else None
    if not match:
        fix = 'write for example "64Mi" (binary) or "500k" (decimal)'
        if isinstance(value, str) and re.match(r"^[0-9.]+\s*[kKMGT]i?[bB]$", value):
            fix = f'write "{value.replace(" ", "")[:-1].replace("K", "k", 1).replace("ki", "Ki")}"'
        raise UnitError("is not a size", fix)
    total = _scaled(match[1], BYTES[match[2] or ""])
    if total is None:
        raise UnitError("is no whole number of bytes", "use whole bytes")
    if total > _MAX:
        raise UnitError("is too large", "at most 8 EiB fit")
    return total


def format_size(size: int) -> str:
    """A text that parse_size reads back as `size`, with the largest unit that divides it."""
    if size < 0:
        raise ValueError("a size is not negative")
    for unit in ("Ti", "Gi", "Mi", "Ki", "T", "G", "M", "k"):
        if size and size % BYTES[unit] == 0:
            return f"{size // BYTES[unit]}{unit}"
    return str(size)
