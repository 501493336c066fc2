"""How a Python function becomes a UDF: the `@udf` decorator and `register`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

INTERFACE_VERSIONS = (1,)
"""Versions of the interface between the engine and functions. 1: one argument for each input, one array (or a tuple of
arrays) returned; or one `pyarrow.RecordBatch` in with `arrow=True`."""

_ATTRIBUTE = "__streamjob_udf__"


@dataclass(frozen=True, slots=True)
class UdfDeclaration:
    """What `@udf` says about a function."""

    inputs: tuple[str, ...]
    output: Mapping[str, str]
    version: int
    arrow: bool
    name: str | None = None


_collecting: ContextVar[dict[str, Callable[..., Any]] | None] = ContextVar("streamjob_registrations", default=None)
registered: dict[str, Callable[..., Any]] = {}
"""What was registered outside of a job, by name: for tests of a UDF's module."""


def udf(
    *,
    inputs: Sequence[str],
    output: Mapping[str, str],
    version: int = 1,
    arrow: bool = False,
    name: str | None = None,
) -> Callable[[Function], Function]:
    """Declares a UDF's columns, so that the job need not repeat them.

    `inputs` are columns by name, in the order of the function's parameters: fields, the time field (int64
    microseconds) or statistics of the key just before the row (`stats.temperature.mean`). `output` maps the columns
    returned, in order, to `float64`, `int64`, `bool` or `string`. `version` is the interface the function is written
    for. With `arrow` it takes one `pyarrow.RecordBatch`. `name` registers it under another name.
    The function itself is returned unchanged and can be called as ever. Raises ValueError for an unknown version.

        @udf(inputs=["temperature", "stats.temperature.mean"], output={"delta": "float64"})
        def delta(temperature, mean):
            return temperature - mean
    """
    if version not in INTERFACE_VERSIONS:
        known = ", ".join(map(str, INTERFACE_VERSIONS))
        raise ValueError(f"@udf(version={version!r}): this streamjob knows the interface versions {known}")
    declaration = UdfDeclaration(tuple(inputs), dict(output), version, arrow, name)

    def declare(function: Function) -> Function:
        setattr(function, _ATTRIBUTE, declaration)
        if name is not None:
            register(name, function)
        return function

    return declare


def declaration_of(function: Callable[..., Any]) -> UdfDeclaration | None:
    """What `@udf` said about `function`, or None."""
    found = getattr(function, _ATTRIBUTE, None)
    return found if isinstance(found, UdfDeclaration) else None


def register(name: str, function: Function) -> Function:
    """Makes `function` known to the job as `name`; returns it.

    A module that a job loads may call it without importing it. Raises TypeError if the arguments are no name and
    function.
    """
    if not isinstance(name, str) or not callable(function):
        raise TypeError(f"register(name, function) takes a text and a function, got {name!r} and {function!r}")
    target = _collecting.get()
    (registered if target is None else target)[name] = function
    return function


class collect_registrations:  # noqa: N801 - reads as a function: `with collect_registrations() as functions`
    """While it is entered, `register` fills the dict that it gives."""

    def __enter__(self) -> dict[str, Callable[..., Any]]:
        """The dict to be filled."""
        functions: dict[str, Callable[..., Any]] = {}
        self._token = _collecting.set(functions)
        return functions

    def __exit__(self, *_: object) -> None:
        """Back to what was before."""
        _collecting.reset(self._token)
