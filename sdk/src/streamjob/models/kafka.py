"""Kafka, as a source and as a sink."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from streamjob.models.base import ColumnName, Duration, Model, problem
from streamjob.models.connections import ClientTls, ConnectionBackoff
from streamjob.models.formats import JSON, MessageFormat
from streamjob.models.secrets import Secret

TopicName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=249)]
TopicHeader: TypeAlias = Annotated[str, Field(min_length=1, max_length=249)]
PropertyText: TypeAlias = Annotated[str, Field(max_length=4096)]


class Tls(ClientTls):
    """An encrypted connection. `{}` trusts the authorities of the system."""

    key_password: Secret | None = None
    """The key's password."""


class Sasl(Model):
    """How the client says who it is."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    """`PLAIN` sends the password itself: use it with `tls` alone."""

    username: Annotated[str, Field(min_length=1, max_length=1024)]
    """The user."""

    password: Secret
    """The user's password."""


class KafkaConnection(Model):
    """How to reach a Kafka cluster."""

    bootstrap_servers: Annotated[str, Field(pattern=r"^[^\s,]+:[0-9]{1,5}(,[^\s,]+:[0-9]{1,5})*$", max_length=4096)]
    """Some of its brokers, `host:port`, separated by commas."""

    tls: Tls | None = None
    """Encrypt the connection."""

    sasl: Sasl | None = None
    """Sign in."""

    properties: Annotated[dict[str, PropertyText], Field(max_length=100)] = {}
    """Further settings of librdkafka, by its names; those that StreamJob sets itself, and secrets, are refused."""


def _time(value: str) -> str:
    try:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError
    except ValueError:
        raise problem("is no time with an offset", "write for example 2026-01-31T12:00:00Z") from None
    return value


class StartTime(Model):
    """A time to start from."""

    timestamp: Annotated[str, AfterValidator(_time)]
    """RFC 3339. Reading begins with the first message that is not older, by the messages' own timestamps."""


class HeaderField(Model):
    """A header of a message."""

    header: TopicHeader
    """Its name. Of several with that name the last counts; its bytes are UTF-8."""


class KafkaSource(KafkaConnection):
    """Events that are the messages of a topic. Each message is a row."""

    topic: TopicName
    """The topic."""

    format: MessageFormat = JSON
    """What a message's value is: one JSON object, or one Avro record."""

    metadata: Annotated[
        dict[ColumnName, Literal["key", "timestamp", "partition", "offset"] | HeaderField], Field(max_length=32)
    ] = {}
    """Fields that are not in a message's value: its key, its timestamp (which may be the event time), its partition and
    offset, or a header as `{header: NAME}`. A member of such a name is ignored."""

    start_from: Literal["earliest", "latest"] | StartTime = "earliest"
    """Where reading begins the first time. Later starts go on where the last one stopped; what is created later is read
    from its beginning."""

    group_id: Annotated[str, Field(min_length=1, max_length=249)] | None = None
    """The consumer group under which committed positions are shown to tools. Default: `streamjob-JOB-SOURCE`."""

    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    """Whether messages of transactions wait for their end."""

    on_data_loss: Literal["fail", "earliest"] = "fail"
    """What happens where messages are gone before they were read, as by retention: the job ends and says so, or counts
    them and goes on."""

    tombstones: Literal["reject", "skip"] = "reject"
    """What messages without a value are: rejected rows, or nothing, counted by `streamjob_source_skipped_total`."""

    refresh: Duration = 10_000_000
    """How often new partitions, and a topic that was made anew, are looked for."""


class KafkaSink(KafkaConnection):
    """Rows as messages of a topic, as JSON."""

    topic: TopicName
    """The topic."""

    format: Literal["json"] = "json"
    """What a message's value is: one JSON object."""

    key: ColumnName | None = None
    """The column that becomes the message's key. Default: the row's key."""

    keyless: bool = False
    """Whether messages have no key."""

    partition: ColumnName | None = None
    """An int64 column that says the partition. Default: the hash of the key says it, as with the Java client."""

    headers: Annotated[dict[TopicHeader, PropertyText], Field(max_length=100)] = {}
    """Headers of each message."""

    progress_topic: TopicName | None = None
    """Where `exactly-once` keeps how far the topic is, in the same transactions. It is created, compacted, if it is not
    there. Default: `streamjob-progress-JOB-SINK`."""

    transaction_timeout: Duration = 60_000_000
    """How long a transaction may be open before the broker gives it up; at most its `transaction.max.timeout.ms`."""

    max_batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    """The most rows in one batch; a transaction holds several."""

    backoff: ConnectionBackoff = ConnectionBackoff()
    """How retries are spaced."""
