"""Differences by name, and strategic merges."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamjob_operator.diff import (
    MAX_DIFFERENCES,
    Difference,
    differences,
    first_difference,
    quantity,
    same_digest,
    stamped,
)
from streamjob_operator.merge import merge, patch_problems

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
        (
            {"volumes": [{"name": "A"}]},
            {"volumes": [{"name": "A"}, {"name": "B"}]},
            'volumes[B]: {"name": "B"} -> nothing',
        ),
    ],
)
def test_the_first_difference_is_said_by_name(wanted: Any, found: Any, said: str) -> None:
    first = first_difference(wanted, found)
    assert first is not None
    assert first.told == said


@given(st.text(max_size=5), JSON, JSON, JSON)
def test_differences_are_told_apart_by_their_whole_values(path: str, wanted: Any, found: Any, other: Any) -> None:
    long = "x" * 100
    one = Difference(path, [long, wanted], [long, found])
    for changed in (Difference(path, [long, other], [long, found]), Difference(path, [long, wanted], [long, other])):
        assert (one.identity == changed.identity) == (json.dumps(asdict(one)) == json.dumps(asdict(changed)))


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


def test_a_list_is_replaced_as_kubernetes_does() -> None:
    base = {"containers": [{"name": "engine", "image": "a"}, {"name": "side"}], "env": [{"name": "A"}]}
    patch = {"containers": [{"name": "new"}, {"$patch": "replace"}, {"name": "engine", "image": "b"}]}
    assert merge(base, patch)["containers"] == [{"name": "new"}, {"name": "engine", "image": "b"}]
    assert merge(base, {"env": [{"$patch": "replace"}]}) == {**base, "env": []}


def test_a_mapping_is_replaced_or_emptied_as_kubernetes_does() -> None:
    base = {"securityContext": {"runAsUser": 1, "fsGroup": 2}, "affinity": {"a": 1}}
    assert merge(base, {"securityContext": {"$patch": "delete", "runAsUser": 3}}) == {**base, "securityContext": {}}
    replaced = {"$patch": "replace", "runAsUser": 3, "fsGroup": None}
    assert merge(base, {"securityContext": replaced}) == {**base, "securityContext": {"runAsUser": 3}}


def test_no_directive_is_left_in_what_is_added() -> None:
    env = [{"$patch": "replace"}, {"name": "A", "value": None}]
    side = {"name": "side", "securityContext": {"$patch": "delete"}, "env": env}
    merged = merge({"containers": []}, {"containers": [side, {"name": "gone", "$patch": "delete"}]})
    assert merged == {"containers": [{"name": "side", "securityContext": {}, "env": [{"name": "A"}]}]}
    assert merge({}, {"volumes": [{"name": "tmp", "emptyDir": {"$patch": "replace"}}]}) == {
        "volumes": [{"name": "tmp", "emptyDir": {}}]
    }


PATCHES = st.recursive(
    st.none() | st.integers(0, 3),
    lambda inner: (
        st.dictionaries(st.sampled_from(["$patch", "a", "b"]), inner | st.sampled_from(["delete", "replace"]))
        | st.fixed_dictionaries(
            {
                "containers": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.sampled_from("xyz")}, optional={"a": inner, "$patch": st.just("delete")}
                    )
                    | st.just({"$patch": "replace"}),
                    max_size=4,
                )
            }
        )
    ),
    max_leaves=8,
)


@given(PATCHES, PATCHES)
def test_patches_with_directives_are_merged_once_and_leave_no_directive(base: Any, patch: Any) -> None:
    once = merge(merge({}, base), patch)
    if not list(patch_problems(patch)):
        assert merge(once, patch) == once
        assert list(patch_problems(base)) or "$patch" not in json.dumps(once)


@pytest.mark.parametrize(
    ("patch", "path", "said"),
    [
        ({"securityContext": {"$patch": "merge"}}, ("securityContext", "$patch"), "is delete or replace"),
        ({"volumes": [{"$retainKeys": ["name"], "name": "a"}]}, ("volumes", 0, "$retainKeys"), "is not supported"),
        ({"$setElementOrder/containers": []}, ("$setElementOrder/containers",), "is not supported"),
        ({"tolerations": [{"$patch": "replace"}]}, ("tolerations", 0), "this list is replaced as a whole"),
        ({"containers": [{"name": "a", "$patch": "replace"}]}, ("containers", 0), "an item of its own"),
        ({"containers": [{"$patch": "delete"}]}, ("containers", 0), "needs name"),
        (
            {"containers": [{"name": "a", "env": [{"$patch": 1}]}]},
            ("containers", 0, "env", 0, "$patch"),
            "is delete or",
        ),
    ],
)
def test_what_a_merge_does_not_do_is_a_problem(patch: Any, path: tuple[str | int, ...], said: str) -> None:
    ((where, message),) = patch_problems(patch)
    assert where == path
    assert said in message


def test_a_volume_gets_one_source_and_other_lists_are_replaced() -> None:
    base = {"volumes": [{"name": "tmp", "emptyDir": {}}], "args": ["a"]}
    patch = {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}], "args": ["b"]}
    assert merge(base, patch) == {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}], "args": ["b"]}


def test_nothing_is_changed_in_place() -> None:
    base = {"containers": [{"name": "engine"}]}
    merge(base, {"containers": [{"name": "engine", "image": "x"}]})
    assert base == {"containers": [{"name": "engine"}]}
