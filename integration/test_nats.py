"""Rows into a stream of NATS, exactly once, against a real server."""

from __future__ import annotations

import json
import random
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import certificates
import kills
import pytest
import yaml
from harness import Job, run_command, wait_until
from nats_accounts import Operator
from nats_server import Nats
from sink_jobs import FILE, HTTP, Events, job_text, survive, survive_outages, then_each_window_is_there_once

pytestmark = pytest.mark.servers

WINDOW_S = 120.0


def sink(server: Nats, subject: str, more: str = "") -> str:
    """The member of a sink that publishes."""
    more = more and f", {more}"
    return f'nats: {{servers: "{server.address}", subject: "{subject}"{more}}}'


def job_with(server: Nats, name: str, source: str = HTTP, more: str = "", **options: str) -> str:
    """A job with a stream of its own."""
    server.create(name, f"{name}.*", duplicate_window=WINDOW_S)
    return job_text(name, sink(server, f"{name}.{{key}}", more), source, **options)


def test_windows_into_a_stream(nats: Nats, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed))
    job = make_job(job_with(nats, "plain", FILE, "headers: {origin: test}"))
    events.write(job, 20_000, 400_000_000)
    totals = job.run_to_end().totals
    assert totals["applied"] == totals["received"] == len(events.all)
    then_each_window_is_there_once(events, nats.rows("plain"))
    messages = nats.messages("plain")
    assert {message.headers["origin"] for message in messages} == {"test"}
    assert len({message.headers["Nats-Msg-Id"] for message in messages}) == len(messages)
    starts: dict[str, list[str]] = {}
    for message in messages:
        row = json.loads(message.data)
        assert message.subject == f"plain.{row['key']}"
        starts.setdefault(row["key"], []).append(row["window_start"])
    assert all(times == sorted(times) for times in starts.values()), "a key's rows are in their order"


def test_the_first_attempt_to_connect_does_not_wait(nats: Nats, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed + 13))
    job = make_job(job_with(nats, "patient", FILE, "backoff: {initial: 50s, max: 100s}"))
    events.write(job, 1000, 60_000_000)
    job.run_to_end()
    then_each_window_is_there_once(events, nats.rows("patient"))


def test_keys_become_tokens(nats: Nats, make_job: Callable[..., Job]) -> None:
    job = make_job(job_with(nats, "tokens", FILE))
    keys = ["a.b", "x y", "*", ">", "%", "ä/雪", "plain-1_2"]
    rows = [{"device": key, "at": number, "x": 1} for number, key in enumerate(keys)]
    job.write("events.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    job.run_to_end()
    found = {json.loads(message.data)["key"]: message.subject for message in nats.messages("tokens")}
    assert {key: unquote(subject.removeprefix("tokens.")) for key, subject in found.items()} == {
        key: key for key in keys
    }
    assert found["a.b"] == "tokens.a%2Eb"


@pytest.mark.kills
def test_streams_survive_kills_at_random_moments(
    nats: Nats, make_job: Callable[..., Job], report: kills.Report, seed: int
) -> None:
    rng = random.Random(seed + 2)
    events = Events(rng)
    job = make_job(job_with(nats, "random-kills"))
    survive(job, events, kills.at_random(kills.share(0.2), rng, 0.0, 1.5), report)
    then_each_window_is_there_once(events, nats.rows("random-kills"))


@pytest.mark.kills
def test_streams_survive_kills_at_every_step(
    nats: Nats, make_job: Callable[..., Job], report: kills.Report, seed: int, crash_engine: Path
) -> None:
    rng = random.Random(seed + 3)
    events = Events(rng)
    job = make_job(job_with(nats, "named-kills"), engine=crash_engine)
    steps = [step for step in kills.crash_points() if step.startswith("nats-")]
    assert steps == ["nats-after-confirmed", "nats-before-confirmed"]
    survive(job, events, kills.named(steps, (1, rng.randrange(2, 20))), report)
    then_each_window_is_there_once(events, nats.rows("named-kills"))


@pytest.mark.kills
def test_a_server_is_killed_paused_and_restarted(
    make_nats: Callable[..., Nats], make_job: Callable[..., Job], seed: int
) -> None:
    server = make_nats().start()
    events = Events(random.Random(seed + 4))
    job = make_job(job_with(server, "server-kills", more="timeout: 1s, backoff: {max: 1s}"))
    survive_outages(job, events, server)
    then_each_window_is_there_once(events, server.rows("server-kills"))


def test_a_start_without_a_server_waits_for_it(
    make_nats: Callable[..., Nats], make_job: Callable[..., Job], seed: int
) -> None:
    server = make_nats().start()
    job = make_job(job_with(server, "late", more="backoff: {max: 500ms}"))
    server.stop()
    running = job.run()
    events = Events(random.Random(seed + 5))
    events.post(running, 2000)
    wait_until("a try that fails", lambda: running.metrics().sum("streamjob_connection_errors_total") > 0)
    server.start()
    running.await_metric("streamjob_sink_rows_total", 1, within_s=60, sink="out")
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, server.rows("late"))


