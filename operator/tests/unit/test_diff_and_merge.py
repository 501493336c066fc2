"""Differences by name, and strategic merges."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamjob_operator.diff import MAX_DIFFERENCES, differences, first_difference, quantity, same_digest, stamped
from streamjob_operator.merge import merge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_a_thing_does_not_differ_from_itself(value: Any) -> None:
    assert differences(value, value) == []
    assert first_difference(value, value) is None


@given(st.dictionaries(st.sampled_from("xyz"), JSON), st.dictionaries(st.sampled_from("uvw"), JSON))
def test_what_others_have_added_is_no_difference(wanted: dict[str, Any], added: dict[str, Any]) -> None:
    assert differences(wanted, {**wanted, **added}) == []


@given(JSON, JSON)
def test_merging_twice_is_merging_once(base: Any, patch: Any) -> None:
    once = merge(base, patch)
    assert merge(once, patch) == once


@pytest.mark.parametrize(
    ("wanted", "found", "said"),
    [
        ({"spec": {"replicas": 1}}, {"spec": {"replicas": 3}}, "spec.replicas: 3 -> 1"),
        ({"spec": {"a": "x"}}, {"spec": {}}, "spec.a: nothing -> x"),
        (
            {"containers": [{"name": "engine", "image": "b"}]},
            {"containers": [{"name": "side", "image": "x"}, {"name": "engine", "image": "a"}]},
            "containers[engine].image: a -> b",
        ),
        ({"ports": [{"containerPort": 1}]}, {"ports": []}, 'ports[1]: nothing -> {"containerPort": 1}'),
        ({"args": ["a", "b"]}, {"args": ["a"]}, 'args: ["a"] -> ["a", "b"]'),
        ({"args": ["a", "b"]}, {"args": ["a", "c"]}, "args[1]: c -> b"),
        ({"labels": {"a": "1"}}, {"labels": {"a": "1", "b": "2"}}, "labels.b: 2 -> nothing"),
        ({"env": [{"name": "A"}]}, {"env": [{"name": "A"}, {"name": "B"}]}, 'env[B]: {"name": "B"} -> nothing'),
    ],
)
def test_the_first_difference_is_said_by_name(wanted: Any, found: Any, said: str) -> None:
    assert str(first_difference(wanted, found)) == said


def test_long_texts_are_shown_from_where_they_differ() -> None:
    begin = "import asyncio\n" * 10
    (found,) = differences({"source": begin + "a = 1\n"}, {"source": begin + "a = 2\n"}, "job")
    assert found.told == "job.source: …import asyncio\\na = 2\\n -> …import asyncio\\na = 1\\n"
    (found,) = differences({"source": begin}, {"source": begin + "x"}, "job")
    assert found.told == "job.source: …io\\nimport asyncio\\nx -> …io\\nimport asyncio\\n"
    (found,) = differences({"source": "b" + begin}, {"source": "a" + begin}, "job")
    assert found.told.startswith("job.source: aimport asyncio")
    (found,) = differences({"source": "1"}, {"source": 1}, "job")
    assert found.told == "job.source: 1 -> 1"


@pytest.mark.parametrize(
    ("one", "other"), [("1000m", "1"), ("1Gi", "1073741824"), ("0.5", "500m"), ("1k", 1000), ("1024Mi", "1Gi")]
)
def test_quantities_are_compared_by_value(one: Any, other: Any) -> None:
    assert quantity(one) == quantity(other)
    assert differences({"requests": {"cpu": one}}, {"requests": {"cpu": other}}) == []
    assert differences({"command": [str(one)]}, {"command": [str(other)]})


def test_no_quantity() -> None:
    assert quantity("1 Gi") is None
    assert quantity("Ki") is None
    assert quantity({}) is None


def test_absent_and_empty_are_the_same() -> None:
    assert differences({"emptyDir": {}, "args": [], "text": ""}, {}) == []


def test_differences_are_bounded() -> None:
    assert len(differences({str(n): 1 for n in range(100)}, {})) == MAX_DIFFERENCES


def test_a_digest_notices_what_is_no_longer_wanted() -> None:
    first = stamped({"metadata": {"name": "a"}, "spec": {"x": 1, "y": 2}})
    second = stamped({"metadata": {"name": "a"}, "spec": {"x": 1}})
    assert same_digest(first, first)
    assert not same_digest(second, first)


def test_named_items_are_merged_one_by_one() -> None:
    base = {"containers": [{"name": "engine", "image": "a", "env": [{"name": "A", "value": "1"}]}]}
    patch = {"containers": [{"name": "engine", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}]}
    (engine,) = merge(base, patch)["containers"]
    assert engine["image"] == "a"
    assert engine["env"] == [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]


def test_null_and_delete_remove() -> None:
    base = {"a": 1, "volumes": [{"name": "x"}, {"name": "y"}]}
    assert merge(base, {"a": None, "volumes": [{"name": "x", "$patch": "delete"}]}) == {"volumes": [{"name": "y"}]}


def test_a_volume_gets_one_source_and_other_lists_are_replaced() -> None:
    base = {"volumes": [{"name": "tmp", "emptyDir": {}}], "args": ["a"]}
    patch = {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}], "args": ["b"]}
    assert merge(base, patch) == {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}], "args": ["b"]}


def test_nothing_is_changed_in_place() -> None:
    base = {"containers": [{"name": "engine"}]}
    merge(base, {"containers": [{"name": "engine", "image": "x"}]})
    assert base == {"containers": [{"name": "engine"}]}
