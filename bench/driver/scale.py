"""How long and how large a run is."""

from __future__ import annotations

import re
from dataclasses import dataclass

BYTES_PER_EVENT = 91
"""A line of a generated file, with its newline."""

INPUT_SHARE = 0.75
"""The part of the allowed disk that an input file may take; results and state need the rest."""

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_SIZES = {"": 1, "M": 10**6, "G": 10**9, "Mi": 2**20, "Gi": 2**30}


class UsageError(ValueError):
    """A wrong argument."""


def parse_duration(text: str) -> float:
    """`30s`, `500ms`, `2m` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m)", text)
    if not found or float(found[1]) == 0:
        raise UsageError(f"{text!r} is no duration; write a number and a unit, as 30s or 2m")
    return float(found[1]) * _UNITS[found[2]]


def parse_size(text: str) -> int:
    """`4G`, `500M`, `2Gi` in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(Mi|Gi|M|G|)", text)
    if not found:
        raise UsageError(f"{text!r} is no size; write a number and a unit, as 4G or 512Mi")
    return int(float(found[1]) * _SIZES[found[2]])


@dataclass(frozen=True, slots=True)
class Scale:
    """What the command line asked for, and what follows from it."""

    seconds: float = 30.0
    quick: bool = False
    max_disk: int = 4 * 10**9

    def part(self, share: float, at_least: float = 1.0) -> float:
        """A part of the duration."""
        return max(self.seconds * share, min(at_least, self.seconds))

    def devices(self, wanted: int) -> int:
        """As many devices as wanted; quick runs have at most 20,000."""
        return min(wanted, 20_000) if self.quick else wanted

    def file_events(self, expected_rate: int, events_per_window: int) -> int:
        """Events that take a third of the duration at `expected_rate`, in whole windows, as far as the disk goes."""
        wanted = expected_rate * self.seconds / (15 if self.quick else 3)
        room = self.max_disk * INPUT_SHARE / BYTES_PER_EVENT
        windows = int(min(wanted, room) // events_per_window)
        return max(windows, 1) * events_per_window

    @property
    def checkpoint_s(self) -> int:
        """5 seconds, as everywhere; quick runs would see none then."""
        return 1 if self.quick else 5
