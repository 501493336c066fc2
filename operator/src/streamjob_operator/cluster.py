"""The one module that talks to Kubernetes: plain JSON in, plain JSON out.

The client's generated models are left aside: a thousand jobs as plain data take a fraction of their memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from streamjob_operator import names
from streamjob_operator.kinds import BY_NAME, Kind

Object = dict[str, Any]
Count = Callable[[str, str], None]
"""Called with (verb, kind) for each request."""

PAGE = 100
"""Objects of one page of a list: the largest answers, which the peak of memory hangs on."""
REQUEST_TIMEOUT_S = 30.0
WATCH_S = 290
"""How long the server keeps a watch open."""
SILENCE_S = 90.0
"""A watch that says nothing for so long is dead: the server sends a bookmark a minute."""
MAX_LINE_BYTES = 8 << 20
"""One event of a watch; an object of etcd has at most 1.5 MB."""

MAX_CITED = 500
"""Characters of a refusal which are cited that has not the API server's form."""
MALFORMED = "Malformed"
"""The reason where an answer is none of the API server's, whatever its status says: a proxy's, for example."""
NO_VERSION = "1"
"""A version that no object has: what is there is in conflict with it, what is not there has nothing to be."""
NAME_TAKEN = "NameTaken"
"""The reason where an object of the name is there already and is another's."""

METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


