"""Asks the engines how they are, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from streamjob_operator import metrics
from streamjob_operator.engine import EngineError, Engines
from streamjob_operator.index import Index, Key
from streamjob_operator.observe import Facts
from streamjob_operator.observed import EngineFacts, EngineStatus, is_ready

MAX_QUESTIONS = 16
"""Engines that are asked at once."""
_log = structlog.get_logger("streamjob_operator.poll")


def is_decisive(old: EngineFacts | None, new: EngineFacts) -> bool:
    """Whether the job must be looked at again for what its engine says now."""
    if old is None or (old.status is None) != (new.status is None):
        return True
    if old.status is None or new.status is None:
        return False
    return _decisive(old.status) != _decisive(new.status)


def _decisive(status: EngineStatus) -> tuple[object, ...]:
    """Facts that a state hangs on; others are only written down."""
    return (
        status.version,
        status.shards,
        status.blocked_shards,
        status.disk_full,
        status.outputs_may_repeat,
        status.udfs,
    )


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
        try:
            await self._question(key)
        except Exception:
            # One job's surprise must not end the questions to the others; the log has its trace.
            metrics.reconcile_errors.labels("operator").inc()
            _log.exception("not asked by a mistake of the operator", namespace=key[0], job=key[1])

    async def _question(self, key: Key) -> None:
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
