"""An API server that has CustomResourceDefinitions of others, whose objects the chart makes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from chart_files import ROOT, program

sys.path.insert(0, str(ROOT / "operator" / "harness"))
from kubeharness.server import Server, missing, running

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVED_WITHIN_S = 30.0


@contextmanager
def serving(
    scratch: Path, variable: str, whose: str, file: str, group: str, plurals: tuple[str, ...]
) -> Iterator[Server]:
    """A server that serves `plurals` at `group`, in the namespace ops.

    The definitions are in the folder that `variable` names, each as `file` says by {plural}; skips without it.
    """
    program("helm")
    folder = os.environ.get(variable)
    if folder is None:
        pytest.skip(f"{variable} names no folder with the CustomResourceDefinitions of {whose}")
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with running(scratch) as server:
        server.call("POST", "/api/v1/namespaces", {"metadata": {"name": "ops"}})
        for plural in plurals:
            crd = yaml.safe_load((Path(folder) / file.format(plural=plural)).read_text(encoding="utf-8"))
            crd["metadata"].pop("labels", None)  # cert-manager's are a template of its own chart
            status, answer = server.call("POST", CRDS, crd)
            assert status == 201, answer.get("message")
            limit = time.monotonic() + SERVED_WITHIN_S
            while server.call("GET", f"{group}/{plural}")[0] != 200:
                assert time.monotonic() < limit, f"no {plural} are served"
                time.sleep(0.1)
        yield server