class ClusterError(Exception):
    """An answer of the API server that is no success. `code` is the HTTP status; 0: there was no answer."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    @property
    def actor(self) -> str:
        """Who can do something: `user` (the object is refused), `conflict`, `rights` or `cluster`."""
        # A member of the wrong type is a 500.
        if self.code in (400, 422) or self.reason == NAME_TAKEN or "typed patch object" in str(self):
            return "user"
        if self.code == 409:
            return "conflict"
        return "rights" if self.code in (401, 403) else "cluster"


class Cluster:
    """A connection to an API server."""

    def __init__(self, client: ApiClient, count: Count | None = None) -> None:
        self._client = client
        self._count: Count = count or (lambda _verb, _kind: None)

    @classmethod
    async def connect(cls, count: Count | None = None) -> Cluster:
        """By the service account of the pod, or else by KUBECONFIG."""
        configuration = Configuration()
        try:
            load_incluster_config(client_configuration=configuration)
        except ConfigException:
            # Named, since the client looks at the variable only when it is imported.
            await load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration)
        # No bound here: each watch holds a connection, and how many there are is bounded by kinds and namespaces.
        configuration.connection_pool_maxsize = 0
        return cls(ApiClient(configuration), count)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """An object, or None where there is none."""
        try:
            return await self._json("GET", "get", kind, kind.path(namespace, name))
        except ClusterError as error:
            if error.code == 404:
                return None
            raise

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server has a kind."""
        root = kind.path().rpartition("/")[0]
        try:
            found = await self._json("GET", "discover", kind, root)
        except ClusterError as error:
            if error.code == 404:
                return False
            raise
        return any(resource.get("name") == kind.plural for resource in found.get("resources") or ())

    async def may_list(self, kind: Kind, namespace: str) -> bool | None:
        """Whether the operator has the right to list a kind in a namespace; None where there was no answer."""
        try:
            await self._json("GET", "list", kind, kind.path(namespace), query={"limit": "1"}, accept=METADATA_LIST)
        except ClusterError as error:
            return False if error.code == 403 else None
        return True

    async def pages(
        self, kind: Kind, namespace: str | None, selector: str = "", *, metadata_only: bool = False, fields: str = ""
    ) -> AsyncIterator[tuple[list[Object], str]]:
        """All objects of a kind, a page at a time, each with the list's resourceVersion."""
        token = ""
        while True:
            query = {"limit": str(PAGE), "labelSelector": selector, "fieldSelector": fields, "continue": token}
            accept = METADATA_LIST if metadata_only else "application/json"
            page = await self._json("GET", "list", kind, kind.path(namespace), query=query, accept=accept)
            metadata = page.get("metadata")
            if not isinstance(metadata, dict) or "resourceVersion" not in metadata:
                raise _malformed(200, f"no list of {kind.plural}")
            items = page.get("items") or []  # null where a list of metadata is empty
            for item in items:
                item.setdefault("kind", kind.kind)
                item.setdefault("apiVersion", kind.api_version)
            yield items, metadata["resourceVersion"]
            token = metadata.get("continue") or ""
            if not token:
                return

    async def watch(
        self, kind: Kind, namespace: str | None, version: str, selector: str = "", *, metadata_only: bool = False
    ) -> AsyncIterator[Object]:
        """Events since `version` until the server ends the watch; ClusterError 410 where that is too long ago."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            "resourceVersion": version,
            "labelSelector": selector,
        }
        accept = METADATA if metadata_only else "application/json"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_S, sock_read=SILENCE_S)
        answer = await self._send("GET", "watch", kind, kind.path(namespace), query, accept=accept, timeout=timeout)
        try:
            async for line in _lines(answer.content):
                event = _event(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise ClusterError(status.get("code", 0), status.get("reason", ""), status.get("message", ""))
                yield event
        except (aiohttp.ClientError, OSError) as error:
            raise _disconnected(error) from None
        finally:
            answer.close()

    async def apply(
        self, manifest: Object, *, subresource: str | None = None, absent: bool = False, dry_run: bool = False
    ) -> Object:
        """Server-side-applies a manifest; members of others that we want are taken over.

        With `absent` only where there is no such object, else ClusterError 409. With `dry_run` nothing is stored.
        """
        kind = BY_NAME[manifest["kind"]]
        metadata = manifest["metadata"]
        if absent:
            manifest = {**manifest, "metadata": {**metadata, "resourceVersion": NO_VERSION}}
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        path = kind.path(metadata.get("namespace"), metadata["name"], subresource)
        content = "application/apply-patch+yaml"
        return await self._json("PATCH", "apply", kind, path, query=query, body=manifest, content=content)

    async def create(self, manifest: Object) -> Object:
        """Creates an object; ClusterError 409 where it is there."""
        kind = BY_NAME[manifest["kind"]]
        query = {"fieldManager": names.FIELD_MANAGER}
        path = kind.path(manifest["metadata"].get("namespace"))
        return await self._json("POST", "create", kind, path, query=query, body=manifest)

    async def replace(self, manifest: Object) -> Object:
        """Replaces an object; ClusterError 409 where its resourceVersion is not the newest."""
        kind = BY_NAME[manifest["kind"]]
        metadata = manifest["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._json("PUT", "update", kind, path, query=query, body=manifest)

    async def patch(self, kind: Kind, namespace: str | None, name: str, patch: Any) -> Object:
        """A JSON merge patch (a mapping) or a JSON patch (a list)."""
        form = "json-patch" if isinstance(patch, list) else "merge-patch"
        path = kind.path(namespace, name)
        content = f"application/{form}+json"
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._json("PATCH", "patch", kind, path, query=query, body=patch, content=content)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, propagation: str) -> None:
        """Deletes the object with this uid; one that is gone, or another of its name, is left."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        try:
            await self._json("DELETE", "delete", kind, kind.path(namespace, name), body=body)
        except ClusterError as error:
            if error.code not in (404, 409):
                raise

    async def _json(
        self,
        method: str,
        verb: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        accept: str = "application/json",
        content: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        answer = await self._send(method, verb, kind, path, query or {}, body, accept, content, timeout)
        try:
            body_of_answer = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            raise _disconnected(error) from None
        return _object(body_of_answer, answer.status)

    async def _send(
        self,
        method: str,
        verb: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        accept: str = "application/json",
        content: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,  # noqa: ASYNC109 - aiohttp's own, for connecting and reading
    ) -> aiohttp.ClientResponse:
        self._count(verb, kind.kind)
        given = {name: value for name, value in query.items() if value}
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": names.FIELD_MANAGER}
        url = self._client.configuration.host + path + (f"?{urlencode(given)}" if given else "")
        try:
            # Reads the token's file from time to time.
            await self._client.update_params_for_auth(headers, None, ["BearerToken"], path, method, body)
            reply = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
        except (aiohttp.ClientError, ConfigException, OSError, ValueError) as error:
            message = f"the API server at {self._client.configuration.host} does not answer: {error}"
            raise ClusterError(0, "Disconnected", message) from None
        answer: aiohttp.ClientResponse = reply.response
        if answer.status >= 300:
            raise await _refused(answer)
        return answer


async def _refused(answer: aiohttp.ClientResponse) -> ClusterError:
    """What an answer that is no success says; something before the API server may say it in any form."""
    try:
        text = (await answer.read()).decode(errors="replace")
    except (aiohttp.ClientError, OSError) as error:
        text = f"the answer broke off: {_disconnected(error)}"
    try:
        status = json.loads(text)
    except (ValueError, RecursionError):
        status = {}
    if not isinstance(status, dict):
        status = {}
    message = status.get("message") or text[:MAX_CITED] or f"it answers {answer.status} {answer.reason}"
    return ClusterError(answer.status, str(status.get("reason") or ""), str(message))


def _disconnected(error: BaseException) -> ClusterError:
    return ClusterError(0, "Disconnected", str(error) or type(error).__name__)


def _object(text: bytes, code: int) -> Object:
    """An answer as JSON; ClusterError where it is something else, which is not cited: it may be a part of a Secret."""
    try:
        result = json.loads(text)
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise _malformed(code, "no JSON object")
    return result


def _event(line: bytes) -> Object:
    """An event of a watch; ClusterError where it is none."""
    event = _object(line, 200)
    body = event.get("object")
    metadata = body.get("metadata") if isinstance(body, dict) else None
    versioned = isinstance(metadata, dict) and "resourceVersion" in metadata
    if not isinstance(body, dict) or "type" not in event or not (versioned or event["type"] == "ERROR"):
        raise _malformed(200, "no event of a watch")
    return event


def _malformed(code: int, what: str) -> ClusterError:
    message = f"the API server answers {code} with {what}: see whether a proxy between says something else"
    return ClusterError(code, MALFORMED, message)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, each at most MAX_LINE_BYTES long."""
    parts: list[bytes] = []
    size = 0
    async for chunk in stream.iter_any():
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            parts.append(line)
            yield b"".join(parts)
            parts, size = [], 0
        if rest:
            parts.append(rest)
            size += len(rest)
            if size > MAX_LINE_BYTES:
                raise ClusterError(0, "TooLarge", f"an event of a watch is larger than {MAX_LINE_BYTES} bytes")
