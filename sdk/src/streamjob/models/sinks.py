"""Where results go."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from streamjob.models.base import Duration, Model, Name
from streamjob.models.kafka import KafkaSink
from streamjob.models.nats import NatsSink
from streamjob.models.postgres import PostgresSink
from streamjob.models.python import PythonSink
from streamjob.models.secrets import Secret

EVENTS = "events"
"""The `from` of a sink that takes single events, and so no name for a window."""

DEAD_LETTERS = "dead-letters"
"""The built-in sink of rows that could not be processed, and so no name for another."""


_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=-]+)"
_BEHIND = r"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*"
URL_PATTERN = rf"^https?://{_HOST}(:[0-9]{{1,5}})?([/?]{_BEHIND})?$"
"""What RFC 3986 allows, without user and password, which have a header, and without a fragment, which is never sent."""

HeaderName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=256)]
HeaderText: TypeAlias = Annotated[str, Field(pattern=r"^[\t -~]*$")]


class StdoutSink(Model):
    """One JSON object a line on standard output, for looking at."""


class FileSink(Model):
    """Segments in a folder, each complete and never overwritten."""

    path: Annotated[str, Field(min_length=1)]
    """The folder, relative to the job's file. It belongs to one state directory."""

    format: Literal["ndjson"] = "ndjson"
    """How the segments are written."""


class Backoff(Model):
    """How long to wait before sending again."""

    initial: Duration = 100_000
    """The first wait; each following one is twice as long, with jitter."""

    max: Duration = 30_000_000
    """The longest wait."""


class HttpSink(Model):
    """A webhook: a JSON array for each POST."""

    url: Annotated[str, Field(pattern=URL_PATTERN, max_length=8192)]
    """Where to post, `http://` or `https://`, in ASCII."""

    headers: Annotated[dict[HeaderName, HeaderText], Field(max_length=100)] = {}
    """Headers to add to each request, for example `Authorization`."""

    bearer_token: Secret | None = None
    """Sent as `Authorization: Bearer`."""

    max_batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 500
    """The most rows in one request."""

    timeout: Duration = 10_000_000
    """How long to wait for an answer."""

    backoff: Backoff = Backoff()
    """How retries after 429, 5xx and lost connections are spaced."""


class SinkSpec(Model):
    """One destination; exactly one of the kinds is set."""

    KINDS: ClassVar[tuple[str, ...]] = ("file", "http", "kafka", "nats", "postgres", "python", "stdout")

    name: Name
    """The sink's name."""

    from_: Annotated[str, Field(alias="from", min_length=1)]
    """A window's name for its results, or `events` for the single events with the outputs of UDFs."""

    where: str | None = None
    """An SQL condition on the rows, for example `abs(score) > 3`. Null counts as false."""

    delivery: Literal["exactly-once", "at-least-once"] | None = None
    """`exactly-once` sends after the commit, `at-least-once` at once. Default: exactly-once where the sink can."""

    file: FileSink | None = None
    """Write segments into a folder."""

    http: HttpSink | None = None
    """Post to a webhook."""

    kafka: KafkaSink | None = None
    """Write to a topic."""

    nats: NatsSink | None = None
    """Publish to a JetStream of NATS."""

    postgres: PostgresSink | None = None
    """Write to a table of PostgreSQL."""

    python: PythonSink | None = None
    """Hand batches to a class in Python."""

    stdout: StdoutSink | None = None
    """Print to standard output."""


class DeadLetterFile(Model):
    """Where rows go that could not be processed."""

    path: Annotated[str, Field(min_length=1)]
    """The folder, relative to the job's file."""


class DeadLetterSpec(Model):
    """The dead-letter output."""

    file: DeadLetterFile
    """Write segments into a folder."""
