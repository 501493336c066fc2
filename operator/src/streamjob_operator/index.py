"""What the watches have told, kept small: each object as compressed JSON, found by its job."""

from __future__ import annotations

import json
import zlib
from typing import Any

from streamjob_operator import names
from streamjob_operator.kinds import CONFIG_MAP
from streamjob_operator.observed import Object, trimmed

Key = tuple[str, str]
"""(namespace, name) of a job."""
_Place = tuple[str, str]


def version(thing: Object) -> int:
    """An object's resourceVersion as a number; newer ones are larger."""
    text = str(thing["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0


def job_of(thing: Object) -> Key | None:
    """The job that an object belongs to, by its label, or else by its owner."""
    metadata = thing["metadata"]
    name = (metadata.get("labels") or {}).get(names.JOB_LABEL)
    if name is None:
        owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("kind") == names.KIND]
        name = owners[0]["name"] if owners else None
    return (metadata["namespace"], name) if name else None


class Index:
    """Jobs, their children and the ConfigMaps that they refer to."""

    def __init__(self) -> None:
        self._jobs: dict[Key, tuple[int, bytes]] = {}
        self._children: dict[Key, dict[_Place, tuple[int, bytes]]] = {}
        self._owners: dict[tuple[str, str, str], Key] = {}
        self._config_maps: dict[Key, str] = {}
        self._contents: dict[Key, tuple[str, dict[str, str]]] = {}
        self._references: dict[Key, frozenset[str]] = {}
        self._referrers: dict[Key, set[Key]] = {}

    def put_job(self, job: Object, references: frozenset[str]) -> Key:
        """Keeps a job, unless a newer one is known; `references` are the ConfigMaps that it names."""
        key = (job["metadata"]["namespace"], job["metadata"]["name"])
        known = self._jobs.get(key)
        if known is None or known[0] <= version(job):
            self._jobs[key] = (version(job), _packed(job))
            self._refer(key, references)
        return key

    def remove_job(self, key: Key, uid: str) -> bool:
        """Forgets the job with this uid; False where another of its name is known.

        What belongs to it stays until its watches say that it is gone.
        """
        known = self.job(key)
        if known is not None and known["metadata"]["uid"] != uid:
            return False
        self._jobs.pop(key, None)
        self._refer(key, frozenset())
        return True

    def _refer(self, key: Key, references: frozenset[str]) -> None:
        for name in self._references.pop(key, frozenset()) - references:
            place = (key[0], name)
            self._referrers[place].discard(key)
            if not self._referrers[place]:
                del self._referrers[place]
                self._contents.pop(place, None)
        if references:
            self._references[key] = references
        for name in references:
            self._referrers.setdefault((key[0], name), set()).add(key)

    def job(self, key: Key) -> Object | None:
        """A job."""
        found = self._jobs.get(key)
        return None if found is None else _unpacked(found[1])

    def jobs(self) -> list[Key]:
        """All jobs."""
        return list(self._jobs)

    def put(self, thing: Object) -> Key | None:
        """Keeps a child, pod or claim, unless a newer one is known; gives its job."""
        key = job_of(thing)
        if key is None:
            return None
        place = (thing["kind"], thing["metadata"]["name"])
        owned = (place[0], key[0], place[1])
        before = self._owners.get(owned)
        if before is not None and before != key:
            self.remove(*owned)  # somebody has changed its label
        self._owners[owned] = key
        known = self._children.setdefault(key, {})
        if place not in known or known[place][0] <= version(thing):
            known[place] = (version(thing), _packed(thing))
        return key

    def remove(self, kind: str, namespace: str, name: str) -> Key | None:
        """Forgets a child by its name; gives its job."""
        key = self._owners.pop((kind, namespace, name), None)
        if key is None:
            return None
        known = self._children[key]
        del known[kind, name]
        if not known:
            del self._children[key]
        return key

    def of_job(self, key: Key) -> list[Object]:
        """All children, pods and claims of a job."""
        return [_unpacked(packed) for _, packed in self._children.get(key, {}).values()]

    def one(self, key: Key, kind: str, name: str) -> Object | None:
        """One child of a job."""
        found = self._children.get(key, {}).get((kind, name))
        return None if found is None else _unpacked(found[1])

    def see_config_map(self, namespace: str, name: str, resource_version: str | None) -> set[Key]:
        """Notes the version of a user's ConfigMap (None: it is gone); gives the jobs that refer to it."""
        place = (namespace, name)
        if resource_version is None:
            self._config_maps.pop(place, None)
            self._contents.pop(place, None)
        else:
            self._config_maps[place] = resource_version
        return set(self._referrers.get(place, ()))

    def config_map(self, namespace: str, name: str) -> tuple[str | None, dict[str, str] | None]:
        """The newest version of a user's ConfigMap that is known, and its data if they are of that version."""
        place = (namespace, name)
        newest = self._config_maps.get(place)
        known = self._contents.get(place)
        return newest, known[1] if known is not None and known[0] == newest else None

    def put_config_map(self, config_map: Object) -> None:
        """Keeps the data of a user's ConfigMap."""
        metadata = config_map["metadata"]
        place = (metadata["namespace"], metadata["name"])
        self._config_maps[place] = metadata["resourceVersion"]
        self._contents[place] = (metadata["resourceVersion"], dict(config_map.get("data") or {}))

    def counts(self) -> dict[str, int]:
        """How much is kept, for metrics."""
        children = sum(map(len, self._children.values()))
        return {"jobs": len(self._jobs), "children": children, CONFIG_MAP.plural: len(self._config_maps)}


def _packed(thing: Object) -> bytes:
    kept: dict[str, Any] = trimmed(thing)
    # The fastest level: less than half of the text, in a small part of the time that reading JSON takes.
    return zlib.compress(json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode(), 1)


def _unpacked(packed: bytes) -> Object:
    found: Object = json.loads(zlib.decompress(packed))
    return found
