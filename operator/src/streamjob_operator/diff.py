"""What differs between an object as it should be and as it is, said by the name of the member."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from streamjob_operator import names
from streamjob_operator.merge import MERGE_KEYS, identity

Object = dict[str, Any]

MAX_DIFFERENCES = 32
"""Differences of one object that are looked at."""
_SHOWN = 60
_BEFORE = 20
"""Characters that are shown before the place where two long texts differ."""
_SECRET = frozenset({"annotations", "bearer_token", "data", "env", "headers"})
"""Members whose values may be secret: they are named and never shown."""
_SECRET_PATH = re.compile(r"^data(\.|$)|(^|[.\]])(annotations|bearer_token|env|headers)([.\[]|$)")
_QUANTITIES = ("requests", "limits", "capacity", "hard")
_FREE = ("labels", "annotations", "nodeSelector", "data", *_QUANTITIES)
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_QUANTITY = re.compile(r"([+-]?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i|)")


@dataclass(frozen=True, slots=True)
class Difference:
    """A member at `path` that should be `wanted` and is `found`; None stands for an absent one."""

    path: str
    wanted: Any
    found: Any

    @property
    def identity(self) -> str:
        """What tells it from any other: the path and the hash of the whole values, however long they are."""
        return f"{self.path} {digest([self.found, self.wanted])}"

    @property
    def told(self) -> str:
        """For an Event or a log: `spec.replicas: 1 -> 2`, and the path alone where values may be secret."""
        if _SECRET_PATH.search(self.path):
            return f"{self.path} (its values are not shown)"
        found, wanted = _apart(_text(_masked(self.found)), _text(_masked(self.wanted)))
        return f"{self.path}: {_cut(found)} -> {_cut(wanted)}"


def _masked(value: Any) -> Any:
    """A value with the members that may hold a secret emptied."""
    if isinstance(value, dict):
        return {key: "…" if key in _SECRET else _masked(inner) for key, inner in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text.replace("\n", "\\n")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _apart(found: str, wanted: str) -> tuple[str, str]:
    """Two texts, without their common beginning where that is all that would be shown, as of code."""
    if found == wanted or _cut(found) != _cut(wanted):
        return found, wanted
    same = next((at for at, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
    begin = (min(len(found), len(wanted)) if same is None else same) - _BEFORE
    return f"…{found[begin:]}", f"…{wanted[begin:]}"


def quantity(value: Any) -> Decimal | None:
    """A Kubernetes quantity (`500m`, `1Gi`, 2) as a number, or None for anything else."""
    match = _QUANTITY.fullmatch(str(value))
    return None if match is None else Decimal(match[1]) * _SUFFIXES[match[3]]


def differences(wanted: Any, found: Any, path: str = "") -> list[Difference]:
    """Where `found` is not what `wanted` says, at most MAX_DIFFERENCES; members that `wanted` lacks are not looked at.

    So what the API server fills in, and what others own, is no difference.
    """
    result: list[Difference] = []
    for difference in _walk(wanted, found, path, ""):
        result.append(difference)
        if len(result) == MAX_DIFFERENCES:
            break
    return result


def first_difference(wanted: Any, found: Any, path: str = "") -> Difference | None:
    """The first difference, or else the first named item or free member that is found and no longer wanted."""
    return next(_walk(wanted, found, path, ""), None) or next(_surplus(wanted, found, path, ""), None)


def _empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _walk(wanted: Any, found: Any, path: str, name: str) -> Iterator[Difference]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            inner = f"{path}.{key}" if path else key
            if name in _QUANTITIES and quantity(value) is not None and quantity(value) == quantity(found.get(key)):
                continue
            yield from _walk(value, found.get(key), inner, key)
    elif isinstance(wanted, list) and isinstance(found, list):
        yield from _walk_list(wanted, found, path, name)
    elif wanted != found and not (_empty(wanted) and _empty(found)):
        yield Difference(path, wanted, found)


def _walk_list(wanted: list[Any], found: list[Any], path: str, name: str) -> Iterator[Difference]:
    keys = MERGE_KEYS.get(name) or ("name",)
    if wanted and all(identity(item, keys) for item in wanted):
        present = {identity(item, keys): item for item in found}
        for item in wanted:
            key = identity(item, keys)
            assert key is not None
            yield from _walk(item, present.get(key), f"{path}[{key[0]}]", "")
    elif len(wanted) != len(found):
        yield Difference(path, wanted, found)
    else:
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from _walk(one, other, f"{path}[{index}]", "")


def _surplus(wanted: Any, found: Any, path: str, name: str) -> Iterator[Difference]:
    """What is found and not wanted, where the API server fills in nothing by itself."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in found.items():
            inner = f"{path}.{key}" if path else key
            if key in wanted:
                yield from _surplus(wanted[key], value, inner, key)
            elif name in _FREE:
                yield Difference(inner, None, value)
    elif isinstance(wanted, list) and isinstance(found, list) and name in MERGE_KEYS:
        keys = MERGE_KEYS[name]
        known = {identity(item, keys): item for item in wanted}
        for item in found:
            key = identity(item, keys)
            inner = f"{path}[{key[0] if key else ''}]"
            if key in known:
                yield from _surplus(known[key], item, inner, "")
            else:
                yield Difference(inner, None, item)


def digest(value: Any) -> str:
    """The SHA-256 of a text, or of plain data in its canonical form, as hex."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def stamped(manifest: Object) -> Object:
    """A manifest with the digest of itself among its annotations."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.DIGEST: digest(manifest)[:32]}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def same_digest(wanted: Object, found: Object) -> bool:
    """Whether the object was last applied with just these members."""
    have = (found["metadata"].get("annotations") or {}).get(names.DIGEST)
    return bool(have == wanted["metadata"]["annotations"][names.DIGEST])
