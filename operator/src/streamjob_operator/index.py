"""What the watches have told, kept small: each object as compressed JSON, found by its job.

Watches and the answers to what we write come by different ways, so either may be late. Of two versions of an object the
newer one is kept, and its end is one of its versions.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from streamjob_operator import names
from streamjob_operator.kinds import CONFIG_MAP, STREAM_JOB
from streamjob_operator.observed import Object, trimmed

Key = tuple[str, str]
"""(namespace, name) of a job."""
_Place = tuple[str, str]
Ref = tuple[str, str, str]
"""(kind, namespace, name) of an object."""

MAX_GRAVES = 4_096
"""Objects whose end is remembered, so that a late answer does not bring them back; an answer takes 30 s at most."""
MAX_CODE_BYTES = 64 << 20
"""Bytes of code from users' ConfigMaps, compressed; what finds no room is read again at each look."""
References = Mapping[str, frozenset[str]]
"""The ConfigMaps that a job names, each with the keys that it reads."""


def version(thing: Object) -> int:
    """An object's resourceVersion as a number; newer ones are larger, 0 is none that can be compared."""
    return _number(thing["metadata"].get("resourceVersion"))


def _number(resource_version: Any) -> int:
    text = str(resource_version)
    return int(text) if text.isdecimal() else 0


def job_of(thing: Object) -> Key | None:
    """The job that an object belongs to, by its label, or else by its owner."""
    metadata = thing["metadata"]
    name = (metadata.get("labels") or {}).get(names.JOB_LABEL)
    if name is None:
        owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("kind") == names.KIND]
        name = owners[0]["name"] if owners else None
    return (metadata["namespace"], name) if name else None


class Graves:
    """At which version objects have ended, the newest MAX_GRAVES of them."""

    def __init__(self, limit: int = MAX_GRAVES) -> None:
        self._limit = limit
        self._ended: dict[Ref, int] = {}

    def bury(self, ref: Ref, ended: int) -> None:
        """Notes an end; 0 is none that can be compared."""
        if ended <= self._ended.get(ref, 0):
            return
        self._ended.pop(ref, None)  # its place is among the newest again
        self._ended[ref] = ended
        if len(self._ended) > self._limit:
            del self._ended[next(iter(self._ended))]

    def hold(self, ref: Ref, seen: int) -> bool:
        """Whether an object of this version has ended since; one that is newer was made anew."""
        ended = self._ended.get(ref, 0)
        if seen > ended:
            self._ended.pop(ref, None)
        return 0 < seen <= ended


class Code:
    """What jobs read of users' ConfigMaps, compressed: the newest that fit into `limit` bytes."""

    def __init__(self, limit: int = MAX_CODE_BYTES) -> None:
        self._limit = limit
        self._kept: dict[Key, tuple[str, frozenset[str], bytes]] = {}
        self._bytes = 0

    def put(self, place: Key, version: str, keys: frozenset[str], data: Mapping[str, str]) -> None:
        """Keeps what a version of a ConfigMap has under these keys."""
        self.forget(place)
        packed = _compressed({key: data[key] for key in sorted(keys) if key in data})
        if len(packed) > self._limit:
            return
        self._kept[place] = (version, keys, packed)
        self._bytes += len(packed)
        while self._bytes > self._limit:
            self.forget(next(iter(self._kept)))

    def get(self, place: Key, version: str | None, keys: frozenset[str]) -> dict[str, str] | None:
        """What this version has under these keys; None where that must be read."""
        known = self._kept.get(place)
        if known is None or known[0] != version or not keys <= known[1]:
            return None
        data = _unpacked(known[2])
        return {key: data[key] for key in sorted(keys) if key in data}

    def forget(self, place: Key) -> None:
        """The ConfigMap is gone, or nobody reads it any more."""
        known = self._kept.pop(place, None)
        self._bytes -= len(known[2]) if known is not None else 0


