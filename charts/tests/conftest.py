"""What the chart's tests share: the chart, helm, and where programs are found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "streamjob-operator"
# Oldest first: what the chart promises, and what it is tested on.
KUBE_VERSIONS = ("1.30.0", "1.34.4")

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


def program(name: str) -> str:
    """A program in STREAMJOB_KUBE_BIN or the PATH; skips the test where there is none."""
    places = os.pathsep.join(filter(None, (os.environ.get("STREAMJOB_KUBE_BIN"), os.environ.get("PATH"))))
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is neither in STREAMJOB_KUBE_BIN nor in the PATH")
    return found


@pytest.fixture(scope="session")
def helm() -> str:
    """The program helm."""
    return program("helm")


@pytest.fixture(scope="session")
def render(helm: str) -> Render:
    """Renders the chart: values as `a.b=c`, and `values` as a mapping; gives the objects."""

    def rendered(
        *settings: str, values: dict[str, Any] | None = None, version: str = KUBE_VERSIONS[-1], chart: Path = CHART
    ) -> Objects:
        command = [helm, "template", "sj", str(chart), "--namespace", "ops", "--kube-version", version, "-f", "-"]
        for setting in settings:
            command += ["--set", setting]
        # JSON, which is YAML of every version.
        done = subprocess.run(command, input=json.dumps(values or {}), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ValueError(done.stderr)
        return [one for one in yaml.safe_load_all(done.stdout) if one]

    return rendered
