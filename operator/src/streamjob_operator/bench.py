"""Where long checks are done: beside the event loop, which renews the Lease and answers the probe meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

CHECKS_AT_ONCE = 1
"""Checks of one bench at once. Each may take tens of megabytes, and more of them would not be done any sooner."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Bench:
    """A thread for work that is a function of what it is given alone.

    What waits for its turn is given up with the task that waits. What has begun ends by itself, and nobody hears of it.
    """

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(CHECKS_AT_ONCE, thread_name_prefix=name)

    async def do(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The outcome of `work`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))
