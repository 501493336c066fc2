"""Every error names file, line, path, value and fix, and all come at once."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs import GOOD, good_data, load_text, problems_of, spoilt
from streamjob.loading import LoadedJob, load_job
from streamjob.models import StreamJob
from streamjob.normalise import local_problems
from streamjob.problems import JobError

IN = "    - name: in\n      http: {}\n"
WINDOW = "      tumbling: 10s"
WINDOWS = "spec.windows[0].aggregates"
FIELDS = "spec.schema.fields"
FILE_SINK = "      file: {path: out}"
CASES = [
    # old, new, lines below the replacement, path, message, got, fix
    ("streamjob.dev/v1alpha1", "streamjob.dev/v1", 0, "apiVersion", "must be", '"streamjob.dev/v1"', "write"),
    ("kind: StreamJob", "kind: Job", 0, "kind", "must be StreamJob", '"Job"', "write"),
    ("{name: telemetry}", "{name: Tele_metry}", 0, "metadata.name", "not a valid name", '"Tele_metry"', "lower-case"),
    ("{name: telemetry}", "{}", 0, "metadata.name", "is missing", None, "add name"),
    ("spec:\n", "spec:\n  shards: 0\n", 1, "spec.shards", "at least 1", "0", "use 1 or more"),
    ("spec:\n", "spec:\n  shards: 1.5\n", 1, "spec.shards", "whole number", "1.5", "write a number"),
    ("spec:\n", 'spec:\n  shards: "32"\n', 1, "spec.shards", "whole number", '"32"', "without quotes"),
    ("spec:\n", "spec:\n  shads: 3\n", 1, "spec.shads", "unknown field", '"shads"', 'did you mean "shards"?'),
    ("spec:\n", "spec:\n  zzzz: 3\n", 1, "spec.zzzz", "unknown field", '"zzzz"', "known here: shards"),
    ("key: device_id", "key: device", 0, "spec.schema.key", "not among the fields", '"device"', '"device_id"'),
    ("key: device_id", "key: temperature", 0, "spec.schema.key", "has the type float64", '"temperature"', "another"),
    ("key: device_id", "key: 3", 0, "spec.schema.key", "must be a mapping", "3", "members"),
    ("key: device_id", "key: {}", 0, "spec.schema.key", "a field or {const", "{}", "write key"),
    ("unit: ms", "unit: min", 0, "spec.schema.time.unit", "one of s, ms, us, ns", '"min"', "write"),
    (", unit: ms", "", 0, "spec.schema.time", "one of unit and format", None, "unit: ms"),
    ("unit: ms", "unit: ms, format: rfc3339", 0, "spec.schema.time", "both unit and format", None, "unit: ms"),
    ("unit: ms", "format: iso", 0, "spec.schema.time.format", "no % directive", '"iso"', "rfc3339"),
    ("unit: ms", 'format: "%Y-%Q"', 0, "spec.schema.time.format", "directive %Q", '"%Y-%Q"', "rfc3339"),
    ("unit: ms", 'format: "%F %T %Z"', 0, "spec.schema.time.format", "%Z, and the name", '"%F %T %Z"', "use %z"),
    ("unit: ms", 'format: "%d.%m. %H"', 0, "spec.schema.time.format", "no year", '"%d.%m. %H"', "add %Y"),
    ("unit: ms", 'format: "%Y-%F"', 0, "spec.schema.time.format", "%Y twice", '"%Y-%F"', "once"),
    ("unit: ms", 'format: "%Y-%V"', 0, "spec.schema.time.format", "%G or %V", '"%Y-%V"', "%G-%V-%u"),
    ("unit: ms", 'format: "%Y%.3f"', 0, "spec.schema.time.format", "directive %.3f", '"%Y%.3f"', "rfc3339"),
    (
        "unit: ms",
        "format: rfc3339, timezone: Europe/Berlim",
        0,
        "spec.schema.time.timezone",
        "known time zone",
        '"Europe/Berlim"',
        "Europe/Berlin",
    ),
    ("count: int64", "count: integer", 0, "spec.schema.fields.count", "must be one of", '"integer"', "write string"),
    ("count: int64", "count: int46", 0, "spec.schema.fields.count", "must be one of", '"int46"', '"int64"'),
    ("count: int64", "timestamp: int64", 0, "spec.schema.fields.timestamp", "time field", '"timestamp"', "remove"),
    ("count: int64", "_id: int64", 0, "spec.schema.fields._id", "results have anyway", '"_id"', "rename"),
    ("count: int64", "a b: int64", 0, "spec.schema.fields.a b", "not a valid name", '"a b"', "letters"),
    (IN, "    []\n", -1, "spec.sources", "is empty", "[]", "at least one"),
    (
        IN,
        IN + "    - {name: in, file: {path: x}}\n",
        2,
        "spec.sources[1].name",
        "this name, on line 14",
        '"in"',
        "rename",
    ),
    (IN, IN + IN.replace("in\n", "b\n"), 3, "spec.sources[1].http", "only one /ingest", '"b"', "source in"),
    ("http: {}", "http:", 0, "spec.sources[0].http", "has no value", "null", "write http: {}"),
    ("      http: {}\n", "", -1, "spec.sources[0]", "needs one of http, file", None, "http:"),
    (
        "http: {}",
        "http: {}\n      file: {path: x}",
        1,
        "spec.sources[0].file",
        "only one of",
        '"http and file"',
        "keep",
    ),
    ("http: {}", "file: {pth: x}", 0, "spec.sources[0].file.pth", "unknown field", '"pth"', '"path"'),
    ("http: {}", "file: {path: x, speed: -1}", 0, "spec.sources[0].file.speed", "at least 0", "-1", "use 0"),
    ("http: {}", "file: {path: x, speed: fast}", 0, "spec.sources[0].file.speed", "a number", '"fast"', "number"),
    (
        "http: {}",
        "file: {path: x, format: csv}",
        0,
        "spec.sources[0].file.format",
        "must be one of ndjson, arrow, avro",
        '"csv"',
        "write",
    ),
    (WINDOW, "      tumbling: 10", 0, "spec.windows[0].tumbling", "needs a unit", "10", "10s"),
    (WINDOW, "      tumbling: 10x", 0, "spec.windows[0].tumbling", "not a duration", '"10x"', "unit"),
    (WINDOW, "      tumbling: 0s", 0, "spec.windows[0].tumbling", "at least 1ms", '"0s"', "longer"),
    (WINDOW, "      sliding: {size: 1m, slide: 10s}", 0, "spec.windows[0].sliding", "not supported", None, "tumbling"),
    (WINDOW, "      session: {gap: 1m}", 0, "spec.windows[0].session", "not supported", None, "tumbling"),
    (WINDOW, "      tumblin: 10s", 0, "spec.windows[0].tumblin", "unknown field", '"tumblin"', '"tumbling"'),
    ("- name: per_10s", "- name: events", 0, "spec.windows[0].name", "single events", '"events"', "rename"),
    ("n: count()", "n: cuont()", 0, "spec.windows[0].aggregates.n", "no aggregate cuont", '"cuont()"', '"count"'),
    ("n: count()", "key: count()", 0, "spec.windows[0].aggregates.key", "every window has", '"key"', "rename"),
    ("n: count()", "n: mean(ok)", 0, "spec.windows[0].aggregates.n", "needs a number", '"mean(ok)"', "float64"),
    (
        "n: count()",
        "n: mean(temprature)",
        0,
        "spec.windows[0].aggregates.n",
        "no column",
        '"mean(temprature)"',
        '"temperature"',
    ),
    ("n: count()", "n: 3", 0, "spec.windows[0].aggregates.n", "must be a text", "3", "quotes"),
    ("file: udfs.py", "file: nope.py", 0, "spec.udfs[0].file", "does not exist", '"nope.py"', "relative"),
    ("      file: udfs.py\n", "", -1, "spec.udfs[0]", "needs one of file, code", None, "file:"),
    ("function: score", "function: scor", 0, "spec.udfs[0].function", "not defined", '"scor"', '"score"'),
    ("      function: score\n", "", -2, "spec.udfs[0].function", "is missing", None, "add function"),
    (
        "inputs: [temperature, ",
        "inputs: [temprature, ",
        0,
        "spec.udfs[0].inputs[0]",
        "no such column",
        '"temprature"',
        '"temperature"',
    ),
    (
        "stats.temperature.mean]",
        "stats.ok.mean]",
        0,
        "spec.udfs[0].inputs[1]",
        "of numbers only",
        '"stats.ok.mean"',
        "int64",
    ),
    (
        "stats.temperature.mean]",
        "stats.temperature.men]",
        0,
        "spec.udfs[0].inputs[1]",
        "no such column",
        '"stats.temperature.men"',
        '"stats.temperature.mean"',
    ),
    ("      inputs: [temperature, stats.temperature.mean]\n", "", -3, "spec.udfs[0].inputs", "@udf", None, "inputs:"),
    (
        "inputs: [temperature, stats.temperature.mean]",
        "inputs: temperature",
        0,
        "spec.udfs[0].inputs",
        "a list",
        '"temperature"',
        '"- "',
    ),
    ("{score: float64}", "{ok: float64}", 0, "spec.udfs[0].output.ok", "a field of the events", '"ok"', "rename"),
    ("{score: float64}", "{score: float}", 0, "spec.udfs[0].output.score", "must be one of", '"float"', '"float64"'),
    (
        "      function: score\n",
        "      function: score\n      on: widow\n",
        1,
        "spec.udfs[0].on",
        "one of event, window",
        '"widow"',
        '"window"',
    ),
    (
        "      function: score\n",
        "      function: score\n      on: window\n      window: per_1s\n",
        2,
        "spec.udfs[0].window",
        "no such window",
        '"per_1s"',
        '"per_10s"',
    ),
    ("- name: out", "- name: dead-letters", 0, "spec.sinks[0].name", "built-in", '"dead-letters"', "rename"),
    ("from: per_10s", "from: per_1s", 0, "spec.sinks[0].from", "neither a window nor events", '"per_1s"', '"per_10s"'),
    ("      from: per_10s\n", "", -1, "spec.sinks[0].from", "is missing", None, "from: events"),
    (
        FILE_SINK,
        "      stdout: {}\n      delivery: exactly-once",
        1,
        "spec.sinks[0].delivery",
        "cannot be exactly-once",
        '"exactly-once"',
        "at-least-once",
    ),
    (
        FILE_SINK,
        "      delivery: exactly_once\n" + FILE_SINK,
        0,
        "spec.sinks[0].delivery",
        "must be one of",
        '"exactly_once"',
        '"exactly-once"',
    ),
    (
        FILE_SINK + "\n",
        "",
        -2,
        "spec.sinks[0]",
        "needs one of file, http, kafka, nats, postgres, python, stdout",
        None,
        "file:",
    ),
    (
        FILE_SINK,
        FILE_SINK + "\n      where: mean > x",
        1,
        "spec.sinks[0].where",
        "no column x",
        '"mean > x"',
        "columns",
    ),
    (
        "where: abs(score) > 3",
        "where: abs(scor) > 3",
        0,
        "spec.sinks[1].where",
        "no column scor",
        '"abs(scor) > 3"',
        '"score"',
    ),
    (
        "http://127.0.0.1:9000/alerts",
        "127.0.0.1/x",
        0,
        "spec.sinks[1].http.url",
        "not a web address",
        '"127.0.0.1/x"',
        "http://",
    ),
    (
        'alerts"}',
        'alerts", headers: {Idempotency-Key: a}}',
        0,
        "spec.sinks[1].http.headers.Idempotency-Key",
        "by the engine",
        '"Idempotency-Key"',
        "remove",
    ),
    ('alerts"}', 'alerts", maxBatchRows: 0}', 0, "spec.sinks[1].http.maxBatchRows", "at least 1", "0", "use 1"),
    ('alerts"}', 'alerts", timeout: 0s}', 0, "spec.sinks[1].http.timeout", "at least 1ms", '"0s"', "10s"),
    (
        'alerts"}',
        'alerts", backoff: {initial: 1m, max: 1s}}',
        0,
        "spec.sinks[1].http.backoff.max",
        "shorter than initial",
        '"1s"',
        "longer",
    ),
    ("spec:\n", "spec:\n  where: temprature > 3\n", 1, "spec.where", "no column", '"temprature > 3"', '"temperature"'),
    ("spec:\n", "spec:\n  where: score > 3\n", 1, "spec.where", "no column score", '"score > 3"', "columns:"),
    (
        "spec:\n",
        "spec:\n  time: {allowedLateness: 5s}\n",
        1,
        "spec.time.allowedLateness",
        "not supported",
        '"5s"',
        "0s",
    ),
    ("spec:\n", "spec:\n  history: {rollups: []}\n", 1, "spec.history.rollups", "not supported", "[]", "history.raw"),
    ("spec:\n", "spec:\n  history: {raw: 0s}\n", 1, "spec.history.raw", "at least 1s", '"0s"', "1s or more"),
    (
        "spec:\n",
        "spec:\n  checkpoint: {interval: 1ms}\n",
        1,
        "spec.checkpoint.interval",
        "at least 10ms",
        '"1ms"',
        "10ms",
    ),
    ("spec:\n", "spec:\n  checkpoint: {interval: 2h}\n", 1, "spec.checkpoint.interval", "at most 1h", '"2h"', "1h or"),
    ("spec:\n", "spec:\n  ingest: {maxBody: 64MB}\n", 1, "spec.ingest.maxBody", "not a size", '"64MB"', '"64M"'),
    (
        "spec:\n",
        "spec:\n  ingest: {durability: none}\n",
        1,
        "spec.ingest.durability",
        "one of fsync, buffered",
        '"none"',
        "write fsync",
    ),
    ("spec:\n", "spec:\n  state: {memory: 1Mi}\n", 1, "spec.state.memory", "at least 16Mi", '"1Mi"', "16Mi or more"),
    (
        "spec:\n",
        "spec:\n  engine: {pinCores: yes}\n",
        1,
        "spec.engine.pinCores",
        "true or false",
        '"yes"',
        "true or false",
    ),
    ("spec:\n", "spec:\n  engine:\n", 1, "spec.engine", "must be a mapping", "null", "{}"),
    ("spec:\n", "spec:\n  rest: {corsOrigins: x}\n", 1, "spec.rest.corsOrigins", "a list", '"x"', '"- "'),
    (
        "spec:\n",
        "spec:\n  deadLetters: {file: {path: out}}\n",
        1,
        "spec.deadLetters.file.path",
        "folder of the sink out",
        '"out"',
        "another folder",
    ),
]


@pytest.mark.parametrize(
    ("folders", "within"),
    [
        (["out/w", "out"], {0: "the sink s1"}),
        (["out", "out/w"], {1: "the sink s0"}),
        (["./out/", "x/../out/w/x"], {1: "the sink s0"}),
        (["/job/out", "out/w"], {1: "the sink s0"}),
        (["a/b/c", "a-b", "a", "a/b"], {0: "the sink s2", 3: "the sink s2"}),
        (["/", "out"], {1: "the sink s0", None: "the sink s0"}),
        (["dead/w"], {0: "the dead letters"}),
        (["."], {None: "the sink s0"}),
        (["out", "out2", "ou", "x/out"], {}),
    ],
)
def test_a_folder_within_anothers_is_told(folders: list[str], within: dict[int | None, str]) -> None:
    """A run would make them in the order of the job, and then find the outer one not empty."""
    sinks = "".join(f"    - {{name: s{n}, from: events, file: {{path: {path}}}}}\n" for n, path in enumerate(folders))
    found = problems_of(f"{GOOD[: GOOD.index('    - name: out')]}{sinks}  deadLetters: {{file: {{path: dead}}}}\n")
    places = {None: "spec.deadLetters.file.path"}
    assert {problem.path: problem.message for problem in found} == {
        places.get(n, f"spec.sinks[{n}].file.path"): f"lies within the folder of {owner}" for n, owner in within.items()
    }
    assert all(problem.fix == "use a folder beside it" for problem in found)


RENAMED = {"spec.windows[0].name", "spec.udfs[0].output.ok", "spec.udfs[0].window"}
USES = {"spec.sinks[0].from", "spec.sinks[1].where"}


@pytest.mark.parametrize(("old", "new", "below", "path", "message", "got", "fix"), CASES, ids=lambda value: None)
def test_each_error_is_told_in_full(
    old: str, new: str, below: int, path: str, message: str, got: str | None, fix: str
) -> None:
    text, line = spoilt(old, new)
    problems = problems_of(text)
    found = [problem for problem in problems if problem.path == path and message in problem.message]
    assert len(found) == 1, "\n".join(map(str, problems))
    problem = found[0]
    assert (problem.file, problem.line, problem.got) == ("/job/job.yaml", line + below, got)
    assert problem.fix is not None
    assert fix in problem.fix
    # What uses a name that the mistake has taken away is told as well.
    problems = [other for other in problems if not (other.path in USES and path in RENAMED)]
    assert problems == found, "one mistake gives one problem: " + "\n".join(map(str, problems))


def test_the_good_job_is_good() -> None:
    assert problems_of(GOOD) == []


def test_the_text_of_a_problem() -> None:
    text, _ = spoilt("from: per_10s", "from: per_1s")
    assert [str(problem) for problem in problems_of(text)] == [
        '/job/job.yaml:30: spec.sinks[0].from: is neither a window nor events (got "per_1s"; did you mean "per_10s"?)'
    ]


def test_all_errors_come_at_once() -> None:
    text = GOOD
    for old, new in [
        ("v1alpha1", "v2"),
        ("{name: telemetry}", "{name: A}"),
        ("key: device_id", "key: device"),
        ("unit: ms", "unit: min"),
        ("count: int64", "count: int46"),
        (WINDOW, "      tumbling: 10x"),
        ("mean: mean(temperature)", "mean: mean(temprature)"),
        ("function: score", "function: scor"),
        ("from: per_10s", "from: per_1s"),
        ("where: abs(score) > 3", "where: abs(scor) > 3"),
        (FILE_SINK, "      file: {pth: out}"),
    ]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    assert [problem.path for problem in problems_of(text)] == [
        "apiVersion",
        "metadata.name",
        "spec.schema.key",
        "spec.schema.time.unit",
        "spec.schema.fields.count",
        "spec.windows[0].tumbling",
        "spec.windows[0].aggregates.mean",
        "spec.udfs[0].function",
        "spec.sinks[0].from",
        "spec.sinks[0].file.pth",
        "spec.sinks[1].where",
    ]


def test_a_wrong_item_keeps_the_places_of_the_others() -> None:
    text, line = spoilt("    - name: out\n", "    - {name: bad, from: events, stdot: {}}\n    - name: out\n")
    text = text.replace("from: per_10s", "from: per_1s")
    assert [(problem.path, problem.line) for problem in problems_of(text)] == [
        ("spec.sinks[0].stdot", line),
        ("spec.sinks[1].from", line + 2),
    ]


def test_syntax_errors_of_a_udf_have_its_file_and_line() -> None:
    problems = problems_of(GOOD, {"/job/udfs.py": "import numpy\n\ndef score(x:\n    return x\n"})
    assert [(problem.file, problem.line) for problem in problems] == [("/job/udfs.py", 3)]
    assert "Python syntax error" in problems[0].message


def test_syntax_errors_of_inline_code_have_their_line_in_the_job() -> None:
    text, line = spoilt(
        "      file: udfs.py\n", "      code:\n        inline: |\n          def score(x):\n            retrn x\n"
    )
    problems = problems_of(text)
    assert [(problem.file, problem.line, problem.path) for problem in problems] == [
        ("/job/job.yaml", line + 3, "spec.udfs[0].code.inline")
    ]


@pytest.mark.parametrize(
    "module",
    [
        "def score(x): return x",
        "from somewhere import score",
        "import score",
        "score = lambda x: x",
        "f = None\nregister('score', f)",
        "import streamjob\nstreamjob.register(name='score', function=print)",
        "from somewhere import *",
        "if True:\n    def score(x): return x",
        "try:\n    score = 1\nexcept ImportError:\n    pass",
        "for name in ('score',):\n    register(name, print)",
        "globals()['score'] = 1",
        "@udf(inputs=[], output={}, name='score')\ndef f(): pass",
    ],
)
def test_functions_are_found_without_running_the_module(module: str) -> None:
    assert problems_of(GOOD, {"/job/udfs.py": module}) == []


def test_inputs_and_output_may_come_from_the_decorator() -> None:
    text, _ = spoilt("      inputs: [temperature, stats.temperature.mean]\n      output: {score: float64}\n", "")
    module = "@udf(inputs=['temperature'], output={'score': 'float64'})\ndef score(x): return x"
    loaded = load_text(text, {"/job/udfs.py": module})
    assert (loaded.udfs[0].inputs, loaded.udfs[0].outputs) == (("temperature",), {"score": "float64"})
    problems = problems_of(text, {"/job/udfs.py": module.replace("'float64'", "'flaot64'")})
    assert [problem.fix for problem in problems] == ['did you mean "float64"?']


def test_code_in_a_config_map_is_valid_but_not_here() -> None:
    text, line = spoilt("      file: udfs.py\n", "      code: {configMap: {name: functions, key: z.py}}\n")
    problems = local_problems(load_text(text))
    assert [(problem.line, problem.got) for problem in problems] == [(line, '"functions"')]
    assert "only on Kubernetes" in problems[0].message


def test_jobs_from_data_and_models() -> None:
    loaded = load_job(good_data())
    again = load_job(StreamJob.model_validate(good_data()))
    assert again.job == loaded.job
    data = good_data()
    data["spec"]["sinks"][0]["from"] = "nothing"
    with pytest.raises(JobError, match=r"<dict>:1: spec\.sinks\[0\]\.from"):
        load_job(data)


def test_a_dump_can_be_read_again() -> None:
    job = load_job(good_data()).job
    assert StreamJob.model_validate(job.model_dump(mode="json", exclude_none=True)) == job


def test_every_member_is_described() -> None:
    def described(schema: dict[str, object], path: str) -> None:
        properties = schema.get("properties", {})
        assert isinstance(properties, dict)
        for name, member in properties.items():
            assert "description" in member or "$ref" in member, f"{path}.{name}"

    schema = StreamJob.model_json_schema()
    described(schema, "StreamJob")
    for name, definition in schema["$defs"].items():
        described(definition, name)


def test_a_schema_has_defaults_as_users_write_them() -> None:
    definitions = StreamJob.model_json_schema()["$defs"]
    written = {
        (name, member): schema["default"]
        for name, definition in definitions.items()
        for member, schema in definition.get("properties", {}).items()
        if "pattern" in schema and "default" in schema
    }
    assert written["TimeSpec", "idleTimeout"] == "5s"
    assert written["IngestSpec", "maxBody"] == "64Mi"
    assert written["HistorySpec", "raw"] == "30d"
    assert definitions["JobSpec"]["properties"]["time"]["default"]["idleTimeout"] == "5s"
    for (name, member), default in written.items():
        assert re.match(definitions[name]["properties"][member]["pattern"], default), (name, member)


@pytest.mark.parametrize(
    ("old", "new", "below", "path", "message"),
    [
        (WINDOW, "      tumbling: 9000000d", 0, "spec.windows[0].tumbling", "must be at most 2920000d"),
        (
            "n: count()",
            "\n".join(f"        a{n}: count()" for n in range(4096)).strip(),
            -1,
            WINDOWS,
            "more than 4,096",
        ),
        ("ok: bool", "\n".join(f"      f{n}: bool" for n in range(4097)).strip(), -4, FIELDS, "more than 4,096"),
        ("spec:\n", "spec:\n  ingest: {maxBody: 513Mi}\n", 1, "spec.ingest.maxBody", "must be at most 512Mi"),
    ],
)
def test_the_engines_bounds_are_told(old: str, new: str, below: int, path: str, message: str) -> None:
    text, line = spoilt(old, new)
    (found,) = [problem for problem in problems_of(text) if problem.path == path]
    assert message in found.message
    assert found.line == line + below


LINES = GOOD.splitlines(keepends=True)
WORDS = re.findall(r"[A-Za-z0-9_.]+", GOOD)
NESTED = ["[" * 3000 + "]" * 3000, "{a: " * 1500 + "}" * 1500, "- " * 1500, "(" * 3000 + "x" + ")" * 3000]
ESCAPES = ['"\\ud800"', '{const: "\\ud800"}', '{"\\udc00": 1}', '"\\U00110000"']


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(LINES) - 1),
    st.sampled_from(["drop", "twice", "value", "word"]),
    st.sampled_from(WORDS) | st.sampled_from(NESTED + ESCAPES),
)
@example(6, "value", NESTED[0])
@example(6, "value", NESTED[1])
@example(5, "value", ESCAPES[1])
@example(6, "word", ESCAPES[0])
def test_any_damage_is_reported_and_never_a_crash(index: int, how: str, word: str) -> None:
    lines = list(LINES)
    if how == "drop":
        del lines[index]
    elif how == "twice":
        lines.insert(index, lines[index])
    elif how == "value":
        lines[index] = lines[index].split(":")[0] + f": {word}\n"
    else:
        lines[index] = re.sub(r"[A-Za-z0-9_]+", lambda _: word, lines[index], count=1)
    for problem in problems_of("".join(lines)):
        assert problem.line >= 1
        assert problem.message
        assert str(problem).encode(), "it can be printed"


def _with_config_map(read: Callable[[str, str], str]) -> LoadedJob:
    text, _ = spoilt("      file: udfs.py\n", "      code: {configMap: {name: functions, key: z.py}}\n")
    return load_job(text, config_maps=read)


def test_code_in_a_config_map_is_read_where_there_are_config_maps() -> None:
    asked: list[tuple[str, str]] = []

    def read(name: str, key: str) -> str:
        asked.append((name, key))
        return "def score(*columns): return columns[0]\n"

    loaded = _with_config_map(read)
    assert asked == [("functions", "z.py")]
    assert loaded.udfs[0].text == "def score(*columns): return columns[0]\n"
    assert loaded.udfs[0].filename == "configmap:functions/z.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, 'ConfigMap functions does not exist (got "functions/z.py"; create it'),
        ("def score(:\n", "line 1: Python syntax error"),
        ("def other(): ...\n", "is not defined or registered in the ConfigMap functions, key z.py"),
    ],
)
def test_what_is_wrong_with_a_config_map_is_told(text: str | None, message: str) -> None:
    def read(name: str, key: str) -> str:
        if text is None:
            raise LookupError(f"ConfigMap {name} does not exist")
        return text

    with pytest.raises(JobError) as caught:
        _with_config_map(read)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_replicas_above_one_are_refused() -> None:
    text, line = spoilt("spec:\n", "spec:\n  replicas: 3\n")
    (problem,) = problems_of(text)
    assert problem.line == line + 1
    assert "spec.replicas: one pod runs all shards of a job in this version (got 3; write 1)" in str(problem)
