"""Topics in and out, exactly once, against a real broker."""

from __future__ import annotations

import json
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import certificates
import kills
import pytest
from confluent_kafka import TopicPartition
from harness import KILLED, Job, Row, run_command, wait_until
from kafka_broker import Broker
from kafka_jobs import Events, job_text, topics
from sink_jobs import then_each_window_is_there_once

pytestmark = pytest.mark.servers

DELIVERIES = ["exactly-once", "at-least-once"]


def test_a_topic_through_windows_into_a_topic(broker: Broker, make_job: Callable[..., Job], seed: int) -> None:
    topic, out = topics(broker, "plain")
    events = Events(random.Random(seed))
    events.send(broker, topic, 5000)
    job = make_job(job_text(broker, topic, out, sink="headers: {origin: test}"))
    totals = job.run_to_end().totals
    assert totals["applied"] == totals["received"] == len(events.all)
    then_each_window_is_there_once(events, broker.rows(out))
    messages = broker.messages(out)
    assert {message.headers()[0] for message in messages} == {("origin", b"test")}
    # A key is in the partition where any Java client would put it, so that each is in one.
    places = {(message.key(), message.partition()) for message in messages}
    assert len(places) == len({key for key, _ in places})
    assert all(key for key, _ in places)
    group = broker.group_offsets(f"streamjob-{topic}-in", topic, range(3))
    assert group == broker.ends(topic), "tools see where the job stopped"


@pytest.mark.kills
def test_topics_survive_kills_at_random_moments(
    broker: Broker, make_job: Callable[..., Job], report: kills.Report, seed: int
) -> None:
    rng = random.Random(seed + 11)
    topic, out = topics(broker, "random-kills")
    events = Events(rng)
    job = make_job(job_text(broker, topic, out))
    for kill in kills.at_random(kills.share(0.2), rng, 0.0, 1.5):
        running = job.run()
        events.send(broker, topic, 2000)
        if running.lives_for(kill.after_s):
            running.kill()
            report.killed(kill)
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


@pytest.mark.kills
def test_topics_survive_kills_at_every_step(
    broker: Broker, make_job: Callable[..., Job], report: kills.Report, seed: int, crash_engine: Path
) -> None:
    rng = random.Random(seed + 12)
    topic, out = topics(broker, "named-kills")
    events = Events(rng)
    job = make_job(job_text(broker, topic, out), engine=crash_engine)
    # Commits of this job are small: those of large ones are for the test with more state.
    steps = [step for step in kills.crash_points() if step.startswith(("kafka-", "commit-"))]
    steps = [step for step in steps if "ingest" not in step and "-file" not in step]
    assert {"kafka-before-progress", "kafka-before-commit", "kafka-after-commit"} <= set(steps)
    for kill in kills.named(steps, (1, rng.randrange(2, 8))):
        running = job.start(crash_at=kill.at)
        for _ in range(200):
            if running.process.poll() is not None:
                break
            events.send(broker, topic, 200)
        assert running.await_exit().code == KILLED, f"the step {kill} was not passed"
        report.killed(kill)
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


def test_new_partitions_are_found_and_read_from_their_beginning(
    broker: Broker, make_job: Callable[..., Job], seed: int
) -> None:
    topic, out = topics(broker, "grows", partitions=1)
    events = Events(random.Random(seed + 15), partitions=1)
    job = make_job(job_text(broker, topic, out, source="refresh: 1s, startFrom: latest"))
    running = job.run()
    first = wait_until("a reader at the end", lambda: running.metrics().sum("streamjob_connected", kind="source"))
    assert first
    events.send(broker, topic, 500)
    running.await_processed(len(events.all))
    broker.add_partitions(topic, 3)
    wait_until("that they are found", lambda: "the topic has more partitions" in running.stderr)
    events._partitions = 3
    events.send(broker, topic, 3000)
    running.await_processed(len(events.all), within_s=60)
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


def test_a_topic_made_anew_is_another_log(broker: Broker, make_job: Callable[..., Job], seed: int) -> None:
    topic, out = topics(broker, "anew", partitions=1)
    events = Events(random.Random(seed + 16), partitions=1)
    job = make_job(job_text(broker, topic, out, source="refresh: 1h"))
    events.send(broker, topic, 1000)
    running = job.run()
    running.await_processed(len(events.all))
    broker.delete(topic)
    broker.create(topic, 1)
    # More than the old one had: no offset tells that it is another.
    events.send(broker, topic, 4000)
    running.await_processed(len(events.all), within_s=90)
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


