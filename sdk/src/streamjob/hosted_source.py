"""A source in Python as it runs: its generator, the queue behind it, the batches that are with the engine."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from streamjob.backoff import Backoff
from streamjob.connectors import Event, SourceContext

BATCHES_UNDER_WAY = 4
"""Batches of a source that the engine has and has not made durable."""
BATCH_EVENTS = 8192
"""Events of a batch; the engine takes no more at once."""
BATCH_BYTES = 4 << 20
"""Bytes of a batch, but for its first message; likewise."""
MAX_POSITION_BYTES = 64 << 10
"""A position as JSON; likewise."""
ACKNOWLEDGE_WITHIN_S = 30.0
"""What an acknowledgement gets, before its generator is started anew."""
CLOSE_WITHIN_S = 5.0
"""What a generator gets to end, once it is asked to."""


class Intake(Protocol):
    """The engine's side of a source. Nothing of it waits."""

    def offer(self, ticket: int, messages: list[bytes], position: str | None) -> None:
        """Takes a batch; `HostedSource.durable` is told its ticket once it is durable."""

    def connected(self) -> None:
        """The server answers."""

    def failed(self, text: str) -> None:
        """It does not, or the generator raised."""

    def finished(self) -> None:
        """The generator has returned, and all that it brought is durable."""

    def closed(self) -> None:
        """Nothing more comes."""


class _Prepared:
    """An event as the engine takes it."""

    __slots__ = ("acknowledge", "message", "position")

    def __init__(self, message: bytes | None, position: Any, acknowledge: Callable[[], Any] | None) -> None:
        self.message = message
        self.position = position
        self.acknowledge = acknowledge


_Sent: TypeAlias = tuple[asyncio.Future[None], list[Callable[[], Any]]]


