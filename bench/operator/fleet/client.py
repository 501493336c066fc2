"""A client of the API server for load and observation, apart from the operator's own."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

Object = dict[str, Any]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
REQUEST_TIMEOUT_S = 60.0
WATCH_S = 3600
"""How long a watch is asked for; a run is shorter."""
MAX_WATCHES = 100
"""How often a watch may begin again: the API server ends those of a kind whose definition it has just learnt."""
_LINE_BYTES = 1 << 20
"""Half of what an event of a watch may have."""


class BenchError(Exception):
    """The benchmark could not be run or believed; the message is a sentence."""


class CallError(BenchError):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Requests with all rights. The certificate is not checked: it is loopback's."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Api:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._session = aiohttp.ClientSession(
            self._url,
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": "streamjob-bench"},
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            read_bufsize=_LINE_BYTES,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Object | None = None, content: str = "application/json"
    ) -> Object:
        """One request; CallError for what is no success."""
        assert self._session is not None
        data = None if body is None else json.dumps(body).encode()
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        headers = {"Content-Type": content}
        async with self._session.request(method, path, data=data, headers=headers, timeout=timeout) as answer:
            text = await answer.read()
        if answer.status >= 300:
            said = text[:300].decode(errors="replace")
            raise CallError(answer.status, f"{method} {path} answers {answer.status}: {said}")
        found: Object = json.loads(text)
        return found

    async def watch(self, path: str) -> AsyncIterator[Object]:
        """Everything that is there, then all changes; what was shown may be shown again where the server cut it off."""
        version = ""
        for _ in range(MAX_WATCHES):
            async for event in self._watch_from(path, version):
                thing = event["object"]
                if event["type"] == "ERROR":
                    version = ""  # too long ago: everything anew
                    break
                version = thing["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield event
        raise BenchError(f"the watch of {path} was cut off {MAX_WATCHES} times")

    async def _watch_from(self, path: str, version: str) -> AsyncIterator[Object]:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=None)
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
        if version:
            query["resourceVersion"] = version
        async with self._session.get(path, params=query, timeout=timeout) as answer:
            if answer.status >= 300:
                raise CallError(answer.status, f"the watch of {path} answers {answer.status}")
            async for line in answer.content:
                yield json.loads(line)
