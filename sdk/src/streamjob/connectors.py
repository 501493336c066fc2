"""What sources and sinks in Python are written with.

A source is an asynchronous generator function, a sink a class:

    async def readings(context, position=None):
        async for offset, text in my_client(context.config["url"], start=position or 0):
            yield Event(text, position=offset + 1)

    class Writer(Sink):
        async def write(self, batch):
            await my_server.put(batch.key, batch.body)

This module imports nothing but the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias
from urllib.parse import quote, quote_plus

__all__ = ["Batch", "Event", "JsonValue", "Rejected", "Secrets", "Sink", "SinkContext", "SourceContext", "Value"]

JsonValue: TypeAlias = bool | int | float | str | Sequence[Any] | Mapping[str, Any] | None
"""What JSON can say."""

Value: TypeAlias = bytes | bytearray | memoryview | str | Mapping[str, Any]
"""One message: its bytes, its text, or a row that becomes a JSON object."""


@dataclass(frozen=True, slots=True)
class Event:
    """A message with what belongs to it."""

    value: Value | None
    """The message. None for no message: then the position alone is kept."""

    position: JsonValue = None
    """Where the generator is to go on behind this message, at most 64 KiB as JSON; with `positions: true` alone."""

    acknowledge: Callable[[], Awaitable[object] | object] | None = None
    """Called, and awaited if it gives a coroutine, once the row is durable: in the order of the events."""


class Secrets(Mapping[str, str]):
    """A connector's secrets by name. Its text shows the names alone."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(f'{name}=***' for name in self._values)})"

    def hidden(self, text: str) -> str:
        """The text with asterisks in the place of secrets, and such that it has an encoding: what may be logged."""
        written = {form for value in self._values.values() for form in _forms(value) if form}
        for value in sorted(written, key=len, reverse=True):
            text = text.replace(value, "***")
        return text.encode("utf-8", "backslashreplace").decode()


def _forms(secret: str) -> tuple[str, ...]:
    """A secret as it stands in texts: by itself, in a URL, in Python's own notation, in JSON."""
    bare = secret.encode("utf-8", "backslashreplace").decode()
    return (
        secret,
        bare,
        quote(bare, safe=""),
        quote(bare),
        quote_plus(bare),
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
    )


@dataclass(frozen=True, slots=True)
class _Context:
    name: str
    """The name of the source or sink."""

    config: Mapping[str, Any]
    """`config` of the job."""

    secrets: Secrets
    """The secrets that the job names, read when the engine started."""

    _connected: Callable[[], None] = field(default=lambda: None, repr=False)
    _disconnected: Callable[[str], None] = field(default=lambda _: None, repr=False)

    def connected(self) -> None:
        """Tells the metrics that the server answers. An event of a source, and a batch written, say so too."""
        self._connected()

    def disconnected(self, reason: str) -> None:
        """Tells the metrics and the log that the server does not answer, for clients that reconnect by themselves."""
        self._disconnected(self.secrets.hidden(reason))


@dataclass(frozen=True, slots=True)
class SourceContext(_Context):
    """What a generator knows of the job."""


@dataclass(frozen=True, slots=True)
class SinkContext(_Context):
    """What a sink knows of the job."""


@dataclass(frozen=True)
class Batch:
    """Rows that are written together. A retry, also after a crash, has the same bytes under the same key."""

    body: bytes
    """The rows as a JSON array."""

    key: str
    """Names the batch: what a sink makes idempotent with. Visible ASCII."""

    shard: int
    """Batches of one shard come one after the other, those of several shards side by side."""

    number: int
    """The batch's number within its shard; later ones are higher."""

    traceparent: str | None = None
    """The W3C trace context of the batch, if it is traced."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows."""
        rows: list[dict[str, Any]] = json.loads(self.body)
        return rows


class Rejected(Exception):  # noqa: N818 - says what becomes of rows, as an answer does
    """Raised by `write`: the rows with these numbers in the batch, or all of them, will never be taken.

    They become dead letters with this reason; the others count as written.
    """

    def __init__(self, reason: str, rows: Sequence[int] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rows = None if rows is None else list(rows)


class Sink:
    """The base of sinks; a class of another base with these methods is as good."""

    def __init__(self, context: SinkContext) -> None:
        self.context = context

    async def open(self) -> None:
        """Called before the first batch; tried again where it raises."""

    async def write(self, batch: Batch) -> None:
        """Writes a batch: returning means that it is there for good.

        `Rejected` sends rows to the dead letters. Whatever else is raised has the batch written again, under the same
        key, after a wait that grows.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Called at the end, also after failures, if `open` has been."""
