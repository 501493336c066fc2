"""Rows into a table, exactly once, against a real server."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import certificates
import httpx
import kills
import postgres_server
import pytest
import yaml
from conftest import skip_or_fail
from harness import Job, Row, run_command, wait_until
from postgres_server import Postgres
from sink_jobs import (
    FILE,
    HTTP,
    Events,
    job_text,
    post_until_taken,
    survive,
    survive_outages,
    then_each_window_is_there_once,
)

pytestmark = pytest.mark.servers

WINDOWS = """
CREATE TABLE windows (key text, window_start timestamptz, window_end timestamptz, revision integer, n bigint,
    total bigint, low bigint, high bigint, opening bigint, closing bigint, _id text {more})
"""
READ = """SELECT key, to_char(window_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS window_start,
    n, total, low, high, opening, closing, _id FROM windows"""


def sink(server: Postgres, database: str, more: str = "") -> str:
    """The member of a sink that writes to the table."""
    more = more and f", {more}"
    where = f"host: 127.0.0.1, port: {server.port}, database: {database}"
    return f"postgres: {{{where}, username: admin, table: windows{more}}}"


def job_with(server: Postgres, name: str, source: str = HTTP, more: str = "", tables: str = "", **options: str) -> str:
    """A job with a database of its own."""
    server.create(name, tables or WINDOWS.format(more=""))
    return job_text(name, sink(server, name, more), source, **options)


def windows(server: Postgres, database: str) -> list[Row]:
    """What is in the table."""
    return server.rows(READ, database)


def test_windows_into_a_table(postgres: Postgres, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed))
    job = make_job(job_with(postgres, "plain", FILE))
    events.write(job, 20_000, 400_000_000)
    totals = job.run_to_end().totals
    assert totals["applied"] == totals["received"] == len(events.all)
    then_each_window_is_there_once(events, windows(postgres, "plain"))
    ends = postgres.rows("SELECT DISTINCT window_end - window_start AS length, revision FROM windows", "plain")
    assert ends == [{"length": "00:00:10", "revision": 0}]
    progress = postgres.rows("SELECT shard, next, refused FROM streamjob_progress ORDER BY shard", "plain")
    assert [row["shard"] for row in progress] == [-1, 0, 1, 2, 3, 4]
    assert all(row["refused"] == "" for row in progress)


def test_rows_replace_those_with_their_key(postgres: Postgres, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed + 1), keys=7)
    newest = (
        "CREATE TABLE windows (device text PRIMARY KEY, since timestamptz, n bigint, untouched text DEFAULT 'kept')"
    )
    columns = "mode: upsert, key: [device], columns: {device: key, since: window_start, n: n}"
    job = make_job(job_with(postgres, "newest", FILE, columns, newest))
    events.write(job, 20_000, 400_000_000)
    job.run_to_end()
    expected: dict[str, int] = {}
    for (key, _), row in sorted(events.windows().items(), key=lambda item: item[0][1]):
        expected[key] = row["n"]
    rows = postgres.rows("SELECT device, n, untouched FROM windows", "newest")
    assert {row["device"]: row["n"] for row in rows} == expected
    assert {row["untouched"] for row in rows} == {"kept"}


def test_events_with_all_types_of_columns(postgres: Postgres, make_job: Callable[..., Job]) -> None:
    table = """CREATE TABLE windows (device varchar(80), at timestamptz, x smallint, doc jsonb, price numeric(9, 2),
        number serial, half integer GENERATED ALWAYS AS (x / 2) STORED, id text PRIMARY KEY)"""
    columns = "columns: {device: device, at: at, x: x, doc: device, price: x, id: _id}"
    job = make_job(job_with(postgres, "types", FILE, columns, table, out="events"))
    odd = "tab\t, back\\slash, line\nbreak, \\N, quote\" '; 雪"
    rows = [
        {"device": odd, "at": 1_700_000_000_123_456, "x": 7},
        {"device": "b", "at": 1_700_000_001_000_000, "x": None},
    ]
    job.write("events.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    job.run_to_end()
    read = "SELECT device, extract(epoch FROM at) AS at, x, doc, price, half FROM windows ORDER BY windows.at"
    assert postgres.rows(read, "types") == [
        {"device": odd, "at": 1_700_000_000.123456, "x": 7, "doc": odd, "price": 7.00, "half": 3},
        {"device": "b", "at": 1_700_000_001.0, "x": None, "doc": "b", "price": None, "half": None},
    ]


@pytest.mark.kills
def test_tables_survive_kills_at_random_moments(
    postgres: Postgres, make_job: Callable[..., Job], report: kills.Report, seed: int
) -> None:
    rng = random.Random(seed + 2)
    events = Events(rng)
    job = make_job(job_with(postgres, "random-kills"))
    survive(job, events, kills.at_random(kills.share(0.2), rng, 0.0, 1.5), report)
    then_each_window_is_there_once(events, windows(postgres, "random-kills"))


@pytest.mark.kills
def test_tables_survive_kills_at_every_step(
    postgres: Postgres, make_job: Callable[..., Job], report: kills.Report, seed: int, crash_engine: Path
) -> None:
    rng = random.Random(seed + 3)
    events = Events(rng)
    # One row in a hundred is not taken: it is among the dead letters once, whatever is killed when.
    spoilt = WINDOWS.format(more=", CHECK (total % 100 <> 1)")
    job = make_job(job_with(postgres, "named-kills", tables=spoilt), engine=crash_engine)
    steps = [step for step in kills.crash_points() if step.startswith("postgres-")]
    assert steps == ["postgres-after-commit", "postgres-before-commit", "postgres-before-progress"]
    survive(job, events, kills.named(steps, (1, rng.randrange(2, 9))), report)
    letters = [letter["row"] for letter in job.rows("dead")]
    assert letters
    assert all(letter["total"] % 100 == 1 for letter in letters)
    then_each_window_is_there_once(events, [*windows(postgres, "named-kills"), *letters])


@pytest.mark.kills
def test_a_server_is_killed_paused_and_restarted(
    make_postgres: Callable[..., Postgres], make_job: Callable[..., Job], seed: int
) -> None:
    server = make_postgres().start()
    events = Events(random.Random(seed + 4))
    job = make_job(job_with(server, "server-kills", more="timeout: 2s, backoff: {max: 1s}"))
    survive_outages(job, events, server)
    then_each_window_is_there_once(events, windows(server, "server-kills"))


def test_a_start_without_a_server_waits_for_it(
    make_postgres: Callable[..., Postgres], make_job: Callable[..., Job], seed: int
) -> None:
    server = make_postgres().start()
    job = make_job(job_with(server, "late", more="backoff: {max: 500ms}"))
    server.stop()
    running = job.run()
    assert running.get("/healthz").status_code == 200
    events = Events(random.Random(seed + 5))
    events.post(running, 2000)
    wait_until("a try that fails", lambda: running.metrics().sum("streamjob_connection_errors_total") > 0)
    server.start()
    running.await_processed(len(events.all), within_s=60)
    running.stop()
    job.run_to_end()
    then_each_window_is_there_once(events, windows(server, "late"))


def test_rows_that_the_table_does_not_take_are_left_out_alone(
    postgres: Postgres, make_job: Callable[..., Job], seed: int
) -> None:
    events = Events(random.Random(seed + 6))
    picky = WINDOWS.format(more=", CHECK ((total % 10 + 10) % 10 <> 3), UNIQUE (_id) DEFERRABLE INITIALLY DEFERRED")
    job = make_job(job_with(postgres, "picky", FILE, tables=picky))
    events.write(job, 20_000, 400_000_000)
    job.run_to_end()
    letters = job.rows("dead")
    wanted = {key: row for key, row in events.windows().items() if row["total"] % 10 == 3}
    assert len(letters) == len(wanted) > 10
    assert all('out: new row for relation "windows" violates check constraint' in row["reason"] for row in letters)
    assert all(letter["source"] == "out" for letter in letters)
    then_each_window_is_there_once(events, [*windows(postgres, "picky"), *(letter["row"] for letter in letters)])


def test_rows_of_the_wrong_type_are_left_out_alone(postgres: Postgres, make_job: Callable[..., Job]) -> None:
    table = "CREATE TABLE windows (device uuid, x smallint)"
    job = make_job(
        job_with(
            postgres,
            "wrong-types",
            FILE,
            "mode: upsert, key: [device]",
            table + "; CREATE UNIQUE INDEX ON windows (device); ALTER TABLE windows ALTER COLUMN device SET NOT NULL",
            out="events",
        )
    )
    good = [{"device": f"00000000-0000-0000-0000-{n:012}", "at": n, "x": n} for n in range(50)]
    bad = [
        {"device": "no uuid", "at": 60, "x": 1},
        {**good[0], "at": 61, "x": 70_000},
        {**good[0], "at": 62, "x": None},
    ]
    rows = [*good[:20], bad[0], *good[20:], *bad[1:]]
    job.write("events.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    job.run_to_end()
    reasons = sorted(letter["reason"] for letter in job.rows("dead"))
    assert len(reasons) == 2
    assert "invalid input syntax for type uuid" in reasons[0]
    assert "out of range for type smallint" in reasons[1]
    found = {row["device"]: row["x"] for row in postgres.rows("SELECT * FROM windows", "wrong-types")}
    assert found == {row["device"]: row["x"] for row in good} | {good[0]["device"]: None}


OBJECTS = """
CREATE FUNCTION objects() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {when} THEN RAISE EXCEPTION 'this one is not taken' USING ERRCODE = 'ZZ001'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER objects BEFORE INSERT ON windows FOR EACH ROW EXECUTE FUNCTION objects()
"""


@pytest.mark.parametrize(
    ("database", "table", "bad", "said"),
    [
        # A type with a language of its own says that the syntax is wrong, as of a statement.
        ("own-syntax", "CREATE TABLE windows (device tsquery, x bigint)", "a & & b", "syntax error in tsquery"),
        (
            "own-code",
            "CREATE TABLE windows (device text, x bigint);" + OBJECTS.format(when="NEW.device = 'bad'"),
            "bad",
            "this one is not taken",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_row_that_is_refused_under_any_code_is_left_out_alone(
    postgres: Postgres, make_job: Callable[..., Job], database: str, table: str, bad: str, said: str, mode: str
) -> None:
    more = ""
    if mode == "upsert":
        more = "mode: upsert, key: [x]"
        table += "; ALTER TABLE windows ALTER COLUMN x SET NOT NULL; CREATE UNIQUE INDEX ON windows (x)"
    database = f"{database}-{mode}"
    job = make_job(job_with(postgres, database, FILE, more, table, out="events"))
    rows = [{"device": bad if n == 17 else f"d{n % 7}", "at": n, "x": n} for n in range(50)]
    job.write("events.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    job.run_to_end()
    letters = job.rows("dead")
    assert [letter["row"]["x"] for letter in letters] == [17]
    assert said in letters[0]["reason"]
    taken = {row["x"] for row in postgres.rows("SELECT x FROM windows", database)}
    assert taken == set(range(50)) - {17}


def test_a_table_that_takes_nothing_does_not_send_everything_to_the_dead_letters(
    postgres: Postgres, make_job: Callable[..., Job], seed: int
) -> None:
    events = Events(random.Random(seed + 12))
    table = "CREATE TABLE windows (device text, x bigint, _id text);" + OBJECTS.format(when="true")
    job = make_job(job_with(postgres, "takes-nothing", FILE, "backoff: {max: 500ms}", table, out="events"))
    events.write(job, 5000, 20_000_000)
    running = job.start("--exit-at-end")
    wait_until("that it says so", lambda: "one after the other, none is taken" in running.stderr, within_s=60)
    postgres.run("DROP TRIGGER objects ON windows", "takes-nothing")
    running.await_success(within_s=120)
    letters = [letter["row"] for letter in job.rows("dead")]
    assert len(letters) <= 100
    rows = [*postgres.rows("SELECT _id FROM windows", "takes-nothing"), *letters]
    assert len(rows) == len({row["_id"] for row in rows}) == len(events.all)


def test_transactions_get_smaller_until_they_are_in_time(
    postgres: Postgres, make_job: Callable[..., Job], seed: int
) -> None:
    events = Events(random.Random(seed + 13))
    table = """CREATE TABLE windows (device text, x bigint, _id text);
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON windows FOR EACH ROW EXECUTE FUNCTION slow()"""
    job = make_job(job_with(postgres, "slow", FILE, "timeout: 2s, maxBatchRows: 200", table, out="events"))
    # All of them take ten times as long as a transaction may; a batch has time.
    events.write(job, 10_000, 20_000_000)
    finished = job.run_to_end(within_s=240)
    assert "raise timeout, or lower maxBatchRows" in finished.stderr
    ids = [row["_id"] for row in postgres.rows("SELECT _id FROM windows", "slow")]
    assert len(ids) == len(set(ids)) == len(events.all)


def test_the_isolation_is_the_same_whatever_the_default_of_the_server_is(
    postgres: Postgres, make_job: Callable[..., Job], seed: int
) -> None:
    events = Events(random.Random(seed + 14))
    table = WINDOWS.format(more=", isolation text DEFAULT current_setting('transaction_isolation')")
    job = make_job(job_with(postgres, "isolated", FILE, tables=table))
    postgres.run("ALTER DATABASE isolated SET default_transaction_isolation = 'repeatable read'")
    events.write(job, 3000, 60_000_000)
    job.run_to_end()
    then_each_window_is_there_once(events, windows(postgres, "isolated"))
    used = postgres.rows("SELECT DISTINCT isolation FROM windows", "isolated")
    assert used == [{"isolation": "read committed"}]


@pytest.mark.parametrize(
    ("database", "columns"),
    [
        ("progress-next", "state text, sink text, shard integer, next integer NOT NULL, refused text NOT NULL"),
        ("progress-shard", "state text, sink text, shard bigint, next bigint NOT NULL, refused text NOT NULL"),
        ("progress-state", "state integer, sink text, shard integer, next bigint NOT NULL, refused text NOT NULL"),
        ("progress-refused", "state text, sink text, shard integer, next bigint NOT NULL, refused jsonb NOT NULL"),
        ("progress-missing", "state text, sink text, shard integer, next bigint NOT NULL"),
        ("progress-key", "state text, sink text, shard integer, next bigint NOT NULL, refused text NOT NULL"),
    ],
)
def test_a_table_of_progress_that_is_another_ends_the_job_with_what_it_must_be(
    postgres: Postgres, make_job: Callable[..., Job], database: str, columns: str
) -> None:
    key = "" if database == "progress-key" else ", PRIMARY KEY (state, sink, shard)"
    tables = WINDOWS.format(more="") + f"; CREATE TABLE streamjob_progress ({columns}{key})"
    job = make_job(job_with(postgres, database, FILE, tables=tables))
    Events(random.Random(1)).write(job, 10, 1000)
    failed = job.start("--exit-at-end").await_exit()
    assert failed.code == 1
    assert "the table of progress, streamjob_progress, is not as it must be" in failed.stderr
    assert "(state text, sink text, shard integer, next bigint NOT NULL" in failed.stderr
    assert "panicked" not in failed.stderr


def test_at_least_once_writes_at_once(postgres: Postgres, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed + 7))
    job = make_job(job_with(postgres, "soon", FILE, delivery="at-least-once"))
    events.write(job, 20_000, 400_000_000)
    job.run_to_end()
    then_each_window_is_there_once(events, windows(postgres, "soon"))
    assert postgres.rows("SELECT to_regclass('streamjob_progress') AS found", "soon") == [{"found": None}]


def test_a_restored_state_repeats_and_says_so(postgres: Postgres, make_job: Callable[..., Job], seed: int) -> None:
    events = Events(random.Random(seed + 8))
    job = make_job(job_with(postgres, "restored"))
    for _ in range(2):
        running = job.run()
        events.post(running, 3000)
        running.await_metric("streamjob_sink_rows_total", 1, sink="out")
        running.stop()
        if not (job.folder / "old").exists():
            shutil.copytree(job.state_dir, job.folder / "old")
    before = len(windows(postgres, "restored"))
    shutil.rmtree(job.state_dir)
    shutil.copytree(job.folder / "old", job.state_dir)
    # The journal of the second run is gone with its state: a client that knows better sends again.
    running = job.run()
    again = [{"device": row["key"], "at": row["time_us"], "x": row["x"]} for row in events.all[3000:]]
    post_until_taken(running, again)
    running.stop()
    finished = job.run_to_end()
    assert "OutputsMayRepeat" in finished.stderr + running.stderr
    rows = windows(postgres, "restored")
    once = {row["_id"]: row for row in rows}
    assert len(rows) > before
    then_each_window_is_there_once(events, list(once.values()))


def test_of_two_processes_with_one_state_the_older_is_fenced_off(
    postgres: Postgres, make_job: Callable[..., Job], seed: int
) -> None:
    events = Events(random.Random(seed + 9))
    text = job_with(postgres, "double")
    job, double = make_job(text), make_job(text, name="double")
    job.run().stop()
    shutil.copytree(job.state_dir, double.state_dir)
    first = job.run()
    rows = events.more(3000)
    assert first.post(rows).status_code == 202
    first.await_metric("streamjob_sink_rows_total", 1, sink="out")
    first.await_processed(3000)
    wait_until("all that it may write", lambda: first.metrics().sum("streamjob_sink_pending_rows", sink="out") == 0)
    second = double.run()
    post_until_taken(second, rows)
    second.await_processed(3000)
    # The first has something to write, and may not.
    late = [*Events(random.Random(1)).more(10, 10), {"device": "d1", "at": 10**9, "x": 1}]
    assert first.post(late).status_code == 202
    failed = first.await_exit()
    assert failed.code == 1
    assert "another process with a copy of this state directory" in failed.stderr
    second.stop()
    assert "OutputsMayRepeat" in double.run_to_end().stderr + second.stderr, "a copy is older than what the other wrote"
    once = {row["_id"]: row for row in windows(postgres, "double")}
    then_each_window_is_there_once(events, list(once.values()))


def test_progress_that_is_gone_is_never_passed_over(
    postgres: Postgres, make_job: Callable[..., Job], seed: int
) -> None:
    events = Events(random.Random(seed + 10))
    job = make_job(job_with(postgres, "forgotten"))
    running = job.run()
    events.post(running, 3000)
    running.await_metric("streamjob_sink_rows_total", 1, sink="out")
    postgres.run("DELETE FROM streamjob_progress", "forgotten")
    # What is still under way of the first may be enough to end the job.
    with contextlib.suppress(httpx.TransportError):
        running.post(events.more(3000))
    failed = running.await_exit()
    assert failed.code == 1
    assert "its rows in the table streamjob_progress are gone" in failed.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("table: nothing", "there is no table nothing; create it"),
        ("mode: upsert, key: [n]", "its key, (n), is not unique; CREATE UNIQUE INDEX ON"),
        ("columns: {nothing: n}", "has no column nothing"),
        ("database: nothing", "create the database, or correct its name"),
        ("username: reader, password: {secretRef: {env: SINK_PASSWORD}}", "GRANT SELECT, INSERT, UPDATE"),
        ("username: job, password: {secretRef: {env: SINK_PASSWORD}}", "check username and password"),
        ("port: 1", "connecting to 127.0.0.1:1: "),
        ("tls: {}", "remove tls, or let the server use it"),
    ],
)
def test_connections_are_tried_and_what_is_wrong_is_said(
    guarded: Postgres, make_job: Callable[..., Job], more: str, said: str
) -> None:
    where = {"host": "127.0.0.1", "port": guarded.port, "database": "tried", "username": "admin", "table": "windows"}
    written = {**where, "password": {"secretRef": {"env": "ADMIN_PASSWORD"}}}
    job = make_job(job_text("tried", f"postgres: {json.dumps(written)}"))
    secrets = {"ADMIN_PASSWORD": "adm1n", "SINK_PASSWORD": "s3cret"}
    tried = run_command("check", "--connect", job.path, cwd=job.folder, **secrets)
    assert tried.code == 0, tried.stderr
    assert "the table windows takes key, window_start" in tried.stdout
    assert "the table streamjob_progress is not there and will be created" in tried.stdout
    changed = {**written, **yaml.safe_load(f"{{{more}}}")}
    job.path.write_text(job_text("tried", f"postgres: {json.dumps(changed)}"))
    tried = run_command("check", "--connect", job.path, cwd=job.folder, **secrets)
    assert tried.code == 1
    assert "spec.sinks[0].postgres: " in tried.stderr
    assert said in tried.stderr
    assert "s3cret" not in tried.stdout + tried.stderr


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    """A server that asks for passwords."""
    reason = postgres_server.missing()
    if reason:
        skip_or_fail(reason)
    server = Postgres(hba=("host all all 127.0.0.1/32 scram-sha-256",)).start()
    server.run(
        "ALTER ROLE admin PASSWORD 'adm1n'; CREATE ROLE job LOGIN PASSWORD 'other';"
        "CREATE ROLE reader LOGIN PASSWORD 's3cret'"
    )
    server.create("tried", WINDOWS.format(more="") + "; GRANT SELECT ON windows TO reader")
    yield server
    server.remove()


@pytest.mark.skipif(certificates.MISSING is not None, reason=str(certificates.MISSING))
def test_tls_and_passwords_with_secrets_by_reference(
    make_postgres: Callable[..., Postgres], make_job: Callable[..., Job], folder: Path, seed: int
) -> None:
    tls = certificates.certificates(folder / "tls")
    server = make_postgres(hba=("hostssl all all 127.0.0.1/32 scram-sha-256",))
    files = {
        "ssl_cert_file": server.give(tls / "server.pem", "server.pem"),
        "ssl_key_file": server.give(tls / "server.key", "server.key"),
    }
    server.settings = {"ssl": "on", **{name: str(path) for name, path in files.items()}}
    server.start()
    server.run("ALTER ROLE admin PASSWORD 's3cret'")
    secret = "password: {secretRef: {%s}}"
    trust = f'tls: {{caFile: "{tls}/ca.pem"}}'
    events = Events(random.Random(seed + 11))
    job = make_job(job_with(server, "secret", FILE, f"{secret % 'env: SINK_PASSWORD'}, {trust}"))
    events.write(job, 3000, 60_000_000)
    missing = job.start("--exit-at-end").await_exit()
    assert missing.code == 1
    assert "the environment variable SINK_PASSWORD is not set" in missing.stderr
    wrong = job.start("--exit-at-end", SINK_PASSWORD="guess").await_exit()
    assert wrong.code == 1
    assert "check username and password" in wrong.stderr
    right = job.run_to_end(SINK_PASSWORD="s3cret")
    then_each_window_is_there_once(events, windows(server, "secret"))
    told = [
        right.stdout,
        right.stderr,
        wrong.stderr,
        *(path.read_text("utf-8", "ignore") for path in job.state_dir.rglob("*.json")),
    ]
    assert not any("s3cret" in text or "guess" in text for text in told)
    job.write("password.txt", "s3cret\n")
    for trusted, said in (("tls: {}", "check tls: the authority"), ("", "pg_hba.conf")):
        more = ", ".join(filter(None, [secret % "file: password.txt", trusted]))
        job.path.write_text(job_text("secret", sink(server, "secret", more), FILE))
        distrusted = run_command("check", "--connect", job.path, cwd=job.folder)
        assert distrusted.code == 1
        assert said in distrusted.stderr


def test_the_example_runs(postgres: Postgres, make_job: Callable[..., Job]) -> None:
    example = Path(__file__).parents[1] / "examples" / "postgres"
    postgres.create("telemetry", (example / "tables.sql").read_text(encoding="utf-8"))
    postgres.run("CREATE ROLE job LOGIN SUPERUSER")
    text = (example / "job.yaml").read_text(encoding="utf-8").replace("port: 5432", f"port: {postgres.port}")
    job = make_job(text)
    secrets = {"PGPASSWORD": "nobody asks"}
    tried = run_command("check", "--connect", job.path, cwd=job.folder, **secrets)
    assert tried.code == 0, tried.stderr
    running = job.run(**secrets)
    rows = [{"sensor": f"s{n % 3}", "timestamp": 1000 * n, "temperature": 20.0 + n} for n in range(90)]
    assert running.post(rows).status_code == 202
    running.stop()
    job.run_to_end(**secrets)
    averages = postgres.rows(
        "SELECT sensor, n, mean FROM averages WHERE since = to_timestamp(30) ORDER BY sensor", "telemetry"
    )
    assert [row["sensor"] for row in averages] == ["s0", "s1", "s2"]
    assert sum(row["n"] for row in averages) == 10
    newest = postgres.rows("SELECT sensor, temperature FROM newest ORDER BY sensor", "telemetry")
    assert [row["temperature"] for row in newest] == [107.0, 108.0, 109.0]