def test_rows_that_the_stream_does_not_take_are_left_out_alone(nats: Nats, make_job: Callable[..., Job]) -> None:
    nats.create("small", "small", max_msg_size=400, duplicate_window=WINDOW_S)
    job = make_job(job_text("small", sink(nats, "small"), FILE, out="events"))
    rows = [{"device": "d" * (1 + n % 5 // 4 * 300), "at": n, "x": n} for n in range(50)]
    job.write("events.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    job.run_to_end()
    letters = job.rows("dead")
    assert sorted(letter["row"]["x"] for letter in letters) == list(range(4, 50, 5))
    assert all(letter["reason"].startswith("out: ") for letter in letters)
    assert sorted(row["x"] for row in nats.rows("small")) == [n for n in range(50) if n % 5 != 4]


def test_at_least_once_writes_at_once(nats: Nats, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed + 7))
    nats.create("soon", "soon.*", duplicate_window=0.1)
    job = make_job(job_text("soon", sink(nats, "soon.{key}"), FILE, delivery="at-least-once"))
    events.write(job, 20_000, 400_000_000)
    job.run_to_end()
    then_each_window_is_there_once(events, nats.rows("soon"))


def test_a_restored_state_loses_nothing(nats: Nats, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed + 8))
    job = make_job(job_with(nats, "restored"))
    job.run().stop()
    shutil.copytree(job.state_dir, job.folder / "old")
    running = job.run()
    never_again = Events(random.Random(1))
    assert running.post([{**row, "device": "other"} for row in never_again.more(1000)]).status_code == 202
    running.await_metric("streamjob_sink_rows_total", 1, sink="out")
    running.stop()
    shutil.rmtree(job.state_dir)
    shutil.copytree(job.folder / "old", job.state_dir)
    # Batches get the numbers that others had: those are no repeats of them.
    running = job.run()
    events.post(running, 3000)
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, [row for row in nats.rows("restored") if row["key"] != "other"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('subject: "nothing.{key}"', "no stream takes the subject nothing.*; create one: nats stream add"),
        ("duplicateWindow: 1h", "nats stream edit tried --dupe-window=3600s"),
        ("password: {secretRef: {env: WRONG_PASSWORD}}", "check the user and its secret"),
        ('servers: "127.0.0.1:1"', "connecting to 127.0.0.1:1: "),
        ("tls: {}", "remove tls, or let the server use it"),
    ],
)
def test_connections_are_tried_and_what_is_wrong_is_said(
    make_nats: Callable[..., Nats], make_job: Callable[..., Job], more: str, said: str
) -> None:
    server = make_nats(
        settings={"authorization": {"user": "job", "password": "s3cret"}},
        client={"user": "job", "password": "s3cret"},
    ).start()
    server.create("tried", "tried.*", duplicate_window=WINDOW_S)
    written = {
        "servers": server.address,
        "username": "job",
        "password": {"secretRef": {"env": "NATS_PASSWORD"}},
        "subject": "tried.{key}",
    }
    job = make_job(job_text("tried", f"nats: {json.dumps(written)}"))
    secrets = {"NATS_PASSWORD": "s3cret", "WRONG_PASSWORD": "guess"}
    tried = run_command("check", "--connect", job.path, cwd=job.folder, **secrets)
    assert tried.code == 0, tried.stderr
    assert "the subject tried.* belongs to the stream tried remembers ids for 120s" in tried.stdout
    job.path.write_text(job_text("tried", f"nats: {json.dumps({**written, **yaml.safe_load(f'{{{more}}}')})}"))
    tried = run_command("check", "--connect", job.path, cwd=job.folder, **secrets)
    assert tried.code == 1
    assert "spec.sinks[0].nats: " in tried.stderr
    assert said in tried.stderr
    assert not any(secret in tried.stdout + tried.stderr for secret in secrets.values())


@pytest.mark.skipif(certificates.MISSING is not None, reason=str(certificates.MISSING))
def test_tls_and_passwords_with_secrets_by_reference(
    make_nats: Callable[..., Nats], make_job: Callable[..., Job], folder: Path, seed: int
) -> None:
    tls = certificates.certificates(folder / "tls")
    server = make_nats(
        settings={
            "tls": {"cert_file": str(tls / "server.pem"), "key_file": str(tls / "server.key"), "timeout": 5},
            "authorization": {"token": "s3cret"},
        },
        client={"tls": ssl.create_default_context(cafile=str(tls / "ca.pem")), "token": "s3cret"},
    ).start()
    trust = f'tls: {{caFile: "{tls}/ca.pem"}}'
    events = Events(random.Random(seed + 11))
    job = make_job(job_with(server, "secret", FILE, f"token: {{secretRef: {{env: NATS_TOKEN}}}}, {trust}"))
    events.write(job, 3000, 60_000_000)
    wrong = job.start("--exit-at-end", NATS_TOKEN="guess").await_exit()
    assert wrong.code == 1
    assert "check the user and its secret" in wrong.stderr
    right = job.run_to_end(NATS_TOKEN="s3cret")
    then_each_window_is_there_once(events, server.rows("secret"))
    told = [right.stdout, right.stderr, wrong.stderr]
    told += [path.read_text("utf-8", "ignore") for path in job.state_dir.rglob("*.json")]
    assert not any("s3cret" in text or "guess" in text for text in told)
    job.write("token.txt", "s3cret\n")
    job.path.write_text(
        job_text("secret", sink(server, "secret.{key}", "token: {secretRef: {file: token.txt}}, tls: {}"), FILE)
    )
    distrusted = run_command("check", "--connect", job.path, cwd=job.folder)
    assert distrusted.code == 1
    assert "check tls: the authority" in distrusted.stderr


def test_credentials_of_an_account_are_taken_from_a_file(
    make_nats: Callable[..., Nats], make_job: Callable[..., Job], seed: int
) -> None:
    operator, another = Operator(), Operator()
    server = make_nats(settings=operator.settings, client=operator.client("test")).start()
    events = Events(random.Random(seed + 12))
    job = make_job(job_with(server, "account", FILE, "credentials: {secretRef: {file: job.creds}}"))
    events.write(job, 3000, 60_000_000)
    for text, said in (
        (another.credentials("stranger"), "check the user and its secret"),
        ("s3cret", "the secret is no text of a credentials file"),
    ):
        job.write("job.creds", text)
        wrong = job.start("--exit-at-end").await_exit()
        assert wrong.code == 1
        assert said in wrong.stderr
        assert not any(line in wrong.stderr for line in text.splitlines() if line and not line.startswith("-"))
    job.write("job.creds", operator.credentials("job"))
    assert run_command("check", "--connect", job.path, cwd=job.folder).code == 0
    job.run_to_end()
    then_each_window_is_there_once(events, server.rows("account"))


def test_the_example_runs(make_nats: Callable[..., Nats], make_job: Callable[..., Job]) -> None:
    server = make_nats().start()
    server.create("READINGS", "averages.*", "hot", duplicate_window=WINDOW_S)
    text = (Path(__file__).parents[1] / "examples" / "nats" / "job.yaml").read_text(encoding="utf-8")
    job = make_job(text.replace("localhost:4222", server.address))
    tried = run_command("check", "--connect", job.path, cwd=job.folder)
    assert tried.code == 0, tried.stderr
    running = job.run()
    rows = [{"sensor": f"s{n % 3}", "timestamp": 1000 * n, "temperature": 20.0 + n} for n in range(90)]
    assert running.post(rows).status_code == 202
    running.stop()
    job.run_to_end()
    found = server.rows("READINGS")
    assert sum(row["n"] for row in found if "window_start" in row) == len(rows)
    assert sum("window_start" not in row for row in found) == len([row for row in rows if row["temperature"] > 40])
