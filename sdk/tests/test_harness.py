"""The engine's and the harness's own part, with a scripted session."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import pytest

from jobs import good_data
from streamjob.engine import Engine, EngineMissingError
from streamjob.testing import START, JobHarness


class Session:
    """Notes its calls; each gives one row of everything."""

    calls: list[Any] = []

    def __init__(self, job_json: str, now_us: int) -> None:
        self.calls[:] = [json.loads(job_json)["name"], now_us]

    def _result(self) -> str:
        return json.dumps(
            {
                "accepted": 1,
                "rejected": 0,
                "errors": [],
                "events": {"*": [{"x": 1}, {"x": 2}], "alerts": [{"x": 2}]},
                "windows": {"per_10s": [{"key": "a"}, {"key": "b"}]},
                "dead_letters": [{"reason": "late"}],
            }
        )

    def process(self, body: bytes) -> str:
        self.calls.append(body)
        return self._result()

    def finish(self) -> str:
        return self._result()

    def stats(self, key: str) -> str | None:
        return '{"count": 1}' if key == "a" else None

    def set_now(self, now_us: int) -> None:
        self.calls.append(now_us)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    module = types.ModuleType("streamjob_engine")
    module.__dict__["Session"] = Session
    monkeypatch.setitem(sys.modules, "streamjob_engine", module)
    return Session


def test_harness_collects(session: type[Session]) -> None:
    start = int(START.timestamp()) * 1_000_000
    with JobHarness(good_data()) as job:
        result = job.send([{"a": 1}, {"a": 2}])
        assert (result.accepted, result.rows, result.events) == (1, [{"x": 1}, {"x": 2}], {"alerts": [{"x": 2}]})
        job.advance("1m")
        job.finish()
        assert len(job.windows("per_10s")) == 6
        assert job.windows("per_10s", "a") == [{"key": "a"}] * 3
        assert len(job.events("alerts")) == len(job.dead_letters()) == 3
        assert len(job.rows()) == 6
        assert job.stats("a") == {"count": 1}
        assert job.stats("b") is None
        assert job.now.isoformat() == "2100-01-01T00:01:00+00:00"
        with pytest.raises(KeyError, match='did you mean "alerts"'):
            job.events("alert")
    assert session.calls == ["telemetry", start, b'{"a": 1}\n{"a": 2}', start + 60_000_000, b"[]"]
    with pytest.raises(RuntimeError, match="closed"):
        job.send([])


def test_engine_takes_bytes_text_and_rows(session: type[Session]) -> None:
    engine = Engine(good_data(), now_us=5)
    for body in (b"{}", "{}", bytearray(b"{}"), [{}], []):
        engine.process(body)
    assert session.calls == ["telemetry", 5, b"{}", b"{}", b"{}", b"{}", b"[]"]


def test_without_the_engine_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamjob_engine", None)
    with pytest.raises(EngineMissingError, match=r"pip install streamjob\[engine\]"):
        Engine(good_data())
