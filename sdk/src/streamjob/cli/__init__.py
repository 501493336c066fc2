"""The command line: `streamjob run|check|query|engine|control|version`."""

from __future__ import annotations

import os
import sys

from streamjob.cli.arguments import parse_arguments


def main(argv: list[str] | None = None) -> int:
    """Runs one command; gives the exit code: 0 done, 1 failed at run time, 2 an invalid job or command line."""
    arguments = parse_arguments(argv)
    if arguments.command == "version":
        from streamjob.cli.version import show_version

        return show_version()
    if arguments.command == "check":
        from streamjob.cli.check import check

        return check(arguments.job, arguments.keys)
    if arguments.command == "query":
        from streamjob.cli.query import query

        return query(arguments)
    if arguments.command == "engine":
        from streamjob.cli.engine import engine

        return engine(arguments)
    if arguments.command == "control":
        from streamjob.cli.control import control

        return control(arguments)
    from streamjob.cli.run import run

    return run(arguments)


def entry() -> None:
    """The console script."""
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 0
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); its exit is not ours to explain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
