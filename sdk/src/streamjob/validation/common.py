"""What the cross checks share: the job under examination and a way to report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamjob.models import EVENTS, ClientTls, ConnectionBackoff, Secret, SecretRef, SinkSpec, StreamJob
from streamjob.models.base import Model
from streamjob.models.python import PythonBackoff
from streamjob.models.sinks import Backoff
from streamjob.problems import MAX_PROBLEMS, Path, Problem, did_you_mean
from streamjob.resolve import ResolvedUdf
from streamjob.scope import Scope
from streamjob.source import MISSING, Source
from streamjob.units import format_duration


@dataclass
class Examination:
    """A job with the right shape, its resolved UDFs and the problems found so far.

    Beyond MAX_PROBLEMS of them only their number is noted, in `more`.
    """

    job: StreamJob
    source: Source
    base_dir: str
    udfs: list[ResolvedUdf]
    problems: list[Problem] = field(default_factory=list)
    more: int = 0

    def __post_init__(self) -> None:
        raw = self.source.data.get("spec") if isinstance(self.source.data, dict) else None
        self.scope = Scope(self.job, self.udfs, raw)

    def report(self, path: Path, message: str, *, got: Any = MISSING, fix: str) -> None:
        """Notes a problem at `path`."""
        if len(self.problems) >= MAX_PROBLEMS:
            self.more += 1
            return
        self.problems.append(self.source.problem(path, message, got=got, fix=fix))

    def backoff(self, path: Path, backoff: Backoff | ConnectionBackoff | PythonBackoff) -> None:
        """Reports waits between tries that are too short, or that shrink."""
        if backoff.initial < 1_000:
            self.report((*path, "initial"), "must be at least 1ms", fix="use for example 100ms")
        if backoff.initial > backoff.max:
            self.report(
                (*path, "max"),
                f"is shorter than initial, {format_duration(backoff.initial)}",
                got=format_duration(backoff.max),
                fix="use a longer one",
            )

    def unique(self, path: Path, names: Iterable[str], what: str) -> None:
        """Reports each name of the list at `path` that an earlier item has."""
        first: dict[str, int] = {}
        for index, name in enumerate(names):
            if name in first:
                line = self.source.line(self.source.original((*path, first[name], "name")))
                self.report((*path, index, "name"), f"another {what} has this name, on line {line}", fix="rename one")
            first.setdefault(name, index)

    def exactly_one(self, path: Path, model: Model, kinds: Sequence[str], what: str) -> bool:
        """Reports unless exactly one of the members `kinds` (YAML names) of `model` is set."""
        fields = {info.alias or name: name for name, info in type(model).model_fields.items()}
        given = [kind for kind in kinds if getattr(model, fields[kind]) is not None]
        if len(given) == 1:
            return True
        if given:
            self.report(
                (*path, given[1]),
                f"a {what} is only one of {', '.join(kinds)}",
                got=" and ".join(given),
                fix="keep one of them",
            )
            return False
        written = self.source.value(self.source.original(path))
        members = written if isinstance(written, dict) else {}
        if any(members.get(kind) is not None for kind in kinds):
            return False  # it is there, and what is wrong with it was reported
        if any(did_you_mean(member, kinds) for member in members if member not in fields):
            return False  # likewise its misspelt name
        empty = [kind for kind in kinds if kind in members]
        if empty:
            self.report((*path, empty[0]), "has no value", fix=f"write {empty[0]}: {{}}")
        else:
            self.report(path, f"a {what} needs one of {', '.join(kinds)}", fix=f"add for example {kinds[0]}:")
        return False

    def secret(self, path: Path, secret: Secret | None) -> None:
        """Reports unless the secret at `path`, if there is one, says exactly one place to read it from."""
        if secret is not None:
            self.exactly_one((*path, "secretRef"), secret.secret_ref, SecretRef.KINDS, "secret")

    def client_tls(self, path: Path, tls: ClientTls | None) -> None:
        """Reports a certificate without its key, and a key without its certificate."""
        if tls is not None and (tls.certificate_file is None) != (tls.key_file is None):
            missing = "keyFile" if tls.key_file is None else "certificateFile"
            self.report(path, f"has no {missing}", fix=f"add {missing}:")

    def members(self, sink: SinkSpec) -> dict[str, None] | None:
        """The members of the rows that a sink gets, in order; none where it is not known what it gets."""
        if sink.from_ == EVENTS:
            return dict.fromkeys((*self.scope.event_columns(), "_id"))
        if sink.from_ in self.scope.windows:
            return dict.fromkeys((*self.scope.window_columns(sink.from_), "revision", "_id"))
        return None
