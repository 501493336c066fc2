"""SQL expressions: lowering, types and errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamjob.expressions import Expression, lower_aggregate, lower_where
from streamjob.sql import ExpressionError

COLUMNS = {"x": "float64", "n": "int64", "s": "string", "ok": "bool", "a.b": "float64", "stats": "int64"}


def col(name: str) -> Expression:
    return {"kind": "column", "name": name}


def lit(value: Any) -> Expression:
    return {"kind": "literal", "value": value}


def call(function: str, *args: Expression) -> Expression:
    return {"kind": "call", "function": function, "args": list(args)}


@pytest.mark.parametrize("name", ["load", "lock", "set", "reset", "comment", "call", "show", "copy", "update", "cache"])
def test_a_field_may_have_the_name_of_a_statement(name: str) -> None:
    assert lower_where(f"{name} > 0.9", {name: "float64"}) == call("gt", col(name), lit(0.9))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abs(x) > 3", call("gt", call("abs", col("x")), lit(3))),
        ("x > 3.0", call("gt", col("x"), lit(3.0))),
        ("ABS(x) >= -3", call("ge", call("abs", col("x")), lit(-3))),
        ("n = -9223372036854775808", call("eq", col("n"), lit(-(2**63)))),
        ("x between 1 and 2", call("and", call("ge", col("x"), lit(1)), call("le", col("x"), lit(2)))),
        ("s not in ('a', 'b')", call("not", call("in", col("s"), lit("a"), lit("b")))),
        ("s <> 'it''s'", call("ne", col("s"), lit("it's"))),
        ("s != 'a'", call("ne", col("s"), lit("a"))),
        ("x is null", call("is_null", col("x"))),
        ("not x is null", call("not", call("is_null", col("x")))),
        ("x is not null", call("is_not_null", col("x"))),
        ("ok is true", call("coalesce", col("ok"), lit(False))),
        ("ok is not true", call("not", call("coalesce", col("ok"), lit(False)))),
        ("ok", col("ok")),
        ("a.b < x", call("lt", col("a.b"), col("x"))),
        ('"a.b" < x', call("lt", col("a.b"), col("x"))),
        ("n % 2 = 1", call("eq", call("mod", col("n"), lit(2)), lit(1))),
        ("x + 1 - 2 * 3 / 4 > -x", None),
        (
            "case when ok then 1 else 2.5 end > 1",
            call("gt", call("case", col("ok"), lit(1), lit(2.5)), lit(1)),
        ),
        ("case n when 1 then ok end", call("case", call("eq", col("n"), lit(1)), col("ok"), lit(None))),
        ("cast(n as double) > 1", call("gt", call("cast_float64", col("n")), lit(1))),
        ("x::bigint > 1", call("gt", call("cast_int64", col("x")), lit(1))),
        ("nullif(n, 0) > 1", call("gt", call("case", call("eq", col("n"), lit(0)), lit(None), col("n")), lit(1))),
        ("coalesce(ok, false)", call("coalesce", col("ok"), lit(False))),
        ("length(s) > 2 and (upper(s) = 'A' or lower(s) = 'b')", None),
        ("greatest(x, n, 1) > least(x, 2)", None),
        ("sqrt(x) + ln(x) + exp(x) + power(x, 2) + x ^ 2 > sign(x) + floor(x) + ceil(x) + round(x)", None),
    ],
)
def test_conditions(text: str, expected: Expression | None) -> None:
    lowered = lower_where(text, COLUMNS)
    if expected is not None:
        assert lowered == expected


@pytest.mark.parametrize(
    ("text", "function", "argument", "kind"),
    [
        ("count()", "count", None, "int64"),
        ("count(*)", "count", None, "int64"),
        ("count(s)", "count", col("s"), "int64"),
        ("mean(x)", "mean", col("x"), "float64"),
        ("avg(n)", "mean", col("n"), "float64"),
        ("var_pop(x)", "variance", col("x"), "float64"),
        ("stddev_pop(x)", "stddev", col("x"), "float64"),
        ("STDDEV(abs(x))", "stddev", call("abs", col("x")), "float64"),
        ("sum(n)", "sum", col("n"), "int64"),
        ("sum(n * 1.5)", "sum", call("mul", col("n"), lit(1.5)), "float64"),
        ("first(x)", "first", col("x"), "float64"),
        ("last(n)", "last", col("n"), "int64"),
    ],
)
def test_aggregates(text: str, function: str, argument: Expression | None, kind: str) -> None:
    aggregate = lower_aggregate(text, COLUMNS)
    assert (aggregate.function, aggregate.argument, aggregate.type) == (function, argument, kind)


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("y > 3", "has no column y", "columns:"),
        ("oky", "has no column oky", 'did you mean "ok"?'),
        ("lenght(s) > 1", "has no function lenght", 'did you mean "length"?'),
        ("log(x) > 1", "has no function log", "ln(x)"),
        ("n", "must be a condition", "compare"),
        ("x + 1", "must be a condition", "compare"),
        ("s > 3", "one type", "same type"),
        ("ok > 3", "one type", "same type"),
        ("s + 1 > 2", "needs numbers", "float64 or int64"),
        ("ok and n", "needs conditions", "compare"),
        ("null", "must be a condition", "compare"),
        ("x + null > 1", "needs numbers, this is null", "columns"),
        ("ok and null", "needs conditions, this is null", "compare"),
        ("x = null", "never true", "IS NULL"),
        ("x in (1, null)", "never equal", "IS NULL"),
        ("x in (select 1)", "list of values", "in (1, 2, 3)"),
        ("x > (select 1)", "subqueries", "same row"),
        ("exists(select 1)", "subqueries", "same row"),
        ("sum(x) over () > 1", "window functions", "spec.windows"),
        ("mean(x) > 1", "aggregate mean cannot be used here", "spec.windows"),
        ("s like 'a%'", "LIKE is not supported", "="),
        ("s || 'a' = 'b'", "|| is not supported", "UDF"),
        ("x >", "no SQL expression", "check"),
        ("x > 'abc", "no SQL expression", "quotes"),
        ("", "is empty", "write"),
        ("x > 1; drop", "one expression", "semicolon"),
        ("x in ()", "no values", "in (1, 2, 3)"),
        ("x > 1 big", "a name for the result", "operator"),
        ("n = 9223372036854775808", "does not fit", "9223372036854775808.0"),
        ("x > 1e999", "does not fit", "smaller"),
        ("cast(x as date) > 1", "CAST to DATE", "DOUBLE or BIGINT"),
        ("round(x, n) > 1", "digits", "round(x, 2)"),
        ("abs(x, 1) > 1", "abs takes 1 arguments, not 2", "arguments"),
        ("length(x) > 1", "needs a string", "string"),
        ("coalesce(s, 1) = 's'", "one type", "same type"),
        ("interval '1 day' > x", "INTERVAL", "microseconds"),
        ("(" * 300 + "ok" + ")" * 300, "nested too deeply", "simplify"),
        ("not " * 300 + "ok", "nested too deeply", "simplify"),
        ("x" * 20_000, "too long", "characters"),
    ],
)
def test_wrong_conditions(text: str, said: str, fix: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        lower_where(text, COLUMNS)
    assert said in str(caught.value)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("n", "one aggregate function", "mean(temperature)"),
        ("sum(n) / 2", "stand alone", "inside"),
        ("sum(n) filter (where ok)", "stand alone", "inside"),
        ("maen(n)", "has no aggregate maen", 'did you mean "mean"?'),
        ("var_samp(n)", "has no aggregate var_samp", "population"),
        ("count(distinct n)", "DISTINCT", "remove"),
        ("mean()", "one argument, not 0", "mean(column)"),
        ("mean(n, 1)", "one argument, not 2", "mean(column)"),
        ("mean(s)", "needs a number", "float64"),
        ("sum(null)", "needs a number", "float64"),
        ("first(s)", "needs a number", "float64"),
        ("min(max(n))", "cannot hold another", "one aggregate"),
        ("mean(y)", "has no column y", "columns:"),
    ],
)
def test_wrong_aggregates(text: str, said: str, fix: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        lower_aggregate(text, COLUMNS)
    assert said in str(caught.value)
    assert fix in caught.value.fix


def depth(expression: Expression) -> int:
    return 1 + max((depth(arg) for arg in expression.get("args", ())), default=0)


@given(st.integers(1, 300))
def test_long_chains_stay_flat(terms: int) -> None:
    lowered = lower_where(" or ".join(f"n = {term}" for term in range(terms)), COLUMNS)
    assert depth(lowered) <= 12

    def leaves(expression: Expression) -> list[int]:
        if expression["function"] == "eq":
            return [expression["args"][1]["value"]]
        return [leaf for arg in expression["args"] for leaf in leaves(arg)]

    assert leaves(lowered) == list(range(terms))


@given(st.text(max_size=40))
def test_any_text_is_lowered_or_refused(text: str) -> None:
    for lower in (lower_where, lower_aggregate):
        try:
            lower(text, COLUMNS)
        except ExpressionError as error:
            assert error.fix  # noqa: PT017 - not every text is wrong


def test_division_of_whole_numbers_is_a_float() -> None:
    assert lower_aggregate("sum(n / 2)", COLUMNS).type == "float64"
