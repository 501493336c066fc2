"""What a StreamJob must meet beyond types, as CEL rules that the API server evaluates, each with a message.

What has several forms (`spec.schema.fields`, formats) has no type here, and so no rules: the webhook and the operator
look at it.

`RULES` maps the path of a schema node (`[]` an item of a list) to its rules. CEL knows durations up to hours; where a
text has days or weeks a comparison passes here, and the webhook and the operator look at it.
"""

from __future__ import annotations

from streamjob_operator.crd.schema import MAX_QUANTITY, Schema
from streamjob_operator.names import MAX_NAME, SUFFIXES
from streamjob_operator.validation import YAML_ON

Rule = dict[str, str]

_DURATION = r"^([0-9]+(\\.[0-9]+)?(us|ms|s|m|h|d|w))+$"
_SIZE = r"^[0-9]+(\\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$"


def rule(text: str, message: str) -> Rule:
    """One rule."""
    return {"rule": text, "message": message}


def _one_of(kinds: tuple[str, ...], what: str) -> Rule:
    given = ", ".join(f"has(self.{kind})" for kind in kinds)
    names = " and ".join(kinds) if len(kinds) == 2 else ", ".join(kinds)
    return rule(f"[{given}].filter(given, given).size() == 1", f"{what} has exactly one of {names}")


def _at_least(member: str, least: str, name: str) -> Rule:
    text = f"self.{member}"
    other = f"!{text}.matches('{_DURATION}') || {text}.matches('[dw]')"
    return rule(
        f"{other} || duration({text}) >= duration('{least}')",
        f"{name} must be at least {least}: use {least} or more",
    )


def _size_at_least(member: str, least: str, name: str) -> Rule:
    text = f"string(self.{member})"
    return rule(
        f"!{text}.matches('{_SIZE}') || quantity({text}).compareTo(quantity('{least}')) >= 0",
        f"{name} must be at least {least}: use {least} or more",
    )


DURATION = rule(f"self.matches('{_DURATION}')", 'must be a duration such as "10s", "250ms" or "1h30m"')
SIZE = rule(f"string(self).matches('{_SIZE}')", 'must be a size such as "64Mi" (binary) or "500k" (decimal)')

_TRUTHS = rule(
    "!('true' in self) && !('false' in self)",
    "true or false as a name is what kubectl reads in an unquoted y, n, yes, no, on or off: put the name in quotes",
)

_SCHEMA = [
    _one_of(("inline", "file"), "a schema"),
    rule("!has(self.file)", "a schema's file exists only beside the job on one machine: use inline: ..."),
]

_SECRET_REF = [_one_of(("env", "file"), "a secretRef")]

_BACKOFF = [
    _at_least("initial", "1ms", "backoff.initial"),
    rule(
        f"!self.initial.matches('{_DURATION}') || !self.max.matches('{_DURATION}')"
        " || self.initial.matches('[dw]') || self.max.matches('[dw]')"
        " || duration(self.initial) <= duration(self.max)",
        "backoff.max must not be shorter than backoff.initial: use a longer one",
    ),
]

_PYTHON = [
    _one_of(("file", "code"), "a connector in Python"),
    rule(
        "!has(self.file)",
        "a connector's file exists only beside the job on one machine: use code: {inline: ...} or {configMap: ...}",
    ),
]

_CODE = [_one_of(("inline", "configMap"), "code")]

