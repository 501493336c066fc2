"""Which children differ from what they should be, and what a difference means for the pods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from streamjob_operator import names
from streamjob_operator.decide.actions import Action, Apply, Delete, Emit, Try
from streamjob_operator.diff import Difference, differences, first_difference, same_digest
from streamjob_operator.observed import Object, Observed, is_terminating

FIXED = ("serviceName", "podManagementPolicy", "selector", "volumeClaimTemplates")
"""Members of a StatefulSet's spec that cannot be changed: it is made anew, and its pods stay."""
REFUSED, NO_RIGHTS = "Refused", "NoRights"
"""Reasons of SpecValid where the API server does not take what the job needs."""
_SHORT = 12
_OF_PODS = (".spec.tolerations", ".resources.")
"""Members that a cluster gives pods in its own way, whatever their template says."""


@dataclass(slots=True)
class Changes:
    """What is to be applied. `roll` names the first changed member of the pods' template, `recreate` of a fixed one.

    `tried` comes before anything is told or stopped for the StatefulSet's sake. With `look_again` that is all for now:
    what the API server makes of the manifest says whether there is anything to do.
    """

    supporting: list[Action] = field(default_factory=list)
    tried: list[Action] = field(default_factory=list)
    stateful_set: list[Action] = field(default_factory=list)
    roll: str | None = None
    recreate: str | None = None
    scaled: Difference | None = None

    @property
    def look_again(self) -> bool:
        """Whether what was tried decides about all else."""
        return bool(self.tried) and not self.stateful_set


def find_changes(observed: Observed, wanted: Iterable[Object]) -> Changes:
    """Compares what is wanted with what is there; equal children give nothing to do."""
    changes = Changes()
    config = ""
    for manifest in wanted:
        config = manifest.get("data", {}).get(names.JOB_KEY, config)
        ref = (manifest["kind"], manifest["metadata"]["name"])
        found = observed.children.get(ref)
        if manifest["kind"] == "StatefulSet":
            _stateful_set(observed, manifest, found, config, changes)
        elif found is None or _differs(observed, manifest, found):
            if found is not None and is_terminating(found):
                continue  # what is on its way out is made anew when it is gone
            changes.supporting += [*_drift(manifest, found), *_out_of_the_way(manifest, found), Apply(manifest)]
    return changes


def _differs(observed: Observed, wanted: Object, found: Object) -> bool:
    # The digest is one of the annotations: a member that is no longer wanted differs by it.
    tolerated = observed.tolerated.get((wanted["kind"], wanted["metadata"]["name"]), frozenset())
    return any(difference.identity not in tolerated for difference in differences(wanted, found))


def _drift(wanted: Object, found: Object | None) -> list[Action]:
    """An Event where somebody else has changed a child."""
    if found is None or not same_digest(wanted, found):
        return []
    difference = first_difference(wanted, found)
    if wanted["kind"] == "Secret":
        difference = None  # its content is nobody's to read
    what = f": {difference.told}" if difference else ""
    return [Emit("DriftCorrected", f"{wanted['kind']} {wanted['metadata']['name']} was changed by another{what}")]


def _out_of_the_way(wanted: Object, found: Object | None) -> list[Action]:
    """What cannot be changed and has another content than its name says goes first."""
    if found is None or not found.get("immutable") or found.get("data", {}) == wanted.get("data", {}):
        return []
    return [Delete(wanted["kind"], wanted["metadata"]["name"], found["metadata"]["uid"])]


def _stateful_set(observed: Observed, wanted: Object, found: Object | None, config: str, changes: Changes) -> None:
    if found is None:
        # It adopts the pods that are there, and replaces those of another template.
        changes.roll = _roll_of_pods(observed, wanted, config)
        changes.stateful_set.append(Apply(wanted))
        return
    if is_terminating(found):
        return
    fixed = _first_fixed(wanted, found)
    if fixed is not None:
        changes.recreate = fixed.told
        # The new one adopts the pods, and replaces them where the template has changed as well.
        changes.roll = _roll(observed, wanted, found, config)
        metadata = found["metadata"]
        # Nobody would make its pods anew if the new one were refused after that.
        kept = {member: found["spec"][member] for member in FIXED if member in found["spec"]}
        changes.tried.append(Try({**wanted, "spec": {**wanted["spec"], **kept}}))
        changes.stateful_set.append(Delete("StatefulSet", metadata["name"], metadata["uid"], "Orphan"))
        return
    if not _differs(observed, wanted, found):
        return
    if same_digest(wanted, found) and ("StatefulSet", found["metadata"]["name"]) not in observed.tolerated:
        # Somebody has changed it, or it is how the API server or an admission plugin keeps it: then nothing rolls.
        changes.tried.append(Try(wanted))
        return
    if _was_refused(observed):
        changes.tried.append(Try(wanted))
    changes.roll = _roll(observed, wanted, found, config)
    scaled = differences(wanted["spec"]["replicas"], found["spec"].get("replicas"), "spec.replicas")
    changes.scaled = scaled[0] if scaled else None
    changes.stateful_set.append(Apply(wanted))


