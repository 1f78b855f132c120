"""Raw objects of one resource to models that are held, and what is wrong with them.

Knows what an object is, not where it comes from: a page or a watch. Whatever is handed in does
no harm but to the object it names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kpbpf.errors import Problem
from kpbpf.kube import parse
from kpbpf.kube.fields import BadObject, mapping, shown
from kpbpf.kube.held import Held
from kpbpf.kube.read_slice import SERVICE_LABEL
from kpbpf.model.objects import Key


class Resource(NamedTuple):
    """Which objects: `path` below the server, "/api/v1/services" for those of all namespaces."""

    path: str
    api_version: str
    kind: str
    label_selector: str = ""
    field_selector: str = ""
    optional: bool = False
    """Older servers do not have it, and that is in order (ServiceCIDR: since 1.33)."""

    @property
    def name(self) -> str:
        """The resource's name: "services"."""
        return self.path.rpartition("/")[2]

    def place(self, key: Key) -> str:
        """Path of one object."""
        if not key.namespace:
            return f"{self.path}/{key.name}"
        group, _, plural = self.path.rpartition("/")
        return f"{group}/namespaces/{key.namespace}/{plural}/{key.name}"

    def query(self, **others: str) -> dict[str, str]:
        """Parameters of a request for these objects."""
        selectors = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in selectors.items() if value} | others


class Intake:
    """Takes up the objects of one resource. One thread."""

    def __init__(self, resource: Resource, held: Held) -> None:
        self._resource = resource
        self._held = held
        self._seen: set[Key] | None = None
        self.whole = True
        """False while something could not be read, and nobody knows which object it is."""

    @property
    def reading_all(self) -> bool:
        """Whether between `begin` and `complete`."""
        return self._seen is not None

    def begin(self) -> None:
        """From now on every object is read, until `complete`."""
        self._seen = set()
        self.whole = True

    def complete(self) -> None:
        """Every object was there: what was not seen is gone, unless something was unreadable."""
        seen, self._seen = self._seen, None
        if self.whole:
            self._held.complete(seen or ())
        else:
            self._held.read_once()

    def take(self, raw: Any) -> None:
        """An object as it is now."""
        try:
            parsed = parse.parse(raw)
        except BadObject as bad:
            self._refuse(raw, bad)
            return
        key = parsed.model.key
        if key.kind != self._resource.kind:
            self.hole(BadObject("kind", self._resource.kind, shown(key.kind)))
            return
        if self._seen is not None:
            self._seen.add(key)
        self._held.put(
            key,
            parsed.model,
            tuple(self._problem(key, remark) for remark in parsed.remarks)
            if parsed.remarks
            else (),
        )

    def drop(self, raw: Any) -> None:
        """An object that is gone; `raw` is its last state, of which only the name is needed."""
        try:
            key = parse.key_of(raw)
        except BadObject as bad:
            self.hole(bad)
            return
        if self._seen is not None:
            self._seen.discard(key)
        self._held.drop(key)

    def hole(self, bad: BadObject) -> None:
        """Something could not be read, and nobody knows which object it is."""
        self.whole = False
        path, kind = self._resource.path, self._resource.kind
        self._held.hole(path, Problem(path, kind, bad.field, bad.expected, bad.got))

    # ---- inside -------------------------------------------------------------------------

    def _refuse(self, raw: Any, bad: BadObject) -> None:
        try:
            key = parse.key_of(raw)
        except BadObject:
            self.hole(bad)
            return
        if key.kind != self._resource.kind:
            self.hole(BadObject("kind", self._resource.kind, shown(key.kind)))
            return
        if self._seen is not None:
            self._seen.add(key)
        self._held.spoil(key, self._problem(key, bad), _stands_for(key, raw))

    def _problem(self, key: Key, bad: BadObject) -> Problem:
        place = self._resource.place(key)
        return Problem(place, str(key), bad.field, bad.expected, bad.got)


def version_of(raw: Any) -> str:
    """metadata.resourceVersion; "" when there is none."""
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) else ""


def _stands_for(key: Key, raw: Any) -> Key:
    """What is not known as long as the object is not: of a slice its Service."""
    if key.kind != "EndpointSlice":
        return key
    labels = mapping(raw["metadata"]).get("labels")
    service = labels.get(SERVICE_LABEL) if isinstance(labels, dict) else None
    return Key("Service", key.namespace, service) if isinstance(service, str) and service else key
