"""The work queue: every key that was asked for is looked at, none by two workers at once, and waits grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamjob_operator.workqueue import BACKOFF_INITIAL_S, BACKOFF_MAX_S, URGENT_IN_A_ROW, WorkQueue

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.booleans()),
        st.tuples(st.just("later"), st.sampled_from("abc"), st.integers(0, 9)),
        st.tuples(st.just("take")),
        st.tuples(st.just("done"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("time"), st.integers(1, 9)),
    ),
    max_size=60,
)


@given(STEPS)
def test_what_was_asked_for_is_looked_at_after_it_was_asked(steps: list[tuple[object, ...]]) -> None:
    queue: WorkQueue[str] = WorkQueue()
    now = 0.0
    working: list[str] = []
    asked: dict[str, float] = {}
    looked: dict[str, float] = {}
    for step in steps:
        if step[0] == "add":
            queue.add(str(step[1]), now, urgent=bool(step[2]))
            asked[str(step[1])] = now
        elif step[0] == "later":
            queue.add_at(str(step[1]), now + float(str(step[2])))
            asked[str(step[1])] = max(asked.get(str(step[1]), 0.0), now)
        elif step[0] == "time":
            now += float(str(step[1]))
        elif step[0] == "take":
            taken = queue.take(now)
            if taken is not None:
                assert taken[0] not in working, "two workers never look at one job"
                working.append(taken[0])
                looked[taken[0]] = now
        elif working:
            queue.done(working.pop(int(str(step[1])) % len(working)), now, failed=bool(step[2]))
    for key in working:
        queue.done(key, now)
    while True:
        now = max(now, queue.next_time() or now)
        taken = queue.take(now)
        if taken is None:
            break
        looked[taken[0]] = now
        queue.done(taken[0], now)
    for key, time in asked.items():
        assert looked.get(key, -1.0) >= time
    assert len(queue) == 0


def test_what_is_urgent_comes_first_and_holds_up_nobody_for_ever() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for number in range(3):
        queue.add(f"plain {number}", 0)
    queue.add("edited", 1)
    queue.add("edited", 2, urgent=True)  # it waits already, and need not any more
    for number in range(8):
        queue.add(f"urgent {number}", 3, urgent=True)
    order = []
    while (taken := queue.take(5)) is not None:
        order.append(taken[0])
        queue.done(taken[0], 5)
    assert order[0] == "edited"
    assert order[URGENT_IN_A_ROW] == "plain 0"
    assert [name for name in order if name.startswith("urgent")] == [f"urgent {number}" for number in range(8)]
    assert sorted(order) == sorted({*order})


def test_what_gets_urgent_while_it_is_looked_at_stays_so() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", 0)
    assert queue.take(0) == ("a", 0)
    queue.add("b", 0)
    queue.add("a", 1, urgent=True)
    queue.add("a", 1)
    queue.done("a", 1)
    assert queue.take(2) == ("a", 1)


def test_a_key_waits_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.add("a", 0)
    assert queue.add("a", 1)
    assert queue.take(3) == ("a", 3)
    assert queue.take(3) is None


def test_full_is_told_and_counted() -> None:
    queue: WorkQueue[str] = WorkQueue(limit=1)
    assert queue.add("a", 0)
    assert not queue.add("b", 0)
    assert queue.refused == 1


def test_failures_wait_longer_each_time_up_to_a_bound_and_a_success_forgets_them() -> None:
    queue: WorkQueue[str] = WorkQueue()
    waits, now = [], 0.0
    queue.add("a", now)
    for _ in range(16):
        assert queue.take(now) is not None
        queue.done("a", now, failed=True)
        due = queue.next_time()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits[0] == BACKOFF_INITIAL_S
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MAX_S
    assert queue.take(now) is not None
    queue.done("a", now)
    queue.add("a", now)
    assert queue.take(now) is not None
    queue.done("a", now, failed=True)
    assert queue.next_time() == now + BACKOFF_INITIAL_S


def test_what_came_during_a_look_that_fails_is_looked_at_at_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", 0)
    for _ in range(8):
        assert queue.take(0) is not None
        queue.add("a", 0)
        queue.done("a", 0, failed=True)
    assert queue.take(0) == ("a", 0)
    queue.done("a", 0, failed=True)
    due = queue.next_time()
    assert due is not None
    assert due > BACKOFF_INITIAL_S, "the failures are counted on"


def test_the_earliest_time_counts_and_forgetting_ends_it() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_at("a", 10)
    queue.add_at("a", 5)
    queue.add_at("a", 7)
    assert queue.next_time() == 5
    assert queue.take(5) is not None
    queue.done("a", 5)
    assert queue.take(20) is None
    queue.add_at("a", 30)
    queue.forget("a")
    assert queue.next_time() is None
