"""`streamjob engine`: runs a job that is normalised already, as a pod does. Imports little, to restart quickly."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from streamjob.cli.console import write_line
from streamjob.cli.environment import set_environment
from streamjob.cli.logs import Log
from streamjob.native import EngineMissingError, engine_module

_DONE, _FAILED, _INVALID = 0, 1, 2
_PROGRESS_INTERVAL_US = 3_600_000_000
CONTROL_VARIABLE = "STREAMJOB_CONTROL_TOKEN_FILE"
"""The environment variable that names the file with the control token."""


class SetupError(ValueError):
    """Something that the engine is started with is missing or wrong; says what and where."""


def engine(arguments: argparse.Namespace) -> int:
    """Runs a normalised job until it is stopped. Gives the exit code."""
    set_environment(log_format=arguments.log_format, log_level="info")
    log = Log(arguments.log_format)
    try:
        job_json = job_text(Path(arguments.job), Path(arguments.udfs) if arguments.udfs else None)
        token = control_token()
    except SetupError as error:
        log.error("job_invalid", message=str(error), actor="user", retryable=False)
        return _INVALID
    try:
        native = engine_module()
    except EngineMissingError as error:
        log.error("engine_missing", message=str(error), actor="user", retryable=False)
        return _FAILED
    try:
        totals = native.run(
            job_json,
            state_dir=os.path.abspath(arguments.state_dir),
            listen=arguments.listen,
            exit_at_end=False,
            for_us=None,
            on_ready=lambda url: write_line(f"READY {url}", sys.stdout),
            on_progress=None,
            progress_interval_us=_PROGRESS_INTERVAL_US,
            control_token=token,
            control_token_file=os.environ.get(CONTROL_VARIABLE) or None,
        )
    except native.EngineError as error:
        log.job_failed(error)
        return _FAILED
    write_line(totals, sys.stdout)
    return _DONE


def job_text(job: Path, udfs: Path | None) -> str:
    """The normalised job with the text of each UDF, `NAME.py` in the folder `udfs`, put in. Raises SetupError."""
    try:
        data = json.loads(job.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{job}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise SetupError(f"{job}: is no normalised job: {error}") from None
    for udf in data.get("udfs", []) if udfs is not None and isinstance(data, dict) else []:
        path = Path(udfs or "", f"{udf.get('name')}.py")
        try:
            udf["source"] = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SetupError(f"{path}: the code of the UDF {udf.get('name')} cannot be read: {error}") from None
    return json.dumps(data, ensure_ascii=False)


def control_token() -> str | None:
    """The control token, or None where no file is named. Raises SetupError for a file without one."""
    path = os.environ.get(CONTROL_VARIABLE)
    if not path:
        return None
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: the control token cannot be read: {error} (see {CONTROL_VARIABLE})") from None
    if not token:
        raise SetupError(f"{path}: holds no control token (see {CONTROL_VARIABLE})")
    return token
