"""What brokers and their clients do wrong, and what of it a job notices."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Job, Running, free_port, wait_until
from kafka_broker import Broker, encoded, flush, produce
from kafka_jobs import Events, job_text, topics
from sink_jobs import then_each_window_is_there_once

pytestmark = pytest.mark.servers


@pytest.mark.kills
def test_a_broker_is_killed_paused_and_restarted(
    make_broker: Callable[..., Broker], make_job: Callable[..., Job], seed: int
) -> None:
    broker = make_broker().start()
    topic, out = topics(broker, "broker-kills")
    events = Events(random.Random(seed + 13))
    # Shorter than the pause: the broker gives the open transaction up, and nobody else is the reason.
    job = make_job(job_text(broker, topic, out, sink="transactionTimeout: 2s"))
    running = job.run()
    for how in ("kill", "pause", "stop"):
        events.send(broker, topic, 3000)
        running.await_processed(1000)
        if how == "pause":
            broker.pause()
            wait_until("that the source is seen to be away", lambda: not connected(running), within_s=60)
            broker.resume()
        else:
            broker.kill() if how == "kill" else broker.stop()
            wait_until("that the source is seen to be away", lambda: not connected(running), within_s=60)
            broker.start()
        wait_until("that it is there again", lambda: connected(running), within_s=60)
    events.send(broker, topic, 3000)
    running.await_processed(len(events.all), within_s=60)
    assert running.metrics().sum("streamjob_connection_errors_total") > 0
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


@pytest.mark.kills
def test_the_coordinator_of_the_transactions_moves_and_dies(
    make_broker: Callable[..., Broker], make_job: Callable[..., Job], seed: int
) -> None:
    broker = make_broker().start()
    topic, out = topics(broker, "moved")
    second = make_broker(joins=broker).start()
    events = Events(random.Random(seed + 16))
    job = make_job(job_text(broker, topic, out))
    running = job.run()
    events.send(broker, topic, 2000)
    # The first transaction makes the coordinator's own topic.
    wait_until("a first result", lambda: broker.rows(out), within_s=60)
    for node in (2, 1, 2):
        events.send(broker, topic, 2000)
        broker.reassign("__transaction_state", node)
        events.send(broker, topic, 2000)
        running.await_processed(len(events.all), within_s=60)
    second.kill()
    events.send(broker, topic, 2000)
    running.await_processed(len(events.all), within_s=60)
    second.start()
    events.send(broker, topic, 2000)
    running.await_processed(len(events.all), within_s=60)
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


def test_a_group_whose_coordinator_is_away_holds_up_nobody(
    make_broker: Callable[..., Broker], make_job: Callable[..., Job], seed: int
) -> None:
    broker = make_broker().start()
    topic, out = topics(broker, "no-group", partitions=1)
    second = make_broker(joins=broker).start()
    events = Events(random.Random(seed + 22), partitions=1)
    job = make_job(job_text(broker, topic, out, source="refresh: 1s", delivery="at-least-once"))
    running = job.run()
    events.send(broker, topic, 500)
    group = f"streamjob-{topic}-in"
    wait_until("offsets of the group", lambda: broker.group_offsets(group, topic, range(1)) == broker.ends(topic))
    broker.reassign("__consumer_offsets", 2)
    second.pause()
    events.send(broker, topic, 500)
    running.await_processed(len(events.all))
    broker.add_partitions(topic, 2, on=1)
    more = [{"device": "late", "at": 0, "x": 1}] * 10
    broker.send(topic, more, 1)
    running.await_processed(len(events.all) + len(more), within_s=90)
    running.stop()
    second.resume()
    wait_until("that it leads the group again", lambda: broker.leader("__consumer_offsets") == 2, within_s=60)
    broker.group_offsets(group, topic, range(1))
    events.send(broker, topic, 500)
    job.run_to_end()
    assert broker.group_offsets(group, topic, range(2)) == broker.ends(topic)


def connected(running: Running) -> bool:
    """Whether the source's broker answers."""
    return running.metrics().sum("streamjob_connected", kind="source", connector="in") == 1


