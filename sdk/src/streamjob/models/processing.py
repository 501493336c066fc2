"""What is done with events: windows, aggregates and Python functions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from streamjob.models.base import ColumnName, ColumnType, Duration, Model, Name

MAX_AGGREGATES = 4096
"""The engine numbers a pane's words with 16 bits."""


class WindowSpec(Model):
    """One window over event time and its aggregates for each key."""

    name: Name
    """The window's name, which sinks and queries refer to."""

    tumbling: Duration
    """The size of windows that follow each other without gap, aligned to 1970-01-01 UTC: `[start, end)`."""

    aggregates: Annotated[
        dict[ColumnName, Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_AGGREGATES)
    ]
    """Results by name: `count()`, `count(x)`, `sum`, `mean`, `min`, `max`, `variance`, `stddev`, `first` or `last`. All
    different expressions of a job have at most 163,840 characters together."""


class ConfigMapCode(Model):
    """A key of a Kubernetes ConfigMap."""

    name: Annotated[str, Field(min_length=1)]
    """The ConfigMap's name."""

    key: Annotated[str, Field(min_length=1)]
    """The key that holds the module's text."""


class CodeSpec(Model):
    """The text of a Python module; exactly one of the kinds is set.

    A check looks into it, without running it, for the function or class and for what `@udf` declares. It does not look
    into a text of more than 32,768 words and signs (some 150 KiB of code, or less with data in it), nor into more than
    131,072 of a job: that code is run as well, but its `inputs` and `output` have to be in the job, and an error in it
    shows only when the job starts.
    """

    inline: Annotated[str, Field(min_length=1)] | None = None
    """The module's text itself."""

    config_map: ConfigMapCode | None = None
    """The module's text from a ConfigMap, on Kubernetes."""


def _inputs(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class UdfSpec(Model):
    """One Python function on columns; exactly one of `file` and `code`."""

    name: Name
    """The UDF's name."""

    file: Annotated[str, Field(min_length=1)] | None = None
    """A Python file, relative to the job's file."""

    code: CodeSpec | None = None
    """The module without a file of its own."""

    function: Annotated[str, Field(min_length=1)]
    """The function: defined at the top of the module, or registered there by `register(NAME, fn)`."""

    on: Literal["event", "window"] = "event"
    """Whether it runs on events or on closed windows."""

    window: Name | None = None
    """The window whose results it runs on; may be left out where the job has just one."""

    inputs: (
        Annotated[
            tuple[str, ...],
            BeforeValidator(_inputs),
            Field(min_length=1),
            WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
        ]
        | None
    ) = None
    """The columns it takes, in order: fields, the time field, `stats.FIELD.mean` and such; for windows its aggregates,
    `key`, `window_start`, `window_end`. Default: what the function's `@udf` declares."""

    output: Annotated[dict[ColumnName, ColumnType], Field(min_length=1)] | None = None
    """The columns it returns, in order, with their types. Default: what the function's `@udf` declares."""
