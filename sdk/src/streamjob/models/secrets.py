"""Values that stand neither in the job's text nor in logs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from streamjob.models.base import Model


class SecretRef(Model):
    """Where the engine reads the secret when it starts; exactly one of the kinds is set."""

    KINDS: ClassVar[tuple[str, ...]] = ("env", "file")

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)] | None = None
    """An environment variable of the engine."""

    file: Annotated[str, Field(min_length=1)] | None = None
    """A file, relative to the job's file; a line break at its end is no part of the secret."""


class Secret(Model):
    """A secret, which the job only refers to."""

    secret_ref: SecretRef
    """Where the engine reads the secret when it starts; exactly one of the kinds is set."""
