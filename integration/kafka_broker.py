"""Real Kafka brokers (KRaft) that the tests start, kill, pause and restart themselves: one, or a second beside it.

Its jars come from Maven Central, once, into a cache outside of the checkout.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from harness import Row, free_port, strict_json, wait_until

POM = Path(__file__).parent / "kafka" / "pom.xml"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "streamjob" / "kafka"
LOG_LEVEL = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
READY_WITHIN_S = 120.0
COORDINATOR_MOVES = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
ANSWER_WITHIN_S = 30.0
STOP_WITHIN_S = 90.0
"""One that is killed after that cuts its logs where they are damaged when it starts again."""
ATTEMPT_S = 3.0
UNANSWERED = (KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._TRANSPORT)


def missing() -> str | None:
    """Why there can be no broker here."""
    absent = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if absent and not (shutil.which("java") and _lib().exists()):
        return (
            f"there is no {' and no '.join(absent)}: install default-jre-headless and maven to test with a real Kafka"
        )
    return None


def _lib() -> Path:
    return CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:16]


def jars() -> Path:
    """The folder with Kafka's jars, fetched the first time."""
    lib = _lib()
    if not lib.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        parts = CACHE / f".{uuid.uuid4().hex}"
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={parts}"]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        try:
            parts.rename(lib)
        except OSError:  # another run was faster
            shutil.rmtree(parts)
    return lib


