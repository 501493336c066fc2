"""What is known of the cluster, whatever comes late and in whatever order."""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamjob_operator import names
from streamjob_operator.index import Code, Graves, Index
from unit.jobs import job

KEY = ("shop", "telemetry")
KEYS = frozenset({"a"})
CODE = {"code": KEYS}


def service(name: str = "telemetry", version: int = 1, job: str = "telemetry") -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop", "labels": {names.JOB_LABEL: job}, "resourceVersion": str(version)}
    return {"kind": "Service", "metadata": {**metadata, "managedFields": [{"manager": "x"}]}, "spec": {"v": version}}


def config_map(version: int, name: str = "code") -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version)}, "data": {"a": "b"}}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    index = Index()
    key = index.put(service(version=10))
    index.put(service(version=9))
    assert key is not None
    found = index.one(key, "Service", "telemetry")
    assert found is not None
    assert found["spec"] == {"v": 10}
    assert "managedFields" not in found["metadata"], "nothing is kept that no decision looks at"


def test_what_is_gone_is_found_by_its_name_alone() -> None:
    index = Index()
    key = index.put(service())
    assert index.remove("Service", "shop", "telemetry") == key
    assert index.remove("Service", "shop", "telemetry") is None
    assert index.counts()["children"] == 0


def test_a_changed_label_moves_a_child_to_its_other_job() -> None:
    index = Index()
    index.put(service())
    index.put(service(version=2, job="other"))
    assert index.of_job(("shop", "telemetry")) == []
    assert len(index.of_job(("shop", "other"))) == 1


def test_a_config_map_is_of_interest_while_a_job_names_it() -> None:
    index = Index()
    key = index.put_job(job(), CODE)
    assert index.see_config_map(config_map(1)) == {key}
    assert index.see_config_map(config_map(1, "other")) == set()
    index.put_config_map(config_map(1))
    assert index.config_map("shop", "code", KEYS) == ("1", {"a": "b"})
    index.see_config_map(config_map(2))
    assert index.config_map("shop", "code", KEYS) == ("2", None), "its new content is to be read"
    index.remove_job(key, "uid-1")
    assert index.see_config_map(config_map(3)) == set()


def test_only_what_jobs_read_of_a_config_map_is_kept() -> None:
    index = Index()
    index.put_job(job(), {"code": frozenset({"a", "absent"})})
    whole = {**config_map(1), "data": {"a": "b", "b": "c", "large": "x" * 100_000}}
    index.put_config_map(whole)
    assert index.config_map("shop", "code", frozenset({"a", "absent"})) == ("1", {"a": "b"})
    assert index.config_map("shop", "code", frozenset({"b"})) == ("1", None), "it is read again"
    other = job()
    other["metadata"]["name"] = "other"
    index.put_job(other, {"code": frozenset({"b"})})
    index.put_config_map(whole)
    assert index.config_map("shop", "code", frozenset({"b"})) == ("1", {"b": "c"})
    assert index.config_map("shop", "code", frozenset({"a"})) == ("1", {"a": "b"}), "each finds what it reads"
    assert index._code._bytes < 100
    index.remove_job(("shop", "other"), "uid-1")
    index.remove_job(KEY, "uid-1")
    assert index._code._bytes == 0
    index.put_config_map(whole)
    assert index._code._bytes == 0, "nobody reads it"


def test_code_is_bounded_by_bytes() -> None:
    code = Code(limit=200)
    texts = [random.Random(seed).randbytes(50).hex() for seed in range(4)]
    for number, text in enumerate(texts):
        code.put(("shop", str(number)), "1", KEYS, {"a": text})
        assert 0 < code._bytes <= 200
    assert code.get(("shop", "0"), "1", KEYS) is None
    assert code.get(("shop", "3"), "1", KEYS) == {"a": texts[3]}
    code.put(("shop", "3"), "2", KEYS, {"a": random.Random(9).randbytes(1000).hex()})
    assert code.get(("shop", "3"), "2", KEYS) is None, "too large for any room"
    for number in range(4):
        code.forget(("shop", str(number)))
    assert code._bytes == 0


