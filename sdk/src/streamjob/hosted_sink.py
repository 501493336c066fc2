"""A sink in Python as it runs: the user's object, opened before its first batch."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Protocol

from streamjob.connectors import Batch, Rejected, SinkContext
from streamjob.hosted_source import described, is_cancelled

CLOSE_WITHIN_S = 5.0
"""What `close` gets at the end."""


class Answers(Protocol):
    """The engine's side of a sink. Nothing of it waits."""

    def written(self, ticket: int) -> None:
        """The batch is there."""

    def rejected(self, ticket: int, reason: str, rows: list[int] | None) -> None:
        """Some of its rows, or all, will never be taken."""

    def again(self, ticket: int, reason: str) -> None:
        """It is to be tried again."""

    def connected(self) -> None:
        """The server answers."""

    def failed(self, text: str) -> None:
        """It does not."""


class HostedSink:
    """One sink. `write` is called from any thread, once for each try; how tries are spaced is the engine's to say."""

    def __init__(
        self, make: Callable[[], Any], context: SinkContext, answers: Answers, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._make = make
        self._context = context
        self._answers = answers
        self._loop = loop
        self._sink: Any = None
        self._opening = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()

    def write(self, ticket: int, body: bytes, key: str, shard: int, number: int, traceparent: str | None) -> None:
        """Begins to write a batch; the answer comes under its ticket."""
        batch = Batch(body, key, shard, number, traceparent)
        self._loop.call_soon_threadsafe(self._begin, ticket, batch)

    def _begin(self, ticket: int, batch: Batch) -> None:
        task = self._loop.create_task(self._write(ticket, batch))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, ticket: int, batch: Batch) -> None:
        try:
            sink = await self._opened()
            await _awaited(sink.write(batch))
        except Rejected as rejected:
            self._reject(ticket, rejected)
        except BaseException as error:
            if is_cancelled(error):
                raise
            self._answers.again(ticket, self._context.secrets.hidden(described(error)))
        else:
            self._answers.written(ticket)

    def _reject(self, ticket: int, rejected: Rejected) -> None:
        """A batch has an answer in any case: one without would be waited for for ever."""
        try:
            self._answers.rejected(ticket, self._context.secrets.hidden(str(rejected.reason)), rejected.rows)
        except Exception as error:
            what = f"Rejected({rejected.reason!r}, rows={rejected.rows!r}) is no answer: {described(error)}"
            self._answers.again(ticket, self._context.secrets.hidden(what))

    async def _opened(self) -> Any:
        async with self._opening:
            if self._sink is None:
                sink = self._make()
                opening = getattr(sink, "open", None)
                if opening is not None:
                    await _awaited(opening())
                self._sink = sink
        return self._sink

    async def end(self) -> None:
        """Gives up what is being written, and closes the sink."""
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        close = getattr(self._sink, "close", None)
        if close is not None:
            with contextlib.suppress(Exception, TimeoutError):
                await asyncio.wait_for(_awaited(close()), CLOSE_WITHIN_S)


async def _awaited(answer: Any) -> None:
    """Waits where there is something to wait for: a function without `async` is done when it returns."""
    if inspect.isawaitable(answer):
        await answer
