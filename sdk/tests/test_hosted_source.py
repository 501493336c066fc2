"""A generator as the engine runs it, with an engine that makes durable when the test says so."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamjob import hosted_source
from streamjob.backoff import JITTER, Backoff
from streamjob.connector_host import ConnectorLoadError, Host
from streamjob.connectors import Secrets

CRATES = Path(__file__).parents[2] / "engine" / "crates"
PATIENCE_S = 30.0


class FakeIntake:
    """Keeps what came; makes it durable at once, or when told."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.batches: list[tuple[int, list[bytes], str | None]] = []
        self.failures: list[str] = []
        self.said: list[str] = []
        self.source: Any = None
        self._at_once = at_once
        self._changed = threading.Condition()

    def offer(self, ticket: int, messages: list[bytes], position: str | None) -> None:
        with self._changed:
            self.batches.append((ticket, messages, position))
            self._changed.notify_all()
        if self._at_once:
            self.source.durable(ticket)

    def connected(self) -> None:
        pass

    def failed(self, text: str) -> None:
        text.encode()
        with self._changed:
            self.failures.append(text)
            self._changed.notify_all()

    def finished(self) -> None:
        self._say("finished")

    def closed(self) -> None:
        self._say("closed")

    def _say(self, word: str) -> None:
        with self._changed:
            self.said.append(word)
            self._changed.notify_all()

    def wait(self, holds: Callable[[], Any]) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, PATIENCE_S), (self.batches, self.failures, self.said)

    @property
    def messages(self) -> list[bytes]:
        return [message for _, messages, _ in self.batches for message in messages]


def config(source: str, **more: Any) -> str:
    code = {
        "source": source,
        "filename": "/job/connectors.py",
        "config": more.pop("settings", {}),
        "backoff_initial_us": 1000,
        "backoff_max_us": 2000,
    }
    return json.dumps(
        {"code": code, "function": "readings", "format": "json", "positions": False, "queue": 10_000, **more}
    )


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    assert host.stop(10.0), "the loop has ended"


def run(host: Host, text: str, intake: FakeIntake, position: str | None = None, **more: Any) -> None:
    secrets = more.pop("secrets", {})
    intake.source = host.source("in", config(text, **more), secrets, position, intake)
    intake.source.begin()


def test_values_of_all_kinds_become_messages(host: Host) -> None:
    intake = FakeIntake()
    text = """
async def readings(context):
    yield b"bytes"
    yield "té"
    yield {"device": context.config["device"], "x": 1.5}
    yield bytearray(b"array")
"""
    run(host, text, intake, settings={"device": "a"})
    intake.wait(lambda: "closed" in intake.said)
    assert intake.messages == [b"bytes", "té".encode(), b'{"device":"a","x":1.5}', b"array"]
    assert intake.said == ["finished", "closed"]
    assert intake.failures == []


def test_a_source_that_raises_goes_on_from_its_position(host: Host) -> None:
    intake = FakeIntake()
    text = """
from streamjob import Event
async def readings(context, position=None):
    for number in range(position or 0, 10):
        yield Event({"n": number}, position=number + 1)
        if number in (3, 7) and position != number + 1:
            raise OSError("gone")
"""
    run(host, text, intake, positions=True)
    intake.wait(lambda: "closed" in intake.said)
    assert [json.loads(message)["n"] for message in intake.messages] == list(range(10))
    assert intake.batches[-1][2] == "10"
    assert len(intake.failures) == 2
    assert intake.failures[0].startswith("OSError: gone (/job/connectors.py, line 7)")


def test_a_start_goes_on_from_the_position_that_is_kept(host: Host) -> None:
    intake = FakeIntake()
    text = """
from streamjob import Event
async def readings(context, position=None):
    yield Event({"at": position}, position={"at": position["at"] + 1})
"""
    run(host, text, intake, position='{"at": 41}', positions=True)
    intake.wait(lambda: "closed" in intake.said)
    assert intake.batches == [(0, [b'{"at":{"at":41}}'], '{"at":42}')]


def test_acknowledged_once_durable_and_not_before(host: Host) -> None:
    intake = FakeIntake(at_once=False)
    text = """
import asyncio
from streamjob import Event
taken = []
async def readings(context):
    for number in range(3):
        yield Event(str(number), acknowledge=lambda number=number: context.config["x"].append(number))
        while not context.config["x"][number:] and number < 2:
            await asyncio.sleep(0)
"""
    run(host, text.replace('context.config["x"]', "taken"), intake)
    for number in range(3):
        intake.wait(lambda number=number: len(intake.batches) > number)
        # The generator yields no more before its event is acknowledged, which waits for this.
        assert len(intake.batches) == number + 1
        intake.source.durable(number)
    intake.wait(lambda: "closed" in intake.said)
    assert intake.messages == [b"0", b"1", b"2"]


