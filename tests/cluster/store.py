"""The objects of the API server double: versions, history, compaction.

Each object is serialised once, when it is put; lists and watches hand out the same bytes.
Nothing is validated beyond what finding an object again needs. HTTP is in other files.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tests.cluster import failures
from tests.cluster.resources import RESOURCES, Raw, Resource, by_kind, field_of

Name = tuple[str, str]  # namespace ("" where there are none) and name

_NONE: Mapping[str, str] = {}
_VERSION = b'"metadata":{"resourceVersion":"%d",'
HISTORY = 50_000


class Stored:
    """One state of one object; never changed once made."""

    __slots__ = ("fields", "kept", "labels", "name", "rest", "version", "whole")

    def __init__(
        self,
        name: Name,
        version: int,
        rest: bytes,
        labels: Mapping[str, str],
        fields: Mapping[str, str],
        kept: tuple[str, str] = ("", ""),
        whole: bool = False,
    ) -> None:
        self.name = name
        self.version = version
        self.rest = rest
        """The JSON behind resourceVersion, up to the end; of a `whole` one all of it."""
        self.labels = labels
        self.fields = fields
        self.kept = kept
        """uid and creationTimestamp."""
        self.whole = whole

    def item(self) -> bytes:
        """As an item of a list: without kind."""
        return self.rest if self.whole else b"{" + _VERSION % self.version + self.rest

    def object(self, resource: Resource, version: int = 0) -> bytes:
        """As an object on its own, with kind; `version` other than its own where given."""
        if self.whole:
            return self.rest
        return resource.head + _VERSION % (version or self.version) + self.rest


class Change(NamedTuple):
    """One step of the history; `old` is None for a new object, `new` for one that went."""

    version: int
    old: Stored | None
    new: Stored | None


class Table:
    """One resource's objects, and the changes that are still remembered."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.objects: dict[Name, Stored] = {}
        self.changes: list[Change] = []
        self.first = 0
        """How many changes were forgotten: the position of changes[0]."""
        self.oldest = 0
        """The version up to which changes are forgotten."""
        self.snapshots: dict[int, list[Stored]] = {}

    def position(self, version: int) -> int:
        """Where the changes after `version` begin."""
        low, high = 0, len(self.changes)
        while low < high:
            middle = (low + high) // 2
            if self.changes[middle].version <= version:
                low = middle + 1
            else:
                high = middle
        return self.first + low