class HostedSource:
    """One source. Everything but `begin`, `durable` and `stop`, which any thread may call, runs in the loop."""

    def __init__(
        self,
        config: Mapping[str, Any],
        context: SourceContext,
        generator: Callable[[Any], Any],
        position: str | None,
        intake: Intake,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._context = context
        self._generator = generator
        self._position: Any = None if position is None else json.loads(position)
        self._intake = intake
        self._loop = loop
        self._positions: bool = config["positions"]
        self._is_json = config["format"] == "json"
        self._queue_size: int = config["queue"]
        self._backoff = Backoff.of(config["code"])
        self._failures = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_ticket = 0
        self._durable: dict[int, asyncio.Future[None]] = {}

    # What the engine calls, from any thread.

    def begin(self) -> None:
        """Lets the generator run."""
        self._loop.call_soon_threadsafe(self._begin)

    def durable(self, ticket: int) -> None:
        """The engine has made a batch durable."""
        self._loop.call_soon_threadsafe(self._take_durable, ticket)

    def stop(self) -> None:
        """Asks the source to end: what it has yielded is still brought, its generator yields no more."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    # What runs in the loop.

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._supervise())

    async def end(self) -> None:
        """Stops the source and waits until it has ended."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _supervise(self) -> None:
        try:
            while not self._stopping.is_set():
                failure = await self._run_once()
                if failure is None:
                    if not self._stopping.is_set():
                        self._intake.finished()
                    return
                self._failures += 1
                self._intake.failed(self._context.secrets.hidden(failure))
                await self._pause(self._backoff.delay(self._failures, random.random()))  # noqa: S311 - jitter
        finally:
            self._intake.closed()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _run_once(self) -> str | None:
        """Runs one generator to its end, and all that it has yielded to the engine. Gives why it failed, if it did."""
        run = _Run(self._queue_size)
        producing = asyncio.create_task(self._produce(run))
        sending = asyncio.create_task(self._send(run))
        acknowledging = asyncio.create_task(self._acknowledge(run))
        stopping = asyncio.create_task(self._stopping.wait())
        ends = asyncio.create_task(run.broken.wait())
        await asyncio.wait([producing, sending, stopping, ends], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, ends):
            task.cancel()
        failures = [await _ended(producing), await self._all_sent(run, sending)]
        await run.sent.put(None)
        failures.append(await _ended(acknowledging, None) or run.failure)
        failure = next((failure for failure in failures if failure is not None), None)
        return None if failure is None else described(failure)

    @staticmethod
    async def _all_sent(run: _Run, sending: asyncio.Task[None]) -> BaseException | None:
        """Brings what found no room yet, tells the sender that nothing more comes, and waits for it."""
        telling = asyncio.create_task(run.end())
        await asyncio.wait([telling, sending], return_when=asyncio.FIRST_COMPLETED)
        if not telling.done():
            telling.cancel()  # the sender has failed, and takes nothing any more
        await asyncio.wait([sending])
        return sending.exception()

    async def _produce(self, run: _Run) -> None:
        generator = self._generator(self._position)
        if not isinstance(generator, AsyncIterator):
            raise TypeError(f"{self._context.name}: its function gave {type(generator).__name__}, no async generator")
        try:
            async for item in generator:
                run.yielded = self._prepared(item)
                await run.queue.put(run.yielded)
                run.yielded = None
        except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            raise RuntimeError(f"the generator raised {type(error).__name__}") from error
        finally:
            close = getattr(generator, "aclose", None)
            if close is not None:
                await close()

    def _prepared(self, item: Any) -> _Prepared:
        event = item if isinstance(item, Event) else Event(item)
        if self._positions and event.position is None:
            raise ValueError("an event came without a position; with positions: true each has one")
        if not self._positions and event.position is not None:
            raise ValueError("an event came with a position; write positions: true to have it kept")
        message = None if event.value is None else self._encoded(event.value)
        if message is None and event.position is None and event.acknowledge is None:
            raise ValueError("an event came without a value and without a position")
        return _Prepared(message, event.position, event.acknowledge)

    def _encoded(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        if isinstance(value, Mapping):
            if not self._is_json:
                raise TypeError("a dict is JSON, and the source's format is avro; yield bytes")
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()
        raise TypeError(f"an event's value is bytes, str or a dict, not {type(value).__name__}")

    async def _send(self, run: _Run) -> None:
        """Brings what is in the queue to the engine, batch by batch, until None."""
        left: _Prepared | None = None
        ends = False
        while not ends:
            first = left or await run.queue.get()
            if first is None:
                return
            batch, left, ends = _taken(run.queue, first)
            await run.places.acquire()
            self._offer(run, batch)

    def _offer(self, run: _Run, batch: list[_Prepared]) -> None:
        position = self._position_text(batch[-1].position) if self._positions else None
        messages = [event.message for event in batch if event.message is not None]
        waiting = [event.acknowledge for event in batch if event.acknowledge is not None]
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        durable = self._durable[ticket] = self._loop.create_future()
        run.sent.put_nowait((durable, waiting))
        self._intake.offer(ticket, messages, position)
        if self._positions:
            self._position = batch[-1].position
        if messages:
            self._failures = 0
            self._intake.connected()

    @staticmethod
    def _position_text(position: Any) -> str:
        text = json.dumps(position, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if len(text.encode()) > MAX_POSITION_BYTES:
            raise ValueError(f"a position is longer than {MAX_POSITION_BYTES} bytes as JSON; keep less in it")
        return text

    async def _acknowledge(self, run: _Run) -> None:
        """Acknowledges the events of each batch once it is durable, until None. A failure ends the generator, whose
        server will send that event again; it does not keep others from being acknowledged.
        """
        while (sent := await run.sent.get()) is not None:
            durable, waiting = sent
            await durable
            run.places.release()
            for acknowledge in waiting:
                if run.is_silent:
                    break
                try:
                    answer = acknowledge()
                    if inspect.isawaitable(answer):
                        async with asyncio.timeout(ACKNOWLEDGE_WITHIN_S):
                            await answer
                except BaseException as error:
                    if is_cancelled(error):
                        raise
                    if isinstance(error, TimeoutError):
                        run.is_silent = True
                        error = TimeoutError(str(error) or f"no acknowledgement within {ACKNOWLEDGE_WITHIN_S:g} s")
                    run.failure = run.failure or error
                    run.broken.set()

    def _take_durable(self, ticket: int) -> None:
        durable = self._durable.pop(ticket, None)
        if durable is not None and not durable.done():
            durable.set_result(None)


class _Run:
    """One run of a generator: what is between its tasks."""

    def __init__(self, queue_size: int) -> None:
        self.queue: asyncio.Queue[_Prepared | None] = asyncio.Queue(queue_size)
        self.places = asyncio.Semaphore(BATCHES_UNDER_WAY)
        self.sent: asyncio.Queue[_Sent | None] = asyncio.Queue()
        """Batches that the engine has; as many as there are places."""
        self.failure: BaseException | None = None
        self.broken = asyncio.Event()
        self.is_silent = False
        """An acknowledgement did not come to its end: the others of this run would not either."""
        self.yielded: _Prepared | None = None
        """An event that the generator has yielded and that is not in the queue."""

    async def end(self) -> None:
        """Puts the end into the queue, behind everything that was yielded."""
        if self.yielded is not None:
            await self.queue.put(self.yielded)
        await self.queue.put(None)


def is_cancelled(error: BaseException) -> bool:
    """Whether the running task has raised this because it was told to end.

    What a task awaits may be cancelled by others, such as a client that has lost its connection: any other error.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _ended(task: asyncio.Task[None], within_s: float | None = CLOSE_WITHIN_S) -> BaseException | None:
    """What a task raised; one that still runs is cancelled, and left alone where it does not end in time."""
    told = not task.done() and within_s is not None
    if told:
        task.cancel()
    await asyncio.wait([task], timeout=within_s)
    if not task.done():
        return None
    if task.cancelled():
        return None if told else RuntimeError("it raised CancelledError, and nobody had told it to end")
    return task.exception()


def _taken(queue: asyncio.Queue[_Prepared | None], first: _Prepared) -> tuple[list[_Prepared], _Prepared | None, bool]:
    """A batch of what is in the queue, what was taken beyond it, and whether the end was among it."""
    batch, size = [first], 0
    while len(batch) < BATCH_EVENTS and not queue.empty():
        event = queue.get_nowait()
        if event is None:
            return batch, None, True
        size += len(event.message or b"")
        if size > BATCH_BYTES:
            return batch, event, False
        batch.append(event)
    return batch, None, False


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's; anything else is no JSON."""
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    raise TypeError(f"{type(value).__name__} is no value of JSON; convert it in the generator")


def described(error: BaseException) -> str:
    """`Type: message`, and the line of the innermost frame."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return text
    return f"{text} ({traceback.tb_frame.f_code.co_filename}, line {traceback.tb_lineno})"
