"""Sources and sinks in Python: counted once over kills and restarts, against real servers by the examples' clients."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import kills
import mosquitto_broker
import pytest
import s3_server
from conftest import skip_or_fail
from harness import KILLED, Job, Row, Running, duplicates, run_command, wait_until
from kafka_broker import Broker
from mosquitto_broker import Mosquitto
from s3_server import S3Server

pytestmark = pytest.mark.servers

EXAMPLES = Path(__file__).parents[1] / "examples" / "python-connectors"
ROWS = 40_000

COUNTING = """
import asyncio, json, os, pathlib
from streamjob import Event, Sink

async def numbers(context, position=None):
    for number in range(position or 0, context.config["end"]):
        if number % context.config["every"] == context.config["every"] - 1 and number + 1 != position:
            yield Event({"device": f"d{number % 17}", "at": number, "n": number}, position=number + 1)
            raise ConnectionError("away for a moment")
        yield Event({"device": f"d{number % 17}", "at": number, "n": number}, position=number + 1)
        if number % 25 == 0:
            await asyncio.sleep(0.005)

class Folder(Sink):
    async def write(self, batch):
        path = pathlib.Path(self.context.config["path"], batch.key)
        if path.exists():
            assert path.read_bytes() == batch.body, "a retry has other bytes"
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(batch.body)
        unfinished.rename(path)
"""

JOB = """
apiVersion: streamjob.dev/v1alpha1
kind: StreamJob
metadata: {{name: counting}}
spec:
  shards: 4
  schema:
    key: device
    time: {{field: at, unit: s}}
    fields: {{device: string, n: int64}}
  sources:
    - name: numbers
      python:
        file: counting.py
        function: numbers
        positions: true
        config: {{end: {end}, every: 9000}}
        backoff: {{initial: 5ms, max: 20ms}}
  windows: [{{name: w, tumbling: 1000s, aggregates: {{n: count(), total: sum(n)}}}}]
  sinks:
    - {{name: out, from: events, file: {{path: out}}}}
    - name: windows
      from: w
      python: {{file: counting.py, class: Folder, idempotent: true, config: {{path: "{folder}"}}}}
  deadLetters: {{file: {{path: dead}}}}
  checkpoint: {{interval: 200ms}}
"""


@pytest.mark.kills
def test_a_source_with_positions_counts_each_row_once_over_kills(
    make_job: Callable[..., Job], report: kills.Report, seed: int, folder: Path
) -> None:
    rng = random.Random(seed + 31)
    target = folder / "batches"
    target.mkdir()
    job = make_job(JOB.format(end=ROWS, folder=target))
    job.write("counting.py", COUNTING)
    for kill in kills.at_random(max(kills.share(0.2), 6), rng, 0.1, 0.6):
        running = job.start("--exit-at-end")
        # From here on it brings rows: a kill before that would prove nothing.
        if running.becomes_ready() and running.lives_for(kill.after_s):
            running.kill()
            report.killed(kill, f"({len(job.rows('out'))} rows are out)")
    then_each_row_is_counted_once(job, target)


@pytest.mark.kills
def test_a_source_with_positions_counts_each_row_once_over_kills_at_every_step_of_saving_them(
    make_job: Callable[..., Job], report: kills.Report, folder: Path, crash_engine: Path
) -> None:
    target = folder / "batches"
    target.mkdir()
    job = make_job(JOB.format(end=ROWS, folder=target), engine=crash_engine)
    job.write("counting.py", COUNTING)
    steps = [step for step in kills.crash_points() if step.startswith(("positions-", "journal-"))]
    assert {"positions-before-save", "positions-after-save"} <= set(steps)
    for kill in kills.named(steps, (1, 2)):
        running = job.start("--exit-at-end", crash_at=kill.at)
        assert running.await_exit().code == KILLED, f"the step {kill} was not passed"
        report.killed(kill, f"({len(job.rows('out'))} rows are out)")
    then_each_row_is_counted_once(job, target)


def then_each_row_is_counted_once(job: Job, target: Path) -> None:
    """`target`: where the batches of windows are."""
    totals = job.run_to_end().totals
    assert (totals["received"], totals["applied"], totals["late"], totals["rejected"]) == (ROWS, ROWS, 0, 0)
    assert [row["n"] for row in sorted(job.rows("out"), key=lambda row: row["n"])] == list(range(ROWS))
    windows = [
        row for path in target.iterdir() if not re.search(r"\.\d+$", path.name) for row in json.loads(path.read_text())
    ]
    assert not duplicates([row["_id"] for row in windows])
    assert sum(row["n"] for row in windows) == ROWS
    assert sum(row["total"] for row in windows) == sum(range(ROWS))
    assert (job.state_dir / "positions.json").exists()


def test_a_journal_that_takes_nothing_for_a_moment_holds_a_source_up_and_does_not_end_it(
    make_job: Callable[..., Job], folder: Path, crash_engine: Path
) -> None:
    target = folder / "batches"
    target.mkdir()
    job = make_job(JOB.format(end=1000, folder=target), engine=crash_engine)
    job.write("counting.py", COUNTING)
    running = job.run(STREAMJOB_FAULT_AT="journal-takes-nothing:2")
    running.await_processed(1000)
    assert "the journal takes no rows, which are tried again: too many open files" in running.stop().stderr


def test_a_generator_that_raises_is_told_by_the_metrics_and_goes_on(make_job: Callable[..., Job], folder: Path) -> None:
    (folder / "batches").mkdir()
    # An http source beside it: the job does not end with the generator.
    text = JOB.format(end=20_000, folder=folder / "batches").replace(
        "  sources:\n", "  sources:\n    - {name: in, http: {}}\n"
    )
    job = make_job(text)
    job.write("counting.py", COUNTING)
    running = job.run()
    running.await_processed(20_000)
    metrics = running.metrics()
    assert metrics.sum("streamjob_connection_errors_total", kind="source", connector="numbers") == 2
    assert metrics.sum("streamjob_connected", kind="source", connector="numbers") == 1
    assert metrics.sum("streamjob_source_bytes_total", source="numbers") > 20_000
    assert running.post({"device": "posted", "at": 20_001, "n": -1}).status_code == 202
    assert running.post(b'{"device": 1').status_code == 400
    running.await_processed(20_001)
    running.stop()
    assert "ConnectionError: away for a moment" in running.stderr
    assert Counter(row["n"] for row in job.rows("out")) == Counter([*range(20_000), -1])


def test_dead_letters_name_the_source_of_their_row(make_job: Callable[..., Job], folder: Path) -> None:
    (folder / "batches").mkdir()
    text = JOB.format(end=3, folder=folder / "batches").replace(
        "  sources:\n", "  sources:\n    - {name: in, http: {}}\n"
    )
    job = make_job(text)
    job.write("counting.py", COUNTING.replace('"n": number}', '"n": "x"}'))
    running = job.run()
    running.post(b'[{"device": "a", "at": 1, "n": 1}, {"device": "a", "at": 1, "n": "y"}]')
    running.await_processed(5)
    running.stop()
    assert Counter(letter["source"] for letter in job.rows("dead")) == {"numbers": 3, "in": 1}
    assert all(letter["reason"].startswith("n: ") for letter in job.rows("dead"))


def test_a_refusal_of_a_row_that_the_batch_has_not_is_said_and_loses_none(
    make_job: Callable[..., Job], folder: Path
) -> None:
    target = folder / "batches"
    target.mkdir()
    job = make_job(JOB.format(end=3000, folder=target))
    # As a server's answer that counts rows from 1.
    refusing = """    refuses = True
    async def write(self, batch):
        if Folder.refuses:
            Folder.refuses = False
            raise Rejected("bad", rows=[len(batch.rows)])
