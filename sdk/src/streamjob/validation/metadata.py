"""Fields that a source fills from what it knows of a message beside its value."""

from __future__ import annotations

from typing import Literal

from streamjob.problems import Path, suggest
from streamjob.validation.common import Examination


def check_metadata_field(
    examination: Examination, path: Path, name: str, *, what: str, type_: Literal["string", "int64", "time"]
) -> None:
    """That the schema has the field `name`, and that it takes values of `type_`. `what` is the value, for the message.

    A time fits the event time, however that is written, and int64 fields, as milliseconds. A string fits an event time
    that has a format.
    """
    schema = examination.job.spec.schema_
    column = "string" if type_ == "string" else "int64"
    if name == schema.time.field:
        if not (type_ == "time" or (type_ == "string" and schema.time.format)):
            fix = "use the timestamp, or a field of its own"
            examination.report(path, f"is the event time, which {what} is not", got=name, fix=fix)
        field_path = schema.time.path
    elif (field := schema.fields.get(name)) is not None:
        if field.type != column:
            fix = f"make it {column}"
            examination.report(path, f"has the type {field.type}, {what} is {column}", got=name, fix=fix)
        field_path = field.path
    else:
        fields = [*schema.fields, schema.time.field]
        examination.report(path, "is no field of the schema", got=name, fix=suggest(name, fields, "fields"))
        return
    if field_path is not None:
        examination.report(path, "is read from a path", got=name, fix="remove its path")
