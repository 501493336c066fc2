"""A topic, read by confluent-kafka. Its offsets are the positions, so that each message counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from streamjob import Event, SourceContext

MESSAGES = 500
WAIT_S = 0.2


async def readings(context: SourceContext, position: dict[str, int] | None = None) -> AsyncIterator[Event]:
    """Yields each message with the offsets behind it, partition by partition."""
    offsets = dict(position or {})
    consumer = Consumer(settings(context))
    # The client's calls block, and are made one after the other: close() comes after the last consume().
    with ThreadPoolExecutor(1) as thread:

        async def call(function: Callable[..., Any], *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)

        try:
            topic = context.config["topic"]
            partitions = await call(partitions_of, consumer, topic)
            starts = [
                TopicPartition(topic, number, offsets.get(str(number), OFFSET_BEGINNING)) for number in partitions
            ]
            consumer.assign(starts)
            while True:
                for message in await call(consumer.consume, MESSAGES, WAIT_S):
                    if message.error():
                        raise KafkaException(message.error())
                    offsets[str(message.partition())] = message.offset() + 1
                    yield Event(message.value(), position=dict(offsets))
        finally:
            await call(consumer.close)


def settings(context: SourceContext) -> dict[str, Any]:
    """What the client needs; a password would come from context.secrets."""

    def failed(error: KafkaError) -> None:
        context.disconnected(error.str())

    return {
        "bootstrap.servers": context.config["bootstrapServers"],
        "group.id": f"streamjob-{context.name}",
        "enable.auto.commit": False,
        "error_cb": failed,
        "log_level": 2,
    }


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """The numbers of a topic's partitions."""
    found = consumer.list_topics(topic, timeout=10).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return sorted(found.partitions)