class Store:
    """All objects. Every method may be called from any thread.

    `history` is how many changes of each resource are remembered before the oldest go.
    """

    def __init__(self, history: int = HISTORY) -> None:
        self.history = history
        self.version = 1
        self.changed = threading.Condition()
        """Notified after every change; hold it to see version and tables together."""
        self._tables = {resource: Table(resource) for resource in RESOURCES}

    def table(self, resource: Resource) -> Table:
        """The table of a resource; hold `changed` while reading it."""
        return self._tables[resource]

    # ---- writing ------------------------------------------------------------------

    def put(self, raw: Raw) -> int:
        """Create or update an object, which states its kind; the version it got.

        An update without a difference is none, as with the real server.
        """
        with self.changed:
            version = self._put(by_kind(raw), raw)
            self.changed.notify_all()
        return version

    def bulk(self, raws: Iterable[Raw]) -> int:
        """Put many at once; the version afterwards. Watchers see one change each, all together."""
        with self.changed:
            for raw in raws:
                self._put(by_kind(raw), raw)
            self.changed.notify_all()
            return self.version

    def put_raw(self, resource: Resource, name: Name, raw: Any) -> int:
        """Store whatever it is, bytes as they are: the server hands it out like a good object.

        What can be written of resourceVersion is; selectors see the labels and fields that are.
        """
        with self.changed:
            if isinstance(raw, dict) and isinstance(raw.get("metadata"), dict):
                raw = raw | {
                    "metadata": {"resourceVersion": str(self.version + 1)} | raw["metadata"]
                }
            text = raw if isinstance(raw, bytes) else dump(raw)
            labels, fields = _labels(raw), _fields(resource, raw, name)
            self._record(resource, Stored(name, self.version + 1, text, labels, fields, whole=True))
            self.changed.notify_all()
            return self.version

    def delete(self, raw: Raw) -> int:
        """Remove an object by its kind, namespace and name; KeyError if it is not there."""
        resource = by_kind(raw)
        return self.remove(resource, _name(resource, raw))

    def remove(self, resource: Resource, name: Name) -> int:
        """Remove by name; the version of the deletion."""
        with self.changed:
            self._remove(resource, name)
            self.changed.notify_all()
            return self.version

    def change(self, resource: Resource, name: Name, edit: Callable[[Raw], Raw]) -> Raw:
        """Replace an object by what `edit` makes of it, in one step; KeyError if not there."""
        with self.changed:
            stored = self.table(resource).objects[name]
            self._put(resource, edit(json.loads(stored.object(resource))))
            self.changed.notify_all()
            return self.get(resource, name)

    def create(self, resource: Resource, raw: Raw) -> Raw:
        """Add an object; Failure 409 when one of that name is there."""
        with self.changed:
            name = _name(resource, raw)
            if name in self.table(resource).objects:
                raise failures.exists(resource, name[1])
            self._put(resource, raw)
            self.changed.notify_all()
            return self.get(resource, name)

    def compact(self, resource: Resource | None = None) -> int:
        """Forget the history up to now, of all resources unless told; the version now.

        The version is raised, as other writers of a real cluster would have done meanwhile:
        whoever resumes at an older one has missed something for all that the server knows.
        """
        with self.changed:
            self.version += 1
            for table in [self.table(resource)] if resource else list(self._tables.values()):
                self._forget(table, len(table.changes), self.version)
            self.changed.notify_all()
            return self.version

    # ---- reading ------------------------------------------------------------------

    def get(self, resource: Resource, name: Name) -> Raw:
        """An object by name; KeyError when it is not there."""
        with self.changed:
            stored = self.table(resource).objects[name]
        raw: Raw = json.loads(stored.object(resource))
        return raw

    def objects(self, resource: Resource) -> list[Raw]:
        """All objects of a resource that are JSON, in order of name."""
        with self.changed:
            stored = self.at(resource, self.version)
        return [json.loads(one.object(resource)) for one in stored]

    def snapshot(self) -> dict[str, dict[Name, Raw]]:
        """Everything there is, by qualified resource and name, as of one moment."""
        with self.changed:
            taken = {one: list(table.objects.values()) for one, table in self._tables.items()}
        return {
            resource.qualified: {one.name: json.loads(one.object(resource)) for one in stored}
            for resource, stored in taken.items()
        }

    def at(self, resource: Resource, version: int) -> list[Stored]:
        """The objects as of `version`, in order of name; Failure 410 when that is forgotten."""
        with self.changed:
            table = self.table(resource)
            if version < table.oldest:
                raise failures.expired(version, table.oldest)
            begin = table.position(version) - table.first
            # The same state has one list, whatever other resources did to the version.
            known = table.changes[begin - 1].version if begin else table.oldest
            found = table.snapshots.get(known)
            if found is None:
                found = _rewound(table, begin)
                while len(table.snapshots) >= 4:
                    del table.snapshots[next(iter(table.snapshots))]
                table.snapshots[known] = found
            return found

    # ---- with the lock held ---------------------------------------------------------

    def _put(self, resource: Resource, raw: Raw) -> int:
        name = _name(resource, raw)
        old = self.table(resource).objects.get(name)
        kept = _kept(raw["metadata"], old)
        rest = _rest(resource, raw, name, kept)
        if old and not old.whole and old.rest == rest:
            return old.version
        labels, fields = _labels(raw), _fields(resource, raw, name)
        self._record(resource, Stored(name, self.version + 1, rest, labels, fields, kept))
        return self.version

    def _record(self, resource: Resource, new: Stored) -> None:
        table = self.table(resource)
        self.version += 1
        self._append(table, Change(self.version, table.objects.get(new.name), new))
        table.objects[new.name] = new

    def _remove(self, resource: Resource, name: Name) -> None:
        table = self.table(resource)
        old = table.objects.pop(name)
        self.version += 1
        self._append(table, Change(self.version, old, None))

    def _append(self, table: Table, change: Change) -> None:
        table.changes.append(change)
        # A quarter more than asked, so that not every change moves the whole list.
        if len(table.changes) > self.history + self.history // 4:
            surplus = len(table.changes) - self.history
            self._forget(table, surplus, table.changes[surplus - 1].version)

    def _forget(self, table: Table, surplus: int, version: int) -> None:
        del table.changes[:surplus]
        table.first += surplus
        table.oldest = version
        table.snapshots.clear()


def dump(raw: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(raw, separators=(",", ":"), ensure_ascii=False).encode()


def _name(resource: Resource, raw: Raw) -> Name:
    metadata = raw["metadata"]
    namespace = metadata.get("namespace", "default") if resource.namespaced else ""
    return str(namespace), str(metadata["name"])


def _rest(resource: Resource, raw: Raw, name: Name, kept: tuple[str, str]) -> bytes:
    """The JSON behind the version: metadata that the server adds, then the object as given."""
    metadata = raw["metadata"] | {"uid": kept[0], "creationTimestamp": kept[1]}
    metadata.pop("resourceVersion", None)
    if resource.namespaced:
        metadata["namespace"] = name[0]
    others = {k: v for k, v in raw.items() if k not in ("kind", "apiVersion", "metadata")}
    text = dump(metadata)[1:]
    return text + b"," + dump(others)[1:] if others else text + b"}"


def _kept(metadata: Raw, old: Stored | None) -> tuple[str, str]:
    """uid and creationTimestamp: as given, else as before, else fresh ones."""
    uid, created = old.kept if old else ("", "")
    return (
        metadata.get("uid") or uid or str(uuid.uuid4()),
        metadata.get("creationTimestamp")
        or created
        or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _labels(raw: Any) -> Mapping[str, str]:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return (
        {k: v for k, v in labels.items() if isinstance(v, str)}
        if isinstance(labels, dict)
        else _NONE
    )


def _fields(resource: Resource, raw: Any, name: Name) -> Mapping[str, str]:
    found = {field: field_of(raw, field) for field in resource.own_fields}
    return {"metadata.namespace": name[0], "metadata.name": name[1]} | found


def _rewound(table: Table, begin: int) -> list[Stored]:
    """The objects before changes[begin] and all after it happened, in order of name."""
    objects = table.objects
    if begin < len(table.changes):
        objects = dict(objects)
        for change in reversed(table.changes[begin:]):
            if change.old is not None:
                objects[change.old.name] = change.old
            elif change.new is not None:
                objects.pop(change.new.name, None)
    return [objects[name] for name in sorted(objects)]
