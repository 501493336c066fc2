"""A Kafka broker of a case's own, as the integration tests start it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driver.bench import Bench
from driver.engine import BenchError

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 4
FLUSH_S = 120

sys.path.insert(0, str(ROOT / "integration"))


@contextmanager
def broker(bench: Bench, topics: tuple[str, ...]) -> Iterator[Any]:
    """A broker with these topics, of four partitions each."""
    try:
        import kafka_broker
    except ModuleNotFoundError as error:
        raise BenchError(f"{error.name} is not installed; make setup installs it") from None
    reason = kafka_broker.missing()
    if reason:
        raise BenchError(reason)
    started = kafka_broker.Broker(bench.folder / "kafka").start()
    try:
        for topic in topics:
            started.create(topic, PARTITIONS, retention_ms="-1")
        # The first transaction of a broker makes its topic of transactions, which takes a second or two.
        started.producer(transactional_id="warm-up").init_transactions(FLUSH_S)
        yield started
    finally:
        started.stop()


def cache() -> Path:
    """Where what was fetched is kept, outside of the checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "streamjob"


def jars() -> Path:
    """The folder with Kafka's jars."""
    import kafka_broker

    return kafka_broker.jars()
