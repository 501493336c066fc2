"""Jobs of the cluster: what is said of those that cannot run."""

from __future__ import annotations

import json
from typing import Any

from streamjob.problems import Problem

from streamjob_operator.validation import CheckedJobs, InvalidJob, ValidJob, check, referenced_config_maps
from unit.jobs import CODE, job

FROM_CONFIG_MAP = {"name": "z", "code": {"configMap": {"name": "code", "key": "z.py"}}, "function": "score"}


def udf(**members: Any) -> dict[str, Any]:
    return {**FROM_CONFIG_MAP, "inputs": ["v"], "output": {"s": "float64"}, **members}


def problem(resource: dict[str, Any], config_maps: Any = None) -> str:
    checked = check(resource, {} if config_maps is None else config_maps)
    assert isinstance(checked, InvalidJob)
    return checked.message


def test_code_comes_from_a_config_map() -> None:
    checked = check(job(udfs=[udf()]), {"code": {"z.py": CODE}})
    assert isinstance(checked, ValidJob)
    assert checked.udfs == {"z": CODE}
    assert referenced_config_maps(job(udfs=[udf()])) == {"code": {"z.py"}}


def test_a_config_map_that_is_not_there_is_named() -> None:
    assert "spec.udfs[0].code.configMap: the ConfigMap code is not there" in problem(job(udfs=[udf()]))
    assert "has no key z.py" in problem(job(udfs=[udf()]), {"code": {}})


def connectors(**code: Any) -> dict[str, Any]:
    source = {"name": "in", "python": {"function": "readings", **code}}
    sink = {"name": "out", "from": "events", "python": {"class": "Writer", "code": {"configMap": FROM_SINKS}}}
    return job(sources=[source], sinks=[sink], udfs=[], windows=[], where=None)


FROM_SINKS = {"name": "sinks", "key": "s.py"}
SOURCE_CODE = "async def readings(context):\n    yield b''\n"
MAPS = {"sources": {"r.py": SOURCE_CODE}, "sinks": {"s.py": "class Writer: pass"}}


def test_code_of_connectors_is_a_part_of_the_job() -> None:
    resource = connectors(code={"configMap": {"name": "sources", "key": "r.py"}})
    assert referenced_config_maps(resource) == {"sources": {"r.py"}, "sinks": {"s.py"}}
    checked = check(resource, MAPS)
    assert isinstance(checked, ValidJob), checked
    assert json.loads(checked.config)["sources"][0]["python"]["code"]["source"] == SOURCE_CODE
    assert isinstance(check(resource, None), ValidJob), "a webhook cannot know the code"
    assert "the ConfigMap sources is not there" in problem(resource)


def test_a_connectors_file_is_refused_with_what_to_do() -> None:
    assert "use code: on Kubernetes" in problem(connectors(file="c.py"), MAPS)


def test_a_file_is_refused_with_what_to_do() -> None:
    message = problem(job(udfs=[udf(file="z.py", code=None)]))
    assert "use code: on Kubernetes" in message


def test_expressions_and_code_are_checked() -> None:
    assert "spec.where" in problem(job(where="v >"))
    assert "Python syntax error" in problem(job(udfs=[udf(code={"inline": "def score(v:\n"})]))


def test_on_as_yaml_1_1_reads_it() -> None:
    # kubectl makes the member "true" of an unquoted on.
    checked = check(job(udfs=[udf(true="window", inputs=["n"], code={"inline": CODE})]), {})
    assert isinstance(checked, ValidJob)
    assert checked.job.spec.udfs[0].on == "window"


def test_a_webhook_says_what_it_can_without_config_maps() -> None:
    assert isinstance(check(job(udfs=[udf()]), None), ValidJob)


def test_a_pod_template_that_cannot_be_merged_is_refused_with_its_place() -> None:
    template = {"spec": {"tolerations": [{"$patch": "replace"}], "securityContext": {"$patch": "merge"}}}
    checked = check(job(podTemplate=template, where="v >"), None)
    assert isinstance(checked, InvalidJob)
    paths = [problem.path for problem in checked.problems]
    at = "spec.podTemplate.spec"
    assert set(paths) >= {f"{at}.tolerations[0]", f"{at}.securityContext.$patch", "spec.where"}, "all at once"
    assert 'securityContext.$patch: $patch is delete or replace (got "merge")' in checked.message
    good = {"spec": {"volumes": [{"$patch": "replace"}], "securityContext": {"$patch": "delete"}}}
    assert isinstance(check(job(podTemplate=good), None), ValidJob)


def test_a_check_is_done_once_while_it_is_remembered() -> None:
    assert check(job(), {}) is check(job(), {})
    assert check(job(), {}) is not check(job(where="v > 1"), {})


def test_what_is_remembered_is_bounded_by_number_and_by_bytes() -> None:
    def outcome(text: str) -> InvalidJob:
        return InvalidJob((Problem("f", 1, "", text),))

    known = CheckedJobs(limit=3, limit_bytes=100)
    for text in ("a", "b", "c"):
        known.put(text, outcome(text))
    assert known.get("a") == outcome("a")
    known.put("d", outcome("d"))
    assert known.get("b") is None, "the one that was used last goes last"
    assert known.get("a") == outcome("a")
    large = "x" * 99
    known.put(large, outcome("large"))
    assert known.get(large) == outcome("large")
    assert known.get("d") is None
    assert known.get("a") == outcome("a")
    known.put("y" * 101, outcome("too large"))
    assert known.get("y" * 101) is None
    assert known.get(large) == outcome("large"), "it drives out nothing"
    for _ in range(5):
        known.put(large, outcome("again"))
    assert known.get("a") == outcome("a"), "one text is counted once"
    assert not [key for key in known._kept if len(key) != 32], "no text is kept"


def test_broken_objects_are_problems_and_no_exceptions() -> None:
    for spec in (None, [], "text", {"udfs": "x"}, {"udfs": [None, 1, {"code": []}]}):
        resource = {**job(), "spec": spec}
        assert isinstance(check(resource, {}), InvalidJob)
        assert referenced_config_maps(resource) == {}
