"""Asks the engines how they are, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from streamjob_operator.engine import EngineError, Engines
from streamjob_operator.index import Index, Key
from streamjob_operator.observe import Facts
from streamjob_operator.observed import EngineFacts, is_ready

MAX_QUESTIONS = 16
"""Engines that are asked at once."""
_DECISIVE = ("version", "shards", "blocked_shards", "disk_full", "outputs_may_repeat")
"""Facts that a state hangs on; others are only written down."""


def is_decisive(old: EngineFacts | None, new: EngineFacts) -> bool:
    """Whether the job must be looked at again for what its engine says now."""
    if old is None or (old.status is None) != (new.status is None):
        return True
    if old.status is None or new.status is None:
        return False
    if any(old.status.get(name) != new.status.get(name) for name in _DECISIVE):
        return True
    return _versions(old.status) != _versions(new.status)


def _versions(status: Any) -> list[str]:
    return [str(udf.get("version")) for udf in status.get("udfs") or ()]


class Poller:
    """`changed` is called for a decisive answer, `note` for any other."""

    def __init__(
        self,
        engines: Engines,
        index: Index,
        facts: Facts,
        token: Callable[[Key], str | None],
        changed: Callable[[Key], None],
        note: Callable[[Key], Awaitable[None]],
    ) -> None:
        self._engines, self._index, self._facts = engines, index, facts
        self._token, self._changed, self._note = token, changed, note
        self._places = asyncio.Semaphore(MAX_QUESTIONS)

    async def round(self) -> None:
        """Asks every engine that serves once."""
        await asyncio.gather(*(self._one(key) for key in self._index.jobs()))

    async def _one(self, key: Key) -> None:
        async with self._places:
            pod = self._index.one(key, "Pod", f"{key[1]}-0")
            token = self._token(key)
            if pod is None or token is None or not is_ready(pod):
                self._facts.engines.pop(key, None)
                return
            old = self._facts.engines.get(key)
            new = await self._ask(key, token, old)
            self._facts.engines[key] = new
            if is_decisive(old, new):
                self._changed(key)
            elif new.status is not None:
                await self._note(key)
            elif old is not None and old.since == new.since:
                self._changed(key)  # for how long it has been silent is decisive as well

    async def _ask(self, key: Key, token: str, old: EngineFacts | None) -> EngineFacts:
        try:
            return EngineFacts(status=await self._engines.status(*key, token))
        except EngineError as error:
            since = old.since if old is not None and old.since is not None else datetime.now(UTC)
            return EngineFacts(error=str(error), since=since)
