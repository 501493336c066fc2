"""The arguments of the command line."""

from __future__ import annotations

import argparse

from streamjob.units import UnitError, parse_duration


def _duration(text: str) -> int:
    try:
        value = parse_duration(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}; {error.fix}") from None
    if value == 0:
        raise argparse.ArgumentTypeError("must be longer than 0s")
    return value


def _positive(text: str) -> int:
    digits = text.replace(",", "").replace("_", "")
    if not digits.isdigit() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(digits)


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT, write for example 127.0.0.1:8080")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streamjob", description="Real-time stream processing described by one YAML object."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run a job on this machine")
    run.add_argument("job", metavar="JOB", help="the job's YAML file")
    run.add_argument("--state-dir", metavar="DIR", help="where state is kept (default: ./.streamjob/NAME)")
    run.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_listen,
        default="127.0.0.1:8080",
        help="where to serve (default: %(default)s)",
    )
    run.add_argument(
        "--exit-at-end",
        action="store_true",
        help="stop when files and topics are read to their ends, with everything flushed",
    )
    run.add_argument("--for", dest="for_us", metavar="DURATION", type=_duration, help="stop after this time, e.g. 20s")
    run.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a live view on stderr (default: where stderr is a terminal)",
    )
    run.add_argument("--log-format", choices=("json", "text"), default="json", help="how logs are written to stderr")

    check = commands.add_parser("check", help="validate a job and estimate the disk it needs")
    check.add_argument("job", metavar="JOB", help="the job's YAML file")
    check.add_argument(
        "--connect", action="store_true", help="try the servers of its sources and sinks, with its secrets"
    )
    check.add_argument(
        "--keys", metavar="N", type=_positive, default=10_000, help="how many keys to expect (default: %(default)s)"
    )

    query = commands.add_parser("query", help="ask a running job for a key's statistics or windows")
    query.add_argument("key", metavar="KEY", help="the key")
    query.add_argument("--window", metavar="W", help="results of this window instead of the running statistics")
    query.add_argument("--limit", metavar="N", type=_positive, default=20, help="the most rows (default: %(default)s)")
    query.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")
    query.add_argument("--url", default="http://127.0.0.1:8080", help="where the job serves (default: %(default)s)")
    query.add_argument("--token", help="the bearer token, where the job asks for one")

    engine = commands.add_parser("engine", help="run a normalised job, as a pod on Kubernetes does")
    engine.add_argument("--job", metavar="FILE", required=True, help="the normalised job, JSON")
    engine.add_argument("--udfs", metavar="DIR", help="a folder with the text of each UDF, NAME.py")
    engine.add_argument("--state-dir", metavar="DIR", required=True, help="where state is kept")
    engine.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_listen,
        default="127.0.0.1:8080",
        help="where to serve (default: %(default)s)",
    )
    engine.add_argument("--log-format", choices=("json", "text"), default="json", help="how logs are written to stderr")

    control = commands.add_parser("control", help="ask a running engine for its status, or to commit everything now")
    control.add_argument("request", choices=("status", "checkpoint"), help="what to ask for")
    control.add_argument("--url", default="http://127.0.0.1:8080", help="where the job serves (default: %(default)s)")

    commands.add_parser("version", help="show versions")
    return parser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The parsed arguments; exits with 2 and a message for wrong ones."""
    return _parser().parse_args(argv)
