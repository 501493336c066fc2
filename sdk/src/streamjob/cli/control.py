"""`streamjob control`: asks a running engine for its status or a checkpoint. Meant for scripts and hooks beside it."""

from __future__ import annotations

import argparse
import json
import sys

import httpx

from streamjob.cli.engine import CONTROL_VARIABLE, SetupError, control_token

_DONE, _FAILED, _INVALID = 0, 1, 2
_TIMEOUT_S = 40
"""Longer than the engine itself waits for a checkpoint."""
_METHODS = {"status": "GET", "checkpoint": "POST"}


def control(arguments: argparse.Namespace) -> int:
    """Sends one request and prints the answer, JSON. Gives the exit code."""
    try:
        token = control_token()
    except SetupError as error:
        print(f"streamjob control: {error}", file=sys.stderr)
        return _INVALID
    if token is None:
        print(f"streamjob control: name the file with the control token in {CONTROL_VARIABLE}", file=sys.stderr)
        return _INVALID
    url = f"{arguments.url.rstrip('/')}/v1/control/{arguments.request}"
    try:
        answer = httpx.request(
            _METHODS[arguments.request], url, headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT_S
        )
        body = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        print(f"streamjob control: {url}: {error or type(error).__name__}", file=sys.stderr)
        return _FAILED
    if answer.status_code != httpx.codes.OK:
        reason = body.get("error") if isinstance(body, dict) else body
        print(f"streamjob control: {url} answered {answer.status_code}: {reason}", file=sys.stderr)
        return _FAILED
    print(json.dumps(body, ensure_ascii=False, indent=2))
    return _DONE
