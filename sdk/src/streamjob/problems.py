"""What is wrong with a job file, said so that a person can repair it without looking anything up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice
from typing import Any

Path = tuple[str | int, ...]

MAX_PROBLEMS = 1000
"""Problems of a job that are told; one more says how many there are beside them."""
MAX_SUGGESTIONS = 20
"""Unknown names of one check for which the nearest known one is looked for; of further ones it is only said so."""
MAX_KNOWN = 4096
"""Known names that are looked through for the nearest."""
MAX_COMPARED = 32
"""Of these the ones that begin and end most alike, which are compared letter by letter."""
MAX_LISTED = 20
"""Known names that are listed where none is near."""

_SHOWN = 60
_CUTOFF = 0.6
_suggestions_left: ContextVar[list[int] | None] = ContextVar("suggestions_left", default=None)
"""How many are left of the check under way, as the only item of a list."""


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
    """A job that cannot run. `problems` holds the errors that were found, in the order of the file.

    `more` is the number of those that were found and not kept. Of more than MAX_PROBLEMS the first are held, and the
    last one says how many there are beside them.
    """

    def __init__(self, problems: Iterable[Problem], more: int = 0) -> None:
        found = sorted(problems, key=lambda problem: (problem.file, problem.line, problem.path))
        self.problems, more = found[:MAX_PROBLEMS], more + len(found[MAX_PROBLEMS:])
        if more:
            last = self.problems[-1]
            fix = "correct the ones above first"
            self.problems.append(Problem(last.file, last.line, "", f"{more:,} more problems", fix=fix))
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
    # Half of a surrogate pair is shown as its escape: as it is, it could not be printed.
    text = text.replace("\n", "\\n").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


@contextmanager
def few_suggestions(count: int = MAX_SUGGESTIONS) -> Iterator[None]:
    """Looks within it for the nearest name `count` times at most: what a check costs does not grow with its errors."""
    token = _suggestions_left.set([count])
    try:
        yield
    finally:
        _suggestions_left.reset(token)


def _may_suggest() -> bool:
    left = _suggestions_left.get()
    if left is None:
        return True
    left[0] -= 1
    return left[0] >= 0


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The nearest of `known` as a question, or None where nothing is near."""
    if not _may_suggest():
        return None
    wanted = name.lower()
    candidates = {candidate.lower(): candidate for candidate in islice(known, MAX_KNOWN)}
    near = get_close_matches(wanted, _likely(wanted, list(candidates)), n=1, cutoff=_CUTOFF)
    return f'did you mean "{candidates[near[0]]}"?' if near else None


def _likely(wanted: str, names: list[str]) -> list[str]:
    """Up to MAX_COMPARED of the names: those whose length allows them to be near, and of these the most alike."""
    # The cutoff is reached by no name with fewer letters in common than that share of both lengths.
    length = len(wanted)
    near = [name for name in names if 2 * min(len(name), length) >= _CUTOFF * (len(name) + length)]
    if len(near) <= MAX_COMPARED:
        return near
    backwards = wanted[::-1]
    return nlargest(MAX_COMPARED, near, key=lambda name: _alike(wanted, name) + _alike(backwards, name[::-1]))


def _alike(left: str, right: str) -> int:
    """The number of characters that both begin with."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def suggest(name: str, known: Collection[str], what: str) -> str:
    """A fix for an unknown name: the nearest known one, or else the list of all of them."""
    return did_you_mean(name, known) or known_names(known, what)


def known_names(known: Collection[str], what: str) -> str:
    """The first MAX_LISTED names that could be used, and how many more there are."""
    if not known:
        return f"there are no {what}"
    beside = len(known) - MAX_LISTED
    return f"{what}: {', '.join(islice(known, MAX_LISTED))}{f' and {beside:,} more' if beside > 0 else ''}"
