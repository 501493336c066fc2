"""The CustomResourceDefinition takes what the models take: the job with every member, and all examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeharness.server import Server

ROOT = Path(__file__).parents[3]
FULL = ROOT / "engine" / "testdata" / "normalised" / "full.yaml"
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*/*.yaml") if "kind: StreamJob" in path.read_text(encoding="utf-8")
)
PLACE = "/apis/streamjob.dev/v1alpha1/namespaces/{namespace}/streamjobs"


def of_a_cluster(node: Any) -> Any:
    """A part of a job as it is written for a cluster: code and schemas within it instead of files beside it."""
    if isinstance(node, list):
        return [of_a_cluster(one) for one in node]
    if not isinstance(node, dict):
        return node
    # To this reader of YAML `on` is a yes.
    made = {"on" if name is True else name: of_a_cluster(member) for name, member in node.items()}
    file = made.get("file", "")
    if not isinstance(file, str) or not file.endswith((".py", ".avsc")):
        return made
    del made["file"]
    return {**made, **({"code": {"inline": "x = 1\n"}} if file.endswith(".py") else {"inline": '"string"'})}


def job_of(path: Path) -> dict[str, Any]:
    """The job of a file, without what only says where it is."""
    with path.open(encoding="utf-8") as file:
        job = yaml.safe_load(file)
    return {**job, "metadata": {"name": job["metadata"]["name"]}, "spec": of_a_cluster(job["spec"])}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("path", [FULL, *EXAMPLES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_job_is_taken_with_all_its_members(server: Server, namespace: str, path: Path) -> None:
    made = job_of(path)
    status, answer = server.call("POST", PLACE.format(namespace=namespace) + "?fieldValidation=Strict", made)
    assert status == 201, answer.get("message")
    assert_kept(made["spec"], answer["spec"])


def assert_kept(given: Any, kept: Any, path: str = "spec") -> None:
    """Nothing of what was given was pruned or changed; defaults may have come."""
    if isinstance(given, dict):
        assert isinstance(kept, dict), path
        for name, member in given.items():
            if member is not None:  # null stands for what is not there
                assert name in kept, f"{path}.{name} was pruned"
                assert_kept(member, kept[name], f"{path}.{name}")
    elif isinstance(given, list):
        assert len(given) == len(kept), path
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            assert_kept(one, other, f"{path}[{number}]")
    else:
        assert given == kept, path