@pytest.mark.parametrize("raised", ["ConnectionError", "asyncio.CancelledError", "SystemExit"])
def test_an_acknowledgement_that_fails_starts_the_generator_anew(host: Host, raised: str) -> None:
    intake = FakeIntake()
    text = f"""
import asyncio
from streamjob import Event
starts = []
def lost():
    raise {raised}("lost")
async def readings(context):
    starts.append(1)
    yield Event(f"start {{len(starts)}}", acknowledge=lost if len(starts) == 1 else None)
    if len(starts) == 1:
        await asyncio.Event().wait()
"""
    run(host, text, intake)
    intake.wait(lambda: "closed" in intake.said)
    assert intake.messages == [b"start 1", b"start 2"]
    assert intake.failures[0].startswith(f"{raised.removeprefix('asyncio.')}: lost")


def test_an_acknowledgement_that_never_returns_starts_the_generator_anew(
    monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    monkeypatch.setattr(hosted_source, "ACKNOWLEDGE_WITHIN_S", 0.05)
    intake = FakeIntake()
    text = """
import asyncio
from streamjob import Event
async def readings(context):
    for number in range(3):
        yield Event(str(number), acknowledge=lambda: asyncio.Event().wait())
    await asyncio.Event().wait()
"""
    run(host, text, intake)
    intake.wait(lambda: intake.failures)
    assert "no acknowledgement within 0.05 s" in intake.failures[0]


def test_what_is_under_way_is_bounded(host: Host) -> None:
    intake = FakeIntake(at_once=False)
    text = """
async def readings(context):
    for number in range(10 * 8192):
        yield b"x"
"""
    run(host, text, intake, queue=3)
    intake.wait(lambda: len(intake.batches) == hosted_source.BATCHES_UNDER_WAY)
    for ticket in range(100_000):
        intake.wait(lambda ticket=ticket: len(intake.batches) > ticket or "closed" in intake.said)
        if "closed" in intake.said:
            break
        assert len(intake.batches) <= ticket + hosted_source.BATCHES_UNDER_WAY
        intake.source.durable(ticket)
    assert len(intake.messages) == 10 * 8192


def test_a_stop_brings_what_was_yielded_and_closes_the_generator(host: Host) -> None:
    intake = FakeIntake()
    text = """
import asyncio
async def readings(context):
    try:
        yield "one"
        await asyncio.Event().wait()
    finally:
        context.connected()
        open(context.config["marker"], "w").close()
"""
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        marker = pathlib.Path(folder, "closed")
        run(host, text, intake, settings={"marker": str(marker)})
        intake.wait(lambda: intake.batches)
        intake.source.stop()
        intake.wait(lambda: "closed" in intake.said)
        assert marker.exists()
    assert intake.said == ["closed"], "it has not finished"
    assert intake.failures == []


def test_a_stop_brings_also_what_waits_for_room(host: Host, tmp_path: Path) -> None:
    intake, yielded = FakeIntake(at_once=False), tmp_path / "yielded"
    text = """
async def readings(context):
    with open(context.config["yielded"], "a", buffering=1) as log:
        for number in range(1000):
            log.write(f"{number}\\n")
            yield str(number)
"""
    run(host, text, intake, queue=1, settings={"yielded": str(yielded)})
    intake.wait(lambda: len(intake.batches) == hosted_source.BATCHES_UNDER_WAY)
    intake.source.stop()
    for ticket in range(1000):
        intake.wait(lambda ticket=ticket: len(intake.batches) > ticket or "closed" in intake.said)
        if "closed" in intake.said:
            break
        intake.source.durable(ticket)
    assert intake.messages == yielded.read_bytes().split()


@pytest.mark.parametrize(
    ("text", "positions", "reason"),
    [
        ("    yield Event('x')", True, "an event came without a position"),
        ("    yield Event('x', position=1)", False, "write positions: true"),
        ("    yield Event('x', position='y' * 70000)", True, "longer than 65536 bytes"),
        ("    yield 5", False, "is bytes, str or a dict, not int"),
        ("    yield {'x': object()}", False, "object is no value of JSON"),
        ("    yield Event(None)", False, "without a value and without a position"),
        ("    raise SystemExit(3)\n    yield", False, "the generator raised SystemExit"),
        ("    raise CancelledError\n    yield", False, "the generator raised CancelledError"),
        ("    raise ValueError('\\ud800')\n    yield", False, "ValueError: \\ud800"),
        ("    raise ValueError('my s3cret')\n    yield", False, "ValueError: my ***"),
    ],
)
def test_what_is_wrong_is_said_and_tried_again(host: Host, text: str, positions: bool, reason: str) -> None:
    intake = FakeIntake()
    imports = "from asyncio import CancelledError\nfrom streamjob import Event\n"
    whole = f"{imports}async def readings(context, position=None):\n{text}\n"
    run(host, whole, intake, positions=positions, secrets={"password": "s3cret"})
    intake.wait(lambda: len(intake.failures) >= 3)
    assert reason in intake.failures[0]
    assert intake.messages == []


@pytest.mark.parametrize(
    ("text", "positions", "reason"),
    [
        ("def readings(context):\n    yield 1", False, "is no asynchronous generator"),
        ("async def readings(context):\n    return 1", False, "is no asynchronous generator"),
        ("async def readings(context):\n    yield 1", True, "takes no position"),
        ("async def other(context):\n    yield 1", False, "there is no function readings"),
        ("import nothing_of_this_name", False, "line 1: loading the module failed: ModuleNotFoundError"),
    ],
)
def test_code_that_cannot_be_loaded_says_why(host: Host, text: str, positions: bool, reason: str) -> None:
    with pytest.raises(ConnectorLoadError, match=reason):
        host.source("in", config(text, positions=positions), {}, None, FakeIntake())


def test_secrets_show_their_names_alone() -> None:
    secrets = Secrets({"password": "hush", "long": "hush-hush"})
    assert repr(secrets) == "Secrets(password=***, long=***)"
    assert secrets["password"] == "hush"
    assert secrets.hidden("x hush-hush y hush") == "x *** y ***"
    written = Secrets({"key": 'ab/c+d=="\n'})
    assert written.hidden("GET /?key=ab%2Fc%2Bd%3D%3D%22%0A failed") == "GET /?key=*** failed"
    assert written.hidden(f"{written['key']!r} and {json.dumps(written['key'])}") == "'***' and \"***\""
    assert Secrets({"empty": ""}).hidden("as it is") == "as it is"


@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(1, 5))
def test_batches_keep_the_order_and_the_bounds(sizes: list[int], room: int) -> None:
    """Whatever is in the queue, batches are its events in order, none too large but by its first."""

    async def cut() -> list[list[bytes]]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for number, size in enumerate(sizes):
            queue.put_nowait(hosted_source._Prepared(bytes([number]) * size, None, None))
        queue.put_nowait(None)
        batches, left, ends = [], None, False
        while not ends:
            first = left or queue.get_nowait()
            if first is None:
                break
            batch, left, ends = hosted_source._taken(queue, first)
            batches.append([event.message for event in batch])
        return batches

    before = hosted_source.BATCH_BYTES, hosted_source.BATCH_EVENTS
    hosted_source.BATCH_BYTES, hosted_source.BATCH_EVENTS = 5000, room
    try:
        batches = asyncio.run(cut())
    finally:
        hosted_source.BATCH_BYTES, hosted_source.BATCH_EVENTS = before
    assert [message for batch in batches for message in batch] == [
        bytes([number]) * size for number, size in enumerate(sizes)
    ]
    for batch in batches:
        assert len(batch) <= room
        assert sum(map(len, batch[1:])) <= 5000


