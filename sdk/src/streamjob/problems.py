"""What is wrong with a job file, said so that a person can repair it without looking anything up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

Path = tuple[str | int, ...]

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of a job.

    `file` is the file as the user named it, `line` the 1-based line in it, `path` the member (`spec.windows[0].name`),
    `got` the offending value as it was written (None: nothing was there) and `fix` what to do about it.
    """

    file: str
    line: int
    path: str
    message: str
    got: str | None = None
    fix: str | None = None

    def __str__(self) -> str:
        """`FILE:LINE: PATH: message (got VALUE; FIX)`, the form of `streamjob check`."""
        hints = [f"got {self.got}"] if self.got is not None else []
        if self.fix:
            hints.append(self.fix)
        tail = f" ({'; '.join(hints)})" if hints else ""
        where = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}: {where}{self.message}{tail}"


class JobError(ValueError):
    """A job that cannot run. `problems` holds every error that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.file, problem.line, problem.path))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def path_text(path: Path) -> str:
    """`("spec", "windows", 0, "name")` as `spec.windows[0].name`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def value_text(value: Any) -> str:
    """A value as a person would write it in YAML, cut to one short line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The nearest of `known` as a question, or None where nothing is near."""
    candidates = {candidate.lower(): candidate for candidate in known}
    near = get_close_matches(name.lower(), list(candidates), n=1, cutoff=0.6)
    return f'did you mean "{candidates[near[0]]}"?' if near else None


def suggest(name: str, known: Iterable[str], what: str) -> str:
    """A fix for an unknown name: the nearest known one, or else the list of all of them."""
    names = list(known)
    nearest = did_you_mean(name, names)
    if nearest:
        return nearest
    return f"{what}: {', '.join(names)}" if names else f"there are no {what}"
