"""The strict base of all models and the value types with units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from streamjob.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    UnitError,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


class Model(BaseModel):
    """camelCase in YAML, snake_case in Python; unknown members and silent conversions are errors."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=False,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        """The usual schema, with defaults as users write them: `10s` and `64Mi`, not the integers they are inside."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, field in cls.model_fields.items():
            written = next((part.func for part in field.metadata if isinstance(part, PlainSerializer)), None)
            if written is not None and not field.is_required():
                as_text = cast("Callable[[Any], str]", written)
                properties[field.alias or name]["default"] = as_text(field.default)
        return schema


def problem(message: str, fix: str) -> PydanticCustomError:
    """An error for a validator to raise: what is wrong and what to do. Neither may hold braces of a template."""
    return PydanticCustomError("streamjob", "{message}", {"message": message, "fix": fix})


class ShortText:
    """An annotation of a model that may be written as a text.

    `read` makes its members of one of `texts`; `write` gives the text back where nothing else is set, or the members.
    """

    def __init__(self, texts: tuple[str, ...], read: Callable[[str], dict[str, Any]]) -> None:
        self.texts = texts
        self._read = read

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "enum": list(self.texts)}, handler(schema)]}

    def _validate(self, value: Any) -> Any:
        if isinstance(value, str) and value in self.texts:
            return self._read(value)
        if isinstance(value, (dict, BaseModel)):
            return value
        raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{text}'" for text in self.texts)})

    def write(self, value: BaseModel) -> Any:
        """The value as a user writes it."""
        members = value.model_dump(mode="json", by_alias=True, exclude_none=True)
        return next((text for text in self.texts if self._read(text) == members), members)

    def serializer(self) -> PlainSerializer:
        """What makes a model dump as users write it."""
        return PlainSerializer(self.write)


class _Quantity(int):
    """An int that remembers it was parsed, so that a model can be built from its own values again."""


def _reader(parse: Callable[[object], int]) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, _Quantity):
            return value
        try:
            return _Quantity(parse(value))
        except UnitError as error:
            raise problem(str(error), error.fix) from None

    return read


Duration: TypeAlias = Annotated[
    int,
    BeforeValidator(_reader(parse_duration)),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]
"""Microseconds; `10s`, `250ms`, `1h30m` in YAML."""

Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_reader(parse_size)),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN}),
]
"""Bytes; `64Mi`, `1Gi`, `500k` in YAML."""

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]*$"
COLUMN_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.-]*$"

Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
"""The name of a source, window, UDF or sink; it becomes part of file names, ids and metric labels."""

ColumnName: TypeAlias = Annotated[str, Field(pattern=COLUMN_PATTERN, max_length=128)]
"""The name of a column: a field of the events, an aggregate or an output of a UDF."""

ColumnType: TypeAlias = Literal["string", "float64", "int64", "bool"]
