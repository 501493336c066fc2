"""What an event looks like: its key, its time, its fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from streamjob.models.base import ColumnName, ColumnType, Model

MAX_FIELDS = 4096
"""The engine's readers number fields up to this."""


class KeySpec(Model):
    """What events are grouped by."""

    field: ColumnName | None = None
    """The field that holds the key (string or int64). A row without it is rejected."""

    const: Annotated[str, Field(min_length=1)] | None = None
    """One key for all events, for data without one."""


def _key(value: Any) -> Any:
    return {"field": value} if isinstance(value, str) else value


Key = Annotated[
    KeySpec,
    BeforeValidator(_key),
    WithJsonSchema(
        {
            "description": "The field that holds the key, or {const: NAME} for data without a key.",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "object",
                    "properties": {"const": {"type": "string", "minLength": 1}, "field": {"type": "string"}},
                    "additionalProperties": False,
                },
            ],
        }
    ),
]


class EventTime(Model):
    """Where the event time stands and how it is written; exactly one of `unit` and `format`."""

    field: ColumnName
    """The field that holds the event time. It is not listed among the fields."""

    unit: Literal["s", "ms", "us", "ns"] | None = None
    """The unit of a number (integer or float) since 1970-01-01 UTC."""

    format: str | None = None
    """How a text is written: `rfc3339` or a strftime pattern such as `%Y-%m-%d %H:%M:%S`."""

    timezone: str = "UTC"
    """The IANA time zone of texts that name none, for example `Europe/Berlin`."""


class SchemaSpec(Model):
    """What an event looks like."""

    key: Key
    """The field that holds the key, or `{const: NAME}`."""

    time: EventTime
    """The event time."""

    fields: Annotated[dict[ColumnName, ColumnType], Field(min_length=1, max_length=MAX_FIELDS)]
    """The fields that are read from an event, by name, with their types. Others are skipped."""