RULES: dict[str, list[Rule]] = {
    "": [
        rule(
            f"self.metadata.name.size() <= {MAX_NAME}",
            f"the name of a job has at most {MAX_NAME} characters on Kubernetes: shorten it",
        ),
        rule(
            f"!self.metadata.name.matches('({'|'.join(SUFFIXES)})$')",
            f"the name of a job does not end in {', '.join(SUFFIXES)} on Kubernetes: children of other jobs are"
            " called so; choose another",
        ),
        rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "the name of a job begins with a letter and has only lower-case letters, digits and dashes: rename it",
        ),
    ],
    "spec": [
        rule(
            "self.sinks.all(s, s.from == 'events' || self.windows.exists(w, w.name == s.from))",
            "a sink's from must be events or the name of a window in spec.windows",
        ),
        rule(
            "self.udfs.all(u, !has(u.window) || self.windows.exists(w, w.name == u.window))",
            "a UDF's window must be the name of a window in spec.windows",
        ),
    ],
    "spec.shards": [
        rule("self == oldSelf", "shards cannot be changed: the state is spread over them; create another job instead")
    ],
    "spec.replicas": [
        rule("self <= 1", "one pod runs all shards of a job in this version: write replicas: 1"),
        rule("self >= 1", "a job needs a pod: write replicas: 1, or suspend: true to stop it"),
    ],
    "spec.schema.time": [_one_of(("unit", "format"), "time")],
    "spec.sources": [
        rule(
            "self.filter(s, has(s.http)).size() <= 1",
            "there is only one /ingest, and so one http source: post to that one",
        )
    ],
    "spec.sources[]": [_one_of(("http", "file", "kafka", "mqtt", "python"), "a source")],
    "spec.sources[].python": _PYTHON,
    "spec.sources[].python.code": _CODE,
    "spec.sources[].python.secrets{}.secretRef": _SECRET_REF,
    "spec.sources[].python.backoff": _BACKOFF,
    "spec.sources[].mqtt": [
        rule(
            "has(self.username) == has(self.password)",
            "a user has a password: write username and password, or neither",
        ),
        _at_least("keepAlive", "5s", "keepAlive"),
    ],
    "spec.sources[].mqtt.password.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sources[].kafka": [_at_least("refresh", "1s", "refresh")],
    "spec.sources[].kafka.sasl.password.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sources[].kafka.tls.keyPassword.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sources[].http.avro.schema": _SCHEMA,
    "spec.sources[].http.avro.writers[]": _SCHEMA,
    "spec.sources[].http.avro.registry.password.secretRef": [_one_of(("env", "file"), "a secret")],
    "spec.sources[].http.avro.registry.token.secretRef": [_one_of(("env", "file"), "a secret")],
    "spec.time": [
        rule(
            "self.allowedLateness.matches('^(0+(\\\\.0+)?[a-z]+)+$')",
            "late results are not supported in this version: write allowedLateness: 0s",
        )
    ],
    "spec.windows[]": [
        rule("self.name != 'events'", "events stands for the single events: rename the window"),
        _at_least("tumbling", "1ms", "tumbling"),
    ],
    "spec.windows[].aggregates": [_TRUTHS],
    "spec.udfs[].output": [_TRUTHS],
    "spec.udfs[]": [
        _one_of(("file", "code"), "a UDF"),
        rule(
            "!has(self.file)",
            "a UDF's file exists only beside the job on one machine: use code: {inline: ...} or {configMap: ...}",
        ),
        rule(
            "!has(self.window) || self.on == 'window' || (has(self.__true__) && self.__true__ == 'window')",
            "window is only for a UDF on windows: write on: window",
        ),
    ],
    "spec.udfs[].code": [_one_of(("inline", "configMap"), "code")],
    "spec.sinks[]": [
        _one_of(("file", "http", "kafka", "nats", "postgres", "python", "stdout"), "a sink"),
        rule("self.name != 'dead-letters'", "dead-letters is the built-in output of that name: rename the sink"),
        rule(
            "!has(self.stdout) || !has(self.delivery) || self.delivery != 'exactly-once'",
            "standard output cannot be exactly-once, it keeps no position: write at-least-once, or use a file",
        ),
        rule(
            "!has(self.python) || !has(self.delivery) || self.delivery != 'exactly-once'"
            " || (has(self.python.idempotent) && self.python.idempotent)",
            "a connector that is not idempotent cannot be exactly-once: write python.idempotent: true if a batch that"
            " is written twice under one key counts once, else at-least-once",
        ),
    ],
    "spec.sinks[].python": _PYTHON,
    "spec.sinks[].python.code": _CODE,
    "spec.sinks[].python.secrets{}.secretRef": _SECRET_REF,
    "spec.sinks[].python.backoff": _BACKOFF,
    "spec.sinks[].http": [_at_least("timeout", "1ms", "timeout")],
    "spec.sinks[].http.bearerToken.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sinks[].kafka": [_at_least("transactionTimeout", "1s", "transactionTimeout")],
    "spec.sinks[].kafka.sasl.password.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sinks[].kafka.tls.keyPassword.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sinks[].nats": [
        _at_least("timeout", "100ms", "timeout"),
        rule(
            "has(self.username) == has(self.password)",
            "a user has a password: write username and password, or neither",
        ),
        rule(
            "[has(self.username), has(self.token), has(self.credentials)].filter(given, given).size() <= 1",
            "there are several ways to sign in: keep one of username, token and credentials",
        ),
    ],
    "spec.sinks[].nats.password.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sinks[].nats.token.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sinks[].nats.credentials.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sinks[].postgres": [
        _at_least("timeout", "1s", "timeout"),
        rule(
            "(has(self.mode) && self.mode == 'upsert') == (has(self.key) && self.key.size() > 0)",
            "mode: upsert and key belong together: name the columns of a unique index, or write mode: append",
        ),
    ],
    "spec.sinks[].postgres.password.secretRef": [_one_of(("env", "file"), "a secretRef")],
    "spec.sinks[].http.backoff": _BACKOFF,
    "spec.checkpoint": [
        _at_least("interval", "10ms", "checkpoint.interval"),
        rule(
            f"!self.interval.matches('{_DURATION}')"
            " || (!self.interval.matches('[dw]') && duration(self.interval) <= duration('1h'))",
            "checkpoint.interval must be at most 1h: use 1h or less",
        ),
    ],
    "spec.ingest": [
        _at_least("maxWait", "1ms", "ingest.maxWait"),
        _size_at_least("maxBody", "1Ki", "ingest.maxBody"),
        rule(
            f"!string(self.maxBody).matches('{_SIZE}')"
            " || quantity(string(self.maxBody)).compareTo(quantity('512Mi')) <= 0",
            "ingest.maxBody must be at most 512Mi: use 512Mi or less",
        ),
    ],
    "spec.idempotency": [_at_least("retention", "1s", "idempotency.retention")],
    "spec.history": [_at_least("raw", "1s", "history.raw")],
    "spec.state": [_size_at_least("memory", "16Mi", "state.memory")],
    "spec.storage": [
        rule(
            "has(self.storageClassName) == has(oldSelf.storageClassName)"
            " && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            "storageClassName cannot be changed: create another job, and move the data by its sources",
        ),
    ],
}

