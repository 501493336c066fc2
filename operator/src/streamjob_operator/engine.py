"""The engine's control interface: two questions over HTTP."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

STATUS_TIMEOUT_S = 5.0
CHECKPOINT_TIMEOUT_S = 35.0
"""The engine itself answers after 30 s at the latest."""
MAX_ANSWER_BYTES = 1 << 20


class EngineError(Exception):
    """The engine could not be asked, or said no; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that every shard has committed."""

    number: int
    duration_s: float


class Engines:
    """Asks engines; `url` is a template with {job} and {namespace}."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def status(self, namespace: str, job: str, token: str) -> dict[str, Any]:
        """What the engine of a job says of itself."""
        return await self._ask("GET", "status", namespace, job, token, STATUS_TIMEOUT_S)

    async def checkpoint(self, namespace: str, job: str, token: str) -> Checkpoint:
        """Asks the engine of a job to commit what it has, and waits for it."""
        said = await self._ask("POST", "checkpoint", namespace, job, token, CHECKPOINT_TIMEOUT_S)
        try:
            return Checkpoint(int(said["number"]), float(said["duration_s"]))
        except (KeyError, TypeError, ValueError):
            raise EngineError(f"the engine's answer to a checkpoint cannot be read: {said}") from None

    async def _ask(
        self, method: str, what: str, namespace: str, job: str, token: str, limit_s: float
    ) -> dict[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        url = f"{self._url.format(job=job, namespace=namespace)}/v1/control/{what}"
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with asyncio.timeout(limit_s), self._session.request(method, url, headers=headers) as answer:
                body = await answer.content.read(MAX_ANSWER_BYTES)
                if answer.status != 200:
                    raise EngineError(f"{url} answers {answer.status}: {body[:200].decode(errors='replace')}")
        except TimeoutError:
            raise EngineError(f"{url} does not answer within {limit_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(f"{url} cannot be reached: {error}") from None
        try:
            said = json.loads(body)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise EngineError(f"{url} answers what is no JSON object: {body[:100].decode(errors='replace')}")
        return said
