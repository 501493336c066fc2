"""Webhooks as the contract has them: arrays under keys, retries, refusals; no row is taken for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from harness import Job, Row, Running, strict_json, wait_until
from receiver import Receiver, receiving

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: webhook}}
spec:
  shards: 1
  schema:
    key: device
    time: {{field: at, unit: s}}
    fields: {{device: string, x: int64}}
  sources: [{{name: in, http: {{}}}}]
  sinks:
    - name: hook
      from: events
      delivery: {delivery}
      http: {{url: "{url}/hook", timeout: 5s, backoff: {{initial: 10ms, max: 50ms}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: {interval}}}
"""


@pytest.fixture
def receiver(seed: int) -> Iterator[Receiver]:
    with receiving(seed) as receiver:
        receiver.fails = False
        yield receiver


def given_a_job(make_job: Callable[..., Job], receiver: Receiver, delivery: str, interval: str = "200ms") -> Job:
    return make_job(JOB.format(url=receiver.url, delivery=delivery, interval=interval))


def when_sent(running: Running, x: int) -> None:
    assert running.post({"device": "a", "at": 1, "x": x}).status_code == 202


def values(rows: list[Row]) -> set[int]:
    return {row["x"] for row in rows}


def test_an_alert_is_never_taken_for_another_after_kills(make_job: Callable[..., Job], receiver: Receiver) -> None:
    """No commit comes between the kills, so that nothing durable tells the starts apart."""
    running = given_a_job(make_job, receiver, "at-least-once", interval="1h").run()
    hook = receiver.of("/hook")
    for x in range(6):
        if x in (2, 4):
            running.kill()
            running = running.job.run()
            running.await_processed(x)
        when_sent(running, x)
        wait_until(f"the alert {x}", lambda wanted=x: wanted in values(hook.rows))
    assert not hook.wrong


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_receiver_that_fails_gets_everything_in_the_end(
    make_job: Callable[..., Job], receiver: Receiver, delivery: str
) -> None:
    receiver.fails = True
    running = given_a_job(make_job, receiver, delivery).run()
    hook = receiver.of("/hook")
    receiver.answers["/hook"] = 503
    when_sent(running, 0)
    wait_until("a refusal", lambda: hook.refused)
    del receiver.answers["/hook"]
    for x in range(1, 100):
        when_sent(running, x)
    wait_until("all rows", lambda: len(hook.rows) >= 100)
    assert [row["x"] for row in hook.rows] == list(range(100))
    assert hook.refused > 0
    assert not hook.wrong


def test_what_a_receiver_refuses_for_good_goes_to_the_dead_letters(
    make_job: Callable[..., Job], receiver: Receiver
) -> None:
    job = given_a_job(make_job, receiver, "exactly-once")
    job.path.write_text(job.text.replace("/hook", "/gone"))
    receiver.answers["/gone"] = 410
    running = job.run()
    for x in range(3):
        when_sent(running, x)
    wait_until("the dead letters", lambda: len(job.rows("dead")) >= 3)
    letters = job.rows("dead")
    rows = [letter["row"] if isinstance(letter["row"], dict) else strict_json(letter["row"]) for letter in letters]
    assert sorted(row["x"] for row in rows) == [0, 1, 2]
    assert all("410" in letter["reason"] for letter in letters)
    assert running.stop().totals["applied"] == 3


def test_exactly_once_rows_arrive_soon_after_they_came(make_job: Callable[..., Job], receiver: Receiver) -> None:
    """A commit follows within 250 ms of new output, however long the checkpoint's interval is."""
    running = given_a_job(make_job, receiver, "exactly-once", interval="1h").run()
    when_sent(running, 1)
    hook = receiver.of("/hook")
    wait_until("the row", lambda: hook.rows)
    assert hook.rows[0] | {"_id": ""} == {"device": "a", "x": 1, "at": 1, "_id": ""}
