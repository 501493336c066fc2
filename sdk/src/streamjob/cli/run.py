"""`streamjob run`."""

from __future__ import annotations

import argparse
import os
import sys
from types import ModuleType
from typing import Any

from streamjob.cli.common import load_or_report, report
from streamjob.cli.display import Display, choose_display
from streamjob.loading import LoadedJob
from streamjob.native import EngineMissingError, engine_json, engine_module
from streamjob.problems import JobError

_DONE, _FAILED, _INVALID = 0, 1, 2


def run(arguments: argparse.Namespace) -> int:
    """Validates and runs a job until it ends or is stopped. Gives the exit code."""
    loaded = load_or_report(arguments.job)
    if loaded is None:
        return _INVALID
    try:
        job_json = engine_json(loaded)
    except JobError as error:
        report(error.problems)
        return _INVALID
    display = choose_display(loaded, live=arguments.live)
    # The engine logs for itself, in the same style; beside a live view only what needs attention.
    os.environ.setdefault("STREAMJOB_LOG_FORMAT", arguments.log_format)
    os.environ.setdefault("STREAMJOB_LOG", "warn" if display.visible else "info")
    from streamjob.cli.logs import configure_logs

    log = configure_logs(arguments.log_format)
    try:
        engine = engine_module()
    except EngineMissingError as error:
        log.error("engine_missing", message=str(error))
        return _FAILED
    return _run(engine, loaded, job_json, arguments, display, log)


def _run(
    engine: ModuleType, loaded: LoadedJob, job_json: str, arguments: argparse.Namespace, display: Display, log: Any
) -> int:
    name = loaded.job.metadata.name
    state_dir = os.path.abspath(arguments.state_dir or os.path.join(".streamjob", name))

    def ready(url: str) -> None:
        print(f"READY {url}", flush=True)
        if not display.visible:
            log.info("job_ready", job=name, url=url, state_dir=state_dir)
        display.start(url)

    try:
        totals = engine.run(
            job_json,
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
        log.error(
            "job_failed",
            job=name,
            message=str(error),
            actor=getattr(error, "actor", "engine"),
            retryable=getattr(error, "retryable", False),
        )
        return _FAILED
    finally:
        display.stop()
    sys.stderr.flush()
    print(totals, flush=True)
    return _DONE
