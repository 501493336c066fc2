"""The command line: `streamjob-operator run` and `streamjob-operator crd`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from streamjob_operator import __version__
from streamjob_operator.crd import manifests
from streamjob_operator.crd.reference import render
from streamjob_operator.settings import PREFIX, Settings, load


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streamjob-operator", description="The Kubernetes operator of StreamJob.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="look after StreamJobs until told to stop")
    for field in fields(Settings):
        variable = PREFIX + field.name.upper()
        shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        default = f"; default {shown}" if shown != "" else ""
        run.add_argument(f"--{field.name.replace('_', '-')}", metavar="VALUE", help=f"or {variable}{default}")
    crd = commands.add_parser("crd", help="print what a cluster needs before its first StreamJob")
    crd.add_argument("--directory", type=Path, help="write the files into this folder instead")
    crd.add_argument("--reference", type=Path, help="write the reference of the status into this document as well")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; gives the exit code: 2 for wrong settings, 1 for a lost Lease or an error."""
    given = _parser().parse_args(arguments)
    if given.command == "crd":
        return _crd(given.directory, given.reference)
    try:
        settings = load({field.name: getattr(given, field.name) for field in fields(Settings)})
    except ValueError as error:
        print(f"streamjob-operator: {error}", file=sys.stderr)
        return 2
    from streamjob_operator.logs import configure
    from streamjob_operator.runner import run

    configure(settings.log_level)
    return asyncio.run(run(settings))


def _crd(directory: Path | None, reference: Path | None) -> int:
    if reference is not None:
        reference.write_text(render(reference.read_text(encoding="utf-8")), encoding="utf-8")
    for name, text in manifests().items():
        if directory is None:
            print(text, end="" if text.startswith("---") else "---\n")
        else:
            (directory / name).write_text(text, encoding="utf-8")
    return 0


def entry() -> None:
    """The program."""
    sys.exit(main())
