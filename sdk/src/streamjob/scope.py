"""Which columns exist where in a job, and their types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamjob.expressions import ANY, lower_aggregate
from streamjob.models import StreamJob, WindowSpec
from streamjob.resolve import ResolvedUdf
from streamjob.sql import ExpressionError

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
        """The fields and the outputs of event UDFs: what aggregates and sinks of events may name."""
        return self._with_outputs(self.event_fields(), "event", None)

    def udf_inputs(self) -> dict[str, str]:
        """What an event UDF may take: the fields, the time field and the statistics of numeric fields."""
        columns = self.event_fields()
        for name, kind in self.fields.items():
            if kind in ("float64", "int64", ANY):
                columns.update({f"stats.{name}.{statistic}": type_ for statistic, type_ in STATISTICS.items()})
        return columns

    def window_results(self, window: str) -> dict[str, str]:
        """Key, bounds and aggregates of a window: what its UDFs may take."""
        spec = self.windows.get(window)
        if spec is None:
            return OpenColumns()
        columns = dict(WINDOW_COLUMNS)
        arguments = self.event_columns()
        raw = next((w for w in self._raw.get("windows", ()) if isinstance(w, dict) and w.get("name") == window), {})
        raw_aggregates = raw.get("aggregates")
        columns.update(dict.fromkeys(map(str, raw_aggregates if isinstance(raw_aggregates, dict) else ()), ANY))
        for name, text in spec.aggregates.items():
            try:
                columns[name] = lower_aggregate(text, arguments).type
            except ExpressionError:
                columns[name] = ANY
        return columns

    def window_columns(self, window: str) -> dict[str, str]:
        """A window's results and the outputs of its UDFs: what its sinks may name."""
        return self._with_outputs(self.window_results(window), "window", window)

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
