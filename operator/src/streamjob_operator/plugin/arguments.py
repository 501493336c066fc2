"""The plugin's command line."""

from __future__ import annotations

import argparse
import os

from streamjob.units import UnitError, parse_duration

WAIT_S = 120
"""How long a command waits that is done soon or not at all."""
CHECKPOINT_WAIT_S = 360
"""Longer than the operator takes for its answer, with its last question to the engine: a test compares them."""
_EPILOG = """\
examples:
  kubectl streamjob status                     all jobs of the namespace
  kubectl streamjob status telemetry           one job on one screen
  kubectl streamjob explain telemetry          why is it in this state, what does it wait for
  kubectl streamjob logs telemetry -f          the engine's log
  kubectl streamjob query telemetry device-7   a key's statistics
  kubectl streamjob checkpoint telemetry       commit everything now, and wait until it is done
  kubectl streamjob restart telemetry --wait   a new pod, after a checkpoint
  kubectl streamjob ui telemetry               the job's own pages on this machine

exit codes: 0 done, 1 failed, 2 a wrong command line, 3 not within --timeout
"""


def seconds(text: str) -> int:
    """A duration such as 90s or 5m in whole seconds, at least one."""
    try:
        value = parse_duration(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}; {error.fix}") from None
    if value < 1_000_000:
        raise argparse.ArgumentTypeError("must be at least 1s")
    return value // 1_000_000


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("where")
    group.add_argument("-n", "--namespace", metavar="NS", help="the namespace (default: the context's)")
    group.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: its current one)")
    group.add_argument("--kubeconfig", metavar="FILE", help="the kubeconfig (default: $KUBECONFIG, ~/.kube/config)")
    common.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="for a person or for a program"
    )
    return common


def parser(program: str | None = None) -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog=program or "kubectl streamjob",
        description="Look at StreamJobs and act on them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = _common()

    def add(name: str, text: str, *, optional: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=[common])
        command.add_argument("job", metavar="JOB", nargs="?" if optional else None, help="the StreamJob's name")
        return command

    def add_wait(command: argparse.ArgumentParser, *, default: bool, wait_s: int = WAIT_S) -> None:
        command.add_argument(
            "--wait", action=argparse.BooleanOptionalAction, default=default, help="wait until it is done"
        )
        command.add_argument(
            "--timeout",
            metavar="DURATION",
            type=seconds,
            default=wait_s,
            help=f"how long to wait (default: {wait_s // 60}m)",
        )

    status = add("status", "a job on one screen, or all jobs in a table", optional=True)
    status.add_argument("-A", "--all-namespaces", action="store_true", help="the jobs of all namespaces")
    add("explain", "why a job is in its state, what it waits for and what to do")
    logs = add("logs", "the engine's log, readable; with -o json as it is")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    logs.add_argument("-p", "--previous", action="store_true", help="of the container before the last restart")
    logs.add_argument("--tail", metavar="N", type=_positive, help="the last N lines (default: all)")
    logs.add_argument("--since", metavar="DURATION", type=seconds, help="of the last 10m, 1h …")
    _add_query(add("query", "a key's statistics, or its closed windows"))
    add_wait(add("suspend", "commit everything and stop the pods; volumes and position stay"), default=False)
    add_wait(add("resume", "start a suspended job where it stopped"), default=False)
    add_wait(add("restart", "replace the pod after a checkpoint"), default=False)
    add_wait(add("checkpoint", "commit everything now"), default=True, wait_s=CHECKPOINT_WAIT_S)
    ui = add("ui", "forward a port of this machine to the job, until Ctrl-C")
    ui.add_argument("--port", metavar="N", type=_port, default=0, help="the port on this machine (default: a free one)")
    ui.add_argument("--open", action="store_true", help="open it in a browser")
    return top


def _add_query(query: argparse.ArgumentParser) -> None:
    query.add_argument("key", metavar="KEY", help="the key")
    query.add_argument("--window", metavar="W", help="results of this window instead of the running statistics")
    query.add_argument("--limit", metavar="N", type=_positive, default=20, help="the most rows (default: %(default)s)")
    query.add_argument(
        "--token",
        default=os.environ.get("STREAMJOB_TOKEN"),
        help="the job's bearer token, where it asks for one (default: $STREAMJOB_TOKEN)",
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The parsed arguments; exits with 2 and a message for wrong ones."""
    return parser().parse_args(argv)
