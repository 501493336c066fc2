"""YAML with lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamjob.problems import value_text
from streamjob.source import parse_yaml


def test_lines_and_core_schema() -> None:
    source, problems = parse_yaml("a: 1\nb:\n  - on: event\n    x: '1'\n  - {s: 10s, f: 1.5, n: ~, yes: no}\n", "f")
    assert problems == []
    assert source is not None
    assert source.data == {
        "a": 1,
        "b": [{"on": "event", "x": "1"}, {"s": "10s", "f": 1.5, "n": None, "yes": "no"}],
    }
    assert source.line(("b", 0, "x")) == 4
    assert source.line(("b", 1, "f")) == 5
    assert source.line(("b", 1, "absent")) == 5
    assert source.line(("nothing",)) == 1


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\na: 2\n", 2, "given twice, first on line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, "given twice, first on line 2"),
        ("a: [1\nb: 2\n", 2, "is not valid YAML"),
        ("a:\n\tb: 1\n", 2, "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", 3, "more than one YAML document"),
        ("", 1, "is empty"),
        ("- 1\n", 1, "must be a mapping"),
        ("a: &x [*x]\n", 1, "alias"),
        ("a: !!binary x\n", 1, "has the tag"),
        ("a: {[1, 2]: 3}\n", 1, "simple name"),
        ("a: &x {}\nb:\n  <<: *x\n", 3, "merge keys"),
        ("a:\n  " + "[" * 3000 + "]" * 3000, 2, "is nested too deeply (write at most 64 levels"),
        ("a: " + "{a: " * 1500 + "}" * 1500, 1, "is nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(1500)), 65, "is nested too deeply"),
        ("a:\n" + "- " * 1500, 2, "is nested too deeply"),
        ("[" * 65 + "]" * 65 + ": 1\n", 1, "is nested too deeply"),
        ('a:\n  b: "\\ud800"\n', 2, "a.b: holds half of a character"),
        ('a:\n  "\\udc00": 1\n', 2, "a: holds half of a character"),
        ('a:\n  "\\U00110000": 1\n', 2, "is not valid YAML"),
    ],
)
def test_problems_have_a_line(text: str, line: int, said: str) -> None:
    _, problems = parse_yaml(text, "f.yaml")
    assert said in str(problems[0])
    assert (problems[0].file, problems[0].line) == ("f.yaml", line)


def test_aliases_cannot_explode() -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    _, problems = parse_yaml(text, "f.yaml")
    assert len(problems) == 1
    assert "too large" in problems[0].message


def test_aliases_cannot_nest_without_end() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200))
    _, problems = parse_yaml(text, "f.yaml")
    assert [problem.message for problem in problems] == ["is nested too deeply"]


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ("{a: ", "}")])
def test_many_levels_are_read(begin: str, end: str) -> None:
    source, problems = parse_yaml("a: " + begin * 63 + end * 63, "f.yaml")
    assert source is not None
    assert problems == []
    assert parse_yaml("a: " + begin * 65 + end * 65, "f.yaml")[1]


@pytest.mark.parametrize("value", ["\ud800", ["\ud800"], "\udfff" * 100])
def test_what_is_no_text_is_shown_in_one_that_can_be_printed(value: object) -> None:
    assert "\\ud" in value_text(value)
    assert value_text(value).encode()


@given(st.text(max_size=60))
def test_any_text_gives_a_source_or_problems(text: str) -> None:
    source, problems = parse_yaml(text, "f.yaml")
    assert source is not None or problems
