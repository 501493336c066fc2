"""What a case gets to work with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driver import jobs
from driver.engine import Engine
from driver.scale import Scale
from driver.tool import Tool
from driver.truth import Verdict

Outcome = tuple[Verdict, dict[str, Any]]
"""What was lost or came twice, and what was measured."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A case's folder, tools and size."""

    tool: Tool
    scale: Scale
    folder: Path
    native: Path | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    """What one case measured for the next, within one run."""

    def start(self, job: jobs.Spec, *, exit_at_end: bool = False) -> Engine:
        """The engine with a job, on the state of this folder."""
        return Engine(jobs.write(job, self.folder), self.folder, exit_at_end=exit_at_end, native=self.native)
