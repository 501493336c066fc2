"""What the operator is told by its environment and its flags."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from streamjob_operator.names import EVERY_ADDRESS

PREFIX = "STREAMJOB_OPERATOR_"
API_HOST = "KUBERNETES_SERVICE_HOST"
"""The variable by which each pod knows the API server's address; it is of the family that pods have first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Each member is a flag (`--engine-image`) and a variable (`STREAMJOB_OPERATOR_ENGINE_IMAGE`)."""

    namespaces: tuple[str, ...] = ()
    """The namespaces to look after, separated by commas; none means all."""
    engine_image: str = "streamjob-engine:0.1.0"
    """The engine's image for jobs that name none."""
    engine_url: str = "http://{job}.{namespace}.svc:8080"
    """Where a job's control interface is."""
    workers: int = 8
    """How many jobs are worked on at once."""
    resync_s: float = 300.0
    """Seconds after which every job is looked at again though nothing has changed."""
    facts_s: float = 30.0
    """Seconds between two questions to an engine."""
    dead_after_s: float = 240.0
    """Seconds without a word from a watch after which the liveness probe fails."""
    lease_name: str = "streamjob-operator"
    """The Lease by which replicas agree who leads."""
    lease_namespace: str = ""
    """The Lease's namespace; default is the operator's own."""
    identity: str = ""
    """What this replica writes into the Lease; default is the host's name."""
    metrics_port: int = 9090
    """The port of /metrics; 0 for none."""
    health_port: int = 8081
    """The port of /healthz; 0 for none."""
    webhook_port: int = 9443
    """The port of the validating webhook."""
    webhook_cert_dir: str = ""
    """The folder with tls.crt and tls.key; without it there is no webhook."""
    webhook_secret: str = ""
    """The Secret of the webhook's certificates, which the operator then makes and rotates; without it somebody else
    does."""
    webhook_service: str = "streamjob-operator-webhook"
    """The Service by which the API server calls the webhook."""
    webhook_configuration: str = "streamjob-operator"
    """The ValidatingWebhookConfiguration that has to trust these certificates."""
    log_level: str = "info"
    """debug, info, warning or error."""

    def holder(self) -> str:
        """The identity for the Lease."""
        return self.identity or socket.gethostname()


def every_address(environment: Mapping[str, str] | None = None) -> str:
    """What pods listen on: `::` where they have IPv6 first, as nobody comes by `0.0.0.0` where they have nothing else.

    Not everywhere: a node may be without IPv6.
    """
    variables = os.environ if environment is None else environment
    return "::" if ":" in variables.get(API_HOST, "") else EVERY_ADDRESS


def in_url(address: str) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


def _parse(value: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return type(default)(value)


def load(flags: Mapping[str, str | None], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags, then the environment, then defaults. Raises ValueError that names the setting."""
    variables = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for field in fields(Settings):
        text = flags.get(field.name)
        name = PREFIX + field.name.upper()
        if text is None:
            text = variables.get(name)
        if text is None:
            continue
        try:
            values[field.name] = _parse(text, field.default)
        except ValueError:
            flag = "--" + field.name.replace("_", "-")
            raise ValueError(f"{flag} ({name}): {text!r} is no {type(field.default).__name__}") from None
    settings = Settings(**values)
    if settings.workers < 1:
        raise ValueError("--workers: at least 1 is needed")
    return settings