def test_a_late_answer_does_not_bring_back_what_has_ended() -> None:
    index = Index()
    index.put(service(version=5))
    assert index.remove("Service", "shop", "telemetry", 7) == KEY
    assert index.put(service(version=6)) is None
    assert index.of_job(KEY) == []
    assert index.put(service(version=8)) == KEY, "one that was made anew"
    assert index.put(service(version=7)) == KEY
    found = index.one(KEY, "Service", "telemetry")
    assert found is not None
    assert found["spec"] == {"v": 8}
    assert index.counts()["children"] == 1


def test_a_late_end_does_not_take_what_was_made_anew() -> None:
    index = Index()
    index.put(service(version=5))
    index.put(service(version=9))  # the answer to its creation comes before the watch tells of the old one's end
    assert index.remove("Service", "shop", "telemetry", 8) is None
    assert index.counts()["children"] == 1
    assert index.remove("Service", "shop", "telemetry", 12) == KEY
    assert index.counts()["children"] == 0


def test_an_older_label_does_not_move_a_child() -> None:
    index = Index()
    index.put(service(version=5))
    assert index.put(service(version=4, job="other")) == KEY
    assert index.of_job(("shop", "other")) == []


def test_a_job_that_has_ended_stays_so() -> None:
    index = Index()
    first = job()
    first["metadata"]["resourceVersion"] = "10"
    index.put_job(first, CODE)
    assert index.remove_job(KEY, "uid-1", 12)
    late = copy.deepcopy(first)
    late["metadata"]["resourceVersion"] = "11"
    index.put_job(late, CODE)
    assert index.jobs() == []
    assert index.see_config_map(config_map(1)) == set()
    again = copy.deepcopy(first)
    again["metadata"] |= {"resourceVersion": "13", "uid": "uid-2"}
    index.put_job(again, {})
    assert not index.remove_job(KEY, "uid-1", 12), "the end of the older one"
    assert index.jobs() == [KEY]
    assert index.remove_job(KEY, "uid-3", 20), "there was one more, of which nothing was heard"
    assert index.jobs() == []


def test_a_late_answer_does_not_bring_back_code() -> None:
    index = Index()
    index.put_job(job(), CODE)
    index.see_config_map(config_map(5))
    index.see_config_map(config_map(6))
    index.put_config_map(config_map(5))
    assert index.config_map("shop", "code", KEYS) == ("6", None), "the newer one is still to be read"
    index.see_config_map(config_map(7), gone=True)
    index.put_config_map(config_map(6))
    assert index.config_map("shop", "code", KEYS) == (None, None)
    index.see_config_map(config_map(8))
    index.see_config_map(config_map(7), gone=True)
    assert index.config_map("shop", "code", KEYS) == ("8", None)


def test_versions_that_cannot_be_compared_are_taken_as_they_come() -> None:
    index = Index()
    opaque = service()
    opaque["metadata"]["resourceVersion"] = "abc"
    assert index.put(opaque) == KEY
    assert index.remove("Service", "shop", "telemetry") == KEY
    assert index.put(opaque) == KEY


def test_graves_are_bounded() -> None:
    graves = Graves(limit=3)
    for number in range(1, 6):
        graves.bury(("Service", "shop", str(number)), number)
    assert len(graves._ended) == 3
    assert not graves.hold(("Service", "shop", "1"), 1)
    assert graves.hold(("Service", "shop", "5"), 5)


@given(order=st.permutations(range(8)), again=st.permutations(range(8)))
def test_whatever_order_and_however_often_the_newest_counts(order: list[int], again: list[int]) -> None:
    """A name is used three times; what is told of it comes in any order, and twice."""
    told: list[tuple[str, int]] = [("put", 1), ("put", 2), ("end", 3), ("put", 4), ("end", 5), ("put", 6), ("put", 7)]
    for last in (("put", 8), ("end", 8)):
        index = Index()
        course = [*told, last]
        for place in (*order, *again):
            what, number = course[place]
            if what == "put":
                index.put(service(version=number))
            else:
                index.remove("Service", "shop", "telemetry", number)
        found = index.one(KEY, "Service", "telemetry")
        assert (found is None) == (last[0] == "end")
        assert found is None or found["spec"] == {"v": 8}
        assert index.places("Service", None) == ([] if found is None else [KEY])
