"""What the connections of sources and sinks share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamjob.models.base import Duration, Model


class ClientTls(Model):
    """An encrypted connection. `{}` trusts the authorities of the system."""

    ca_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The authorities to trust instead, PEM."""

    certificate_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The client's own certificate, PEM, where the server asks for one."""

    key_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The key of that certificate, PEM."""

    verify_hostname: bool = True
    """Whether the server's certificate must be for the name that it is reached by."""


class ConnectionBackoff(Model):
    """How long to wait before another try."""

    initial: Duration = 100_000
    """The first wait; each following one is twice as long, with jitter."""

    max: Duration = 10_000_000
    """The longest wait."""
