"""`streamjob query`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from streamjob.cli.progress import column_texts
from streamjob.client import Client, ClientError


def query(arguments: argparse.Namespace) -> int:
    """Asks a running job for the statistics or windows of a key and prints them. Gives the exit code."""
    try:
        with Client(arguments.url, token=arguments.token, timeout=10, patience=10) as client:
            stats = client.stats(arguments.key)
            if stats is None:
                print(f'streamjob query: the job has seen no key "{arguments.key}"', file=sys.stderr)
                return 1
            page = (
                client.window_page(arguments.key, arguments.window, limit=arguments.limit) if arguments.window else None
            )
    except ClientError as error:
        print(f"streamjob query: {error}", file=sys.stderr)
        return 1
    if arguments.output == "json":
        answer = stats if page is None else {"items": page.rows, "next": page.next}
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    elif page is None:
        _show_stats(stats)
    else:
        _show_rows(page.rows)
        if page.next is not None:
            print("there are more: --limit N shows as many", file=sys.stderr)
    return 0


def _show_stats(stats: Mapping[str, Any]) -> None:
    """Plain members first, then a table of each member that holds one object for each field."""
    for name, value in stats.items():
        if not isinstance(value, dict):
            print(f"{name:<12}{value}")
    for value in stats.values():
        if isinstance(value, dict) and value:
            inner = [{"field": name, **item} for name, item in value.items() if isinstance(item, dict)]
            _show_rows(inner or [value])


def _show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        print("none")
        return
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "_id"]
    cells = {name: [name, *column_texts([row.get(name) for row in rows])] for name in columns}
    widths = {name: max(map(len, texts)) for name, texts in cells.items()}
    for index in range(len(rows) + 1):
        line = []
        for name in columns:
            text = cells[name][index]
            number = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
            line.append(text.rjust(widths[name]) if number else text.ljust(widths[name]))
        print("  ".join(line).rstrip())
