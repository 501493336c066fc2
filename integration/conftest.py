"""Fixtures: where the tests' data are, the build of the engine that can be killed at named steps, folders that stay."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import kafka_broker
import kills
import nats_server
import postgres_server
import pytest
from harness import Job
from kafka_broker import Broker
from nats_server import Nats
from postgres_server import Postgres


def pytest_configure(config: pytest.Config) -> None:
    """Counts the kills of the run."""
    config.stash[_TALLY] = kills.Tally(Path(__file__).parent)
    config.pluginmanager.register(config.stash[_TALLY])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Notes on the test whether it failed, for the fixtures that end with it."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.stash[_FAILED] = report.failed


_SEED = kills.seed()
_FAILED = pytest.StashKey[bool]()
_TALLY = pytest.StashKey[kills.Tally]()


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for the test; it is kept, and named, if the test fails."""
    yield tmp_path
    harness.end_all(tmp_path)
    if request.node.stash.get(_FAILED, True):
        print(f"kept for looking at: {tmp_path}", file=sys.stderr)
    else:
        shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def make_job(folder: Path) -> Callable[..., Job]:
    """Makes a job from YAML text."""

    def make(text: str, name: str = "job", **options: object) -> Job:
        return Job(folder / name, text, **options)

    return make


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of this run; a failing test shows it."""
    return _SEED


@pytest.fixture
def report(request: pytest.FixtureRequest, seed: int) -> Iterator[kills.Report]:
    """Counts and names kills."""
    report = kills.Report(request.node.name, seed)
    yield report
    report.done()
    request.config.stash[_TALLY].add(report)


def skip_or_fail(reason: str) -> None:
    """Skips the test, unless STREAMJOB_NO_SKIPS says that nothing may be left out (as on a build server)."""
    if os.environ.get("STREAMJOB_NO_SKIPS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def crash_engine() -> Path:
    """The folder with the build of the engine that has crash points."""
    root = Path(__file__).parents[1]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "engine" / "target"))
    folder = Path(os.environ.get("STREAMJOB_CRASH_ENGINE", target / "crash-engine"))
    if not (folder / "streamjob_engine.abi3.so").exists():
        skip_or_fail(
            f"there is no engine with crash points in {folder}; build it with integration/build-crash-engine.sh"
        )
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real, labelled data."""
    text = os.environ.get("STREAMJOB_TEST_DATA")
    if not text:
        skip_or_fail("STREAMJOB_TEST_DATA names no folder with machine_temperature_system_failure.csv")
    return Path(text)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker that many tests share: each has topics of its own."""
    reason = kafka_broker.missing()
    if reason:
        skip_or_fail(reason)
    broker = Broker(tmp_path_factory.mktemp("kafka")).start()
    # Makes the topic of the groups' offsets, which takes a while.
    broker.create("warm-up")
    broker.group_offsets("warm-up", "warm-up", [0])
    yield broker
    broker.stop()


@pytest.fixture
def make_broker(folder: Path) -> Iterator[Callable[..., Broker]]:
    """Makes brokers for a test that does something to them; none is started yet."""
    reason = kafka_broker.missing()
    if reason:
        skip_or_fail(reason)
    made: list[Broker] = []

    def make(**options: object) -> Broker:
        made.append(Broker(folder / f"kafka-{len(made)}", **options))
        return made[-1]

    yield make
    # One that joined another's cluster leaves it first: without its controller it does not end.
    for broker in reversed(made):
        broker.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that many tests share: each has a database of its own."""
    reason = postgres_server.missing()
    if reason:
        skip_or_fail(reason)
    server = Postgres().start()
    yield server
    server.remove()


@pytest.fixture
def make_postgres() -> Iterator[Callable[..., Postgres]]:
    """Makes servers for a test that does something to them; none is started yet."""
    reason = postgres_server.missing()
    if reason:
        skip_or_fail(reason)
    made: list[Postgres] = []

    def make(**options: object) -> Postgres:
        made.append(Postgres(**options))
        return made[-1]

    yield make
    for server in made:
        server.remove()


@pytest.fixture(scope="session")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """A NATS server that many tests share: each has streams of its own."""
    reason = nats_server.missing()
    if reason:
        skip_or_fail(reason)
    server = Nats(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture
def make_nats(folder: Path) -> Iterator[Callable[..., Nats]]:
    """Makes NATS servers for a test that does something to them; none is started yet."""
    reason = nats_server.missing()
    if reason:
        skip_or_fail(reason)
    made: list[Nats] = []

    def make(**options: object) -> Nats:
        made.append(Nats(folder / f"nats-{len(made)}", **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()
