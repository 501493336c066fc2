"""Fixtures of the chart's tests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_files import CHART, KUBE_VERSIONS, Objects, Render, program


@pytest.fixture(scope="session")
def helm() -> str:
    """The program helm."""
    return program("helm")


@pytest.fixture(scope="session")
def render(helm: str) -> Render:
    """Renders the chart: values as `a.b=c`, and `values` as a mapping; gives the objects."""

    def rendered(
        *settings: str,
        values: dict[str, Any] | None = None,
        version: str = KUBE_VERSIONS[-1],
        chart: Path = CHART,
        namespace: str = "ops",
        release: str = "sj",
    ) -> Objects:
        command = [helm, "template", release, str(chart), "--namespace", namespace, "-f", "-"]
        command += ["--kube-version", version]
        for setting in settings:
            command += ["--set", setting]
        # JSON, which is YAML of every version.
        done = subprocess.run(
            command, input=json.dumps(values or {}), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise ValueError(done.stderr)
        return [one for one in yaml.safe_load_all(done.stdout) if one]

    return rendered
