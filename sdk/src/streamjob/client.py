"""A client for a running job: posts events, asks for statistics and windows."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx

Row = dict[str, Any]
_RETRIED = (429, 502, 503, 504)
_PAGE = 1000
_MAX_PORT = 65535


class ClientError(RuntimeError):
    """A request that failed for good; `status` is the HTTP status, or None where nothing answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of posted events: how many were accepted and rejected, and of at most 100 why
    (`{"row": 0, "field": …, "reason": …}`)."""

    accepted: int
    rejected: int
    errors: list[Row]


class Page(NamedTuple):
    """Rows, and where those go on that a limit has left out; None at the end."""

    rows: list[Row]
    next: str | None


class Client:
    """Talks to one job. Use it in a `with` block, or close it.

    `url` is where the job serves, `token` its bearer token if it asks for one, `timeout` what one request may take
    and `patience` how long to go on with a request that is answered with 429 or 503 or by nobody; both in seconds.
    Raises ClientError for a URL or a token that no request can have.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        token: str | None = None,
        timeout: float = 30.0,
        patience: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"Authorization": f"Bearer {_header_text('token', token)}"} if token else {}
        self._url = _base_url(url)
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=timeout, transport=transport)
        self._patience = patience
        self._sleep = sleep

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connections."""
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def ingest(self, rows: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None) -> IngestResult:
        """Posts `rows` as one request, which is taken as a whole.

        It is sent again after 429, 503 and lost connections. That repeats nothing: all attempts carry one
        `Idempotency-Key`, a random one unless given. Raises ClientError if it fails for good.
        """
        lines = [json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows]
        if not lines:
            return IngestResult(0, 0, [])
        headers = {
            "Content-Type": "application/x-ndjson",
            "Idempotency-Key": _header_text("idempotency key", idempotency_key or uuid.uuid4().hex),
        }
        response = self._send("POST", "/ingest", content="\n".join(lines).encode(), headers=headers)
        body = _json(response)
        if response.status_code not in (200, 202, 400) or not isinstance(body, dict) or "accepted" not in body:
            raise _refused(response)
        return IngestResult(body["accepted"], body["rejected"], body["errors"])

    def stats(self, key: str) -> Row | None:
        """The running statistics of `key`, or None if it never came."""
        return self._get(f"/v1/keys/{_path_part(key)}/stats", {})

    def windows(
        self,
        key: str,
        window: str | None = None,
        *,
        start: datetime | str | None = None,
        end: datetime | str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Closed windows of `key`, oldest first, that begin at or after `start` and before `end`; at most `limit`.

        `window` may be left out where the job has just one; else it is a ClientError. An unknown key has none.
        """
        return self.window_page(key, window, start=start, end=end, limit=limit).rows

    def window_page(
        self,
        key: str,
        window: str | None = None,
        *,
        start: datetime | str | None = None,
        end: datetime | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page:
        """As `windows`, from `cursor` on, the `next` of the page before; with where a `limit` has left off."""
        parameters = {"window": window, "from": _time(start), "to": _time(end)}
        return self._rows(f"/v1/keys/{_path_part(key)}/windows", parameters, limit, cursor)

    def latest(self, window: str | None = None, *, limit: int | None = None) -> list[Row]:
        """All rows of the newest window that has closed, one for each key that was in it; at most `limit`.

        `window` may be left out where the job has just one; else it is a ClientError. A key without events in that
        time has no row, whatever it had before.
        """
        return self._rows("/v1/windows/latest", {"window": window}, limit, None).rows

    def _rows(self, path: str, parameters: dict[str, Any], limit: int | None, cursor: str | None) -> Page:
        rows: list[Row] = []
        while limit is None or len(rows) < limit:
            size = _PAGE if limit is None else min(limit - len(rows), _PAGE)
            page = self._get(path, {**parameters, "limit": size, "cursor": cursor})
            if page is None:
                return Page(rows, None)
            rows += page["items"][:size]
            cursor = page.get("next")
            if cursor is None:
                break
        return Page(rows, cursor)

    def _get(self, path: str, parameters: dict[str, Any]) -> Row | None:
        given = {name: value for name, value in parameters.items() if value is not None}
        response = self._send("GET", path, params=given)
        if response.status_code == 404:
            return None
        body = _json(response)
        if response.status_code != 200 or not isinstance(body, dict):
            raise _refused(response)
        return body

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        wait = 0.1
        while True:
            try:
                response = self._http.request(method, path, **request)
                failure = None if response.status_code in _RETRIED else response
                if failure is not None:
                    return response
                pause = _retry_after(response) or wait
                error = _refused(response)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as cause:
                raise ClientError(f"{self._url} cannot be asked for that: {cause}") from cause
            except httpx.TransportError as cause:
                pause = wait
                error = ClientError(f"{self._url} does not answer: {cause}. Is the job running, is the URL right?")
                # Only a request that went out may have been cut off; where nobody listens waiting rarely helps.
                if isinstance(cause, httpx.ConnectError) and method == "GET":
                    raise error from cause
            if time.monotonic() + pause > deadline:
                raise error
            self._sleep(pause)
            wait = min(wait * 2, 5.0)


def _base_url(url: str) -> str:
    """`url` without a slash at its end. Raises ClientError where no job can serve there."""
    reason = None
    try:
        parsed = httpx.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host and (parsed.port or 0) <= _MAX_PORT:
            return url.rstrip("/")
    except (httpx.InvalidURL, UnicodeError) as error:
        reason = error
    example = f"http://{url}" if url and "/" not in url else "for example http://127.0.0.1:8080"
    raise ClientError(f'"{url}" is no URL of a job{f" ({reason})" if reason else ""}: write {example}') from reason


def _header_text(what: str, text: str) -> str:
    """`text`, which a header will hold. Raises ClientError where none can."""
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ClientError(f"the {what} has a character that no header can hold: use letters, digits and signs of ASCII")
    return text


def _path_part(key: str) -> str:
    """`key` as one part of a path. Dots alone would lead to the part itself and to the one above it."""
    if key in (".", ".."):
        return "%2E" * len(key)
    try:
        return quote(key, safe="")
    except UnicodeEncodeError as error:
        raise ClientError(f"the key {key!r} is not UTF-8 text") from error


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _refused(response: httpx.Response) -> ClientError:
    status = response.status_code
    fixes = {401: "give the job's bearer token", 413: "post fewer rows", 422: "use a new key for another body"}
    said = response.text.strip()[:300]
    fix = f" ({fixes[status]})" if status in fixes else ""
    return ClientError(f"{response.request.method} {response.request.url} answered {status}{fix}: {said}", status)


def _time(value: datetime | str | None) -> str | None:
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