@dataclass
class Broker:
    """One broker with its files in a folder; it keeps its port over restarts."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)
    listener: str = "PLAINTEXT"
    """What clients use: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT`."""
    client: Mapping[str, str] = field(default_factory=dict)
    """What the tests' own clients need besides the address."""
    joins: Broker | None = None
    """The broker with the controller, where this is one more of its cluster."""
    cluster_id: str = field(default_factory=lambda: uuid.uuid4().hex[:22])
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Writes the settings and formats the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "listeners": f"{self.listener}://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"{self.listener}://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": self.listener,
            "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,{self.listener}:{self.listener}",
            "log.dirs": str(self.folder / "data"),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.backoff.ms": "200",
            "log.retention.check.interval.ms": "500",
            "log.segment.delete.delay.ms": "100",
            "file.delete.delay.ms": "100",
            **self._membership(),
            **self.settings,
        }
        config = self.folder / "server.properties"
        config.write_text("".join(f"{name}={value}\n" for name, value in lines.items()), encoding="utf-8")
        format_it = ["kafka.tools.StorageTool", "format", "-t", (self.joins or self).cluster_id, "-c", str(config)]
        subprocess.run([*self._java("64m"), *format_it], check=True, capture_output=True, timeout=120)

    def _membership(self) -> dict[str, str]:
        if self.joins is None:
            return {}
        return {
            "process.roles": "broker",
            "node.id": "2",
            "controller.quorum.voters": f"1@127.0.0.1:{self.joins.controller_port}",
            "listeners": f"{self.listener}://127.0.0.1:{self.port}",
        }

    def _java(self, heap: str) -> list[str]:
        return ["java", f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", LOG_LEVEL, "-cp", f"{jars()}/*"]

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Broker:
        """Starts it and waits until it answers."""
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._java("512m"), "kafka.Kafka", str(self.folder / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until("a broker that answers", self._answers, READY_WITHIN_S)
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the broker ended:\n{(self.folder / 'broker.log').read_text()[-3000:]}"
        try:
            return (1 if self.joins is None else 2) in self.admin().list_topics(timeout=2).brokers
        except KafkaException:
            return False

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(ANSWER_WITHIN_S)

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.terminate()
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def settings_of_client(self) -> dict[str, Any]:
        """What any client of it needs."""
        return {"bootstrap.servers": self.address, "log_level": 2, **self.client}

    def admin(self) -> AdminClient:
        """A client for topics."""
        return AdminClient(self.settings_of_client())

    def create(self, topic: str, partitions: int = 1, **config: str) -> None:
        """Makes a topic; names of settings have _ for dots."""
        named = {name.replace("_", "."): value for name, value in config.items()}
        admin = self.admin()
        admin.create_topics([NewTopic(topic, partitions, 1, config=named)])[topic].result(ANSWER_WITHIN_S)

    def delete(self, topic: str) -> None:
        """Deletes a topic, and waits until nobody sees it."""
        admin = self.admin()
        admin.delete_topics([topic])[topic].result(ANSWER_WITHIN_S)
        wait_until(f"that {topic} is gone", lambda: topic not in admin.list_topics(timeout=5).topics)

    def add_partitions(self, topic: str, total: int, on: int | None = None) -> None:
        """More partitions; one more on the node `on`, where that is given."""
        place = {} if on is None else {"replica_assignment": [[on]]}

        def are_there() -> bool:
            # A node that does not answer is named as the controller until the others give it up.
            admin = self.admin()
            try:
                wanted = [NewPartitions(topic, total, **place)]
                admin.create_partitions(wanted, request_timeout=ATTEMPT_S)[topic].result(ANSWER_WITHIN_S)
            except KafkaException as error:
                if error.args[0].code() not in UNANSWERED:
                    raise
            return len(admin.list_topics(topic, ANSWER_WITHIN_S).topics[topic].partitions) == total

        wait_until(f"that {topic} has {total} partitions", are_there, within_s=60)

    def leader(self, topic: str, partition: int = 0) -> int:
        """The node that leads a partition; -1 while none does."""
        return int(self.admin().list_topics(topic, ANSWER_WITHIN_S).topics[topic].partitions[partition].leader)

    def reassign(self, topic: str, node: int, partition: int = 0) -> None:
        """Gives a partition to a node alone, and waits until that leads it."""
        plan = {"version": 1, "partitions": [{"topic": topic, "partition": partition, "replicas": [node]}]}
        path = self.folder / "reassignment.json"
        path.write_text(json.dumps(plan), encoding="utf-8")
        tool = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
        arguments = ["--bootstrap-server", self.address, "--reassignment-json-file", str(path), "--execute"]
        subprocess.run([*self._java("64m"), tool, *arguments], check=True, capture_output=True, timeout=120)
        wait_until(f"that node {node} leads {topic}", lambda: self.leader(topic, partition) == node, READY_WITHIN_S)

    def producer(self, **settings: Any) -> Producer:
        """A producer; names of settings have _ for dots."""
        named = {name.replace("_", "."): value for name, value in settings.items()}
        return Producer({**self.settings_of_client(), "linger.ms": 5, **named})

    def send(self, topic: str, values: Iterable[Row | str | bytes | None], partition: int = 0, **more: Any) -> None:
        """Puts messages into a partition and waits until they are there."""
        producer = self.producer()
        for value in values:
            produce(producer, topic, encoded(value), partition, **more)
        flush(producer)

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        """By partition: the offset behind its last message that may be read."""
        isolation = "read_committed" if committed else "read_uncommitted"
        consumer = self._consumer(isolation)
        try:
            partitions = consumer.list_topics(topic, ANSWER_WITHIN_S).topics[topic].partitions
            return {
                number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ANSWER_WITHIN_S)[1]
                for number in partitions
            }
        finally:
            consumer.close()

    def _consumer(self, isolation: str) -> Consumer:
        return Consumer(
            {
                **self.settings_of_client(),
                "group.id": f"tests-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "isolation.level": isolation,
            }
        )

    def messages(self, topic: str, *, committed: bool = True) -> list[Any]:
        """Everything in a topic that a consumer of committed messages sees now, partition by partition."""
        consumer = self._consumer("read_committed" if committed else "read_uncommitted")
        try:
            partitions = consumer.list_topics(topic, ANSWER_WITHIN_S).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found: list[Any] = []
            left = set(partitions)
            deadline = time.monotonic() + ANSWER_WITHIN_S
            while left:
                assert time.monotonic() < deadline, f"{topic} can't be read to its end"
                for message in consumer.consume(1000, timeout=0.2):
                    if message.error() is None:
                        found.append(message)
                    elif message.error().code() == KafkaError._PARTITION_EOF:
                        left.discard(message.partition())
            return sorted(found, key=lambda message: (message.partition(), message.offset()))
        finally:
            consumer.close()

    def rows(self, topic: str) -> list[Row]:
        """The same as rows."""
        return [strict_json(message.value()) for message in self.messages(topic)]

    def group_offsets(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """What a group has committed."""
        consumer = Consumer({**self.settings_of_client(), "group.id": group, "enable.auto.commit": False})
        try:
            wanted = [TopicPartition(topic, number) for number in partitions]

            def answer() -> list[TopicPartition] | None:
                try:
                    return list(consumer.committed(wanted, timeout=ANSWER_WITHIN_S))
                except KafkaException as error:
                    # The group's coordinator has moved, or is about to begin.
                    if error.args[0].code() in COORDINATOR_MOVES:
                        return None
                    raise

            found = wait_until(f"the offsets of {group}", answer, READY_WITHIN_S)
            return {partition.partition: partition.offset for partition in found}
        finally:
            consumer.close()


def encoded(value: Row | str | bytes | None) -> bytes | None:
    """A message's value."""
    if value is None or isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def produce(producer: Producer, topic: str, value: bytes | None, partition: int = 0, **more: Any) -> None:
    """Puts one message into the producer, which waits where it is full."""
    while True:
        try:
            producer.produce(topic, value, partition=partition, **more)
            return
        except BufferError:
            producer.poll(0.1)


def flush(producer: Producer) -> None:
    """Waits until everything is there."""
    left = producer.flush(ANSWER_WITHIN_S)
    assert left == 0, f"{left} messages were not taken"
