"""Strategic merge: a part of a pod's template merged into ours, as `kubectl patch` merges."""

from __future__ import annotations

from typing import Any

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
    """`base` with `patch` merged in; neither is changed.

    null removes a member; `$patch: delete` removes an item of a keyed list, `$patch: replace` takes the patch alone.
    """
    if isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        return _mappings(base if isinstance(base, dict) else {}, patch)
    if isinstance(base, list) and isinstance(patch, list) and name in MERGE_KEYS:
        return _lists(base, patch, name)
    return patch


def _mappings(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif key != "$patch":
            result[key] = merge(result.get(key), value, key)
    return result


def _lists(base: list[Any], patch: list[Any], name: str) -> list[Any]:
    keys = MERGE_KEYS[name]
    result = list(base)
    for item in patch:
        wanted = identity(item, keys)
        place = next((at for at, old in enumerate(result) if wanted and identity(old, keys) == wanted), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(item)
        else:
            result[place] = item if name in _WHOLE else merge(result[place], item)
    return result
