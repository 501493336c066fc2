"""List and watch against an API server that is told what to answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

from streamjob_operator import names
from streamjob_operator.cluster import ClusterError
from streamjob_operator.index import Index, version
from streamjob_operator.informer import BACKOFF_INITIAL_S, BACKOFF_MAX_S, QUICK_S, Echoes, Informer
from streamjob_operator.kinds import SERVICE

Step = list[Any] | ClusterError


def item(name: str, version: int) -> dict[str, Any]:
    labels = {names.JOB_LABEL: "telemetry"}
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version), "labels": labels}}


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": item(name, version)}


class Script:
    """Answers lists and watches in order; the last watch never ends."""

    def __init__(self, lists: list[Step], watches: list[Step]) -> None:
        self.lists, self.watches = lists, watches
        self.since: list[str] = []
        self.exhausted = asyncio.Event()

    async def pages(self, *_: Any, **__: Any) -> AsyncIterator[tuple[list[Any], str]]:
        step = self.lists.pop(0)
        if isinstance(step, ClusterError):
            raise step
        for number, page in enumerate(step):
            yield page, str(100 + number)

    async def watch(self, _kind: Any, _namespace: Any, version: str, *_: Any, **__: Any) -> AsyncIterator[Any]:
        self.since.append(version)
        if not self.watches:
            self.exhausted.set()
            await asyncio.Event().wait()
        step = self.watches.pop(0)
        if isinstance(step, ClusterError):
            raise step
        for told in step:
            yield told


def course(
    lists: list[Step], watches: list[Step], lasts_s: float = 0.0
) -> tuple[list[tuple[str, str]], Script, list[float], Informer]:
    """Runs an informer to the end of its script; gives what it told, and its waits."""
    told: list[tuple[str, str]] = []
    waits: list[float] = []

    async def run() -> tuple[Script, Informer]:
        script = Script(lists, watches)
        index = Index()

        def tell(kind: str, thing: dict[str, Any]) -> None:
            told.append((kind, thing["metadata"]["name"]))
            if kind == "DELETED":
                index.remove("Service", "shop", thing["metadata"]["name"], version(thing))
            else:
                index.put(thing)

        informer = Informer(script, SERVICE, "shop", tell, lambda: index.places("Service", "shop"))  # type: ignore[arg-type]

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        now = itertools.count(0.0, lasts_s)  # a watch looks at it where it begins and where it ends
        task = asyncio.create_task(informer.run(sleep, lambda: next(now)))
        ended = asyncio.create_task(script.exhausted.wait())
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        ended.cancel()
        return script, informer

    script, informer = asyncio.run(run())
    return told, script, waits, informer


GONE = ClusterError(410, "Expired", "too old")
CUT = ClusterError(0, "Disconnected", "cut")


def test_what_went_while_nobody_watched_is_told_when_it_is_listed_again() -> None:
    lists: list[Step] = [[[item("a", 1), item("b", 2)]], [[item("b", 2), item("c", 3)]]]
    told, _, waits, _ = course(lists, [GONE])
    assert told == [("LISTED", "a"), ("LISTED", "b"), ("LISTED", "b"), ("LISTED", "c"), ("DELETED", "a")]
    assert waits == [], "a list is asked for at once"


def test_all_pages_count_and_the_watch_begins_at_the_lists_version() -> None:
    told, script, _, informer = course([[[item("a", 1)], [item("b", 2)]]], [])
    assert told == [("LISTED", "a"), ("LISTED", "b")]
    assert script.since == ["101"]
    assert informer.synced.is_set()


def test_a_cut_watch_goes_on_where_it_was() -> None:
    events = [event("MODIFIED", "a", 7), event("BOOKMARK", "", 9)]
    told, script, waits, _ = course([[[item("a", 1)]]], [events, CUT, [event("DELETED", "a", 12)]])
    assert script.since == ["100", "9", "9", "12"]
    assert told == [("LISTED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert waits == [BACKOFF_INITIAL_S]


def test_waits_grow_to_a_bound() -> None:
    _, _, waits, _ = course([*([CUT] * 10), [[]]], [])
    assert waits[0] == BACKOFF_INITIAL_S
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MAX_S


def test_watches_that_end_at_once_without_a_word_wait_longer_each_time() -> None:
    nothing: list[Step] = [[] for _ in range(9)]
    _, script, waits, _ = course([[[]]], nothing)
    assert len(script.since) == 10
    assert len(waits) == 8, "the first goes on at once"
    assert waits[:3] == [BACKOFF_INITIAL_S, 2 * BACKOFF_INITIAL_S, 4 * BACKOFF_INITIAL_S]
    assert waits[-1] == BACKOFF_MAX_S
    assert course([[[]]], list(nothing), lasts_s=QUICK_S)[2] == [], "each has lasted"
    told: list[Step] = [[event("BOOKMARK", "", number)] for number in range(5)]
    assert course([[[]]], told)[2] == [], "each has told of something"
    assert course([[[]]], [[], [], [event("BOOKMARK", "", 1)], [], []])[2] == [BACKOFF_INITIAL_S] * 2, "from the start"


def test_versions_that_are_always_too_old_are_no_tight_loop() -> None:
    lists: list[Step] = [[[item("a", 1)]] for _ in range(5)]
    assert course(lists, [GONE] * 4)[2] == [BACKOFF_INITIAL_S * 2**number for number in range(3)]
    pages: list[Step] = [GONE, GONE, GONE, [[]]]
    assert course(pages, [])[2] == [BACKOFF_INITIAL_S, 2 * BACKOFF_INITIAL_S], "a list whose pages expire"


def test_without_the_right_an_optional_watch_ends_and_holds_up_nobody() -> None:
    async def run() -> Informer:
        script = Script([ClusterError(403, "Forbidden", "no")], [])
        informer = Informer(script, SERVICE, None, lambda *_: None, list, optional=True)  # type: ignore[arg-type]
        await informer.run()
        return informer

    informer = asyncio.run(run())
    assert informer.refused
    assert informer.synced.is_set()


def test_a_watch_that_is_refused_says_so_at_once_and_goes_on_when_it_may() -> None:
    async def run() -> None:
        denied = ClusterError(403, "Forbidden", "no")
        script = Script([denied, denied, [[item("a", 1)]]], [])
        informer = Informer(script, SERVICE, "shop", lambda *_: None, list)  # type: ignore[arg-type]
        assert not informer.is_dead(1e9, 1), "one that waits for its turn is not dead"
        granted = asyncio.Event()
        since: list[float | None] = []

        async def sleep(_seconds: float) -> None:
            since.append(informer.refused_at)
            if len(since) == 2:
                await granted.wait()

        task = asyncio.create_task(informer.run(sleep))
        await informer.answered.wait()
        assert informer.refused
        assert not informer.synced.is_set()
        granted.set()
        await informer.synced.wait()
        assert not informer.refused
        assert since[0] is not None
        assert since == [since[0]] * 2, "since the first refusal"
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_is_written_comes_back_or_is_missed() -> None:
    echoes = Echoes()
    one, other = ("shop", "one"), ("shop", "other")
    echoes.heard(one, 5)
    echoes.wrote(one, 5, 10.0)  # nothing changed
    assert echoes.longest(100.0) == 0.0
    echoes.wrote(one, 7, 10.0)
    echoes.wrote(one, 9, 20.0)
    echoes.wrote(other, 8, 30.0)
    assert echoes.longest(100.0) == 90.0
    echoes.heard(one, 6)
    assert echoes.longest(100.0) == 90.0, "an older version is no answer"
    echoes.heard(one, 9)
    assert echoes.longest(100.0) == 70.0
    echoes.heard(other, 20)
    echoes.wrote(other, 19, 40.0)
    assert echoes.longest(100.0) == 0.0, "it came back before its answer did"
    echoes.wrote(other, 0, 40.0)
    assert echoes.longest(100.0) == 0.0, "a version that cannot be compared"
    echoes.wrote(one, 30, 50.0)
    echoes.keep([other])
    assert echoes.longest(100.0) == 0.0, "of a job that is gone nothing comes"
    assert set(echoes._heard) == {other}