def test_a_client_that_hangs_does_not_keep_the_state_from_being_opened_anew(
    broker: Broker, make_job: Callable[..., Job], seed: int
) -> None:
    topic, out = topics(broker, "hangs", partitions=1)
    events = Events(random.Random(seed + 24), partitions=1)
    text = job_text(broker, topic, out, source="refresh: 1h", delivery="at-least-once")
    job = make_job(text.replace("  sources:\n", "  sources:\n    - {name: web, http: {}}\n", 1))
    events.send(broker, topic, 100)
    running = job.run()
    running.await_processed(len(events.all))
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(b"POST /ingest HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
        broker.delete(topic)
        broker.create(topic, 1)
        events.send(broker, topic, 400)
        running.await_processed(len(events.all), within_s=60)
        client.settimeout(30)
        assert client.recv(1) == b""
    running.stop()


def test_transactions_and_compaction_leave_holes_and_nothing_is_missed(
    broker: Broker, make_job: Callable[..., Job], seed: int
) -> None:
    compact = {"cleanup_policy": "compact", "segment_ms": "100", "min_cleanable_dirty_ratio": "0.01"}
    topic, out = topics(broker, "holes", partitions=1, **compact)
    events = Events(random.Random(seed + 17), partitions=1)
    producer = broker.producer(transactional_id="holes", compression_type="none")
    producer.init_transactions()
    for number in range(30):
        producer.begin_transaction()
        rows = events.more(20) if number % 3 else [(0, {"device": "never", "at": 0, "x": 1})]
        for _, row in rows:
            producer.produce(topic, str(row).replace("'", '"'), key=f"{row['device']}-{row['at']}-{number}")
        # The same key again and again: compaction leaves the last.
        producer.produce(topic, None, key="same")
        producer.commit_transaction() if number % 3 else producer.abort_transaction()

    def compacted() -> bool:
        # Only what is written behind a segment ends it, and the last one is never compacted.
        producer.begin_transaction()
        producer.produce(topic, None, key="same")
        producer.commit_transaction()
        return len(broker.messages(topic)) < len(events.all) + 20

    wait_until("compaction", compacted, within_s=60)
    left = broker.messages(topic)
    job = make_job(job_text(broker, topic, out, source="tombstones: skip"))
    totals = job.run_to_end().totals
    kept = [message for message in left if message.value() is not None]
    assert totals["applied"] == len(kept)
    assert totals["rejected"] == 0
    then_each_window_is_there_once(events, broker.rows(out))


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_column_says_the_partition_where_the_topic_has_it(
    broker: Broker, make_job: Callable[..., Job], seed: int, delivery: str
) -> None:
    topic, out = topics(broker, f"placed-{delivery}")
    events = Events(random.Random(seed + 23))
    events.send(broker, topic, 3000)
    make_job(job_text(broker, topic, out, sink="partition: high", delivery=delivery)).run_to_end()
    rows = [(message.partition(), json.loads(message.value())) for message in broker.messages(out)]
    then_each_window_is_there_once(events, [row for _, row in rows])
    named = [(partition, row["high"]) for partition, row in rows if row["high"] in (0, 1)]
    assert all(partition == high for partition, high in named)
    # Whatever else it says, from -100 to 100, the key's hash says it.
    assert {partition for partition, _ in rows} == {0, 1}


def test_poison_messages_go_to_the_dead_letters_with_their_place(broker: Broker, make_job: Callable[..., Job]) -> None:
    topic, out = topics(broker, "poison", partitions=2)
    good = {"device": "a", "at": 1, "x": 2}
    broker.send(topic, [good, "no json", None, {**good, "x": "text"}], 0)
    broker.send(topic, [b"\xff\xfe", good], 1)
    job = make_job(job_text(broker, topic, out))
    totals = job.run_to_end().totals
    assert (totals["received"], totals["applied"], totals["rejected"]) == (6, 2, 4)
    letters = sorted(
        (letter["split"].rpartition("/")[2], letter["offset"], letter["reason"]) for letter in job.rows("dead")
    )
    assert [(partition, offset) for partition, offset, _ in letters] == [("0", 1), ("0", 2), ("0", 3), ("1", 0)]
    assert "tombstone" in letters[1][2]
    assert all(letter["split"].startswith(f"in/{topic}@") for letter in job.rows("dead"))


def test_where_a_topic_is_read_from(broker: Broker, make_job: Callable[..., Job]) -> None:
    topic, out = topics(broker, "starts", partitions=1, retention_ms="-1")
    broker.send(topic, [{"device": "a", "at": 1, "x": 1}] * 3, timestamp=1_000_000)
    broker.send(topic, [{"device": "a", "at": 2, "x": 1}] * 2, timestamp=2_000_000)
    for start, rows in (("earliest", 5), ("latest", 0), ('{timestamp: "1970-01-01T00:20:00Z"}', 2)):
        job = make_job(job_text(broker, topic, out, source=f"startFrom: {start}"), name=f"job-{rows}")
        assert job.run_to_end().totals["received"] == rows, start


def test_messages_that_are_gone_are_never_passed_over_in_silence(broker: Broker, make_job: Callable[..., Job]) -> None:
    topic, out = topics(broker, "gone", partitions=1, segment_bytes="1048576", retention_ms="-1")
    row = {"device": "a", "at": 1, "x": 1}
    broker.send(topic, [row] * 10)
    text = job_text(broker, topic, out)
    job = make_job(text)
    assert job.run_to_end().totals["received"] == 10
    broker.send(topic, [row] * 10)
    admin = broker.admin()
    admin.delete_records([TopicPartition(topic, 0, 15)])[TopicPartition(topic, 0)].result(30)
    failed = job.start("--exit-at-end").await_exit()
    assert failed.code == 1
    assert "the messages from offset 10 to 15 are gone" in failed.stderr
    job.path.write_text(job_text(broker, topic, out, source="onDataLoss: earliest"))
    assert job.run_to_end().totals["received"] == 15


def test_at_least_once_writes_at_once(broker: Broker, make_job: Callable[..., Job], seed: int) -> None:
    topic, out = topics(broker, "soon")
    events = Events(random.Random(seed + 18))
    events.send(broker, topic, 2000)
    job = make_job(job_text(broker, topic, out, delivery="at-least-once"))
    job.run_to_end()
    then_each_window_is_there_once(events, broker.rows(out))


def test_a_restored_state_repeats_and_says_so(broker: Broker, make_job: Callable[..., Job], seed: int) -> None:
    topic, out = topics(broker, "restored")
    events = Events(random.Random(seed + 19))
    job = make_job(job_text(broker, topic, out))
    running = job.run()
    events.send(broker, topic, 1000)
    running.await_processed(len(events.all))
    running.stop()
    shutil.copytree(job.state_dir, job.folder / "old")
    running = job.run()
    before = len(broker.rows(out))
    events.send(broker, topic, 3000)
    running.await_processed(len(events.all))
    wait_until("what the old state has not seen", lambda: len(broker.rows(out)) > before)
    running.stop()
    shutil.rmtree(job.state_dir)
    shutil.copytree(job.folder / "old", job.state_dir)
    finished = job.run_to_end()
    assert "OutputsMayRepeat" in finished.stderr
    rows = broker.rows(out)
    once = {row["_id"]: row for row in rows}
    assert len(once) < len(rows), "what the old state had not seen was written again"
    then_each_window_is_there_once(events, list(once.values()))


def test_of_two_processes_with_one_state_the_older_is_fenced_off(
    broker: Broker, make_job: Callable[..., Job], seed: int
) -> None:
    topic, out = topics(broker, "double")
    events = Events(random.Random(seed + 20))
    job = make_job(job_text(broker, topic, out))
    job.run().stop()
    double = make_job(job_text(broker, topic, out), name="double")
    shutil.copytree(job.state_dir, double.state_dir)
    events.send(broker, topic, 100)
    # No row is processed before a process has fenced the others off.
    first = job.run()
    first.await_processed(100)
    wait_until("what the first has written", lambda: broker.rows(out))
    second = double.run()
    second.await_processed(100)
    events.send(broker, topic, 2000)
    failed = first.await_exit()
    assert failed.code == 1
    assert "another process with a copy of this state directory" in failed.stderr
    second.stop()
    assert "OutputsMayRepeat" in double.run_to_end().stderr + second.stderr, "a copy is older than what the other wrote"
    once = {row["_id"]: row for row in broker.rows(out)}
    then_each_window_is_there_once(events, list(once.values()))


def test_the_example_runs(broker: Broker, make_job: Callable[..., Job]) -> None:
    text = (Path(__file__).parents[1] / "examples" / "kafka" / "job.yaml").read_text(encoding="utf-8")
    for topic, partitions in (("readings", 3), ("averages", 3), ("hot", 1)):
        broker.create(topic, partitions)
    job = make_job(text.replace("localhost:9092", broker.address))
    tried = run_command("check", "--connect", job.path, cwd=job.folder)
    assert tried.code == 0, tried.stderr
    assert "the topic readings has 3 partitions" in tried.stdout
    for partition in range(3):
        rows = [{"sensor": f"s{partition}", "timestamp": 1000 * n, "temperature": 20.0 + n} for n in range(30)]
        broker.send("readings", rows, partition)
    job.run_to_end()
    found = {(row["key"], row["window_start"]): (row["n"], row["mean"]) for row in broker.rows("averages")}
    assert len(found) == 9
    assert found["s1", "1970-01-01T00:00:10Z"] == (10, 34.5)
    assert sorted(row["temperature"] for row in broker.rows("hot")) == sorted([20.0 + n for n in range(21, 30)] * 3)


def test_connections_are_tried_and_what_is_wrong_is_said(broker: Broker, make_job: Callable[..., Job]) -> None:
    topics(broker, "tried")
    job = make_job(job_text(broker, "tried", "not-there"))
    tried = run_command("check", "--connect", job.path, cwd=job.folder)
    assert tried.code == 1
    assert "spec.sources[0].kafka: the topic tried has 3 partitions" in tried.stdout
    assert "spec.sinks[0].kafka: " in tried.stderr
    assert "create the topic, or correct its name" in tried.stderr


@pytest.mark.skipif(certificates.MISSING is not None, reason=str(certificates.MISSING))
def test_tls_and_sasl_with_secrets_by_reference(
    make_broker: Callable[..., Broker], make_job: Callable[..., Job], folder: Path, seed: int
) -> None:
    certificates.certificates(folder / "tls")
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    broker = make_broker(
        listener="SASL_SSL",
        settings={
            "ssl.keystore.type": "PEM",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(folder / "tls" / "ca.pem"),
            "ssl.keystore.location": str(folder / "tls" / "both.pem"),
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f'{login} username="job" password="s3cret" user_job="s3cret";'
            ),
        },
        client={
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": str(folder / "tls" / "ca.pem"),
            "sasl.mechanism": "PLAIN",
            "sasl.username": "job",
            "sasl.password": "s3cret",
        },
    ).start()
    topic, out = topics(broker, "guarded")
    events = Events(random.Random(seed + 21))
    events.send(broker, topic, 1000)
    tls = f'tls: {{caFile: "{folder}/tls/ca.pem"}}'
    sasl = "sasl: {mechanism: PLAIN, username: job, password: {secretRef: {%s}}}"
    by_env, by_file = f"{tls}, {sasl % 'env: KAFKA_PASSWORD'}", f"{tls}, {sasl % 'file: password.txt'}"
    job = make_job(job_text(broker, topic, out, source=by_env, sink=by_file))
    job.write("password.txt", "s3cret\n")
    missing = job.start("--exit-at-end").await_exit()
    assert missing.code == 1
    assert "the environment variable KAFKA_PASSWORD is not set" in missing.stderr
    wrong = job.start("--exit-at-end", KAFKA_PASSWORD="guess").await_exit()
    assert wrong.code == 1
    assert "check sasl.username and its password" in wrong.stderr
    right = job.run_to_end(KAFKA_PASSWORD="s3cret")
    then_each_window_is_there_once(events, broker.rows(out))
    # Nowhere but where it was put.
    told = [right.stdout, right.stderr, wrong.stderr, *(path.read_text("utf-8", "ignore") for path in files_of(job))]
    assert not any("s3cret" in text or "guess" in text for text in told)
    job.path.write_text(job_text(broker, topic, out, source=f"tls: {{}}, {sasl % 'file: password.txt'}", sink=by_file))
    distrusted = run_command("check", "--connect", job.path, cwd=job.folder)
    assert distrusted.code == 1
    assert "check tls: the authority that signed the server's certificate" in distrusted.stderr


