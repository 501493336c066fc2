"""A class that writes batches, as the engine runs it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamjob.connector_host import ConnectorLoadError, Host

PATIENCE_S = 30.0


class FakeAnswers:
    """Keeps what was answered."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def written(self, ticket: int) -> None:
        self._say("written", ticket)

    def rejected(self, ticket: int, reason: str, rows: list[int] | None) -> None:
        if any(row < 0 for row in rows or []):
            raise OverflowError("as the engine does")
        reason.encode()
        self._say("rejected", ticket, reason, rows)

    def again(self, ticket: int, reason: str) -> None:
        reason.encode()
        self._say("again", ticket, reason)

    def connected(self) -> None:
        self._say("connected")

    def failed(self, text: str) -> None:
        self._say("failed", text)

    def _say(self, *words: Any) -> None:
        with self._changed:
            self.said.append(words)
            self._changed.notify_all()

    def wait(self, holds: Callable[[], Any]) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, PATIENCE_S), self.said


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    assert host.stop(10.0), "the loop has ended"


def make(host: Host, text: str, answers: FakeAnswers, **secrets: str) -> Any:
    code = {"source": text, "filename": "/job/sink.py", "config": {}, "backoff_initial_us": 1, "backoff_max_us": 1}
    return host.sink("out", json.dumps({"code": code, "class": "Writer"}), secrets, answers)


def test_batches_are_written_after_the_sink_is_open(host: Host) -> None:
    answers = FakeAnswers()
    text = """
from streamjob import Sink
class Writer(Sink):
    async def open(self):
        self.context.connected()
    async def write(self, batch):
        assert batch.rows == [{"x": 1}] and batch.key == "k" and (batch.shard, batch.number) == (3, 7)
"""
    sink = make(host, text, answers)
    for ticket in range(3):
        sink.write(ticket, b'[{"x":1}]', "k", 3, 7, None)
    answers.wait(lambda: len(answers.said) == 4)
    assert answers.said == [("connected",), ("written", 0), ("written", 1), ("written", 2)]


def test_rejections_and_failures_are_told_apart_and_show_no_secret(host: Host) -> None:
    answers = FakeAnswers()
    text = """
from streamjob import Rejected
class Writer:
    def __init__(self, context):
        self.secret = context.secrets["password"]
    async def write(self, batch):
        if batch.number == 0:
            raise Rejected(f"no {self.secret}", rows=[1])
        if batch.number == 1:
            raise Rejected("none of it")
        if batch.number == 2:
            raise OSError(f"away {self.secret}")
        raise SystemExit(1)
"""
    sink = make(host, text, answers, password="s3cret")
    for number in range(4):
        sink.write(number, b"[]", "k", 0, number, None)
    answers.wait(lambda: len(answers.said) == 4)
    assert answers.said[0] == ("rejected", 0, "no ***", [1])
    assert answers.said[1] == ("rejected", 1, "none of it", None)
    assert answers.said[2] == ("again", 2, "OSError: away *** (/job/sink.py, line 12)")
    assert answers.said[3][:2] == ("again", 3)


def test_every_batch_has_an_answer(host: Host) -> None:
    answers = FakeAnswers()
    text = """
import asyncio
from streamjob import Rejected
class Writer:
    def __init__(self, context):
        pass
    async def write(self, batch):
        raise [
            asyncio.CancelledError("lost"),
            Rejected(ValueError("no text")),
            Rejected("rows", rows=[-1]),
            OSError("\\ud800"),
        ][batch.number]
"""
    sink = make(host, text, answers)
    for number in range(4):
        sink.write(number, b"[]", "k", 0, number, None)
    answers.wait(lambda: len(answers.said) == 4)
    said = {words[1]: words for words in answers.said}
    assert said[0][0] == "again"
    assert said[0][2].startswith("CancelledError: lost")
    assert said[1] == ("rejected", 1, "no text", None)
    assert said[2][0] == "again"
    assert "is no answer: OverflowError" in said[2][2]
    assert said[3][0] == "again"
    assert "\\ud800" in said[3][2]


def test_a_sink_that_does_not_open_is_made_again(host: Host) -> None:
    answers = FakeAnswers()
    text = """
tries = []
class Writer:
    def __init__(self, context):
        tries.append(1)
    async def open(self):
        if len(tries) < 3:
            raise ConnectionError("not yet")
    async def write(self, batch):
        pass
"""
    sink = make(host, text, answers)
    for ticket in range(3):
        sink.write(ticket, b"[]", "k", 0, 0, None)
        answers.wait(lambda ticket=ticket: len(answers.said) == ticket + 1)
    assert [words[0] for words in answers.said] == ["again", "again", "written"]


def test_the_end_gives_up_what_is_being_written_and_closes(tmp_path: Any) -> None:
    host, answers = Host(), FakeAnswers()
    marker = tmp_path / "closed"
    text = f"""
import asyncio
class Writer:
    def __init__(self, context):
        self.context = context
    async def write(self, batch):
        self.context.connected()
        await asyncio.Event().wait()
    async def close(self):
        open({str(marker)!r}, "w").close()
"""
    sink = make(host, text, answers)
    sink.write(0, b"[]", "k", 0, 0, None)
    answers.wait(lambda: answers.said)
    assert host.stop(10.0)
    assert marker.exists()
    assert answers.said == [("connected",)], "it was not answered"


def test_functions_without_async_are_done_when_they_return(host: Host) -> None:
    answers = FakeAnswers()
    text = """
class Writer:
    def __init__(self, context): self.opened = False
    def open(self): self.opened = True
    def write(self, batch): assert self.opened
    def close(self): pass
"""
    sink = make(host, text, answers)
    sink.write(7, b"[]", "k", 0, 0, None)
    answers.wait(lambda: answers.said)
    assert answers.said == [("written", 7)]


def test_a_class_without_write_is_no_sink(host: Host) -> None:
    with pytest.raises(ConnectorLoadError, match="Writer has no write"):
        make(host, "class Writer: pass", FakeAnswers())
