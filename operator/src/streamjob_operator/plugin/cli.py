"""The console script `kubectl-streamjob`, which kubectl finds by its name."""

from __future__ import annotations

import sys

from streamjob.cli.console import exit_with

from streamjob_operator.plugin.arguments import parse


def main(argv: list[str] | None = None) -> int:
    """Runs one command; gives the exit code."""
    arguments = parse(argv)
    # The client takes a while to load: not for --help.
    from streamjob_operator.plugin.cluster import Cluster, ClusterError
    from streamjob_operator.plugin.commands import COMMANDS

    try:
        cluster = Cluster(kubeconfig=arguments.kubeconfig, context=arguments.context, namespace=arguments.namespace)
        return COMMANDS[arguments.command](cluster, arguments)
    except ClusterError as error:
        print(f"kubectl streamjob: {error}", file=sys.stderr)
        return 1


def entry() -> None:
    """The console script."""
    exit_with(main)


if __name__ == "__main__":
    entry()