BOUNDS: dict[str, Schema] = {
    "spec.where": {"maxLength": 10_000},
    "spec.schema.time.format": {"maxLength": 128},
    "spec.schema.time.timezone": {"maxLength": 64},
    "spec.windows[].aggregates{}": {"maxLength": 10_000},
    "spec.udfs[].function": {"maxLength": 128},
    "spec.udfs[].file": {"maxLength": 4096},
    "spec.udfs[].code.inline": {"maxLength": 524_288},
    "spec.udfs[].code.configMap.name": {"maxLength": 253},
    "spec.udfs[].code.configMap.key": {"maxLength": 253},
    **{
        f"{place}.{member}": {"maxLength": length}
        for place in ("spec.sources[].python", "spec.sinks[].python")
        for member, length in (
            ("file", 4096),
            ("code.inline", 524_288),
            ("code.configMap.name", 253),
            ("code.configMap.key", 253),
        )
    },
    "spec.udfs[].inputs": {"maxItems": 1024},
    "spec.udfs[].inputs[]": {"maxLength": 256},
    "spec.udfs[].output": {"maxProperties": 256},
    "spec.sinks[].from": {"maxLength": 63},
    "spec.sinks[].where": {"maxLength": 10_000},
    "spec.sinks[].file.path": {"maxLength": 4096},
    "spec.sources[].file.path": {"maxLength": 4096},
    "spec.deadLetters.file.path": {"maxLength": 4096},
    "spec.rest.bearerToken": {"maxLength": 4096},
    "spec.rest.corsOrigins[]": {"maxLength": 512},
}
"""Bounds that only Kubernetes needs: the cost of a rule is estimated from them, and etcd holds 1.5 MB."""

NAMED_LISTS = ("spec.sources", "spec.windows", "spec.udfs", "spec.sinks")
"""Lists whose items are told apart by name: names are unique, and appliers may own single items."""


def decorate(schema: Schema, path: str = "") -> None:
    """Adds rules, bounds and list kinds to the schema of a StreamJob, in place."""
    if path == "spec.udfs[]":
        members = schema["properties"]
        twin = {"description": "The member on, as tools write it that read on as a yes.", "type": "string"}
        schema["properties"] = {**members, YAML_ON: {**twin, "enum": members["on"]["enum"]}}
    rules = list(RULES.get(path, ()))
    if schema.get("x-kubernetes-int-or-string"):
        rules.append(SIZE)
    elif schema.get("type") == "string" and schema.get("maxLength") == MAX_QUANTITY and "pattern" not in schema:
        rules.append(DURATION)
    schema |= BOUNDS.get(path, {})
    if rules:
        schema["x-kubernetes-validations"] = rules
    if path == "spec.replicas":
        for bound in ("minimum", "maximum"):
            schema.pop(bound, None)  # the rules say it better
    if path in NAMED_LISTS:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    elif schema.get("type") == "array":
        schema["x-kubernetes-list-type"] = "atomic"
    for name, member in schema.get("properties", {}).items():
        decorate(member, f"{path}.{name}" if path else name)
    if "items" in schema:
        decorate(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        decorate(schema["additionalProperties"], f"{path}{{}}")