"""
    text = COUNTING.replace("import Event, Sink", "import Event, Rejected, Sink")
    job.write("counting.py", text.replace("    async def write(self, batch):\n", refusing))
    finished = job.run_to_end()
    assert "Rejected names the row" in finished.stderr
    assert sum(row["n"] for path in target.iterdir() for row in json.loads(path.read_text())) == 3000


def test_code_that_cannot_be_loaded_ends_the_job_before_anything_is_created(make_job: Callable[..., Job]) -> None:
    job = make_job(JOB.format(end=1, folder="nowhere"))
    job.write("counting.py", COUNTING + "\nimport nothing_of_this_name\n")
    failed = job.start().await_exit()
    assert failed.code != 0
    assert "loading the module failed: ModuleNotFoundError" in failed.stderr
    assert not job.state_dir.exists()
    assert run_command("check", job.path, cwd=job.folder).code == 0, "what is checked is not run"
    tried = run_command("check", "--connect", job.path, cwd=job.folder)
    assert "not tried" in tried.stdout


def example(make_job: Callable[..., Job], name: str, module: str, **changes: str) -> Job:
    """An example with other addresses, and commits that come soon."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    for old, new in changes.items():
        before = {"kafka": '"localhost:9092"', "port": "port: 1883", "s3": '"http://localhost:9000"'}[old]
        assert before in text
        text = text.replace(before, new)
    # Rows of long ago come again: none is to be late, so that each can be looked for.
    text = text.replace("maxOutOfOrderness: 1m", "maxOutOfOrderness: 1d")
    job = make_job(f"{text}  checkpoint: {{interval: 200ms}}\n")
    shutil.copy(EXAMPLES / module, job.folder)
    return job


def reading(number: int) -> Row:
    return {"sensor": f"s{number % 5}", "timestamp": number * 10, "temperature": float(number)}


