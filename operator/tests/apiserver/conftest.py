"""One API server for all tests of this folder, a namespace for each test."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from apiserver.running import Space
from kubeharness.manifests import apply_manifests
from kubeharness.server import Server, missing, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    if reason is not None:
        for item in items:
            if "apiserver" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


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


@pytest.fixture
def space(server: Server, namespace: str) -> Space:
    return Space(server, namespace)
