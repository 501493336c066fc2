"""The CustomResourceDefinition in a real API server: defaults, every rule's message, what may never change."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kubeharness.server import Server
from streamjob_operator.crd.rules import DURATION, RULES, SIZE
from unit.jobs import job

Path = tuple[str | int, ...]
PLACE = "/apis/streamjob.dev/v1alpha1/namespaces/{namespace}/streamjobs"


def body(name: str = "telemetry", **spec: Any) -> dict[str, Any]:
    made = job(**spec)
    made["metadata"] = {"name": name}
    return made


def changed(resource: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy with one member set (None: removed)."""
    made = copy.deepcopy(resource)
    inner: Any = made
    for part in path[:-1]:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    if value is None:
        del inner[path[-1]]
    elif isinstance(inner, list) and path[-1] == len(inner):
        inner.append(value)
    else:
        inner[path[-1]] = value
    return made


def post(server: Server, namespace: str, resource: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return server.call("POST", PLACE.format(namespace=namespace) + "?fieldValidation=Strict", resource)


def put(server: Server, namespace: str, resource: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    place = PLACE.format(namespace=namespace) + f"/{resource['metadata']['name']}"
    old = server.call("GET", place)[1]
    made = {**resource, "metadata": {**resource["metadata"], "resourceVersion": old["metadata"]["resourceVersion"]}}
    return server.call("PUT", place, made)


def test_a_job_is_taken_and_its_defaults_filled_in(server: Server, namespace: str) -> None:
    status, made = post(server, namespace, body())
    assert status == 201, made
    spec = made["spec"]
    assert spec["replicas"] == 1
    assert spec["storage"] == {"size": "10Gi"}
    assert spec["time"]["idleTimeout"] == "5s"
    assert spec["deletionPolicy"] == "Retain"
    assert spec["udfs"][0]["on"] == "event"


def test_a_constant_key_and_kubectls_reading_of_on_are_taken(server: Server, namespace: str) -> None:
    made = body(schema={**job()["spec"]["schema"], "key": {"const": "one"}})
    made["spec"]["udfs"][0] |= {"true": "event"}
    assert post(server, namespace, made)[0] == 201


def test_sizes_may_be_numbers_of_bytes(server: Server, namespace: str) -> None:
    assert post(server, namespace, body(state={"memory": 268435456}))[0] == 201


HTTP: Path = ("spec", "sinks", 0, "http")
_UDF = {"name": "y", "code": {"inline": "x"}, "function": "f"}
_SINK = {"name": "out2", "from": "events", "file": {"path": "o2"}}
_STDOUT = {"name": "o", "from": "events", "stdout": {}}


def http(**members: Any) -> dict[str, Any]:
    return {"name": "o", "from": "events", "http": {"url": "http://a/b", **members}}


def kafka(**members: Any) -> dict[str, Any]:
    return {"bootstrapServers": "a:9092", "topic": "t", **members}


def sink_to(**members: Any) -> dict[str, Any]:
    return {"name": "o", "from": "events", "kafka": kafka(**members)}


def source_of(**members: Any) -> dict[str, Any]:
    return {"name": "in", "kafka": kafka(**members)}


def mqtt(**members: Any) -> dict[str, Any]:
    return {"name": "in", "mqtt": {"host": "broker", "topics": ["t/#"], **members}}


def nats(**members: Any) -> dict[str, Any]:
    return {"name": "o", "from": "events", "nats": {"servers": "a:4222", "subject": "s", **members}}


def postgres(**members: Any) -> dict[str, Any]:
    base = {"host": "db", "database": "d", "username": "u", "table": "t"}
    return {"name": "o", "from": "events", "postgres": {**base, **members}}


def python(**members: Any) -> dict[str, Any]:
    return {"code": {"inline": "x"}, **members}


def python_source(**members: Any) -> dict[str, Any]:
    return {"name": "in", "python": {"function": "f", **python(**members)}}


def python_sink(delivery: str = "at-least-once", **members: Any) -> dict[str, Any]:
    return {"name": "o", "from": "events", "delivery": delivery, "python": {"class": "C", **python(**members)}}


_SOURCE: Path = ("spec", "sources", 0)
_SOMEWHERE = {"secretRef": {"env": "A"}}
_NOWHERE = {"secretRef": {}}
_SASL = {"sasl": {"mechanism": "PLAIN", "username": "u", "password": _NOWHERE}}
_TLS = {"tls": {"keyPassword": _NOWHERE}}


WRONG: list[tuple[str, dict[str, Any], Path, Any]] = [
    ("", {}, ("metadata", "name"), "a" * 51),
    ("", {}, ("metadata", "name"), "1-job"),
    ("", {}, ("metadata", "name"), "a-nodes"),
    ("spec", {}, ("spec", "sinks", 0, "from"), "other"),
    ("spec", {}, ("spec", "udfs", 0), {**_UDF, "on": "window", "window": "other"}),
    ("spec.replicas", {}, ("spec", "replicas"), 2),
    ("spec.replicas", {}, ("spec", "replicas"), 0),
    ("spec.windows[].aggregates", {}, ("spec", "windows", 0, "aggregates", "false"), "count()"),
    ("spec.udfs[].output", {}, ("spec", "udfs", 0, "output", "false"), "float64"),
    ("spec.schema.time", {}, ("spec", "schema", "time", "format"), "rfc3339"),
    ("spec.sources", {}, ("spec", "sources", 1), {"name": "in2", "http": {}}),
    ("spec.sources[]", {}, ("spec", "sources", 0), {"name": "in"}),
    ("spec.sources[].http.avro.schema", {}, ("spec", "sources", 0, "http"), {"avro": {"schema": {"file": "a.avsc"}}}),
    ("spec.sources[].http.avro.schema", {}, ("spec", "sources", 0, "http"), {"avro": {"schema": {}}}),
    ("spec.sources[].http.avro.writers[]", {}, ("spec", "sources", 0, "http"), {"avro": {"writers": [{}]}}),
    (
        "spec.sources[].http.avro.writers[]",
        {},
        ("spec", "sources", 0, "http"),
        {"avro": {"writers": [{"file": "a.avsc"}]}},
    ),
    (
        "spec.sources[].http.avro.registry.password.secretRef",
        {},
        ("spec", "sources", 0, "http"),
        {"avro": {"registry": {"url": "http://r", "username": "u", "password": {"secretRef": {}}}}},
    ),
    (
        "spec.sources[].http.avro.registry.token.secretRef",
        {},
        ("spec", "sources", 0, "http"),
        {"avro": {"registry": {"url": "http://r", "token": {"secretRef": {"env": "A", "file": "b"}}}}},
    ),
    ("spec.time", {}, ("spec", "time", "allowedLateness"), "1s"),
    ("spec.windows[]", {"sinks": []}, ("spec", "windows", 0, "name"), "events"),
    ("spec.windows[]", {}, ("spec", "windows", 0, "tumbling"), "10us"),
    ("spec.udfs[]", {}, ("spec", "udfs", 0), {"name": "y", "function": "f"}),
    ("spec.udfs[]", {}, ("spec", "udfs", 0), {"name": "y", "function": "f", "file": "f.py"}),
    ("spec.udfs[]", {}, ("spec", "udfs", 0), {**_UDF, "window": "per_10s"}),
    ("spec.udfs[].code", {}, ("spec", "udfs", 0, "code"), {}),
    ("spec.sinks[]", {}, ("spec", "sinks", 0), {"name": "out", "from": "events"}),
    ("spec.sinks[]", {}, ("spec", "sinks", 0, "name"), "dead-letters"),
    (
        "spec.sinks[]",
        {},
        ("spec", "sinks", 0),
        {**_STDOUT, "delivery": "exactly-once"},
    ),
    (
        "spec.sinks[].http",
        {},
        ("spec", "sinks", 0),
        http(timeout="1us"),
    ),
    (
        "spec.sinks[].http.backoff",
        {},
        ("spec", "sinks", 0),
        http(backoff={"initial": "1us"}),
    ),
    (
        "spec.sinks[].http.backoff",
        {},
        ("spec", "sinks", 0),
        http(backoff={"initial": "1h"}),
    ),
    ("spec.sinks[].http.bearerToken.secretRef", {}, ("spec", "sinks", 0), http(bearerToken=_NOWHERE)),
    ("spec.sinks[].kafka", {}, ("spec", "sinks", 0), sink_to(transactionTimeout="1ms")),
    ("spec.sinks[].kafka.sasl.password.secretRef", {}, ("spec", "sinks", 0), sink_to(**_SASL)),
    ("spec.sinks[].kafka.tls.keyPassword.secretRef", {}, ("spec", "sinks", 0), sink_to(**_TLS)),
    ("spec.sinks[].nats", {}, ("spec", "sinks", 0), nats(timeout="1ms")),
    ("spec.sinks[].nats", {}, ("spec", "sinks", 0), nats(username="u")),
    ("spec.sinks[].nats", {}, ("spec", "sinks", 0), nats(token=_SOMEWHERE, credentials=_SOMEWHERE)),
    ("spec.sinks[].nats.password.secretRef", {}, ("spec", "sinks", 0), nats(username="u", password=_NOWHERE)),
    ("spec.sinks[].nats.token.secretRef", {}, ("spec", "sinks", 0), nats(token=_NOWHERE)),
    ("spec.sinks[].nats.credentials.secretRef", {}, ("spec", "sinks", 0), nats(credentials=_NOWHERE)),
    ("spec.sinks[].postgres", {}, ("spec", "sinks", 0), postgres(timeout="1ms")),
    ("spec.sinks[].postgres", {}, ("spec", "sinks", 0), postgres(mode="upsert")),
    ("spec.sinks[].postgres", {}, ("spec", "sinks", 0), postgres(key=["key"])),
    ("spec.sinks[].postgres.password.secretRef", {}, ("spec", "sinks", 0), postgres(password=_NOWHERE)),
    ("spec.sources[].mqtt", {}, _SOURCE, mqtt(username="u")),
    ("spec.sources[].mqtt", {}, _SOURCE, mqtt(keepAlive="1s")),
    ("spec.sources[].mqtt.password.secretRef", {}, _SOURCE, mqtt(username="u", password=_NOWHERE)),
    ("spec.sources[].kafka", {}, _SOURCE, source_of(refresh="1ms")),
    ("spec.sources[].kafka.sasl.password.secretRef", {}, _SOURCE, source_of(**_SASL)),
    ("spec.sources[].kafka.tls.keyPassword.secretRef", {}, _SOURCE, source_of(**_TLS)),
    ("spec.sources[].python", {}, _SOURCE, python_source(file="c.py")),
    ("spec.sources[].python", {}, _SOURCE, {"name": "in", "python": {"function": "f", "file": "c.py"}}),
    ("spec.sources[].python.code", {}, _SOURCE, python_source(code={})),
    ("spec.sources[].python.secrets{}.secretRef", {}, _SOURCE, python_source(secrets={"p": _NOWHERE})),
    ("spec.sources[].python.backoff", {}, _SOURCE, python_source(backoff={"initial": "1us"})),
    ("spec.sources[].python.backoff", {}, _SOURCE, python_source(backoff={"initial": "1h"})),
    ("spec.sinks[]", {}, ("spec", "sinks", 0), python_sink("exactly-once")),
    ("spec.sinks[].python", {}, ("spec", "sinks", 0), python_sink(file="c.py")),
    (
        "spec.sinks[].python",
        {},
        ("spec", "sinks", 0),
        {"name": "o", "from": "events", "python": {"class": "C", "file": "c.py"}},
    ),
    ("spec.sinks[].python.code", {}, ("spec", "sinks", 0), python_sink(code={})),
    ("spec.sinks[].python.secrets{}.secretRef", {}, ("spec", "sinks", 0), python_sink(secrets={"p": _NOWHERE})),
    ("spec.sinks[].python.backoff", {}, ("spec", "sinks", 0), python_sink(backoff={"initial": "1us"})),
    ("spec.sinks[].python.backoff", {}, ("spec", "sinks", 0), python_sink(backoff={"initial": "1h"})),
    ("spec.checkpoint", {}, ("spec", "checkpoint", "interval"), "1ms"),
    ("spec.checkpoint", {}, ("spec", "checkpoint", "interval"), "1d"),
    ("spec.ingest", {}, ("spec", "ingest", "maxWait"), "1us"),
    ("spec.ingest", {}, ("spec", "ingest", "maxBody"), 1000),
    ("spec.ingest", {}, ("spec", "ingest", "maxBody"), "1Gi"),
    ("spec.idempotency", {}, ("spec", "idempotency", "retention"), "1ms"),
    ("spec.history", {}, ("spec", "history", "raw"), "1ms"),
    ("spec.state", {}, ("spec", "state", "memory"), "1Mi"),
    ("duration", {}, ("spec", "checkpoint", "interval"), "5 s"),
    ("duration", {}, ("spec", "deletionDeadline"), "5"),
    ("size", {}, ("spec", "storage", "size"), "10GB"),
]


def messages() -> dict[str, set[str]]:
    result = {path: {rule["message"] for rule in rules} for path, rules in RULES.items()}
    return {**result, "duration": {DURATION["message"]}, "size": {SIZE["message"]}}


@pytest.mark.parametrize(("rule", "spec", "path", "value"), WRONG, ids=[f"{row[0]}-{i}" for i, row in enumerate(WRONG)])
def test_a_wrong_job_is_refused_with_what_to_do(
    server: Server, namespace: str, rule: str, spec: dict[str, Any], path: Path, value: Any
) -> None:
    status, answer = post(server, namespace, changed(body(**spec), path, value))
    assert status == 422, answer
    said.setdefault(rule, set()).update(m for m in messages()[rule] if m in answer["message"])
    assert said[rule] & {m for m in messages()[rule] if m in answer["message"]}, answer["message"]


CHANGES: list[tuple[str, Path, Any, Any]] = [
    ("spec.shards", ("spec", "shards"), 8, 16),
    ("spec.storage", ("spec", "storage"), {"storageClassName": "a"}, {"storageClassName": "b"}),
    ("spec.storage", ("spec", "storage"), {"storageClassName": "a"}, {}),
    ("spec.storage", ("spec", "storage"), {}, {"storageClassName": "a"}),
]


@pytest.mark.parametrize(("rule", "path", "old", "new"), CHANGES)
def test_what_may_never_change(server: Server, namespace: str, rule: str, path: Path, old: Any, new: Any) -> None:
    status, answer = post(server, namespace, changed(body(), path, old))
    assert status == 201, answer
    status, answer = put(server, namespace, changed(body(), path, new))
    assert status == 422, answer
    found = {message for message in messages()[rule] if message in answer["message"]}
    assert found, answer["message"]
    said.setdefault(rule, set()).update(found)


@pytest.mark.parametrize(("old", "new"), [("10Gi", "20Gi"), ("10Gi", "10Gi"), (1000, "1k"), ("10Gi", "9Gi")])
def test_a_size_may_change_and_a_growth_be_taken_back(server: Server, namespace: str, old: Any, new: Any) -> None:
    assert post(server, namespace, body(storage={"size": old}))[0] == 201
    status, answer = put(server, namespace, body(storage={"size": new}))
    assert status == 200, answer


def test_the_key_may_never_change(server: Server, namespace: str) -> None:
    assert post(server, namespace, body())[0] == 201
    schema = job()["spec"]["schema"]
    for key in ("v", {"const": "one"}):
        status, answer = put(server, namespace, body(schema={**schema, "key": key}))
        assert status == 422, answer
        assert "spec.schema.key cannot be changed" in answer["message"]
    assert put(server, namespace, body(where="v > 1"))[0] == 200


def test_unknown_members_are_refused_and_names_are_unique(server: Server, namespace: str) -> None:
    status, answer = post(server, namespace, body(windoes=[]))
    assert status == 400, answer
    assert "windoes" in answer["message"]
    status, answer = post(server, namespace, body(sinks=[_SINK, _SINK]))
    assert status == 422
    assert "Duplicate value" in answer["message"]


def test_autoscalers_find_replicas_and_selector(server: Server, namespace: str) -> None:
    assert post(server, namespace, body())[0] == 201
    place = PLACE.format(namespace=namespace) + "/telemetry"
    status = {"status": {"replicas": 1, "selector": "streamjob.dev/job=telemetry"}}
    code, answer = server.call("PATCH", f"{place}/status", status, "application/merge-patch+json")
    assert code == 200, answer
    code, scale = server.call("GET", f"{place}/scale")
    assert code == 200, scale
    assert scale["spec"]["replicas"] == 1
    assert scale["status"] == {"replicas": 1, "selector": "streamjob.dev/job=telemetry"}


said: dict[str, set[str]] = {}


def test_every_message_was_heard() -> None:
    """Last in this file: no rule is without a test that breaks it."""
    heard = {rule: found for rule, found in said.items() if found}
    assert heard == messages()
