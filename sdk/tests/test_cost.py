"""What a check costs is bounded, and grows with the job's size alone. Calls are counted and bytes, no time."""

from __future__ import annotations

import ast
import json
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import pytest

import streamjob.problems
import streamjob.scope
from jobs import good_data
from streamjob.expressions import lower_where
from streamjob.loading import load_job
from streamjob.normalise import normalise
from streamjob.problems import (
    MAX_COMPARED,
    MAX_LISTED,
    MAX_PROBLEMS,
    MAX_SUGGESTIONS,
    JobError,
    Problem,
    did_you_mean,
    suggest,
)
from streamjob.sql import ExpressionError
from streamjob.udf_source import MAX_JOB_TOKENS, MAX_TOKENS, Looks, count_tokens
from streamjob.validation.cross import MAX_EXPRESSIONS_LENGTH

Data = dict[str, Any]
CODE = "def score(*columns):\n    return columns[0]\n"


def job(**spec: Any) -> Data:
    data = good_data()
    data["spec"] |= {"sinks": [], "udfs": [], "windows": [], **spec}
    return data


def schema(fields: Data) -> Data:
    return {"key": {"const": "k"}, "time": {"field": "ts", "unit": "ms"}, "fields": fields}


def window(aggregates: Data, name: str = "w") -> Data:
    return {"name": name, "tumbling": "10s", "aggregates": aggregates}


def udf(number: int, code: str = CODE, **members: Any) -> Data:
    members = {"function": "score", "inputs": ["v"], "output": {f"o{number}": "float64"}, **members}
    return {"name": f"u{number}", "code": {"inline": code}, **members}


def sink(number: int, **members: Any) -> Data:
    return {"name": f"s{number}", "from": "events", **members}


def problems(data: Data) -> list[Problem]:
    try:
        load_job(data)
    except JobError as error:
        return error.problems
    return []


