"""Cross checks of PostgreSQL sinks."""

from __future__ import annotations

from streamjob.models import PostgresSink, SinkSpec
from streamjob.problems import Path, suggest
from streamjob.units import format_duration
from streamjob.validation.common import Examination


def check_postgres_sink(examination: Examination, path: Path, sink: SinkSpec, postgres: PostgresSink) -> None:
    """Secrets, members that exist, and a key where rows are replaced."""
    examination.secret((*path, "password"), postgres.password)
    examination.client_tls((*path, "tls"), postgres.tls)
    examination.backoff((*path, "backoff"), postgres.backoff)
    members = examination.members(sink)
    for column, member in (postgres.columns or {}).items():
        if members is not None and member not in members:
            fix = suggest(member, members, "members")
            examination.report((*path, "columns", column), "is no member of the rows", got=member, fix=fix)
    if postgres.columns is not None and not postgres.columns:
        examination.report((*path, "columns"), "names no column", fix="remove it, or name some")
    if postgres.mode == "upsert" and not postgres.key:
        examination.report(path, "upsert needs a key", fix="add key: with the columns of a unique index")
    if postgres.mode == "append" and postgres.key:
        examination.report((*path, "key"), "is only for upsert", fix="write mode: upsert, or remove it")
    for index, column in enumerate(postgres.key):
        if postgres.columns is not None and column not in postgres.columns:
            fix = suggest(column, postgres.columns, "columns")
            examination.report((*path, "key", index), "is not among columns", got=column, fix=fix)
    if postgres.timeout < 1_000_000:
        examination.report(
            (*path, "timeout"), "must be at least 1s", got=format_duration(postgres.timeout), fix="use for example 30s"
        )
