"""What processes have used, by /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor time so far, of all threads, in seconds."""
    # The name in parentheses may have blanks; user and system time are members 14 and 15.
    members = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(members[11]) + int(members[12])) / _TICKS


def memory(pid: int) -> tuple[int, int]:
    """Resident memory in bytes: (peak since its start, now). Mapped files such as libraries are in it."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    peak, now = (int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
    return peak, now


@dataclass
class Meter:
    """Processor time of some processes from a moment on."""

    pids: dict[str, int]

    def __post_init__(self) -> None:
        self._before = {name: cpu_s(pid) for name, pid in self.pids.items()}

    def read(self) -> dict[str, float]:
        """`NAME_cpu_s` of each since the start."""
        return {f"{name}_cpu_s": round(cpu_s(pid) - self._before[name], 2) for name, pid in self.pids.items()}
