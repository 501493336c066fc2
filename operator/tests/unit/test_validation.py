"""Jobs of the cluster: what is said of those that cannot run."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import kopf
import pytest
from streamjob.problems import Problem

import streamjob_operator.merge
from streamjob_operator import handlers, validation
from streamjob_operator.bench import Bench
from streamjob_operator.handlers import MAX_PROBLEMS, refuse_invalid, register
from streamjob_operator.index import Index
from streamjob_operator.merge import MERGE_KEYS, merge
from streamjob_operator.observe import _config_maps
from streamjob_operator.validation import (
    MAX_CODE_BYTES,
    MAX_REFERRED_BYTES,
    CheckedJobs,
    InvalidJob,
    ValidJob,
    check,
    referenced_config_maps,
)
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
    large = "x" * 92
    known.put(large, outcome("large"))
    assert known.get(large) == outcome("large")
    assert known.get("d") is None
    assert known.get("a") == outcome("a")
    known.put("y" * 101, outcome("too large"))
    known.put("z", outcome("w" * 100))
    assert known.get("y" * 101) is known.get("z") is None, "text and outcome count"
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


# ------------------------------------------------------------------------------------------------------------- bounds


def of_config_maps(number: int) -> list[dict[str, Any]]:
    code = [{"configMap": {"name": f"code-{i}", "key": "z.py"}} for i in range(number)]
    return [udf(name=f"z{i}", code=code[i], output={f"s{i}": "float64"}) for i in range(number)]


def test_a_job_has_no_more_code_than_a_config_map_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = CODE + "#" * (MAX_CODE_BYTES // 2)
    shared = [udf(name=f"z{i}", code={"inline": text}, output={f"s{i}": "float64"}) for i in range(2)]
    assert "the code of its functions has more than 1 MiB" in problem(job(udfs=shared))
    assert "its connectors' code has more than 1 MiB" in problem(
        connectors(code={"inline": SOURCE_CODE + text * 2}), MAPS
    )
    maps = {f"code-{i}": {"z.py": text} for i in range(5)}
    monkeypatch.setattr(validation.json, "dumps", lambda *_: pytest.fail("all of it is written down once more"))
    assert "the code in its ConfigMaps has more than 2 MiB" in problem(job(udfs=of_config_maps(5)), maps)


class ConfigMaps:
    """An API server with a large ConfigMap of every name."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def get(self, _kind: object, namespace: str, name: str) -> dict[str, Any]:
        self.asked.append(name)
        metadata = {"namespace": namespace, "name": name, "resourceVersion": "1"}
        return {"kind": "ConfigMap", "metadata": metadata, "data": {"z.py": "#" * MAX_CODE_BYTES}}


def test_no_more_code_is_held_than_a_job_may_have() -> None:
    server, index = ConfigMaps(), Index()
    resource = job(udfs=of_config_maps(20))
    index.put_job(resource, referenced_config_maps(resource))
    for name in referenced_config_maps(resource):
        index.see_config_map({"metadata": {"namespace": "shop", "name": name, "resourceVersion": "1"}}, gone=False)
    held = asyncio.run(_config_maps(server, index, "shop", referenced_config_maps(resource)))  # type: ignore[arg-type]
    assert len(server.asked) == MAX_REFERRED_BYTES // MAX_CODE_BYTES + 1
    assert "the code in its ConfigMaps has more than" in problem(resource, held), (
        "and no ConfigMap is said to be missing"
    )


def test_a_pod_template_is_merged_item_by_item(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    real = streamjob_operator.merge.identity

    def identity(item: Any, keys: tuple[str, ...]) -> Any:
        nonlocal asked
        asked += 1
        return real(item, keys)

    monkeypatch.setattr(streamjob_operator.merge, "identity", identity)
    volumes = [{"name": f"v{i}"} for i in range(1000)]
    assert merge({"volumes": volumes[:500]}, {"volumes": volumes}) == {"volumes": volumes}
    assert "volumes" in MERGE_KEYS
    assert asked < 5 * len(volumes)


# ------------------------------------------------------------------------------------------- beside the event loop


def test_checks_are_done_beside_the_loop_and_one_at_a_time() -> None:
    running, most = 0, 0
    lock, release = threading.Lock(), threading.Event()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert release.wait(60), "the loop did not go on"
        with lock:
            running -= 1
        return number

    async def course() -> None:
        bench = Bench("test")
        tasks = [asyncio.create_task(bench.do(work, number)) for number in range(4)]
        await asyncio.sleep(0)
        release.set()
        assert await asyncio.gather(*tasks) == [0, 1, 2, 3]

    asyncio.run(course())
    assert most == 1


def test_the_webhook_checks_beside_the_loop_that_answers_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[threading.Thread] = []
    monkeypatch.setattr(handlers, "refuse_invalid", lambda *_: checked.append(threading.current_thread()))
    found: list[Callable[..., Coroutine[Any, Any, None]]] = []
    monkeypatch.setattr(handlers.kopf.on, "validate", lambda *_, **__: found.append)

    async def course() -> None:
        registry = kopf.OperatorRegistry()
        register(registry, None, asyncio.get_running_loop(), webhook=True)  # type: ignore[arg-type]
        await found[0](body=job(), operation="CREATE")

    asyncio.run(course())
    assert checked != [threading.main_thread()]
    assert len(checked) == 1


def test_a_refusal_says_how_many_problems_it_does_not_list() -> None:
    wrong = {f"a{i}": "nothing(v)" for i in range(MAX_PROBLEMS + 7)}
    windows = [{"name": "per_10s", "tumbling": "10s", "aggregates": wrong}]
    with pytest.raises(kopf.AdmissionError, match="and 7 more"):
        refuse_invalid("CREATE", job(windows=windows))
