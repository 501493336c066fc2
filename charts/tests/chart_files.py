"""Where the chart is, and where programs are found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
