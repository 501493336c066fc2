"""One watch: lists, then follows, lists again where it was cut off; says what changed and when it last heard anything.

Each list is compared with what was known, so that an object which went while nobody watched is noticed as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from streamjob_operator.cluster import Cluster, ClusterError, Object
from streamjob_operator.kinds import Kind

BACKOFF_INITIAL_S = 0.5
BACKOFF_MAX_S = 30.0
QUICK_S = 1.0
"""A watch that ends sooner, without a word, has served nothing: a proxy may end each at once."""
Key = tuple[str, str]
"""(namespace, name) of a job."""
Handler = Callable[[str, Object], None]
"""Called with LISTED, ADDED, MODIFIED or DELETED and the object; of a deleted one kind, place and version are sure."""

_log = structlog.get_logger("streamjob_operator.informer")


class Echoes:
    """Whether a watch still tells anything that does not say when it last heard anything: kopf's, of the StreamJobs.

    What the operator writes must come back by it. Times are seconds of one clock; a newer version of an object tells of
    the older ones as well, and 0 is none that can be compared.
    """

    def __init__(self) -> None:
        self._heard: dict[Key, int] = {}
        self._awaited: dict[Key, tuple[int, float]] = {}

    def wrote(self, key: Key, version: int, now: float) -> None:
        """Something was written, and this is the version that it has got."""
        if version > self._heard.get(key, 0):  # it may come back before its answer does
            self._awaited.setdefault(key, (version, now))

    def heard(self, key: Key, version: int) -> None:
        """The watch has told of a version."""
        self._heard[key] = max(version, self._heard.get(key, 0))
        if version >= self._awaited.get(key, (0, 0.0))[0]:
            self._awaited.pop(key, None)

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets all but these: of what is gone nothing may come any more."""
        known = set(keys)
        self._heard = {key: version for key, version in self._heard.items() if key in known}
        self._awaited = {key: awaited for key, awaited in self._awaited.items() if key in known}

    def longest(self, now: float) -> float:
        """Seconds since the oldest write that has not come back; 0 where there is none."""
        return max((now - since for _, since in list(self._awaited.values())), default=0.0)


@dataclass
class Informer:
    """A watch of one kind in one namespace (None: all).

    `known` gives the places (namespace, name) of all that whoever is told has of this watch: what of it a list has not
    is gone. `synced` is set when all was listed once, `answered` also when that was refused. `refused` says that the
    right is missing now, `refused_at` since when by the loop's clock; an `optional` watch then ends, others try on.
    """

    cluster: Cluster
    kind: Kind
    namespace: str | None
    handler: Handler
    known: Callable[[], Iterable[tuple[str, str]]]
    selector: str = ""
    metadata_only: bool = False
    optional: bool = False
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    refused: bool = False
    refused_at: float | None = None
    heard_at: float | None = None
    """The loop's clock when the API server last spoke; None before the watch has begun, which waits for others."""
    _version: str = ""
    _served: bool = False
    """Whether this watch has told of anything, or has lasted."""

    @property
    def name(self) -> str:
        """For logs and metrics."""
        return f"{self.kind.plural}{f' in {self.namespace}' if self.namespace else ''}"

    def is_dead(self, now: float, limit_s: float) -> bool:
        """Whether nothing was heard for too long, with all new tries; `now` is the loop's clock."""
        return self.heard_at is not None and now - self.heard_at > limit_s

    def heard(self) -> None:
        """Notes that the API server has spoken."""
        self.heard_at = asyncio.get_running_loop().time()

    async def run(
        self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, clock: Callable[[], float] | None = None
    ) -> None:
        """Watches until it is cancelled; `clock` gives seconds.

        A watch that has served goes on at once where it ends, as it does every few minutes. One that has not does so
        once, and waits after that, longer each time; so does a version that is too old, which brings another list.
        """
        clock = clock or asyncio.get_running_loop().time
        self.heard()
        wait, free = BACKOFF_INITIAL_S, True
        while True:
            cut = await self._once(clock)
            if cut is not None and self._is_refused(cut) and self.optional:
                return
            if self._served:
                wait, free = BACKOFF_INITIAL_S, True
            if cut is None and self._served:
                continue
            failed = cut is not None and cut.code != 410
            if free and not failed:
                free = False
                continue
            said, code = ("it ends at once", None) if cut is None else (str(cut), cut.code)
            _log.warning("watch interrupted", kind=self.name, error=said, code=code, wait_s=wait)
            await sleep(wait)
            wait = min(wait * 2, BACKOFF_MAX_S)

    async def _once(self, clock: Callable[[], float]) -> ClusterError | None:
        """Lists where that has to be, then follows to the end of the watch; gives what has cut it off."""
        self._served = False
        try:
            if not self._version:
                await self._list()
            await self._follow(clock)
        except ClusterError as error:
            if error.code != 0:
                self._version = ""
            return error
        return None

    def _is_refused(self, error: ClusterError) -> bool:
        """Notes that the right to watch is missing, or for an optional watch what is to be watched."""
        if error.code in (403, 404) and self.optional:
            _log.info("not watched: it is not served, or there is no right to see it", kind=self.name)
            self.synced.set()
        elif error.code != 403:
            return False
        elif not self.refused:
            self.refused_at = asyncio.get_running_loop().time()
        self.refused = True
        self.answered.set()
        return True

    async def _list(self) -> None:
        found: set[tuple[str, str]] = set()
        version = ""
        pages = self.cluster.pages(self.kind, self.namespace, self.selector, metadata_only=self.metadata_only)
        async for items, version in pages:  # noqa: B007 - the last one counts
            self.heard()
            for item in items:
                self._named(item)
                found.add(_place(item))
                self.handler("LISTED", item)
        for place in set(self.known()) - found:
            self.handler("DELETED", self._tombstone(place, version))
        self._version = version
        self.refused = False
        self.synced.set()
        self.answered.set()

    async def _follow(self, clock: Callable[[], float]) -> None:
        began = clock()
        events = self.cluster.watch(
            self.kind, self.namespace, self._version, self.selector, metadata_only=self.metadata_only
        )
        async for event in events:
            self.heard()
            self._served = True
            item = event["object"]
            self._version = item["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                continue
            self._named(item)
            self.handler(event["type"], item)
        self._served = self._served or clock() - began >= QUICK_S
        self.heard()

    def _named(self, item: Object) -> None:
        item["kind"], item["apiVersion"] = self.kind.kind, self.kind.api_version

    def _tombstone(self, place: tuple[str, str], version: str) -> Object:
        """What is not in a list has ended by its version; what was made since is newer."""
        metadata = {"namespace": place[0], "name": place[1], "resourceVersion": version}
        return {"kind": self.kind.kind, "metadata": metadata}


def _place(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
