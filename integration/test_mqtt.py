"""Messages of an MQTT broker, each at least once, against a real one."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certificates
import kills
import mosquitto_broker
import pytest
import yaml
from conftest import skip_or_fail
from harness import KILLED, Job, Row, Running, duplicates, run_command, wait_until
from mosquitto_broker import Mosquitto
from test_formats import record

pytestmark = pytest.mark.servers

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: mqtt}}
spec:
  shards: 4
  schema:
    key: device
    time: {{field: at, unit: us}}
    fields: {{device: string, site: string, n: int64}}
  sources: [{{name: in, mqtt: {source}}}]
  sinks: [{{name: out, from: events, file: {{path: out}}}}]
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 100ms}}
"""


@pytest.fixture
def make_mosquitto(folder: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Makes brokers; none is started yet."""
    reason = mosquitto_broker.missing()
    if reason:
        skip_or_fail(reason)
    made: list[Mosquitto] = []

    def make(**options: Any) -> Mosquitto:
        made.append(Mosquitto(folder / f"mosquitto-{len(made)}", **options))
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


def source(broker: Mosquitto, **more: Any) -> str:
    """The members of the source."""
    members = {
        "host": "127.0.0.1",
        "port": broker.port,
        "topics": ["site/+/temp/#"],
        "levels": {"site": 2, "device": 4},
    }
    return json.dumps({**members, "backoff": {"max": "500ms"}, **more})


def messages(first: int, count: int) -> list[tuple[str, str]]:
    """Numbered messages of some devices."""
    return [(f"site/s{n % 3}/temp/d{n % 7}", json.dumps({"at": n, "n": n})) for n in range(first, first + count)]


def rows(job: Job) -> list[Row]:
    """What the job has made of them."""
    return job.rows("out")


def await_numbers(running: Running, job: Job, count: int) -> None:
    """Waits until each number up to `count` is out."""
    wait_until("all numbers", lambda: len({row["n"] for row in rows(job)}) == count, within_s=240)
    assert {row["n"] for row in rows(job)} == set(range(count)), running.stderr[-2000:]


def subscribed(running: Running) -> None:
    """Waits until the broker knows what it has to keep."""
    running.await_metric("streamjob_connected", 1, connector="in")


def test_messages_become_rows_with_levels_of_their_topics(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job]
) -> None:
    broker = make_mosquitto().start()
    broker.send([("site/s0/temp/d0", json.dumps({"at": 0, "n": -1}))], retain=True)
    job = make_job(JOB.format(source=source(broker)))
    running = job.run()
    subscribed(running)
    poison = [("site/x/temp/y", "no json"), ("site/x/temp/y", "{}"), ("other/x", json.dumps({"at": 1, "n": 1}))]
    broker.send([*messages(0, 500), *poison])
    await_numbers(running, job, 500)
    running.await_processed(502)
    assert running.metrics().sum("streamjob_source_bytes_total", source="in") > 0
    running.stop()
    found = rows(job)
    assert not duplicates([row["n"] for row in found])
    assert all((row["site"], row["device"]) == (f"s{row['n'] % 3}", f"d{row['n'] % 7}") for row in found)
    assert "no json" in [letter["row"] for letter in job.rows("dead")]
    assert {letter["source"] for letter in job.rows("dead")} == {"in"}
    # What comes while the job is away waits for it; what it has acknowledged does not come again.
    broker.send(messages(500, 500))
    running = job.run()
    await_numbers(running, job, 1000)
    running.stop()
    assert not duplicates([row["n"] for row in rows(job)])


def test_a_message_that_is_larger_than_a_row_may_be_is_rejected_alone(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job]
) -> None:
    broker = make_mosquitto().start()
    job = make_job(JOB.format(source=source(broker)))
    running = job.run()
    subscribed(running)
    broker.send([*messages(0, 50), ("site/x/temp/y", "x" * (70 << 20)), *messages(50, 50)])
    await_numbers(running, job, 100)
    running.await_processed(101)
    assert running.metrics().ledger()["rejected"] == 1
    assert running.metrics().sum("streamjob_connection_errors_total") == 0
    running.stop()
    assert not duplicates([row["n"] for row in rows(job)])
    assert "the message has 73400320 bytes" in job.rows("dead")[0]["reason"]


def test_a_backlog_that_is_larger_than_what_may_wait_is_taken(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job]
) -> None:
    broker = make_mosquitto().start()
    job = make_job(JOB.format(source=source(broker)))
    running = job.run()
    subscribed(running)
    running.stop()
    # The broker sends these before it answers to the subscriptions; 64 MiB of messages may wait.
    broker.send([*[("site/x/temp/y", "x" * (40 << 20))] * 3, *messages(0, 50)])
    running = job.run()
    await_numbers(running, job, 50)
    running.await_processed(53)
    running.stop()
    assert not duplicates([row["n"] for row in rows(job)])
    assert len(job.rows("dead")) == 3


@pytest.mark.kills
def test_nothing_is_lost_by_kills(
    make_mosquitto: Callable[..., Mosquitto],
    make_job: Callable[..., Job],
    report: kills.Report,
    seed: int,
    crash_engine: Path,
) -> None:
    rng = random.Random(seed + 31)
    broker = make_mosquitto().start()
    job = make_job(JOB.format(source=source(broker)), engine=crash_engine)
    running = job.run()
    subscribed(running)
    running.stop()
    sent = 0
    planned = kills.named(["mqtt-before-acknowledge"], (1, rng.randrange(2, 9)))
    for kill in [*planned, *kills.at_random(kills.share(0.1), rng, 0.0, 1.0)]:
        running = job.start(crash_at=kill.at)
        until = time.monotonic() + (kill.after_s if kill.at is None else 60)
        while running.process.poll() is None and time.monotonic() < until:
            broker.send(messages(sent, 100))
            sent += 100
        if kill.at is None:
            running.process.kill()
        assert running.await_exit().code == KILLED, f"{kill} did not happen"
        report.killed(kill)
    running = job.run()
    await_numbers(running, job, sent)
    running.stop()


@pytest.mark.kills
def test_nothing_is_lost_by_a_broker_that_restarts(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job]
) -> None:
    broker = make_mosquitto().start()
    job = make_job(JOB.format(source=source(broker)))
    running = job.run()
    subscribed(running)
    for part in range(3):
        subscribed(running)
        broker.send(messages(part * 1000, 1000))
        broker.stop()
        wait_until(
            "that it is seen to be away",
            lambda: running.metrics().sum("streamjob_connected", connector="in") == 0,
        )
        broker.start()
    subscribed(running)
    broker.send(messages(3000, 1000))
    await_numbers(running, job, 4000)
    assert running.metrics().sum("streamjob_connection_errors_total", connector="in") >= 3
    running.stop()


def test_a_start_without_a_broker_waits_for_it(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job]
) -> None:
    broker = make_mosquitto()
    job = make_job(JOB.format(source=source(broker)))
    running = job.run()
    wait_until("a try that fails", lambda: running.metrics().sum("streamjob_connection_errors_total") > 0)
    broker.start()
    subscribed(running)
    broker.send(messages(0, 10))
    await_numbers(running, job, 10)
    running.stop()


def test_connections_are_tried_and_what_is_wrong_is_said(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job], folder: Path
) -> None:
    passwords = folder / "passwords"
    passwords.write_text("job:s3cret\n", encoding="utf-8")
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
    broker = make_mosquitto(
        settings=("allow_anonymous false", f"password_file {passwords}"), username="job", password="s3cret"
    ).start()
    signed = {"username": "job", "password": {"secretRef": {"env": "MQTT_PASSWORD"}}}
    job = make_job(JOB.format(source=source(broker, **signed)))
    secrets = {"MQTT_PASSWORD": "s3cret", "WRONG_PASSWORD": "guess"}
    tried = run_command("check", "--connect", job.path, cwd=job.folder, **secrets)
    assert tried.code == 0, tried.stderr
    assert "takes subscriptions to site/+/temp/#" in tried.stdout
    for more, said in (
        ("password: {secretRef: {env: WRONG_PASSWORD}}", "check username and password"),
        ("port: 1", "connecting to 127.0.0.1:1: "),
        ("tls: {}", f"connecting to 127.0.0.1:{broker.port}: "),
    ):
        job.path.write_text(JOB.format(source=source(broker, **{**signed, **yaml.safe_load(f"{{{more}}}")})))
        tried = run_command("check", "--connect", job.path, cwd=job.folder, **secrets)
        assert tried.code == 1
        assert said in tried.stderr, more
        assert not any(secret in tried.stdout + tried.stderr for secret in secrets.values())
    job.path.write_text(JOB.format(source=source(broker, **signed)))
    running = job.run(**secrets)
    subscribed(running)
    broker.send(messages(0, 10))
    await_numbers(running, job, 10)
    assert "s3cret" not in running.stop().stderr


@pytest.mark.skipif(certificates.MISSING is not None, reason=str(certificates.MISSING))
def test_tls_with_certificates_on_both_sides(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job], folder: Path
) -> None:
    tls = certificates.certificates(folder / "tls")
    broker = make_mosquitto(tls=tls).start()
    trust = {"caFile": str(tls / "ca.pem")}
    mine = {"certificateFile": str(tls / "server.pem"), "keyFile": str(tls / "server.key")}
    job = make_job(JOB.format(source=source(broker, tls={})))
    for settings, said in (({}, "check tls: the authority"), (trust, f"connecting to 127.0.0.1:{broker.port}: ")):
        job.path.write_text(JOB.format(source=source(broker, tls=settings)))
        tried = run_command("check", "--connect", job.path, cwd=job.folder)
        assert tried.code == 1
        assert said in tried.stderr
    job.path.write_text(JOB.format(source=source(broker, tls={**trust, **mine})))
    running = job.run()
    subscribed(running)
    broker.send(messages(0, 10))
    await_numbers(running, job, 10)
    running.stop()


def test_levels_are_fields_of_avro_records_too(
    make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job]
) -> None:
    broker = make_mosquitto().start()
    schema = {"type": "record", "name": "R", "fields": [{"name": name, "type": "long"} for name in ("at", "n")]}
    avro = {"framing": "plain", "schema": {"inline": json.dumps(schema)}}
    job = make_job(JOB.format(source=source(broker, format={"avro": avro})))
    running = job.run()
    subscribed(running)
    broker.send([(f"site/s{n % 3}/temp/d{n % 7}", record({"at": n, "n": n}, schema)) for n in range(20)])
    await_numbers(running, job, 20)
    running.stop()
    assert all((row["site"], row["device"]) == (f"s{row['n'] % 3}", f"d{row['n'] % 7}") for row in rows(job))


def test_the_example_runs(make_mosquitto: Callable[..., Mosquitto], make_job: Callable[..., Job]) -> None:
    broker = make_mosquitto().start()
    text = (Path(__file__).parents[1] / "examples" / "mqtt" / "job.yaml").read_text(encoding="utf-8")
    job = make_job(text.replace("port: 1883", f"port: {broker.port}"))
    running = job.run()
    running.await_metric("streamjob_connected", 1, connector="readings")
    broker.send(
        (f"site/hall/temperature/{n % 3}", json.dumps({"timestamp": 1000 * n, "temperature": 20.0})) for n in range(90)
    )
    wait_until("averages", lambda: job.rows("out"))
    running.stop()
    assert {row["key"] for row in job.rows("out")} == {"0", "1", "2"}
