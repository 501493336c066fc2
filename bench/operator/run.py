#!/usr/bin/env python3
"""Measures the operator with many jobs on a real API server without nodes.

Prints one JSON line for each case on stdout, and progress on stderr. bench/operator/README.md says what the cases and
figures mean. Exits with 1 if a case could not be run, with 2 if programs are missing; a missed target is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "operator" / "harness"))

from fleet import cases  # noqa: E402 - found by the path above
from fleet.report import TARGETS, print_line, result, say  # noqa: E402
from kubeharness.server import missing  # noqa: E402


def _plan(arguments: argparse.Namespace, wanted: frozenset[str]) -> cases.Plan:
    jobs, rate = arguments.jobs, arguments.rate
    if arguments.quick:
        return cases.Plan(jobs, arguments.edits or 10, rate, 4.0, resync_s=2.0, facts_s=0.5, quiet_s=3.0, cases=wanted)
    edits = arguments.edits or 200
    # Facts are written at most once a minute, so nothing may come for longer than that.
    return cases.Plan(jobs, edits, rate, 120.0, resync_s=60.0, facts_s=30.0, quiet_s=65.0, cases=wanted)


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="StreamJobs (default: %(default)s)")
    parser.add_argument("--edits", type=int, help="edits (default: 200)")
    parser.add_argument("--rate", type=float, default=5.0, help="edits a second (default: %(default)s)")
    parser.add_argument("--case", help="only these, besides converge: " + ", ".join(TARGETS))
    parser.add_argument("--quick", action="store_true", help="a few seconds for each case: does it all work?")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    arguments = parser.parse_args()
    if arguments.jobs < 1 or arguments.rate <= 0:
        parser.error("--jobs and --rate must be above 0")
    wanted = frozenset(arguments.case.split(",") if arguments.case else TARGETS)
    if wanted - set(TARGETS):
        parser.error(f"there is no case {', '.join(sorted(wanted - set(TARGETS)))}; there are {', '.join(TARGETS)}")
    reason = missing()
    if reason is not None:
        say(reason)
        return 2
    return _run(_plan(arguments, wanted), quick=arguments.quick, keep=arguments.keep)


def _run(plan: cases.Plan, *, quick: bool, keep: bool) -> int:
    parent = ROOT / ".streamjob"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-operator-", dir=parent))

    def show(case: str, measured: dict[str, Any]) -> None:
        print_line(result(case, measured, quick=quick))

    try:
        asyncio.run(cases.run(plan, folder, show))
        return 0
    except Exception as error:  # whatever it is, the line that is missing must have a reason
        for reason in _reasons(error):
            say(f"failed: {type(reason).__name__}: {reason}")
        return 1
    finally:
        if keep:
            say(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _reasons(error: Exception) -> list[Exception]:
    """An error, or all that a group of them holds."""
    if isinstance(error, ExceptionGroup):
        return [reason for inner in error.exceptions for reason in _reasons(inner)]
    return [error]


def _terminated(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    # So that an end from outside takes the processes and the folder along, too.
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())
