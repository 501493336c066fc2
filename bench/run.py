#!/usr/bin/env python3
"""Measures the engine, one case after the other, and checks that nothing was lost or came twice.

Prints one JSON line for each case on stdout, and progress and a table on stderr. bench/README.md says what the cases
and figures mean. Exits with 1 if anything was lost or duplicated, or if a case could not be run or verified.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from cases import CASES, NEEDS_UDF
from driver.bench import Bench
from driver.engine import BenchError
from driver.report import Result, failed, is_bad, print_line, result, say, table
from driver.scale import Scale, UsageError, parse_duration, parse_size
from driver.tool import Tool

ROOT = Path(__file__).resolve().parent.parent
QUICK_SECONDS = 3.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", type=Path, required=True, help="the load generator, streamjob-bench")
    parser.add_argument("--duration", default="30s", help="how long a case measures, about (default: %(default)s)")
    parser.add_argument("--case", help="only these cases, separated by commas: " + ", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="a few seconds each with little data: does it all work?")
    parser.add_argument("--max-disk", default="4G", help="temporary files at most, about (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep each case's folder, with the engine's log")
    # An engine without Python, for profiles of native code alone; cases with a UDF are left out.
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Runs what the command line asks for."""
    parser = _parser()
    arguments = parser.parse_args()
    try:
        seconds = QUICK_SECONDS if arguments.quick else parse_duration(arguments.duration)
        scale = Scale(seconds, arguments.quick, parse_size(arguments.max_disk))
        names = _names(arguments.case, without_udf=arguments.engine is not None)
    except UsageError as error:
        parser.error(str(error))
    tool = Tool(arguments.tool.resolve())
    shared: dict[str, object] = {}
    lines = []
    for name in names:
        line = _run(name, tool, scale, arguments, shared)
        print_line(line)
        lines.append(line)
    print(table(lines), file=sys.stderr)
    return int(any(is_bad(line) for line in lines))


def _names(wanted: str | None, *, without_udf: bool) -> list[str]:
    names = wanted.split(",") if wanted else list(CASES)
    for name in names:
        if name not in CASES:
            raise UsageError(f"there is no case {name!r}; there are {', '.join(CASES)}")
    return [name for name in names if not (without_udf and name in NEEDS_UDF)]


def _run(name: str, tool: Tool, scale: Scale, arguments: argparse.Namespace, shared: dict[str, object]) -> Result:
    parent = ROOT / ".streamjob"
    parent.mkdir(exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < 1.5 * scale.max_disk:
        return failed(name, f"{free / 1e9:.1f} GB are free in {parent}; --max-disk makes runs smaller")
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir=parent))
    load = round(os.getloadavg()[0], 1)
    say(f"{name} … (load average {load} before)")
    try:
        verdict, measured = CASES[name](Bench(tool, scale, folder, arguments.engine, shared))
        return result(name, verdict, {**measured, "load_average_before": load}, quick=scale.quick)
    except (BenchError, OSError, ValueError, KeyError) as error:
        say(f"{name} failed: {error}")
        return failed(name, f"{type(error).__name__}: {error}")
    finally:
        if arguments.keep:
            say(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _terminated(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    # So that an end from outside takes the processes and the folder along, too.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
