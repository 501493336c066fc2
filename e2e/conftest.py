"""Fixtures: the cluster and the release of the session, the namespace and the steps of a test."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest
import release as releases
from client_pod import NAME, READY_WITHIN_S, ClientPod, manifest
from cluster import Cluster, run
from release import ENGINE_IMAGE, NAMESPACE, Release
from steps import Given, Then, When, World, is_ready
from storage import GrowingClass, growing_class

SHOWN_LINES = 60
BUDGET_S = float(os.environ.get("STREAMJOB_E2E_BUDGET_S", "0"))
"""After so long no further test is begun; 0 is no limit."""
EARLY = ("test_1_first_job.py", "test_7_rights.py", "test_8_upgrade.py")
"""What a budget must not leave out. The other files take turns by the day, so that none is left out for ever."""
LATE = "test_the_rights_were_enough"
"""Reads what the tests before have left in the operators' logs: last within a budget, whatever is spent."""
DAY_S = 86_400
_BEGAN = time.monotonic()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that KUBECONFIG names. It must be one that nobody has installed StreamJobs in."""
    cluster = Cluster()
    if not releases.absent(cluster):
        pytest.exit(
            f"the cluster has the CRD {releases.CRD} already: somebody runs StreamJobs here, or another run of these"
            " tests was cut off. Name another cluster by KUBECONFIG, or remove that installation (docs/install.md)",
            returncode=2,
        )
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def release(cluster: Cluster) -> Iterator[Release]:
    """The chart, installed."""
    release = Release(cluster)
    try:
        release.install()
        yield release
    finally:
        release.uninstall()


@pytest.fixture(scope="session")
def client(release: Release) -> Iterator[ClientPod]:
    """A client within the cluster."""
    cluster = release.cluster
    cluster.apply(NAMESPACE, manifest(ENGINE_IMAGE))
    ready = lambda pods: NAME in pods and is_ready(pods[NAME])  # noqa: E731
    cluster.until("the client's pod", "Pod", NAMESPACE, ready, READY_WITHIN_S)
    client = ClientPod(cluster, NAMESPACE)
    yield client
    client.close()


@pytest.fixture
def world(cluster: Cluster, release: Release, client: ClientPod, request: pytest.FixtureRequest) -> Iterator[World]:
    """A namespace of the test's own, which enforces the restricted Pod Security level."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    # Its name is new each time: an older one may still be on its way out.
    namespace = f"e2e-{words[:40].strip('-')}-{uuid.uuid4().hex[:5]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.post("/api/v1/namespaces", {"metadata": {"name": namespace, "labels": labels}})
    world = World(cluster, release, client, namespace)
    yield world
    if request.node.stash.get(_FAILED, False):
        _show(namespace)
    for job in world.jobs:
        job.sender.end()
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def given(world: World) -> Given:
    """Given …"""
    return Given(world)


@pytest.fixture
def when(world: World) -> When:
    """When …"""
    return When(world)


@pytest.fixture
def then(world: World) -> Then:
    """Then …"""
    return Then(world)


@pytest.fixture(scope="session")
def growing(cluster: Cluster) -> Iterator[GrowingClass]:
    """A storage class whose volumes grow."""
    with growing_class(cluster) as found:
        yield found


@pytest.fixture
def on_kind(cluster: Cluster) -> str:
    """The name of the kind cluster; without one the test is skipped."""
    if cluster.kind is None:
        pytest.skip("only where nodes are containers of a docker at hand: this is no cluster of kind's")
    return cluster.kind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With a budget: what matters and costs little first, then the other files, another one of them first each day."""
    if not BUDGET_S:
        return
    others = sorted({item.path.name for item in items} - set(EARLY))
    turn = int(time.time()) // DAY_S % max(1, len(others))
    order = [*EARLY, *others[turn:], *others[:turn]]
    items.sort(key=lambda item: (item.name == LATE, order.index(item.path.name)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begins no test once the budget is spent; what began goes to its end."""
    spent = time.monotonic() - _BEGAN
    if BUDGET_S and spent > BUDGET_S and item.name != LATE:
        _left_out[item.path.name] += 1
        pytest.skip(f"{item.name} not run: {spent:.0f} s are spent, and STREAMJOB_E2E_BUDGET_S is {BUDGET_S:g}")


_left_out: Counter[str] = Counter()
"""Tests that the budget left out, by file."""


def pytest_unconfigure() -> None:
    """Ends with a line that says what the budget left out."""
    if _left_out:
        files = ", ".join(f"{name} ({count})" for name, count in sorted(_left_out.items()))
        print(f"e2e: NOT RUN after {BUDGET_S:g} s: {files}. STREAMJOB_CI_E2E=1 .ci/run or make e2e runs all")


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Notes on the test whether it failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.stash[_FAILED] = True


def _show(namespace: str) -> None:
    """What whoever reads a failure will want to know."""
    for command in (
        ["get", "streamjobs,statefulsets,pods,pvc", "-o", "wide"],
        ["get", "events", "--sort-by=.metadata.creationTimestamp"],
        ["get", "streamjobs", "-o", "jsonpath={.items[*].status}"],
        ["logs", "-l", "app.kubernetes.io/name=streamjob", "--tail=30", "--prefix"],
    ):
        print(f"--- kubectl {' '.join(command)}\n{run(['kubectl', '-n', namespace, *command]).stdout}")
    words = ["logs", "-l", "app.kubernetes.io/name=streamjob-operator", f"--tail={SHOWN_LINES}", "--prefix"]
    print(f"--- operator\n{run(['kubectl', '-n', NAMESPACE, *words]).stdout}")
