"""The engine's control interface: two questions over HTTP."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamjob_operator.observed import MAX_INTEGER, EngineStatus

STATUS_TIMEOUT_S = 5.0
CHECKPOINT_TIMEOUT_S = 35.0
"""The engine itself answers after 30 s at the latest."""
MAX_ANSWER_BYTES = 1 << 20
"""A longer answer is none."""
_CHUNK_BYTES = 1 << 16
_Answer = TypeVar("_Answer", bound=BaseModel)


class EngineError(Exception):
    """The engine could not be asked, or said no; the message is a sentence."""


class Checkpoint(BaseModel):
    """A checkpoint that every shard has committed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)
    number: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    duration_s: Annotated[float, Field(ge=0)]


class Engines:
    """Asks engines; `url` is a template with {job} and {namespace}."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def status(self, namespace: str, job: str, token: str) -> EngineStatus:
        """What the engine of a job says of itself."""
        return _read(EngineStatus, await self._ask("GET", "status", namespace, job, token, STATUS_TIMEOUT_S))

    async def checkpoint(self, namespace: str, job: str, token: str) -> Checkpoint:
        """Asks the engine of a job to commit what it has, and waits for it."""
        return _read(Checkpoint, await self._ask("POST", "checkpoint", namespace, job, token, CHECKPOINT_TIMEOUT_S))

    async def _ask(self, method: str, what: str, namespace: str, job: str, token: str, limit_s: float) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        url = f"{self._url.format(job=job, namespace=namespace)}/v1/control/{what}"
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with (
                asyncio.timeout(limit_s),
                # A redirect is not followed: the token is for this address alone.
                self._session.request(method, url, headers=headers, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise EngineError(f"{url} answers {answer.status}; see the engine's log")
                body = await _whole(answer.content, url)
        except TimeoutError:
            raise EngineError(f"{url} does not answer within {limit_s:g} s") from None
        except OSError as error:
            raise EngineError(f"{url} cannot be reached: {error}") from None
        except aiohttp.ClientError as error:  # its text cites what was answered
            raise EngineError(f"{url} does not answer as HTTP should: {type(error).__name__}") from None
        return body


async def _whole(stream: aiohttp.StreamReader, url: str) -> bytes:
    """All of an answer, up to its end or MAX_ANSWER_BYTES."""
    body = bytearray()
    async for chunk in stream.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise EngineError(f"{url} answers more than {MAX_ANSWER_BYTES} bytes; see spec.image")
    return bytes(body)


def _read(form: type[_Answer], body: bytes) -> _Answer:
    """An answer by its form. Names where it is wrong and never cites it."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        where = f" at {place}" if place else ""
        raise EngineError(f"the engine's answer cannot be read{where}: {first['type']}; see spec.image") from None
    except (ValueError, RecursionError) as error:
        raise EngineError(f"the engine's answer cannot be read: {type(error).__name__}; see spec.image") from None
