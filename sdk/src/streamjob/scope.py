"""Which columns exist where in a job, and their types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamjob.expressions import ANY, Aggregate, Expression, lower_aggregate, lower_where, size
from streamjob.models import EVENTS, StreamJob, WindowSpec
from streamjob.resolve import ResolvedUdf
from streamjob.sql import ExpressionError

MAX_NODES = 65_536
"""Columns, literals and calls in all lowered expressions of a job: some functions use an argument more than once."""

STATISTICS = {
    "count": "float64",
    "mean": "float64",
    "variance": "float64",
    "stddev": "float64",
    "min": "float64",
    "max": "float64",
    "last": "float64",
}
WINDOW_COLUMNS = {"key": "string", "window_start": "int64", "window_end": "int64"}
RESERVED_WINDOW = (*WINDOW_COLUMNS, "revision", "_id")


class OpenColumns(dict[str, str]):
    """Columns of which some are unknown because of an error reported elsewhere: every further name has any type."""

    def get(self, name: str, _default: Any = None, /) -> Any:
        """The column's type; never missing."""
        return super().get(name, ANY)


class Scope:
    """The columns of a job.

    `raw` is the spec as written. Names that stand there and are not in `job`, because their declaration is wrong, are
    known as well but with any type: their use is no second error.
    """

    def __init__(self, job: StreamJob, udfs: Iterable[ResolvedUdf], raw: Any) -> None:
        self._job = job
        self._udfs = list(udfs)
        self._raw = raw if isinstance(raw, dict) else {}
        schema = job.spec.schema_
        self.fields: dict[str, str] = dict.fromkeys(self._raw_names("schema", "fields"), ANY)
        self.fields.update(schema.types())
        self.time_field = schema.time.field
        self.windows: dict[str, WindowSpec | None] = dict.fromkeys(self._raw_items("windows"))
        self.windows.update({window.name: window for window in job.spec.windows})
        self._aggregates: dict[str, Aggregate | ExpressionError] = {}
        self._conditions: dict[tuple[str, str | None], Expression] = {}
        self._results: dict[str, dict[str, str]] = {}
        self._windows: dict[str, dict[str, str]] = {}
        self._events: dict[str, str] | None = None
        self._inputs: dict[str, str] | None = None
        self._nodes = 0

    def aggregate(self, text: str) -> Aggregate:
        """An aggregate over events, lowered once. Raises ExpressionError that says the same each time."""
        found = self._aggregates.get(text)
        if found is None:
            found = self._aggregates[text] = self._lowered(text)
        if isinstance(found, ExpressionError):
            raise ExpressionError(str(found), found.fix)
        return found

    def _lowered(self, text: str) -> Aggregate | ExpressionError:
        try:
            aggregate = lower_aggregate(text, self.event_columns())
            self._count(aggregate.argument)
            return aggregate
        except ExpressionError as error:
            # Without its traceback and cause, which hold all that the parser has made.
            return ExpressionError(str(error), error.fix)

    def condition(self, text: str, rows: str | None) -> Expression:
        """A condition on the rows of a window or of EVENTS, or on events as they come (None), lowered once.

        Raises ExpressionError.
        """
        if (text, rows) not in self._conditions:
            expression = lower_where(text, self.event_fields() if rows is None else self.columns(rows))
            self._count(expression)
            self._conditions[text, rows] = expression
        return self._conditions[text, rows]

    def columns(self, rows: str) -> dict[str, str]:
        """What sinks of a window or of EVENTS may name. Not to be changed."""
        return self.event_columns() if rows == EVENTS else self.window_columns(rows)

    def _count(self, expression: Expression | None) -> None:
        self._nodes += 0 if expression is None else size(expression)
        if self._nodes > MAX_NODES:
            message = f"makes the job's expressions larger than {MAX_NODES:,} columns, literals and calls"
            raise ExpressionError(message, "simplify them, or use a UDF")

    def _raw_names(self, *path: str) -> list[str]:
        value: Any = self._raw
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return [str(name) for name in value] if isinstance(value, dict) else []

    def _raw_items(self, part: str) -> list[str]:
        items = self._raw.get(part)
        return (
            [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]
            if isinstance(items, list)
            else []
        )

    def event_fields(self) -> dict[str, str]:
        """The schema's fields and the time field (int64 microseconds): what `spec.where` may name."""
        return {**self.fields, self.time_field: "int64"}

    def event_columns(self) -> dict[str, str]:
        """The fields and the outputs of event UDFs: what aggregates and sinks of events may name. Not to be changed."""
        if self._events is None:
            self._events = self._with_outputs(self.event_fields(), "event", None)
        return self._events

    def udf_inputs(self) -> dict[str, str]:
        """What an event UDF may take: the fields, the time and the statistics of numeric fields. Not to be changed."""
        if self._inputs is None:
            self._inputs = self._udf_inputs()
        return self._inputs

    def _udf_inputs(self) -> dict[str, str]:
        columns = self.event_fields()
        for name, kind in self.fields.items():
            if kind in ("float64", "int64", ANY):
                columns.update({f"stats.{name}.{statistic}": type_ for statistic, type_ in STATISTICS.items()})
        return columns

    def window_results(self, window: str) -> dict[str, str]:
        """Key, bounds and aggregates of a window: what its UDFs may take. Not to be changed."""
        spec = self.windows.get(window)
        if spec is None:
            return OpenColumns()
        if window not in self._results:
            self._results[window] = self._window_results(window, spec)
        return self._results[window]

    def _window_results(self, window: str, spec: WindowSpec) -> dict[str, str]:
        columns = dict(WINDOW_COLUMNS)
        raw = next((w for w in self._raw.get("windows", ()) if isinstance(w, dict) and w.get("name") == window), {})
        raw_aggregates = raw.get("aggregates")
        columns.update(dict.fromkeys(map(str, raw_aggregates if isinstance(raw_aggregates, dict) else ()), ANY))
        for name, text in spec.aggregates.items():
            try:
                columns[name] = self.aggregate(text).type
            except ExpressionError:
                columns[name] = ANY
        return columns

    def window_columns(self, window: str) -> dict[str, str]:
        """A window's results and the outputs of its UDFs: what its sinks may name. Not to be changed."""
        if window not in self._windows:
            results = self.window_results(window)
            copy = OpenColumns(results) if isinstance(results, OpenColumns) else dict(results)
            self._windows[window] = self._with_outputs(copy, "window", window)
        return self._windows[window]

    def _with_outputs(self, columns: dict[str, str], on: str, window: str | None) -> dict[str, str]:
        complete = not isinstance(columns, OpenColumns)
        known = {udf.name for udf in self._udfs}
        for udf in self._udfs:
            if udf.on == on and (on == "event" or udf.window == window):
                columns.update(udf.outputs or {})
                complete = complete and udf.outputs is not None
        # A UDF that was taken out for another error may have had any output.
        complete = complete and known >= set(self._raw_items("udfs"))
        return columns if complete else OpenColumns(columns)
