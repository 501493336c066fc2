"""One API server for all tests of this folder, a namespace for each test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from apiserver.server import Server, missing, running

CRDS = Path(__file__).parents[3] / "crds"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    if reason is not None:
        for item in items:
            if "apiserver" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


def apply_manifests(server: Server) -> None:
    """Applies what is checked in, and waits until the API server serves StreamJobs."""
    for path in sorted(CRDS.iterdir()):
        for document in yaml.safe_load_all(path.read_text()):
            group, version = document["apiVersion"].split("/")
            plural = {
                "CustomResourceDefinition": "customresourcedefinitions",
                "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
                "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
            }[document["kind"]]
            place = f"/apis/{group}/{version}/{plural}/{document['metadata']['name']}?fieldManager=test&force=true"
            status, answer = server.call("PATCH", place, document, "application/apply-patch+yaml")
            assert status in (200, 201), answer["message"]
    limit = time.monotonic() + 30
    while server.call("GET", "/apis/streamjob.dev/v1alpha1/streamjobs")[0] != 200:
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("apiserver")) as server:
        apply_manifests(server)
        yield server


@pytest.fixture
def namespace(server: Server) -> str:
    name = f"test-{uuid4().hex[:8]}"
    status, answer = server.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert status == 201, answer
    return name
