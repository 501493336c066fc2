"""Cross checks of formats."""

from __future__ import annotations

from streamjob.models import Avro, FileFormatKinds, MessageFormatKinds, Registry, SchemaText
from streamjob.problems import Path
from streamjob.validation.common import Examination


def check_message_format(examination: Examination, path: Path, written: MessageFormatKinds) -> None:
    """The format of a source's messages."""
    examination.exactly_one(path, written, MessageFormatKinds.KINDS, "format")
    if written.avro is not None:
        check_avro(examination, (*path, "avro"), written.avro)


def check_file_format(examination: Examination, path: Path, written: FileFormatKinds) -> None:
    """The format of a file."""
    examination.exactly_one(path, written, FileFormatKinds.KINDS, "format")
    if written.avro is not None and written.avro.schema_ is not None:
        _schema(examination, (*path, "avro", "schema"), written.avro.schema_)


def check_avro(examination: Examination, path: Path, avro: Avro) -> None:
    """That framing, schemas and registry fit each other."""
    if avro.schema_ is not None:
        _schema(examination, (*path, "schema"), avro.schema_)
    for index, writer in enumerate(avro.writers):
        _schema(examination, (*path, "writers", index), writer)
    if avro.framing == "confluent":
        if avro.registry is None:
            fix = "add registry: {url: …}"
            examination.report(path, "needs a registry, which has the schemas that messages name", fix=fix)
        if avro.writers:
            examination.report(
                (*path, "writers"), "are in the registry with framing: confluent", fix="remove them here"
            )
    else:
        if avro.schema_ is None:
            examination.report(path, "needs a schema", fix="add schema: {file: reading.avsc}")
        if avro.registry is not None:
            fix = "write framing: confluent, or remove the registry"
            examination.report((*path, "registry"), "is only for framing: confluent", fix=fix)
    if avro.framing == "plain" and len(avro.writers) > 1:
        message = "plain messages do not say which schema they were written with, so that there is only one"
        examination.report((*path, "writers"), message, got=len(avro.writers), fix="keep one, or use another framing")
    if avro.registry is not None:
        _registry(examination, (*path, "registry"), avro.registry)


def _schema(examination: Examination, path: Path, schema: SchemaText) -> None:
    examination.exactly_one(path, schema, SchemaText.KINDS, "schema")


def _registry(examination: Examination, path: Path, registry: Registry) -> None:
    examination.secret((*path, "password"), registry.password)
    examination.secret((*path, "token"), registry.token)
    if (registry.username is None) != (registry.password is None):
        there, missing = ("username", "password") if registry.password is None else ("password", "username")
        examination.report((*path, there), f"needs a {missing} beside it", fix=f"add {missing}:")
    if registry.token is not None and registry.password is not None:
        examination.report((*path, "token"), "takes the place of name and password", fix="keep one of them")
    if registry.timeout < 1_000:
        examination.report((*path, "timeout"), "must be at least 1ms", fix="use 1ms or more")
