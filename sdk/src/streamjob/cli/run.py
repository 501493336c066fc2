"""`streamjob run`.

What it imports before the engine runs is what a restart waits for: all else is imported where it is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from types import ModuleType

from streamjob.cli.console import write_line
from streamjob.cli.display import Display, SilentDisplay, choose_display, is_silent
from streamjob.cli.environment import set_environment
from streamjob.cli.logs import Log
from streamjob.cli.prepared import PreparedJob, prepare, recall, remember
from streamjob.native import EngineMissingError, engine_module

_DONE, _FAILED, _INVALID = 0, 1, 2


def run(arguments: argparse.Namespace) -> int:
    """Validates and runs a job until it ends or is stopped. Gives the exit code."""
    display: Display = SilentDisplay()
    # A display needs the whole job.
    known = recall(arguments.job, arguments.state_dir) if is_silent(arguments.live) else None
    job = known
    if job is None:
        made = prepare(arguments.job)
        if made is None:
            return _INVALID
        loaded, job = made
        display = choose_display(loaded, live=arguments.live)
    # The engine logs for itself, in the same style; beside a live view only what needs attention.
    set_environment(log_format=arguments.log_format, log_level="warn" if display.visible else "info")
    try:
        engine = engine_module()
    except EngineMissingError as error:
        Log(arguments.log_format).error("engine_missing", message=str(error))
        return _FAILED
    return _run(engine, job, arguments, display, new=known is None)


def _run(engine: ModuleType, job: PreparedJob, arguments: argparse.Namespace, display: Display, *, new: bool) -> int:
    state_dir = os.path.abspath(arguments.state_dir or os.path.join(".streamjob", job.name))
    log = Log(arguments.log_format)

    def ready(url: str) -> None:
        write_line(f"READY {url}", sys.stdout)
        if not display.visible:
            log.info("job_ready", job=job.name, url=url, state_dir=state_dir)
        display.start(url)
        if new:
            remember(job, arguments.job, state_dir)

    try:
        totals = engine.run(
            job.job_json,
            state_dir=state_dir,
            listen=arguments.listen,
            exit_at_end=arguments.exit_at_end,
            for_us=arguments.for_us,
            on_ready=ready,
            on_progress=display.progress if display.visible else None,
            progress_interval_us=display.interval_us,
        )
    except engine.EngineError as error:
        display.stop()
        log.job_failed(error, job=job.name)
        return _FAILED
    finally:
        display.stop()
    sys.stderr.flush()
    write_line(totals, sys.stdout)
    return _DONE
