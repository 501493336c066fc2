"""A valid StreamJob as the normalised job: the JSON that the engine runs.

Every default is filled in, every path absolute, every duration in microseconds, every size in bytes, every expression
lowered. Each member is always present; the engine refuses unknown and missing ones, so that a difference between the
two sides shows at once. `engine/testdata/normalised` holds examples that tests of both sides read.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from streamjob.loading import LoadedJob
from streamjob.models import (
    EVENTS,
    Avro,
    ClientTls,
    CodeSpec,
    FileFormatKinds,
    HeaderField,
    KafkaConnection,
    KafkaSink,
    KafkaSource,
    MessageFormatKinds,
    MqttSource,
    NatsSink,
    PostgresSink,
    PythonCode,
    PythonSink,
    PythonSource,
    Registry,
    Secret,
    SinkSpec,
    SourceSpec,
    WindowSpec,
)
from streamjob.models.kafka import Tls
from streamjob.paths import parse_path
from streamjob.problems import Path, Problem
from streamjob.resolve import ResolvedUdf, python_connectors, resolve_path
from streamjob.scope import Scope


def normalise(loaded: LoadedJob) -> dict[str, Any]:
    """The normalised job as JSON-ready data.

    Raises ValueError for code that only Kubernetes can read.
    """
    spec = loaded.job.spec
    scope = loaded.scope or Scope(loaded.job, loaded.udfs, None)
    schema = spec.schema_
    return {
        "api_version": loaded.job.api_version,
        "name": loaded.job.metadata.name,
        "shards": spec.shards,
        "schema": {
            "key": {"const": schema.key.const} if schema.key.const is not None else {"field": schema.key.field},
            "time": {
                "field": schema.time.field,
                "path": _path(schema.time.path),
                "unit": schema.time.unit,
                "format": schema.time.format,
                "timezone": schema.time.timezone,
            },
            "fields": [
                {"name": name, "type": field.type, "path": _path(field.path)} for name, field in schema.fields.items()
            ],
        },
        "where": None if spec.where is None else scope.condition(spec.where, None),
        "sources": [_source(source, index, loaded) for index, source in enumerate(spec.sources)],
        "time": {
            "max_out_of_orderness_us": int(spec.time.max_out_of_orderness),
            "idle_timeout_us": int(spec.time.idle_timeout),
            "allowed_lateness_us": int(spec.time.allowed_lateness),
            "max_ahead_us": int(spec.time.max_ahead),
            "close_when_idle": spec.time.close_when_idle,
        },
        "windows": [_window(window, scope) for window in spec.windows],
        "udfs": [_udf(udf) for udf in loaded.udfs],
        "sinks": [_sink(sink, index, loaded, scope) for index, sink in enumerate(spec.sinks)],
        "dead_letters": None
        if spec.dead_letters is None
        else {"file": {"path": resolve_path(spec.dead_letters.file.path, loaded.base_dir)}},
        **_settings(loaded),
    }


def normalised_json(loaded: LoadedJob) -> str:
    """`normalise` as compact JSON text."""
    return json.dumps(normalise(loaded), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def local_problems(loaded: LoadedJob) -> list[Problem]:
    """What keeps a valid job from running on one machine: code in a ConfigMap, which only Kubernetes has."""
    codes: list[tuple[Path, CodeSpec | None]] = [
        (("spec", "udfs", index), udf.code) for index, udf in enumerate(loaded.job.spec.udfs)
    ]
    codes += [(path, python.code) for path, python, _ in python_connectors(loaded.job)]
    return [
        loaded.source.problem(
            (*path, "code", "configMap"),
            "a ConfigMap exists only on Kubernetes, the job cannot run here",
            got=code.config_map.name,
            fix="use file: or code: {inline: …}",
        )
        for path, code in codes
        if code is not None and code.config_map is not None
    ]


def _settings(loaded: LoadedJob) -> dict[str, Any]:
    spec = loaded.job.spec
    return {
        "checkpoint": {"interval_us": int(spec.checkpoint.interval)},
        "ingest": {
            "durability": spec.ingest.durability,
            "max_wait_us": int(spec.ingest.max_wait),
            "max_body_bytes": int(spec.ingest.max_body),
        },
        "idempotency": {"retention_us": int(spec.idempotency.retention)},
        "engine": {
            "worker_threads": spec.engine.worker_threads,
            "pin_cores": spec.engine.pin_cores,
            "batch_rows": spec.engine.batch_rows,
            "batch_linger_us": int(spec.engine.batch_linger),
        },
        "state": {"memory_bytes": int(spec.state.memory)},
        "history": {"raw_us": int(spec.history.raw)},
        "rest": {"bearer_token": spec.rest.bearer_token, "cors_origins": list(spec.rest.cors_origins)},
    }


def _secret(value: Secret | None, base_dir: str) -> dict[str, str] | None:
    return None if value is None else secret(value, base_dir)


def _file(path: str | None, base_dir: str) -> str | None:
    return None if path is None else resolve_path(path, base_dir)


def _tls(tls: ClientTls | None, base_dir: str) -> dict[str, Any] | None:
    if tls is None:
        return None
    return {
        "ca_file": _file(tls.ca_file, base_dir),
        "certificate_file": _file(tls.certificate_file, base_dir),
        "key_file": _file(tls.key_file, base_dir),
        "key_password": _secret(tls.key_password, base_dir) if isinstance(tls, Tls) else None,
        "verify_hostname": tls.verify_hostname,
    }


def _connection(kafka: KafkaConnection, base_dir: str) -> dict[str, Any]:
    tls, sasl = kafka.tls, kafka.sasl
    return {
        "bootstrap_servers": kafka.bootstrap_servers,
        "tls": _tls(tls, base_dir),
        "sasl": None
        if sasl is None
        else {
            "mechanism": sasl.mechanism,
            "username": sasl.username,
            "password": _secret(sasl.password, base_dir),
        },
        "properties": dict(kafka.properties),
    }


def _metadata(value: str | HeaderField) -> Any:
    return {"header": value.header} if isinstance(value, HeaderField) else value


def _start_from(kafka: KafkaSource) -> Any:
    if isinstance(kafka.start_from, str):
        return kafka.start_from
    time = datetime.fromisoformat(kafka.start_from.timestamp)
    return {"timestamp_us": (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)}


def _kafka_source(kafka: KafkaSource, name: str, path: Path, loaded: LoadedJob) -> dict[str, Any]:
    return {
        "connection": _connection(kafka, loaded.base_dir),
        "topic": kafka.topic,
        "format": message_format(kafka.format, (*path, "format"), loaded),
        "metadata": [{"field": field, "from": _metadata(value)} for field, value in kafka.metadata.items()],
        "start_from": _start_from(kafka),
        "group_id": kafka.group_id or f"streamjob-{loaded.job.metadata.name}-{name}",
        "isolation": kafka.isolation,
        "on_data_loss": kafka.on_data_loss,
        "tombstones": kafka.tombstones,
        "refresh_us": int(kafka.refresh),
    }


def _kafka_sink(kafka: KafkaSink, sink: SinkSpec, loaded: LoadedJob) -> dict[str, Any]:
    schema_key = loaded.job.spec.schema_.key.field
    # A window's row has its key in a column of its own; an event has it in the field, where it is one.
    default = schema_key if sink.from_ == EVENTS else "key"
    return {
        "connection": _connection(kafka, loaded.base_dir),
        "topic": kafka.topic,
        "format": kafka.format,
        "key": None if kafka.keyless else kafka.key or default,
        "partition": kafka.partition,
        "headers": dict(kafka.headers),
        "progress_topic": kafka.progress_topic or f"streamjob-progress-{loaded.job.metadata.name}-{sink.name}",
        "transaction_timeout_us": int(kafka.transaction_timeout),
        "max_batch_rows": kafka.max_batch_rows,
        "backoff_initial_us": int(kafka.backoff.initial),
        "backoff_max_us": int(kafka.backoff.max),
    }


def _mqtt_source(mqtt: MqttSource, name: str, path: Path, loaded: LoadedJob) -> dict[str, Any]:
    auth: dict[str, Any] | None = None
    if mqtt.username is not None and mqtt.password is not None:
        auth = {"username": mqtt.username, "password": secret(mqtt.password, loaded.base_dir)}
    return {
        "connection": {
            "host": mqtt.host,
            "port": mqtt.port,
            "client_id": mqtt.client_id or f"streamjob-{loaded.job.metadata.name}-{name}",
            "auth": auth,
            "tls": _tls(mqtt.tls, loaded.base_dir),
            "keep_alive_us": int(mqtt.keep_alive),
            "backoff_initial_us": int(mqtt.backoff.initial),
            "backoff_max_us": int(mqtt.backoff.max),
        },
        "topics": list(mqtt.topics),
        "levels": [{"field": field, "level": level} for field, level in mqtt.levels.items()],
        "format": message_format(mqtt.format, (*path, "mqtt", "format"), loaded),
        "retained": mqtt.retained,
    }


def _nats_sink(nats: NatsSink, base_dir: str) -> dict[str, Any]:
    auth: dict[str, Any] | None = None
    if nats.username is not None and nats.password is not None:
        auth = {"password": {"username": nats.username, "password": secret(nats.password, base_dir)}}
    elif nats.token is not None:
        auth = {"token": secret(nats.token, base_dir)}
    elif nats.credentials is not None:
        auth = {"credentials": secret(nats.credentials, base_dir)}
    return {
        "connection": {"servers": nats.servers, "auth": auth, "tls": _tls(nats.tls, base_dir)},
        "subject": nats.subject,
        "headers": dict(nats.headers),
        "duplicate_window_us": int(nats.duplicate_window),
        "max_batch_rows": nats.max_batch_rows,
        "timeout_us": int(nats.timeout),
        "backoff_initial_us": int(nats.backoff.initial),
        "backoff_max_us": int(nats.backoff.max),
    }


def _postgres_sink(postgres: PostgresSink, base_dir: str) -> dict[str, Any]:
    columns = postgres.columns
    return {
        "connection": {
            "host": postgres.host,
            "port": postgres.port,
            "database": postgres.database,
            "username": postgres.username,
            "password": _secret(postgres.password, base_dir),
            "tls": _tls(postgres.tls, base_dir),
        },
        "table": postgres.table,
        "mode": postgres.mode,
        "key": list(postgres.key),
        "columns": None
        if columns is None
        else [{"column": column, "member": member} for column, member in columns.items()],
        "progress_table": postgres.progress_table,
        "max_batch_rows": postgres.max_batch_rows,
        "timeout_us": int(postgres.timeout),
        "backoff_initial_us": int(postgres.backoff.initial),
        "backoff_max_us": int(postgres.backoff.max),
    }


def _source(source: SourceSpec, index: int, loaded: LoadedJob) -> dict[str, Any]:
    http, file = source.http, source.file
    path: Path = ("spec", "sources", index)
    return {
        "name": source.name,
        "http": None
        if http is None
        else {"avro": None if http.avro is None else avro(http.avro, (*path, "http", "avro"), loaded)},
        "file": None
        if file is None
        else {
            "path": resolve_path(file.path, loaded.base_dir),
            "format": _file_format(file.format, (*path, "file", "format"), loaded),
            "speed": float(file.speed),
        },
        "kafka": None if source.kafka is None else _kafka_source(source.kafka, source.name, (*path, "kafka"), loaded),
        "mqtt": None if source.mqtt is None else _mqtt_source(source.mqtt, source.name, path, loaded),
        "python": None if source.python is None else _python_source(source.python, (*path, "python"), loaded),
    }


def _python_code(python: PythonCode, path: Path, loaded: LoadedJob) -> dict[str, Any]:
    module = loaded.modules[path]
    if module.text is None:
        raise ValueError(f"the code of {module.filename} is in a ConfigMap, which needs Kubernetes")
    return {
        "source": module.text,
        "filename": module.filename,
        "config": dict(python.config),
        "secrets": {name: secret(value, loaded.base_dir) for name, value in python.secrets.items()},
        "backoff_initial_us": int(python.backoff.initial),
        "backoff_max_us": int(python.backoff.max),
    }


def _python_source(python: PythonSource, path: Path, loaded: LoadedJob) -> dict[str, Any]:
    return {
        "code": _python_code(python, path, loaded),
        "function": python.function,
        "format": message_format(python.format, (*path, "format"), loaded),
        "positions": python.positions,
        "queue": python.queue,
    }


def _python_sink(python: PythonSink, path: Path, loaded: LoadedJob) -> dict[str, Any]:
    return {
        "code": _python_code(python, path, loaded),
        "class": python.class_,
        "idempotent": python.idempotent,
        "max_batch_rows": python.max_batch_rows,
        "queue": python.queue,
    }


def _file_format(format_: FileFormatKinds, path: Path, loaded: LoadedJob) -> Any:
    if format_.avro is not None:
        return {"avro": {"schema": loaded.schemas.get((*path, "avro", "schema"))}}
    return "arrow" if format_.arrow is not None else "ndjson"


def message_format(format_: MessageFormatKinds, path: Path, loaded: LoadedJob) -> Any:
    """How the messages of the source at `path` are written."""
    return "json" if format_.avro is None else {"avro": avro(format_.avro, (*path, "avro"), loaded)}


def avro(settings: Avro, path: Path, loaded: LoadedJob) -> dict[str, Any]:
    """The Avro settings at `path`, with the texts of their schemas."""
    registry = settings.registry
    return {
        "schema": loaded.schemas.get((*path, "schema")),
        "writers": [loaded.schemas[(*path, "writers", index)] for index in range(len(settings.writers))],
        "framing": settings.framing,
        "registry": None
        if registry is None
        else {
            "url": registry.url,
            "auth": _auth(registry, loaded.base_dir),
            "timeout_us": int(registry.timeout),
        },
    }


def _auth(registry: Registry, base_dir: str) -> dict[str, Any] | None:
    if registry.token is not None:
        return {"bearer": secret(registry.token, base_dir)}
    if registry.password is None:
        return None
    return {"basic": {"username": registry.username, "password": secret(registry.password, base_dir)}}


def _path(path: str | None) -> list[str] | None:
    return None if path is None else list(parse_path(path))


def secret(value: Secret, base_dir: str) -> dict[str, str]:
    """Where a secret is read: `{"env": NAME}` or `{"file": PATH}`. The secret itself is never in the normalised job."""
    ref = value.secret_ref
    return {"env": ref.env} if ref.env is not None else {"file": resolve_path(str(ref.file), base_dir)}


def _window(window: WindowSpec, scope: Scope) -> dict[str, Any]:
    aggregates = []
    for name, text in window.aggregates.items():
        aggregate = scope.aggregate(text)
        aggregates.append({"name": name, "function": aggregate.function, "argument": aggregate.argument})
    return {"name": window.name, "tumbling": {"size_us": int(window.tumbling)}, "aggregates": aggregates}


def _udf(udf: ResolvedUdf) -> dict[str, Any]:
    if udf.text is None or udf.inputs is None or udf.outputs is None:
        raise ValueError(f"the code of the UDF {udf.name} is in a ConfigMap, which needs Kubernetes")
    return {
        "name": udf.name,
        "source": udf.text,
        "filename": udf.filename,
        "function": udf.function,
        "on": udf.on,
        "window": udf.window,
        "inputs": list(udf.inputs),
        "outputs": [{"name": name, "type": kind} for name, kind in udf.outputs.items()],
    }


def _sink(sink: SinkSpec, index: int, loaded: LoadedJob, scope: Scope) -> dict[str, Any]:
    where = None if sink.where is None else scope.condition(sink.where, sink.from_)
    file, http, python, base_dir = sink.file, sink.http, sink.python, loaded.base_dir
    return {
        "name": sink.name,
        "from": sink.from_,
        "where": where,
        "delivery": sink.delivery or _default_delivery(sink),
        "file": None if file is None else {"path": resolve_path(file.path, base_dir), "format": file.format},
        "http": None
        if http is None
        else {
            "url": http.url,
            "headers": dict(http.headers),
            "bearer_token": _secret(http.bearer_token, base_dir),
            "max_batch_rows": http.max_batch_rows,
            "timeout_us": int(http.timeout),
            "backoff_initial_us": int(http.backoff.initial),
            "backoff_max_us": int(http.backoff.max),
        },
        "kafka": None if sink.kafka is None else _kafka_sink(sink.kafka, sink, loaded),
        "nats": None if sink.nats is None else _nats_sink(sink.nats, base_dir),
        "postgres": None if sink.postgres is None else _postgres_sink(sink.postgres, base_dir),
        "python": None if python is None else _python_sink(python, ("spec", "sinks", index, "python"), loaded),
        "stdout": None if sink.stdout is None else {},
    }


def _default_delivery(sink: SinkSpec) -> str:
    # Standard output keeps no position to go on from, and code that is not idempotent knows no repeats. The others can
    # do better unless asked not to.
    repeats = sink.stdout is not None or (sink.python is not None and not sink.python.idempotent)
    return "at-least-once" if repeats else "exactly-once"
