"""What a running job shows on stderr: nothing, a plain line a second, or the live view."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING, Any, Protocol

from streamjob.cli.console import write_line
from streamjob.cli.progress import History, ViewJob, plain_line, view_job

if TYPE_CHECKING:
    from rich.live import Live

    from streamjob.loading import LoadedJob

_LIVE_INTERVAL_US = 250_000
_PLAIN_INTERVAL_US = 1_000_000


class Display(Protocol):
    """Takes the engine's progress. `progress` may be called from another thread."""

    visible: bool
    interval_us: int

    def start(self, url: str) -> None:
        """The job serves at `url`."""

    def progress(self, text: str) -> None:
        """The engine's progress, a JSON object."""

    def stop(self) -> None:
        """The job has ended; may be called twice."""


def is_silent(live: bool | None) -> bool:
    """Whether nothing is to be shown; `live` is what the user asked for (None: nothing)."""
    return live is False or (live is None and not sys.stderr.isatty())


def choose_display(loaded: LoadedJob, *, live: bool | None) -> Display:
    """The live view on a terminal, plain lines elsewhere if asked for, else nothing.

    `live` is what the user asked for (None: nothing). Rows that a sink prints to the same terminal would tear the
    view apart, so that there plain lines take its place.
    """
    if is_silent(live):
        return SilentDisplay()
    terminal = sys.stderr.isatty()
    prints_rows = sys.stdout.isatty() and any(sink.stdout is not None for sink in loaded.job.spec.sinks)
    if not terminal or (prints_rows and not live):
        return PlainDisplay()
    return LiveDisplay(view_job(loaded))


class SilentDisplay:
    """Shows nothing."""

    visible = False
    interval_us = _PLAIN_INTERVAL_US

    def start(self, url: str) -> None:
        """Nothing to show."""

    def progress(self, text: str) -> None:
        """Nothing to show."""

    def stop(self) -> None:
        """Nothing to show."""


class PlainDisplay:
    """One line a second."""

    visible = True
    interval_us = _PLAIN_INTERVAL_US

    def start(self, url: str) -> None:
        """READY stands on stdout already."""

    def progress(self, text: str) -> None:
        """Prints a line."""
        write_line(plain_line(json.loads(text)), sys.stderr)

    def stop(self) -> None:
        """There is nothing to take down."""


class LiveDisplay:
    """The live view, drawn in place."""

    visible = True
    interval_us = _LIVE_INTERVAL_US

    def __init__(self, job: ViewJob) -> None:
        self._job = job
        self._history = History()
        self._url = ""
        self._live: Live | None = None
        self._lock = threading.Lock()

    def start(self, url: str) -> None:
        """Begins to draw."""
        from rich.console import Console
        from rich.live import Live

        with self._lock:
            self._url = url
            console = Console(stderr=True)
            # No thread of rich's own: the engine's progress sets the pace, and nothing redraws what has not changed.
            self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()

    def progress(self, text: str) -> None:
        """Draws the new figures."""
        from streamjob.cli.view import render

        with self._lock:
            if self._live is None:
                return
            progress: dict[str, Any] = json.loads(text)
            self._history.add(progress)
            size = self._live.console.size
            view = render(self._job, progress, self._history, self._url, width=size.width, height=size.height)
            self._live.update(view, refresh=True)

    def stop(self) -> None:
        """Leaves the last figures standing."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None
