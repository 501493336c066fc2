"""ConfigMaps of earlier jobs and code: which of them nothing reads any more.

Each is immutable and named by its content, so a change makes another one and the old one stays for whoever still needs
it: the StatefulSet as it is, also where its change is refused, and each pod that is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from streamjob_operator import names
from streamjob_operator.decide.actions import Discard
from streamjob_operator.observed import Object, Observed, is_own, is_terminating


def unused_configs(observed: Observed, wanted: Iterable[Object]) -> list[Discard]:
    """The job's ConfigMaps that can go."""
    if not _controller_has_seen(observed):
        return []
    assert observed.stateful_set is not None
    used = {manifest["metadata"]["name"] for manifest in wanted if manifest["kind"] == "ConfigMap"}
    for spec in (observed.stateful_set["spec"]["template"], *(pod.get("spec") for pod in observed.pods)):
        used.update(_texts(spec))
    return [
        Discard("ConfigMap", name, found["metadata"]["uid"])
        for (kind, name), found in sorted(observed.children.items())
        if kind == "ConfigMap"
        and names.is_config(observed.name, name)
        and name not in used
        and is_own(observed.job, found)
        and not is_terminating(found)
    ]


def _controller_has_seen(observed: Observed) -> bool:
    """Whether the StatefulSet's controller makes no more pods of an older template: its partition is 0."""
    found = observed.stateful_set
    if found is None or is_terminating(found):
        return False
    return bool(found.get("status", {}).get("observedGeneration", 0) >= found["metadata"].get("generation", 1))


def _texts(value: Any) -> Iterator[str]:
    """All texts in a pod's spec: however it names a ConfigMap, the name is one of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