@pytest.mark.kills
def test_a_topic_by_a_client_in_python_counts_each_message_once(
    make_broker: Callable[..., Broker], make_job: Callable[..., Job], report: kills.Report, seed: int
) -> None:
    rng = random.Random(seed + 32)
    broker = make_broker().start()
    broker.create("readings", 3)
    job = example(make_job, "kafka.yaml", "kafka_source.py", kafka=f'"{broker.address}"')
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for partition in range(3):
            rows = [reading(number) for number in range(sent, sent + count) if number % 3 == partition]
            broker.send("readings", rows, partition)
        sent += count

    send(3000)
    for kill in kills.at_random(4, rng, 0.0, 1.0):
        running = job.run()
        send(1000)
        if running.lives_for(kill.after_s):
            running.kill()
            report.killed(kill)
    running = job.run()
    running.await_processed(1)
    broker.kill()
    wait_until("that the broker is seen to be away", lambda: errors(running) > 0, within_s=60)
    broker.start()
    send(2000)
    running.await_processed(sent, within_s=60)
    running.stop()
    read = sorted(row["temperature"] for row in job.rows("out/readings"))
    assert read == [float(number) for number in range(sent)]


def errors(running: Running) -> float:
    """Failures of the source."""
    return running.metrics().sum("streamjob_connection_errors_total", kind="source")


@pytest.fixture
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    """A broker of MQTT."""
    reason = mosquitto_broker.missing()
    if reason:
        skip_or_fail(reason)
    broker = Mosquitto(folder / "mosquitto").start()
    yield broker
    broker.stop()


@pytest.mark.kills
def test_an_mqtt_topic_by_a_client_in_python_loses_nothing(
    mosquitto: Mosquitto, make_job: Callable[..., Job], report: kills.Report, seed: int
) -> None:
    rng = random.Random(seed + 33)
    job = example(make_job, "mqtt.yaml", "mqtt_source.py", port=f"port: {mosquitto.port}")
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        numbers = range(sent, sent + count)
        rows = ({"timestamp": number * 10, "temperature": float(number)} for number in numbers)
        mosquitto.send(
            (f"readings/north/s{number % 5}", json.dumps(row)) for number, row in zip(numbers, rows, strict=True)
        )
        sent += count

    running = job.run()
    # The session, which the broker keeps while nobody is there, begins with the first connection.
    running.await_metric("streamjob_connected", 1, kind="source")
    send(500)
    for kill in kills.at_random(4, rng, 0.0, 0.5):
        running.lives_for(kill.after_s)
        running.kill()
        report.killed(kill)
        send(300)
        running = job.run()
        send(300)
    mosquitto.stop()
    wait_until("that the broker is seen to be away", lambda: errors(running) > 0)
    mosquitto.start()
    send(500)
    mosquitto.send([("readings/north/s1", "no json")])

    def seen() -> set[float]:
        return {row["temperature"] for row in job.rows("out/readings")}

    wait_until("all rows", lambda: len(seen()) == sent, within_s=60)
    running.stop()
    assert seen() == {float(number) for number in range(sent)}
    assert {(row["site"], row["sensor"]) for row in job.rows("out/readings")} == {("north", f"s{n}") for n in range(5)}
    letters = read_letters(job)
    assert [letter["row"] for letter in letters] == ["no json"] * len(letters)
    assert letters


def read_letters(job: Job) -> list[Row]:
    """The dead letters, which this job keeps beside its state."""
    return job.rows(f"{job.state}/dead-letters")


def test_an_object_for_each_batch_in_a_bucket_by_a_client_in_python(folder: Path, make_job: Callable[..., Job]) -> None:
    server = S3Server(folder / "s3").start("averages")
    try:
        job = example(make_job, "s3.yaml", "s3_sink.py", s3=f'"{server.url}"')
        account = {**s3_server.ACCOUNT, "PYTHONPATH": str(s3_server.packages())}
        running = job.run(**account)
        # Windows of 10 s: each hundred readings closes those of the hundreds before.
        rows = [{"sensor": f"s{n % 5}", "timestamp": n * 100, "temperature": n} for n in range(4000)]
        assert running.post(rows[:1500]).status_code == 202
        written = wait_until("the first objects", lambda: server.objects("averages"))
        running.kill()
        running = job.run(**account)
        assert running.post(rows[1500:2000]).status_code == 202
        running.await_processed(2000)
        wait_until("all of them", lambda: pending(running) == 0)
        written |= server.objects("averages")
        server.kill()
        assert running.post(rows[2000:]).status_code == 202
        running.await_metric("streamjob_connection_errors_total", 1, kind="sink", connector="averages")
        assert s3_server.ACCOUNT["AWS_SECRET_ACCESS_KEY"] not in running.stderr
        # Its memory is gone: what it has from here on is what was not there yet, or what a retry wrote once more.
        server.start("averages")
        running.await_metric("streamjob_connected", 1, within_s=120, kind="sink", connector="averages")
        running.stop()
        job.run_to_end(**account)
        later = server.objects("averages")
    finally:
        server.kill()
    for name in written.keys() & later.keys():
        assert written[name] == later[name], "a retry is the same object"
    windows = [row for batch in (written | later).values() for row in batch]
    assert not duplicates([row["_id"] for row in windows])
    assert sum(row["n"] for row in windows) == len(rows)
    assert all(name.startswith("telemetry/") for name in written)


def pending(running: Running) -> float:
    """Rows that the sink has not confirmed."""
    return running.metrics().sum("streamjob_sink_pending_rows", sink="averages")
