"""Cross checks of Kafka sources and sinks."""

from __future__ import annotations

from typing import Literal

from streamjob.models import EVENTS, HeaderField, KafkaConnection, KafkaSink, KafkaSource, SinkSpec
from streamjob.problems import Path, suggest
from streamjob.units import format_duration
from streamjob.validation.common import Examination
from streamjob.validation.formats import check_message_format
from streamjob.validation.metadata import check_metadata_field

RESERVED_PROPERTIES = {
    "acks": "remove it",
    "auto.offset.reset": "use startFrom and onDataLoss",
    "bootstrap.servers": "use bootstrapServers",
    "client.id": "remove it",
    "debug": "remove it",
    "delivery.report.only.error": "remove it",
    "enable.auto.commit": "remove it",
    "enable.auto.offset.store": "remove it",
    "enable.idempotence": "remove it",
    "enable.partition.eof": "remove it",
    "group.id": "use groupId",
    "group.instance.id": "remove it",
    "isolation.level": "use isolation",
    "max.in.flight": "remove it",
    "max.in.flight.requests.per.connection": "remove it",
    "metadata.broker.list": "use bootstrapServers",
    "partitioner": "remove it",
    "request.required.acks": "remove it",
    "sasl.mechanism": "use sasl",
    "sasl.mechanisms": "use sasl",
    "sasl.password": "use sasl.password with a secretRef",
    "sasl.username": "use sasl",
    "security.protocol": "use tls and sasl",
    "ssl.key.password": "use tls.keyPassword with a secretRef",
    "ssl.keystore.password": "use tls.certificateFile and tls.keyFile",
    "transaction.timeout.ms": "use transactionTimeout",
    "transactional.id": "remove it",
}
"""What a job may not set by `properties`, with what to do instead; the engine has the same list."""

_METADATA: dict[str, tuple[str, Literal["string", "int64", "time"]]] = {
    "key": ("a key", "string"),
    "timestamp": ("a timestamp", "time"),
    "partition": ("a partition", "int64"),
    "offset": ("an offset", "int64"),
    "header": ("a header", "string"),
}
"""What fields may be filled from: the value in words, and its type."""

_SECRET_WORDS = ("password", "secret", "token")


def check_kafka_source(examination: Examination, path: Path, kafka: KafkaSource) -> None:
    """The connection and how a topic is read."""
    _connection(examination, path, kafka)
    check_message_format(examination, (*path, "format"), kafka.format)
    for name, value in kafka.metadata.items():
        what, type_ = _METADATA["header" if isinstance(value, HeaderField) else value]
        check_metadata_field(examination, (*path, "metadata", name), name, what=what, type_=type_)
    if kafka.refresh < 1_000_000:
        examination.report(
            (*path, "refresh"), "must be at least 1s", got=format_duration(kafka.refresh), fix="use for example 10s"
        )


def check_kafka_sink(examination: Examination, path: Path, sink: SinkSpec, kafka: KafkaSink) -> None:
    """The connection, columns that exist, and what exactly-once needs."""
    _connection(examination, path, kafka)
    scope = examination.scope
    if sink.from_ == EVENTS or sink.from_ in scope.windows:
        columns = scope.columns(sink.from_)
        for member, column in (("key", kafka.key), ("partition", kafka.partition)):
            if column is None:
                continue
            kind = columns.get(column)
            if kind is None:
                fix = suggest(column, columns, "columns")
                examination.report((*path, member), "is no column of the rows", got=column, fix=fix)
            elif member == "partition" and kind != "int64":
                examination.report(
                    (*path, member), f"has the type {kind}, a partition is int64", got=column, fix="use another column"
                )
    if kafka.keyless and kafka.key is not None:
        examination.report((*path, "key"), "stands beside keyless", got=kafka.key, fix="remove one of them")
    if not 1_000_000 <= kafka.transaction_timeout <= 900_000_000:
        examination.report(
            (*path, "transactionTimeout"),
            "must be from 1s to 15m, which brokers allow",
            got=format_duration(kafka.transaction_timeout),
            fix="use for example 1m",
        )
    progress = kafka.progress_topic or f"streamjob-progress-{examination.job.metadata.name}-{sink.name}"
    if progress == kafka.topic:
        examination.report(
            (*path, "progressTopic"), "is the topic of the rows", got=progress, fix="use a topic of its own"
        )
    examination.backoff((*path, "backoff"), kafka.backoff)


def _connection(examination: Examination, path: Path, kafka: KafkaConnection) -> None:
    for name in kafka.properties:
        place = (*path, "properties", name)
        if name in RESERVED_PROPERTIES:
            examination.report(place, "is set by the engine itself", got=name, fix=RESERVED_PROPERTIES[name])
        elif any(word in name for word in _SECRET_WORDS):
            examination.report(place, "would hold a secret", got=name, fix="use tls or sasl with a secretRef")
    if kafka.sasl is not None:
        examination.secret((*path, "sasl", "password"), kafka.sasl.password)
    tls = kafka.tls
    if tls is None:
        return
    examination.secret((*path, "tls", "keyPassword"), tls.key_password)
    examination.client_tls((*path, "tls"), tls)
