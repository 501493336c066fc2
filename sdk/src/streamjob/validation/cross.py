"""Cross checks: what is right in itself and does not fit together."""

from __future__ import annotations

from streamjob.models import StreamJob
from streamjob.problems import Problem
from streamjob.resolve import ResolvedUdf
from streamjob.source import Source
from streamjob.validation.common import Examination
from streamjob.validation.processing import check_udfs, check_windows
from streamjob.validation.schema import check_schema, check_settings, check_sources, check_where
from streamjob.validation.sinks import check_sinks


def check_cross(job: StreamJob, source: Source, base_dir: str, udfs: list[ResolvedUdf]) -> list[Problem]:
    """Every problem of `job`, whose members stand in `source`; `udfs` are its resolved UDFs, in order."""
    examination = Examination(job, source, base_dir, udfs)
    for check in (check_schema, check_where, check_sources, check_settings, check_windows, check_udfs, check_sinks):
        check(examination)
    return examination.problems