def calls(work: Callable[[], object]) -> int:
    """The calls of functions, and the steps of generators, that some work takes."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def paths(n: int) -> Data:
    return job(schema=schema({f"f{i}": {"type": "int64", "path": f"a.b.f{i}"} for i in range(n)}))


def misspelt_aggregates(n: int) -> Data:
    fields = {f"temperature_{i:04d}": "float64" for i in range(n)}
    return job(schema=schema(fields), windows=[window({f"a{i}": f"mean(temperatur_{i:04d})" for i in range(n)})])


def misspelt_inputs(n: int) -> Data:
    fields = {f"temperature_{i:04d}": "float64" for i in range(n)}
    return job(schema=schema(fields), udfs=[udf(0, inputs=[f"temperatur_{i:04d}" for i in range(n)])])


def misspelt_columns(n: int) -> Data:
    columns = {f"c{i}": f"temperatur_{i:04d}" for i in range(n)}
    postgres = {"host": "h", "database": "d", "username": "u", "table": "t", "columns": columns}
    fields = {f"temperature_{i:04d}": "float64" for i in range(n)}
    return job(schema=schema(fields), sinks=[sink(0, postgres=postgres)])


def unknown_members(n: int) -> Data:
    return job(schema=schema({f"f{i}": {"typ": "string", "z": 1} for i in range(n)}))


def wrong_choices(n: int) -> Data:
    return job(schema=schema({f"f{i}": {"type": {}} for i in range(n)}))


def avro_fields(n: int) -> Data:
    names = [f"f{i}" for i in range(n)]
    record = {"type": "record", "name": "R", "fields": [{"name": name, "type": "long"} for name in (*names, "ts")]}
    sources = [{"name": "in", "http": {"avro": {"schema": {"inline": json.dumps(record)}}}}]
    return job(schema=schema(dict.fromkeys(names, "int64")), sources=sources)


SHAPES = [paths, misspelt_aggregates, misspelt_inputs, misspelt_columns, unknown_members, wrong_choices, avro_fields]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_job_of_twice_the_size_takes_twice_the_work(shape: Callable[[int], Data]) -> None:
    problems(shape(10))  # what is made once
    small, large = (calls(lambda size=size: problems(shape(size))) for size in (200, 800))
    # Four times as much, and a margin for what is sorted; what is quadratic takes sixteen times.
    assert large < 6 * small, (small, large)


@pytest.mark.parametrize("shape", [misspelt_aggregates, misspelt_inputs, misspelt_columns])
def test_the_nearest_name_is_looked_for_a_few_times_among_a_few(
    shape: Callable[[int], Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def counted(word: str, possibilities: Sequence[str], *, n: int, cutoff: float) -> list[str]:
        compared.append(len(possibilities))
        return get_close_matches(word, possibilities, n, cutoff)

    monkeypatch.setattr(streamjob.problems, "get_close_matches", counted)
    found = problems(shape(1500))
    assert len(compared) <= MAX_SUGGESTIONS
    assert max(compared) <= MAX_COMPARED
    assert len(found) == MAX_PROBLEMS + 1
    assert any("did you mean" in str(problem.fix) for problem in found), "the first ones are told the nearest name"
    assert max(len(str(problem)) for problem in found) < 2000, "no problem lists all names"


def test_the_nearest_of_many_names_is_found_by_how_they_begin_and_end() -> None:
    names = [f"temperature_of_sensor_{i:04d}" for i in range(4096)]
    assert did_you_mean("temperatur_of_sensor_3021", names) == 'did you mean "temperature_of_sensor_3021"?'
    assert did_you_mean("Temperature_of_sensro_3021", names) == 'did you mean "temperature_of_sensor_3021"?'
    assert did_you_mean("pressure", names) is None
    assert suggest("pressure", names, "columns").endswith(f"and {len(names) - MAX_LISTED:,} more")


def test_of_too_many_problems_the_number_is_told() -> None:
    found = problems(misspelt_aggregates(1500))
    assert found[-1].message == "500 more problems"
    wrong = {f"{i}a": "count()" for i in range(1500)}
    assert problems(job(windows=[window(wrong)]))[-1].message == "500 more problems", "also where the shape is wrong"


def test_each_expression_is_lowered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[str] = []
    real = {name: getattr(streamjob.scope, name) for name in ("lower_aggregate", "lower_where")}
    for name, lower in real.items():
        monkeypatch.setattr(
            streamjob.scope, name, lambda text, columns, lower=lower: (lowered.append(text), lower(text, columns))[1]
        )
    on = {"on": "window", "window": "w0", "inputs": ["a0"]}
    data = job(
        schema=schema({"v": "float64"}),
        windows=[window({f"a{i}": f"max(v + {i})" for i in range(5)}, f"w{k}") for k in range(3)],
        udfs=[udf(i, **on) for i in range(4)],
        sinks=[sink(i, **{"from": "w0"}, where="a0 > 3", file={"path": f"p{i}"}) for i in range(4)],
    )
    normalised = normalise(load_job(data))
    assert sorted(lowered) == sorted([*(f"max(v + {i})" for i in range(5)), "a0 > 3"])
    assert len(normalised["windows"]) == 3
    assert normalised["sinks"][3]["where"] == normalised["sinks"][0]["where"]


def test_expressions_are_not_too_long_together() -> None:
    long = {f"a{i}": f"max(v + {'1 + ' * 2000}{i})" for i in range(MAX_EXPRESSIONS_LENGTH // 8000 + 1)}
    (problem,) = problems(job(schema=schema({"v": "float64"}), windows=[window(long)]))
    assert f"at most {MAX_EXPRESSIONS_LENGTH:,} are read" in problem.message
    same = [window(dict.fromkeys(long, "max(v + 1)"), f"w{i}") for i in range(20)]
    assert problems(job(schema=schema({"v": "float64"}), windows=same)) == [], "one text counts once"


def nested(write: Callable[[str], str], levels: int) -> str:
    text = "v"
    for _ in range(levels):
        text = write(text)
    return text


@pytest.mark.parametrize(
    "text",
    [
        nested(lambda inner: f"nullif({inner}, 1)", 18) + " > 0",
        nested(lambda inner: f"case {inner} when 1 then 2 when 2 then 3 else 4 end", 18) + " > 0",
    ],
)
def test_arguments_that_are_used_more_than_once_do_not_grow_without_end(text: str) -> None:
    with pytest.raises(ExpressionError, match="grows to more than"):
        lower_where(text, {"v": "int64"})


def test_all_expressions_have_a_size_together() -> None:
    text = nested(lambda inner: f"nullif({inner}, 1)", 9)
    aggregates = {f"a{i}": f"max({text} + {i})" for i in range(40)}
    found = problems(job(schema=schema({"v": "int64"}), windows=[window(aggregates)]))
    assert "makes the job's expressions larger than" in found[-1].message


def test_ways_through_an_avro_schema_are_not_followed_one_by_one() -> None:
    record = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "R"}] * 2}
    sources = [{"name": "in", "http": {"avro": {"schema": {"inline": json.dumps(record)}}}}]
    data = job(schema=schema({"f": {"type": "int64", "path": ".".join("a" * 15 + "b")}}), sources=sources)
    problems(data)
    assert calls(lambda: problems(data)) < 20_000, "there are 2^15 ways"


def test_an_avro_schema_that_is_nested_too_deeply_is_a_problem() -> None:
    data = job(sources=[{"name": "in", "http": {"avro": {"schema": {"inline": "[" * 100_000}}}}])
    assert any("nested too deeply" in problem.message for problem in problems(data))


def test_a_job_has_a_number_of_values() -> None:
    python = {"function": "score", "code": {"inline": CODE}, "config": {"a": [0] * 100_001}}
    (problem,) = problems(job(sources=[{"name": "in", "python": python}]))
    assert "more than 100,000 values" in problem.message


def test_what_is_wrong_is_remembered_without_what_the_parser_made() -> None:
    aggregates = {f"a{i}": f"max(v + + {i} (" for i in range(3000)}
    data = job(schema=schema({"v": "int64"}), windows=[window(aggregates)])
    problems(data)
    tracemalloc.start()
    problems(data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 << 20


# ---------------------------------------------------------------------------------------------------------- modules


def peak(text: str) -> int:
    """The bytes that a look at a text takes at most."""
    tracemalloc.start()
    try:
        Looks().look_at(text)
    except (SyntaxError, ValueError):
        pass
    finally:
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found


@pytest.mark.parametrize("unit", ["[],", "a\n", "a,", "{},", "1;", "f'{a}',", "@a\ndef f():0\n", "a[a],"])
def test_a_look_at_code_takes_tens_of_megabytes_at_most(unit: str) -> None:
    just = unit * (MAX_TOKENS // count_tokens(unit))
    assert count_tokens(just) <= MAX_TOKENS
    assert peak(just) < 48 << 20
    assert peak(unit * (524_288 // len(unit))) < 4 << 20, "the longest code that the CRD lets in"


def test_code_that_is_too_long_to_be_looked_at_is_run_with_what_the_job_says() -> None:
    long = CODE + "x = [" + "1," * MAX_TOKENS + "]\n"
    data = job(schema=schema({"v": "float64"}), udfs=[udf(0, long)])
    assert normalise(load_job(data))["udfs"][0]["source"] == long
    del data["spec"]["udfs"][0]["inputs"]
    (problem,) = problems(data)
    assert problem.path == "spec.udfs[0].inputs"
    assert "so much code is not looked into" in problem.message


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are parsed."""
    texts: list[str] = []
    real = ast.parse
    monkeypatch.setattr(ast, "parse", lambda text, *rest: (texts.append(text), real(text, *rest))[1])
    return texts


