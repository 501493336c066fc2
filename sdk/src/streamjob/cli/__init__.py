"""The command line: `streamjob run|check|query|engine|control|version`."""

from __future__ import annotations

from streamjob.cli.arguments import parse_arguments
from streamjob.cli.console import exit_with


def main(argv: list[str] | None = None) -> int:
    """Runs one command; gives the exit code: 0 done, 1 failed at run time, 2 an invalid job or command line."""
    arguments = parse_arguments(argv)
    if arguments.command == "version":
        from streamjob.cli.version import show_version

        return show_version()
    if arguments.command == "check":
        from streamjob.cli.check import check

        return check(arguments.job, arguments.keys, connect=arguments.connect)
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
    exit_with(main)
