"""The engine's control interface: two questions over HTTP.

A look at a job waits for neither: the poller asks how an engine is, `Commits` asks for checkpoints beside the looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable
from typing import Annotated, TypeAlias, TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamjob_operator.observed import MAX_INTEGER, EngineStatus

STATUS_TIMEOUT_S = 5.0
CHECKPOINT_TIMEOUT_S = 35.0
"""The engine itself answers after 30 s at the latest."""
MAX_CHECKPOINTS = 16
"""Engines that are asked for a checkpoint at once; each may take CHECKPOINT_TIMEOUT_S."""
ANSWER_S = 60.0
"""For how long an answer counts: what has come in since the checkpoint is not in it."""
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


Key = tuple[str, str]
"""(namespace, name) of a job."""
Answer: TypeAlias = Checkpoint | Exception
"""A checkpoint, or why there is none: an EngineError, or a mistake of the operator."""


class Engines:
    """Asks engines; `url` is a template with {job} and {namespace}, `answered` is told of the answers to `commits`."""

    def __init__(self, url: str, answered: Callable[[Key], None] = lambda _: None) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self.commits = Commits(self, answered)

    async def close(self) -> None:
        """Closes the connections."""
        self.commits.stop()
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


class Commits:
    """Checkpoints that are asked for beside the looks at jobs, since an engine may take as long as it is given.

    One question a job at a time, MAX_CHECKPOINTS in all; others wait for their turn. `answered` is called with the job.
    What a checkpoint is `wanted` for names its answer: nobody gets that to another question.
    """

    def __init__(self, engines: Engines, answered: Callable[[Key], None]) -> None:
        self._engines, self._answered = engines, answered
        self._places = asyncio.Semaphore(MAX_CHECKPOINTS)
        self._asked: dict[Key, tuple[Hashable, asyncio.Task[None]]] = {}
        self._answers: dict[Key, dict[Hashable, tuple[Answer, float]]] = {}

    def take(self, key: Key, wanted: Hashable, token: str | None) -> Answer | None:
        """The answer, once; None where there is none yet: then the engine is asked, unless a question is under way."""
        answer, since = self._answers.get(key, {}).pop(wanted, (None, 0.0))
        if answer is not None and asyncio.get_running_loop().time() - since < ANSWER_S:
            return answer
        if token is None:
            return EngineError("there is no control token yet")
        if key not in self._asked:
            self._asked[key] = (wanted, asyncio.create_task(self._ask(key, wanted, token)))
        return None

    def keep(self, key: Key, wanted: Collection[Hashable]) -> None:
        """Forgets of a job what nobody wants any more: an answer to it would count for what comes later."""
        if key in self._asked and self._asked[key][0] not in wanted:
            self._asked.pop(key)[1].cancel()
        left = {name: answer for name, answer in self._answers.pop(key, {}).items() if name in wanted}
        if left:
            self._answers[key] = left

    def keep_jobs(self, keys: Collection[Key]) -> None:
        """Forgets all jobs but these."""
        for key in {*self._asked, *self._answers}.difference(keys):
            self.keep(key, ())

    def stop(self) -> None:
        """Ends all questions: who no longer leads asks nothing."""
        self.keep_jobs(())

    async def _ask(self, key: Key, wanted: Hashable, token: str) -> None:
        answer: Answer
        try:
            async with self._places:
                answer = await self._engines.checkpoint(*key, token)
        except Exception as error:  # whoever takes it raises what is no EngineError
            answer = error
        self._asked.pop(key, None)
        self._answers.setdefault(key, {})[wanted] = (answer, asyncio.get_running_loop().time())
        self._answered(key)


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