@given(st.floats(0, 100), st.floats(0, 100), st.integers(0, 2**40), st.floats(0, 1))
def test_waits_double_to_their_cap(initial: float, cap: float, failures: int, chance: float) -> None:
    backoff = Backoff(initial, cap)
    wait, longest = backoff.delay(failures, chance), backoff.delay(failures, 0.0)
    assert 0 <= wait <= longest <= cap
    assert wait >= longest * (1 - JITTER)
    assert backoff.delay(failures + 1, 0.0) >= longest


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("node/src/push.rs", "MAX_PUSH_MESSAGES", "8192"),
        ("node/src/push.rs", "MAX_PUSH_BYTES", "4 << 20"),
        ("node/src/hosted/mod.rs", "BATCHES_UNDER_WAY", "4"),
        ("core/src/journal/mod.rs", "MAX_POSITION_BYTES", "64 << 10"),
    ],
)
def test_both_sides_have_the_same_bounds(file: str, name: str, value: str) -> None:
    here = {"MAX_PUSH_MESSAGES": "BATCH_EVENTS", "MAX_PUSH_BYTES": "BATCH_BYTES"}.get(name, name)
    text = (CRATES / file).read_text(encoding="utf-8")
    assert f"const {name}: usize = {value};" in text
    assert getattr(hosted_source, here) == eval(value)
