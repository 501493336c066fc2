"""The election: at most one leader at any time, whatever is late, and a clean hand-over is at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamjob_operator.leader import Leader
from streamjob_operator.lease import DURATION_S, RENEW_DEADLINE_S, RETRY_S, Election, Write

WALL = datetime(2030, 1, 1, tzinfo=UTC)


class Store:
    """A Lease with compare-and-swap."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0

    def put(self, write: Write) -> bool:
        current = None if self.lease is None else self.lease["metadata"]["resourceVersion"]
        if write.version != current:
            return False
        self.version += 1
        # Renewals within one microsecond of the wall clock cannot happen: make each differ.
        spec = {**write.spec, "renewTime": f"{write.spec['renewTime']}-{self.version}"}
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}
        return True


def step(store: Store, election: Election, now: float) -> None:
    write = election.look(store.lease, now, WALL)
    if write is not None and store.put(write):
        election.written(now)
    election.tick(now)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["step", "read", "write", "silent"]), st.floats(0.1, 6)),
        max_size=80,
    )
)
def test_two_never_lead_at_once(course: list[tuple[str, str, float]]) -> None:
    """Each candidate looks when it can; reads and writes come late and in any order."""
    store = Store()
    candidates = {name: Election(name) for name in "ab"}
    pending: dict[str, tuple[Write, float]] = {}
    now = 0.0
    for name, what, passed in course:
        now += passed
        candidate = candidates[name]
        if what == "step":
            step(store, candidate, now)
        elif what == "read":
            write = candidate.look(store.lease, now, WALL)
            if write is not None:
                pending[name] = (write, now)
        elif what == "write" and name in pending:
            write, started = pending.pop(name)
            if store.put(write):
                candidate.written(started)
        for other in candidates.values():
            other.tick(now)  # a leader asks its own clock before each thing that it does
        assert sum(other.state == "leading" for other in candidates.values()) <= 1


def test_the_first_leads_and_the_second_waits_for_the_lease_to_run_out() -> None:
    store, first, second = Store(), Election("a"), Election("b")
    step(store, first, 0)
    assert first.state == "leading"
    step(store, second, 1)
    assert second.state == "waiting"
    step(store, second, 1 + DURATION_S - 0.1)
    assert second.state == "waiting"
    step(store, second, 1 + DURATION_S)
    assert second.state == "leading"
    assert store.lease is not None
    assert store.lease["spec"]["leaseTransitions"] == 1


def test_a_leader_that_cannot_renew_stops_before_another_begins() -> None:
    assert RENEW_DEADLINE_S + RETRY_S < DURATION_S
    store, first = Store(), Election("a")
    step(store, first, 0)
    first.tick(RENEW_DEADLINE_S - 0.1)
    assert first.state == "leading"
    first.tick(RENEW_DEADLINE_S)
    assert first.state == "lost"
    step(store, first, RENEW_DEADLINE_S + 1)
    assert first.state == "lost", "a new process begins anew"
    assert first.look(store.lease, RENEW_DEADLINE_S + 2, WALL) is None, "and keeps nobody else away"


def test_a_released_lease_is_taken_at_once() -> None:
    store, first, second = Store(), Election("a"), Election("b")
    step(store, first, 0)
    step(store, second, 0.5)
    released = first.release(store.lease, WALL)
    assert released is not None
    assert store.put(released)
    step(store, second, 1)
    assert second.state == "leading"
    assert first.release(store.lease, WALL) is None


def test_renewing_keeps_the_time_of_acquisition() -> None:
    store, first = Store(), Election("a")
    step(store, first, 0)
    assert store.lease is not None
    acquired = store.lease["spec"]["acquireTime"]
    step(store, first, RETRY_S)
    assert store.lease["spec"]["acquireTime"] == acquired
    assert store.lease["spec"]["leaseTransitions"] == 0


def test_a_leader_waits_for_nothing_beyond_the_time_by_which_it_must_have_renewed() -> None:
    store, first = Store(), Election("a")
    assert first.within(0, 4) == 4
    step(store, first, 0)
    assert first.within(1, 4) == 4
    assert first.within(RENEW_DEADLINE_S - 1.5, 4) == 1.5
    assert first.within(RENEW_DEADLINE_S + 20, 4) == 0


class Silent:
    """An API server that has the Lease of another by the time that it answers again."""

    def __init__(self) -> None:
        self.asked = 0

    async def get(self, *_: Any) -> dict[str, Any]:
        self.asked += 1
        spec = {"holderIdentity": "other", "renewTime": "now", "leaseDurationSeconds": 15}
        return {"metadata": {"resourceVersion": "7"}, "spec": spec}


def test_who_has_lost_ends_at_once() -> None:
    async def course() -> None:
        cluster = Silent()
        leader = Leader(cluster, "ops", "lease", "a")  # type: ignore[arg-type]
        leader._election.written(asyncio.get_running_loop().time())
        before = asyncio.get_running_loop().time()
        await asyncio.wait_for(leader.run(), 20)
        assert leader.lost.is_set()
        assert cluster.asked == 1
        assert asyncio.get_running_loop().time() - before < RETRY_S, "it did not sleep after that"

    asyncio.run(course())


def test_who_has_not_renewed_in_time_does_not_lead_though_nobody_has_told_it_yet() -> None:
    store, election = Store(), Election("a")
    assert not election.holds(0.0)
    step(store, election, 0.0)
    assert election.holds(RENEW_DEADLINE_S - 0.001)
    assert not election.holds(RENEW_DEADLINE_S), "no tick came in between"
    election.tick(RENEW_DEADLINE_S)
    assert not election.holds(0.0)