def test_a_start_without_a_broker_waits_for_it(
    make_broker: Callable[..., Broker], make_job: Callable[..., Job], seed: int
) -> None:
    broker = make_broker().start()
    topic, out = topics(broker, "late-broker")
    broker.stop()
    job = make_job(job_text(broker, topic, out))
    running = job.run()
    assert running.get("/healthz").status_code == 200
    broker.start()
    events = Events(random.Random(seed + 14))
    events.send(broker, topic, 1000)
    running.await_processed(len(events.all), within_s=60)
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


def test_a_sink_that_does_not_know_its_partitions_holds_up_no_stop(make_job: Callable[..., Job]) -> None:
    job = make_job(
        f"""
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: nobody-there}}
spec:
  schema: {{key: device, time: {{field: at, unit: us}}, fields: {{device: string, place: int64}}}}
  sources: [{{name: in, file: {{path: events.ndjson, format: ndjson}}}}]
  sinks:
    - name: out
      from: events
      delivery: at-least-once
      kafka: {{bootstrapServers: "127.0.0.1:{free_port()}", topic: out, partition: place}}
"""
    )
    rows = 200
    job.write("events.ndjson", "".join(f'{{"device":"a","at":{n},"place":{n % 3}}}\n' for n in range(rows)))
    running = job.run()
    running.await_processed(rows)
    # One question in vain takes 5 s.
    log = running.stop(within_s=30).stderr
    assert "sinks did not end" not in log


def test_a_reader_that_gives_nothing_more_is_replaced(
    broker: Broker, make_job: Callable[..., Job], crash_engine: Path, seed: int
) -> None:
    topic, out = topics(broker, "stalls")
    job = make_job(job_text(broker, topic, out), engine=crash_engine)
    running = job.run(STREAMJOB_FAULT_AT="topic-reader-stalls")
    events = Events(random.Random(seed + 21))
    events.send(broker, topic, 1000)
    running.await_processed(len(events.all), within_s=60)
    assert "its client is replaced" in running.stderr
    assert running.stderr.count("its client is replaced") == 1
    assert running.metrics().sum("streamjob_connected", kind="source") == 1
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


def damage(segment: Path, batch: int) -> None:
    """Makes the compressed messages of a batch unreadable, as a bad disk would."""
    header_bytes, length_at = 61, slice(8, 12)
    data = bytearray(segment.read_bytes())
    at = 0
    for _ in range(batch):
        at += length_at.stop + int.from_bytes(data[at:][length_at])
    for place in range(at + header_bytes + 12, at + header_bytes + 30):
        data[place] ^= 0xFF
    segment.write_bytes(data)


def test_messages_that_a_disk_has_damaged_are_not_passed_over_and_others_go_on(
    make_broker: Callable[..., Broker], make_job: Callable[..., Job]
) -> None:
    broker = make_broker().start()
    topic, out = topics(broker, "damaged", partitions=2)
    rows = [{"device": "a", "at": 1, "x": number} for number in range(20)]
    for _ in range(3):
        producer = broker.producer(compression_type="lz4", linger_ms=60_000)
        for row in rows:
            produce(producer, topic, encoded(row), 0)
        flush(producer)
    broker.stop()
    assert (broker.folder / "data" / ".kafka_cleanshutdown").exists(), "it would mend its log when it starts"
    damage(broker.folder / "data" / f"{topic}-0" / f"{0:020}.log", batch=1)
    broker.start()
    running = make_job(job_text(broker, topic, out)).run()
    wait_until("the damage", lambda: "message at 20 of" in running.stderr, within_s=60)
    broker.send(topic, rows, 1)
    running.await_processed(40)
    assert running.metrics().ledger()["applied"] == 40
    log = running.stop().stderr
    assert "reading a partition failed and is tried again: Decompression" in log
