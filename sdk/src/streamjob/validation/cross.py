"""Cross checks: what is right in itself and does not fit together."""

from __future__ import annotations

from collections.abc import Iterator

from streamjob.models import StreamJob
from streamjob.resolve import ResolvedUdf
from streamjob.source import Source
from streamjob.validation.common import Examination
from streamjob.validation.processing import check_udfs, check_windows
from streamjob.validation.schema import check_schema, check_settings, check_sources, check_where
from streamjob.validation.sinks import check_sinks

MAX_EXPRESSIONS_LENGTH = 163_840
"""Characters of all different expressions of a job: a megabyte of them would take seconds to read."""


def check_cross(job: StreamJob, source: Source, base_dir: str, udfs: list[ResolvedUdf]) -> Examination:
    """Every problem of `job`, whose members stand in `source`; `udfs` are its resolved UDFs, in order."""
    examination = Examination(job, source, base_dir, udfs)
    for check in (check_schema, check_sources, check_settings):
        check(examination)
    if _can_be_read(examination):
        for check in (check_where, check_windows, check_udfs, check_sinks):
            check(examination)
    return examination


def _can_be_read(examination: Examination) -> bool:
    """Whether the job's expressions are not too long together, which is a problem of its own."""
    length = sum(map(len, set(_expressions(examination.job))))
    if length <= MAX_EXPRESSIONS_LENGTH:
        return True
    message = f"its expressions have {length:,} characters together, at most {MAX_EXPRESSIONS_LENGTH:,} are read"
    examination.report(("spec",), message, fix="shorten them, calculate in a UDF, or make several jobs")
    return False


def _expressions(job: StreamJob) -> Iterator[str]:
    spec = job.spec
    yield spec.where or ""
    for window in spec.windows:
        yield from window.aggregates.values()
    for sink in spec.sinks:
        yield sink.where or ""
