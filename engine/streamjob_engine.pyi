"""StreamJob's engine: runs normalised jobs. Use it through the package `streamjob`."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal, final

__version__: str

class EngineError(Exception):
    """What went wrong, where, and what to do about it."""

    actor: Literal["user", "outside", "engine"]
    """Who can do something about it."""
    retryable: bool
    """Whether the same call may succeed later."""

def run(
    job_json: str,
    *,
    state_dir: str | PathLike[str],
    listen: str | None,
    exit_at_end: bool,
    for_us: int | None,
    on_ready: Callable[[str], None] | None,
    on_progress: Callable[[str], None] | None,
    progress_interval_us: int,
    control_token: str | None = None,
    control_token_file: str | PathLike[str] | None = None,
) -> str:
    """Runs a normalised job until SIGINT, SIGTERM, `for_us` or the end of its sources; gives the totals as JSON.

    The interpreter is free meanwhile. `on_ready` gets the base URL once and `on_progress` a JSON object every
    `progress_interval_us`, on threads of the engine; what they raise is logged and changes nothing. Without a
    `control_token` nobody controls the run; its file is read again where a request brings another. Raises EngineError.
    """

def try_connections(job_json: str) -> str:
    """Tries the connections of a normalised job, with its secrets, and writes nothing. Gives a JSON array: `place`,
    `said`, `works`, `actor`, `retryable` of each. Raises EngineError."""

@final
class Session:
    """A normalised job on an in-memory state and a clock that only `set_now` moves. One call at a time."""

    def __new__(cls, job_json: str, now_us: int) -> Session: ...
    def process(self, body: bytes) -> str:
        """Takes rows in as one request: a JSON object, an array of objects, or lines of JSON. Gives what that produced,
        as JSON; an empty array gives what a move of the clock released. Raises EngineError."""

    def finish(self) -> str:
        """The end of all input: every open window closes. Gives what that produced, as JSON."""

    def stats(self, key: str) -> str | None:
        """The running statistics of a key as JSON, or None if it never came."""

    def set_now(self, now_us: int) -> None:
        """Moves the clock (microseconds since 1970)."""

def _probe(
    udfs: str,
    columns: list[tuple[str, list[Any]]],
    *,
    offset: int = 0,
    repeat: int = 1,
    threads: int = 1,
    isolated: bool = False,
) -> dict[str, Any]:
    """For the engine's own tests: calls the first of `udfs` as a worker does."""

def _serve_udfs(requests: int, answers: int) -> None:
    """For `streamjob.udf_process`: calls functions as the engine says by one file and answers by the other."""
