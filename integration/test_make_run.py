"""The README's first command, in a checkout of its own: what it prints, and that a second start goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import skip_or_fail
from harness import free_port

ROOT = Path(__file__).parents[1]
DATA = Path("examples") / "telemetry" / "data"
TOTALS = {"received", "applied", "late", "rejected", "windows", "anomalies", "resumed"}


@pytest.fixture
def checkout(folder: Path) -> Path:
    """The files of this checkout without what was built, which it shares: nothing is built or fetched anew."""
    if not (ROOT / ".venv" / ".engine").exists() or not (ROOT / DATA / "weather.ndjson").exists():
        skip_or_fail("make setup has not been run, or not fetched the example's data")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            # With its time: make builds what is older than its sources.
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / DATA).symlink_to(ROOT / DATA)
    return folder


def make_run(checkout: Path, port: int) -> tuple[list[str], dict[str, Any]]:
    """The lines of stdout, and the totals that its last one has."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "run", f"PORT={port}", "FOR=3s"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300, env=env, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return lines, json.loads(lines[-1])


def test_make_run_starts_the_example_and_goes_on_where_it_stopped(checkout: Path) -> None:
    port = free_port()
    lines, first = make_run(checkout, port)
    assert f"READY http://127.0.0.1:{port}" in lines
    assert (set(first), first["resumed"]) == (TOTALS, False)
    assert first["applied"] > 0
    _, second = make_run(checkout, port)
    assert second["resumed"] is True
    assert second["applied"] > first["applied"]