def _was_refused(observed: Observed) -> bool:
    """Whether the cluster has refused this very spec: then a roll is told, and the engine commits, once it is taken."""
    old = observed.condition("SpecValid")
    if old is None or old.get("observedGeneration") != observed.generation:
        return False
    return old["reason"] in (REFUSED, NO_RIGHTS)


def _roll(observed: Observed, wanted: Object, found: Object, config: str) -> str | None:
    """The first changed member of the pods' template."""
    ref = ("StatefulSet", wanted["metadata"]["name"])
    tolerated = observed.tolerated.get(ref, frozenset())
    path = "spec.template"
    new, old = wanted["spec"]["template"], found["spec"]["template"]
    changed = [difference for difference in differences(new, old, path) if difference.identity not in tolerated]
    first = changed[0] if changed else None
    if first is None and not same_digest(wanted, found):
        surplus = first_difference(new, old, path)
        first = surplus if surplus is not None and surplus.wanted is None else None
    return None if first is None else _reason(observed, first, old, config)


def _roll_of_pods(observed: Observed, wanted: Object, config: str) -> str | None:
    """The first member of the template in which a pod differs that has lost its StatefulSet, and with it the template.

    None as well for a roll that was told before the StatefulSet went.
    """
    tolerated = observed.tolerated.get(("StatefulSet", wanted["metadata"]["name"]), frozenset())
    for pod in observed.pods:
        if is_terminating(pod):
            continue
        old = {"metadata": pod["metadata"], "spec": pod["spec"]}
        for difference in differences(wanted["spec"]["template"], old, "spec.template"):
            if difference.identity in tolerated or any(part in difference.path for part in _OF_PODS):
                continue
            reason = _reason(observed, difference, old, config)
            under_way = observed.operation("Roll")
            return None if under_way is not None and under_way["message"] == reason else reason
    return None


def _first_fixed(wanted: Object, found: Object) -> Difference | None:
    for member in FIXED:
        path = f"spec.{member}"
        found_ones = differences(wanted["spec"][member], found["spec"].get(member), path)
        if found_ones:
            return found_ones[0]
    return None


def _reason(observed: Observed, first: Difference, old: Object, config: str) -> str:
    """The change of the `old` template as its author wrote it, where the template holds only a hash of it."""
    annotation = first.path.removeprefix("spec.template.metadata.annotations.")
    if annotation == names.JOB_HASH:
        return _job_reason(observed, old, config) or "the job"
    if annotation == names.UDF_HASHES:
        return _udf_reason(first)
    if annotation == names.RESTART:
        return f"a restart was asked for: metadata.annotations[{names.RESTART}]: {first.found} -> {first.wanted}"
    return first.told


def _udf_reason(first: Difference) -> str:
    new, old = (_mapping(value) for value in (first.wanted, first.found))
    for name in sorted({*new, *old}):
        if new.get(name) != old.get(name):
            was, now = (str(hashes.get(name, "nothing"))[:_SHORT] for hashes in (old, new))
            return f"the code of the UDF {name}: {was} -> {now}"
    return "the code of the UDFs"


def _mapping(text: object) -> dict[str, str]:
    try:
        value = json.loads(str(text))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _job_reason(observed: Observed, template: Object, config: str) -> str | None:
    """The first member of the normalised job that differs from the one that a template names."""
    volumes = [one for one in template.get("spec", {}).get("volumes") or () if one.get("name") == names.JOB_VOLUME]
    name = (volumes[0].get("configMap") or {}).get("name", "") if volumes else ""
    found = observed.children.get(("ConfigMap", name), {})
    try:
        old, new = json.loads(found.get("data", {}).get(names.JOB_KEY, "")), json.loads(config)
    except ValueError:
        return None
    changed = differences(new, old, "job")
    if changed:
        return changed[0].told
    gone = differences(old, new, "job")
    return Difference(gone[0].path, None, gone[0].wanted).told if gone else None
