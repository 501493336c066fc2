"""What commands on a job's file share."""

from __future__ import annotations

import sys

from streamjob.loading import LoadedJob, load_job
from streamjob.problems import JobError, Problem
from streamjob.resolve import ReadText, read_text


def load_or_report(path: str, read: ReadText = read_text) -> LoadedJob | None:
    """The job of a file, or None after its problems were printed to stderr; `read` reads a text file."""
    try:
        # A line break would make the path a text: a file's name stays a name here.
        return load_job(path.replace("\n", " "), read=read)
    except JobError as error:
        report(error.problems)
    except OSError as error:
        reason = error.strerror or str(error)
        report([Problem(path, 1, "", f"cannot be read: {reason}", fix="give the path of the job's YAML file")])
    return None


def report(problems: list[Problem]) -> None:
    """Prints problems to stderr, one a line, and how many there are."""
    for problem in problems:
        print(problem, file=sys.stderr)