def test_code_that_functions_share_is_parsed_once(parsed: list[str]) -> None:
    code = CODE + "# shared\n"
    assert problems(job(schema=schema({"v": "float64"}), udfs=[udf(i, code) for i in range(10)])) == []
    assert parsed == [code]
    wrong = "def score(:\n"
    found = problems(job(schema=schema({"v": "float64"}), udfs=[udf(i, wrong) for i in range(10)]))
    assert len(found) == 10
    assert all("Python syntax error" in problem.message for problem in found)
    assert parsed == [code, wrong], "also where it is no Python"


def test_all_code_of_a_job_has_a_bound(parsed: list[str]) -> None:
    texts = [f"{CODE}x = [{'1,' * (MAX_TOKENS // 2 - 100)}]  # {i}\n" for i in range(10)]
    assert problems(job(schema=schema({"v": "float64"}), udfs=[udf(i, text) for i, text in enumerate(texts)])) == []
    assert sum(map(count_tokens, parsed)) <= MAX_JOB_TOKENS
    assert len(parsed) == MAX_JOB_TOKENS // count_tokens(texts[0])


def test_data_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = {}
    for _ in range(3000):
        deep = {"nodeSelector": deep}
    with pytest.raises(JobError) as raised:
        load_job(job(podTemplate={"spec": deep}, windows=[window({"n": "cnt()"})]))
    (problem,) = raised.value.problems
    assert problem.message == "is nested too deeply"
