"""Strategic merge: a part of a pod's template merged into ours, as `kubectl patch` merges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]
DIRECTIVE = "$patch"
"""The member by which a patch says what to do with the mapping that it stands in."""
MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "ports": ("containerPort", "protocol"),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
}
"""Lists whose items are merged one by one, and what tells the items apart; other lists are replaced."""

_GONE = object()
"""Takes the place of an item that is removed, and may come again further on in the patch."""
_DEFAULTS = {"protocol": "TCP"}
_WHOLE = ("volumes",)
"""Lists whose items are replaced as a whole: a volume has one source."""


def identity(item: Any, keys: tuple[str, ...]) -> tuple[Any, ...] | None:
    """What tells an item of a list from the others, or None where it has no such members, or they are no scalars."""
    if not isinstance(item, dict) or keys[0] not in item:
        return None
    values = tuple(item.get(key, _DEFAULTS.get(key)) for key in keys)
    return None if any(isinstance(value, (dict, list)) for value in values) else values


def merge(base: Any, patch: Any, name: str = "") -> Any:
    """`base` with `patch` merged in, which is the member `name`; neither is changed.

    null removes a member. In a mapping `$patch: replace` takes the patch alone and `$patch: delete` leaves it empty.
    In a keyed list an item with `$patch: delete` removes the item of its key, and `- $patch: replace` takes the other
    items of the patch alone. `patch_problems` finds what is no such patch.
    """
    if isinstance(patch, dict):
        if patch.get(DIRECTIVE) == "delete":
            return {}
        kept = base if isinstance(base, dict) and patch.get(DIRECTIVE) != "replace" else {}
        return _mappings(kept, patch)
    if isinstance(patch, list) and name in MERGE_KEYS:
        return _lists(base if isinstance(base, list) else [], patch, name)
    return patch


def _mappings(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif key != DIRECTIVE:
            result[key] = merge(result.get(key), value, key)
    return result


def _lists(base: list[Any], patch: list[Any], name: str) -> list[Any]:
    keys = MERGE_KEYS[name]
    directives = [item.get(DIRECTIVE) if isinstance(item, dict) else None for item in patch]
    result: list[Any] = [] if "replace" in directives else list(base)
    places: dict[tuple[Any, ...] | None, int] = {}
    for at, old in enumerate(result):
        places.setdefault(identity(old, keys), at)
    for item, directive in zip(patch, directives, strict=True):
        wanted = identity(item, keys)
        place = places.get(wanted) if wanted else None
        if directive in ("delete", "replace"):
            if place is not None and directive == "delete":
                result[place] = _GONE
        elif place is None:
            new = merge(None, item)
            places.setdefault(identity(new, keys), len(result))
            result.append(new)
        else:
            result[place] = merge(None if name in _WHOLE or result[place] is _GONE else result[place], item)
    return [item for item in result if item is not _GONE]


def patch_problems(patch: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Where a patch asks for what a merge does not do: the place below it, and what is wrong in a sentence."""
    if isinstance(patch, dict):
        for key, value in patch.items():
            if key == DIRECTIVE and value not in ("delete", "replace"):
                yield (*path, key), f"{DIRECTIVE} is delete or replace"
            elif key.startswith("$") and key != DIRECTIVE:
                yield (*path, key), f"is not supported: of the directives there are {DIRECTIVE}: delete and replace"
            else:
                yield from patch_problems(value, (*path, key))
    elif isinstance(patch, list):
        for at, item in enumerate(patch):
            if isinstance(item, dict) and DIRECTIVE in item:
                yield from _misplaced(item, path, at)
            yield from patch_problems(item, (*path, at))


def _misplaced(item: dict[str, Any], path: Path, at: int) -> Iterator[tuple[Path, str]]:
    """What is wrong with an item of a list that has a directive."""
    keys = MERGE_KEYS.get(str(path[-1])) if path else None
    if keys is None:
        yield (*path, at), f"{DIRECTIVE} has no meaning here: this list is replaced as a whole"
    elif item[DIRECTIVE] == "replace" and len(item) > 1:
        yield (*path, at), f"{DIRECTIVE}: replace is an item of its own, and the other items replace the whole list"
    elif item[DIRECTIVE] == "delete" and identity(item, keys) is None:
        yield (*path, at), f"{DIRECTIVE}: delete needs {keys[0]}, which says what is removed"