def files_of(job: Job) -> list[Path]:
    """What the engine has written about the job."""
    return [path for path in job.state_dir.rglob("*.json") if path.is_file()] + list(job.folder.glob("stderr-*.log"))


def left_job(broker: Broker, away: Broker, topic: str, source: str = "") -> str:
    """A job whose sink, in another cluster, takes one key of many; `source` is further members of its source."""
    source = f", {source}" if source else ""
    return f"""
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: {topic}}}
spec:
  shards: 8
  schema: {{key: device, time: {{field: at, unit: us}}, fields: {{device: string, n: int64, text: string}}}}
  sources: [{{name: in, kafka: {{bootstrapServers: "{broker.address}", topic: {topic}{source}}}}}]
  sinks:
    - name: out
      from: events
      where: device = 'full'
      kafka: {{bootstrapServers: "{away.address}", topic: left-out}}
  checkpoint: {{interval: 200ms}}
  engine: {{workerThreads: 1, batchRows: 200}}
"""


def full_row(n: int) -> Row:
    """One of the rows that the sink takes: 6,000 are more than the outbox of one shard holds (32 MiB)."""
    return {"device": "full", "at": n, "n": n, "text": "x" * 8000}


def test_what_a_full_sink_leaves_is_read_again(
    broker: Broker, make_broker: Callable[..., Broker], make_job: Callable[..., Job]
) -> None:
    away = make_broker().start()
    topic = "left"
    broker.create(topic, 2)
    away.create("left-out", 1)
    job = make_job(left_job(broker, away, topic))
    running = job.run()
    # No row is processed before it is known how far the sink is.
    broker.send(topic, [{"device": "first", "at": 0, "n": 0, "text": ""}])
    running.await_processed(1)
    away.pause()
    full, rest = 6000, 500
    for partition in (0, 1):
        broker.send(topic, (full_row(n) for n in range(partition, full, 2)), partition)
    running.await_metric("streamjob_behind_shards", 1)
    seen = running.metrics().ledger()["applied"]
    assert seen < full + 1
    broker.send(topic, ({"device": f"d{n % 50}", "at": n, "n": n, "text": ""} for n in range(rest)), 0)
    # I9: one shard of eight waits; nearly all of the others' rows are none of its.
    running.await_processed(seen + rest * 3 // 4)
    away.resume()
    running.await_processed(1 + full + rest, within_s=120)
    running.stop()
    job.run_to_end()
    numbers = [row["n"] for row in away.rows("left-out")]
    assert sorted(numbers) == list(range(full))
    # Each partition in its order.
    assert [n for n in numbers if n % 2] == sorted(n for n in numbers if n % 2)


@pytest.mark.parametrize("on_data_loss", ["earliest", "fail"])
def test_what_a_full_sink_leaves_may_be_gone_when_it_is_read_again(
    broker: Broker, make_broker: Callable[..., Broker], make_job: Callable[..., Job], on_data_loss: str
) -> None:
    away = make_broker().start()
    topic = f"left-and-gone-{on_data_loss}"
    broker.create(topic, 1, retention_ms="-1")
    away.create("left-out", 1)
    running = make_job(left_job(broker, away, topic, f"onDataLoss: {on_data_loss}")).run()
    broker.send(topic, [{"device": "first", "at": 0, "n": 0, "text": ""}])
    running.await_processed(1)
    away.pause()
    full = 6000
    broker.send(topic, map(full_row, range(full)))
    running.await_metric("streamjob_behind_shards", 1)
    # The source has them all: they are gone for the shard alone that waits.
    running.await_metric("events_received_total", 1 + full)
    everything = TopicPartition(topic, 0, broker.ends(topic)[0])
    admin = broker.admin()  # its answers come only while it lives
    admin.delete_records([everything])[everything].result(30)
    away.resume()
    if on_data_loss == "fail":
        failed = running.await_exit()
        assert failed.code == 1
        assert "are gone before they were read" in failed.stderr
        assert "set onDataLoss: earliest" in failed.stderr
        return
    running.await_metric("streamjob_source_lost_total", 1, within_s=60)
    broker.send(topic, [full_row(full)])
    wait_until("a row behind", lambda: any(row["n"] == full for row in away.rows("left-out")), within_s=60)
    lost = int(running.metrics().sum("streamjob_source_lost_total"))
    # What the shard took before it was full, in its order, and what came behind the loss.
    assert [row["n"] for row in away.rows("left-out")] == [*range(full - lost), full]
    running.stop()


def events_job(broker: Broker, out: str, delivery: str, sink: str) -> str:
    """A job from a file of events into a topic; `sink` is further members of that."""
    return f"""
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: {out}}}
spec:
  schema: {{key: device, time: {{field: at, unit: us}}, fields: {{device: string, site: string, text: string}}}}
  sources: [{{name: in, file: {{path: events.ndjson, format: ndjson}}}}]
  sinks:
    - name: out
      from: events
      delivery: {delivery}
      kafka: {{bootstrapServers: "{broker.address}", topic: {out}, {sink}}}
  deadLetters: {{file: {{path: dead}}}}
"""


def run_events(job: Job, rows: list[Row]) -> list[Row]:
    """Runs the job on these events; gives its dead letters."""
    job.write("events.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    job.run_to_end()
    return job.rows("dead")


def then_the_topic_has(broker: Broker, out: str, delivery: str, numbers: set[int]) -> None:
    """All of these rows, each once where that is promised."""
    found = [row["at"] for row in broker.rows(out)]
    assert set(found) == numbers
    assert delivery == "at-least-once" or len(found) == len(numbers)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_rows_that_are_too_large_are_left_out_alone(
    broker: Broker, make_job: Callable[..., Job], delivery: str
) -> None:
    out = f"large-{delivery}"
    broker.create(out, 1)
    job = make_job(events_job(broker, out, delivery, 'properties: {message.max.bytes: "140000"}'))
    rows = [{"device": f"d{n % 3}", "at": n, "text": "x" * (200_000 if n % 10 == 4 else 10)} for n in range(50)]
    # Not larger itself than a message may be, but with its key, which is the device.
    rows.append({"device": "d" * 80_000, "at": 50, "text": "x" * 50_000})
    letters = run_events(job, rows)
    assert sorted(letter["row"]["at"] for letter in letters) == [4, 14, 24, 34, 44, 50]
    assert all("is larger than message.max.bytes allows" in letter["reason"] for letter in letters)
    then_the_topic_has(broker, out, delivery, {n for n in range(50) if n % 10 != 4})


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_row_that_the_topic_refuses_is_left_out_alone(
    broker: Broker, make_job: Callable[..., Job], delivery: str
) -> None:
    out = f"keyed-{delivery}"
    broker.create(out, 2, cleanup_policy="compact")
    job = make_job(events_job(broker, out, delivery, "key: site"))
    rows = [{"device": f"d{n % 3}", "at": n, "site": None if n == 23 else f"s{n}"} for n in range(40)]
    (letter,) = run_events(job, rows)
    assert letter["row"]["at"] == 23
    assert "give every row a key" in letter["reason"]
    then_the_topic_has(broker, out, delivery, set(range(40)) - {23})


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_topic_that_takes_less_than_the_job_sends_gets_all_that_it_takes(
    broker: Broker, make_job: Callable[..., Job], delivery: str
) -> None:
    out = f"small-{delivery}"
    broker.create(out, 1, max_message_bytes="20000")
    job = make_job(events_job(broker, out, delivery, 'properties: {compression.type: "none"}'))
    # Together they are too much as well, but only one of them is so alone.
    rows = [{"device": "d", "at": n, "text": "x" * (30_000 if n == 7 else 1_000)} for n in range(60)]
    (letter,) = run_events(job, rows)
    assert letter["row"]["at"] == 7
    assert "lower message.max.bytes to the topic's max.message.bytes" in letter["reason"]
    then_the_topic_has(broker, out, delivery, set(range(60)) - {7})


def test_a_silent_partition_does_not_hold_windows_back(broker: Broker, make_job: Callable[..., Job]) -> None:
    topic, out = topics(broker, "silent", partitions=2)
    rows = [{"device": "a", "at": second * 1_000_000, "x": second} for second in range(35)]
    job = make_job(job_text(broker, topic, out, idle="300ms"))
    running = job.run()
    broker.send(topic, rows, 0)

    def three_windows() -> bool:
        # Where all partitions are silent the watermark stays, whichever fell silent first: the other one goes on.
        rows.append(rows[-1])
        broker.send(topic, rows[-1:], 0)
        return len(broker.rows(out)) == 3

    wait_until("three windows", three_windows)
    # The silent one has something to say after all: its own rows are not late by what it has not seen.
    broker.send(topic, [{"device": "b", "at": 36_000_000, "x": 1}], 1)
    running.await_processed(len(rows) + 1)
    assert running.metrics().ledger()["late"] == 0
    running.stop()
