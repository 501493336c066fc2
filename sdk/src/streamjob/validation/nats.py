"""Cross checks of NATS sinks."""

from __future__ import annotations

import re

from streamjob.models import NatsSink, SinkSpec
from streamjob.problems import Path, suggest
from streamjob.units import format_duration
from streamjob.validation.common import Examination

_MEMBER = re.compile(r"\{([^{}]*)\}")
_TOKENS = re.compile(r"[!-)+-\-/-=?-~]+(\.[!-)+-\-/-=?-~]+)*")
"""Visible ASCII without * and >, with dots between."""


def check_nats_sink(examination: Examination, path: Path, sink: SinkSpec, nats: NatsSink) -> None:
    """Secrets, a subject of members that exist, and what exactly-once needs."""
    _secrets(examination, path, nats)
    examination.client_tls((*path, "tls"), nats.tls)
    examination.backoff((*path, "backoff"), nats.backoff)
    _subject(examination, (*path, "subject"), sink, nats.subject)
    if nats.timeout < 100_000:
        examination.report(
            (*path, "timeout"), "must be at least 100ms", got=format_duration(nats.timeout), fix="use for example 5s"
        )
    horizon = int(nats.timeout) + int(nats.backoff.max)
    if sink.delivery != "at-least-once" and nats.duplicate_window <= horizon:
        examination.report(
            (*path, "duplicateWindow"),
            "is not longer than timeout and backoff.max together, "
            f"{format_duration(horizon)}: a message could be sent again when the stream has forgotten it",
            got=format_duration(nats.duplicate_window),
            fix="use a longer one, or delivery: at-least-once",
        )


def _secrets(examination: Examination, path: Path, nats: NatsSink) -> None:
    given = [
        name
        for name, value in (("username", nats.username), ("token", nats.token), ("credentials", nats.credentials))
        if value is not None
    ]
    if len(given) > 1:
        examination.report(
            (*path, given[1]), "stands beside another way to sign in", got=" and ".join(given), fix="keep one of them"
        )
    if (nats.username is None) != (nats.password is None):
        missing = "username" if nats.username is None else "password"
        examination.report(path, f"has no {missing}", fix=f"add {missing}:")
    for member, secret in (("password", nats.password), ("token", nats.token), ("credentials", nats.credentials)):
        examination.secret((*path, member), secret)


def _subject(examination: Examination, path: Path, sink: SinkSpec, subject: str) -> None:
    plain = _MEMBER.sub("x", subject)
    if "{" in plain or "}" in plain or not _TOKENS.fullmatch(plain):
        examination.report(
            path,
            "is no subject: tokens of visible ASCII without * and >, with dots between them, and {member} for values",
            got=subject,
            fix="write for example readings.{key}",
        )
        return
    members = examination.members(sink)
    for name in _MEMBER.findall(subject):
        if members is not None and name not in members:
            examination.report(
                path, f"names {name}, which is no member of the rows", fix=suggest(name, members, "members")
            )