class Index:
    """Jobs, their children and the ConfigMaps that they refer to."""

    def __init__(self) -> None:
        self._jobs: dict[Key, tuple[int, bytes]] = {}
        self._children: dict[Key, dict[_Place, tuple[int, bytes]]] = {}
        self._owners: dict[Ref, Key] = {}
        self._graves = Graves()
        self._config_maps: dict[Key, str] = {}
        self._code = Code()
        self._references: dict[Key, References] = {}
        self._referrers: dict[Key, set[Key]] = {}

    def put_job(self, job: Object, references: References) -> Key:
        """Keeps a job, unless a newer one or its end is known; `references` are the ConfigMaps that it names."""
        key = (job["metadata"]["namespace"], job["metadata"]["name"])
        if self._graves.hold((STREAM_JOB.kind, *key), version(job)):
            return key
        known = self._jobs.get(key)
        if known is None or known[0] <= version(job):
            self._jobs[key] = (version(job), _packed(job))
            self._refer(key, references)
        return key

    def remove_job(self, key: Key, uid: str, ended: int = 0) -> bool:
        """Forgets the job with this uid, which has ended with a version (0: unknown); False where a newer one is known.

        What belongs to it stays until its watches say that it is gone.
        """
        known = self.job(key)
        if known is not None and known["metadata"]["uid"] != uid and ended <= version(known):
            return False
        self._graves.bury((STREAM_JOB.kind, *key), max(ended, 0 if known is None else version(known)))
        self._jobs.pop(key, None)
        self._refer(key, {})
        return True

    def _refer(self, key: Key, references: References) -> None:
        for name in self._references.pop(key, {}).keys() - references.keys():
            place = (key[0], name)
            self._referrers[place].discard(key)
            if not self._referrers[place]:
                del self._referrers[place]
                self._code.forget(place)
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
        """Keeps a child, pod or claim, unless a newer one or its end is known; gives the job that it belongs to now."""
        key, seen = job_of(thing), version(thing)
        if key is None:
            return None
        place = (thing["kind"], thing["metadata"]["name"])
        ref = (place[0], key[0], place[1])
        before = self._owners.get(ref)
        if before is not None and self._children[before][place][0] > seen:
            return before
        if self._graves.hold(ref, seen):
            return None
        if before is not None and before != key:
            self._forget(ref)  # somebody has changed its label
        self._owners[ref] = key
        self._children.setdefault(key, {})[place] = (seen, _packed(thing))
        return key

    def has(self, thing: Object) -> bool:
        """Whether this very version of a child is known."""
        key = self._owners.get((thing["kind"], thing["metadata"]["namespace"], thing["metadata"]["name"]))
        known = 0 if key is None else self._children[key][thing["kind"], thing["metadata"]["name"]][0]
        return 0 < version(thing) == known

    def remove(self, kind: str, namespace: str, name: str, ended: int = 0) -> Key | None:
        """Forgets a child that has ended with a version (0: unknown), unless a newer one is known; gives its job."""
        ref = (kind, namespace, name)
        key = self._owners.get(ref)
        known = 0 if key is None else self._children[key][kind, name][0]
        if 0 < ended < known:
            return None
        self._graves.bury(ref, max(ended, known))
        if key is not None:
            self._forget(ref)
        return key

    def _forget(self, ref: Ref) -> None:
        kind, _, name = ref
        key = self._owners.pop(ref)
        known = self._children[key]
        del known[kind, name]
        if not known:
            del self._children[key]

    def places(self, kind: str, namespace: str | None) -> list[_Place]:
        """(namespace, name) of all children of a kind, in one namespace or in all."""
        return [(where, name) for known, where, name in self._owners if known == kind and namespace in (None, where)]

    def of_job(self, key: Key) -> list[Object]:
        """All children, pods and claims of a job."""
        return [_unpacked(packed) for _, packed in self._children.get(key, {}).values()]

    def one(self, key: Key, kind: str, name: str) -> Object | None:
        """One child of a job."""
        found = self._children.get(key, {}).get((kind, name))
        return None if found is None else _unpacked(found[1])

    def see_config_map(self, config_map: Object, *, gone: bool = False) -> set[Key]:
        """Notes a version of a user's ConfigMap, or its end, by its metadata; gives the jobs that refer to it."""
        metadata = config_map["metadata"]
        place = (metadata["namespace"], metadata["name"])
        ref, seen = (CONFIG_MAP.kind, *place), version(config_map)
        if gone:
            if seen == 0 or seen >= _number(self._config_maps.get(place)):
                self._graves.bury(ref, seen)
                self._config_maps.pop(place, None)
                self._code.forget(place)
        elif seen >= _number(self._config_maps.get(place)) and not self._graves.hold(ref, seen):
            self._config_maps[place] = metadata["resourceVersion"]
        return set(self._referrers.get(place, ()))

    def config_map_places(self, namespace: str | None) -> list[_Place]:
        """(namespace, name) of the users' ConfigMaps, in one namespace or in all."""
        return [place for place in self._config_maps if namespace in (None, place[0])]

    def config_map(self, namespace: str, name: str, keys: frozenset[str]) -> tuple[str | None, dict[str, str] | None]:
        """The newest version of a user's ConfigMap that is known, and what it has under `keys` if that is kept."""
        newest = self._config_maps.get((namespace, name))
        return newest, self._code.get((namespace, name), newest, keys)

    def put_config_map(self, config_map: Object) -> None:
        """Keeps what jobs read of a user's ConfigMap, unless a newer version or its end is known."""
        referrers = self.see_config_map(config_map)
        metadata = config_map["metadata"]
        place = (metadata["namespace"], metadata["name"])
        keys = frozenset[str]().union(*(self._references[key][place[1]] for key in referrers))
        if keys and self._config_maps.get(place) == metadata["resourceVersion"]:
            self._code.put(place, metadata["resourceVersion"], keys, config_map.get("data") or {})

    def counts(self) -> dict[str, int]:
        """How much is kept, for metrics."""
        children = sum(map(len, self._children.values()))
        return {"jobs": len(self._jobs), "children": children, CONFIG_MAP.plural: len(self._config_maps)}


def _packed(thing: Object) -> bytes:
    return _compressed(trimmed(thing))


def _compressed(value: dict[str, Any]) -> bytes:
    # The fastest level: less than half of the text, in a small part of the time that reading JSON takes.
    return zlib.compress(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(), 1)


def _unpacked(packed: bytes) -> Object:
    found: Object = json.loads(zlib.decompress(packed))
    return found
