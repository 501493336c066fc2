"""What an event looks like: its key, its time, its fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from streamjob.models.base import ColumnName, ColumnType, Model, ShortText, problem
from streamjob.paths import parse_path

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


def _path(text: str) -> str:
    try:
        parse_path(text)
    except ValueError as error:
        fix = 'write names with dots between them, names that have dots in double quotes: sensor."a.b".value'
        raise problem(str(error), fix) from None
    return text


MemberPath = Annotated[str, AfterValidator(_path)]
"""Where a value stands in an event: names of members with dots between them; names with dots in double quotes."""


class EventTime(Model):
    """Where the event time stands and how it is written; exactly one of `unit` and `format`."""

    field: ColumnName
    """The field that holds the event time. It is not listed among the fields."""

    path: MemberPath | None = None
    """Where it stands, for example `meta.time`. Default: the member of the field's name."""

    unit: Literal["s", "ms", "us", "ns"] | None = None
    """The unit of a number (integer or float) since 1970-01-01 UTC."""

    format: str | None = None
    """How a text is written: `rfc3339` or a strftime pattern such as `%Y-%m-%d %H:%M:%S`."""

    timezone: str = "UTC"
    """The IANA time zone of texts that name none, for example `Europe/Berlin`."""


TYPES: tuple[str, ...] = get_args(ColumnType)


class FieldSpec(Model):
    """A field that is read from an event; with its type alone, `NAME: TYPE` says the same."""

    type: ColumnType
    """The type of its values."""

    path: MemberPath | None = None
    """Where its value stands, for example `sensor.temperature`. Default: the member of the field's name."""


_FIELD = ShortText(TYPES, lambda text: {"type": text})

Fields = Annotated[
    dict[ColumnName, Annotated[FieldSpec, _FIELD, _FIELD.serializer()]],
    Field(min_length=1, max_length=MAX_FIELDS),
]


class SchemaSpec(Model):
    """What an event looks like."""

    key: Key
    """The field that holds the key, or `{const: NAME}`."""

    time: EventTime
    """The event time."""

    fields: Fields
    """The fields that are read from an event, by name, with their types. Others are skipped."""

    def types(self) -> dict[str, str]:
        """The type of each field."""
        return {name: field.type for name, field in self.fields.items()}
