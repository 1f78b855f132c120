"""An endpoint as it stands in the maps: what is known of it, and reading them all.

Changes nothing; that is done in `endpoints`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from kpbpf.address import Address, to_text
from maps.abi import Endpoint, EndpointKey, Name, NameKey, NameKind
from maps.table import Tables


class Pod(NamedTuple):
    """An endpoint as it stands in the maps."""

    id: int
    name: str
    """Empty while it is half-done."""
    ifindex: int
    pod_mac: bytes
    node_mac: bytes
    addresses: tuple[Address, ...]
    """Sorted."""

    def __str__(self) -> str:
        addresses = ", ".join(map(to_text, self.addresses))
        return f"endpoint {self.id} ({addresses}; {self.name or 'half-done'})"


class Reader:
    """Reads the endpoints again and again; what is as before is not made anew."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._raw: list[tuple[bytes, bytes]] = []
        self._names: dict[bytes, bytes | None] = {}
        self._pods: dict[int, Pod] = {}

    def read(self) -> dict[int, Pod]:
        """Read the endpoints, by id, half-done ones included."""
        raw = list(self._tables.endpoints.items_raw())
        names = self._names
        if raw != self._raw:
            ids = {Endpoint.unpack(value).id for _, value in raw}
            names = dict.fromkeys(NameKey(NameKind.ENDPOINT, id_).pack() for id_ in ids)
        names = {key: self._tables.names.get_raw(key) for key in names}
        if raw != self._raw or names != self._names:
            self._pods = _put_together(raw, names)
            self._raw, self._names = raw, names
        return dict(self._pods)


def present(tables: Tables) -> dict[int, Pod]:
    """Read the endpoints once, by id, half-done ones included."""
    return Reader(tables).read()


def _put_together(
    raw: Iterable[tuple[bytes, bytes]], names: dict[bytes, bytes | None]
) -> dict[int, Pod]:
    addresses: defaultdict[int, list[Address]] = defaultdict(list)
    entries: dict[int, Endpoint] = {}
    for key, value in raw:
        entry = Endpoint.unpack(value)
        addresses[entry.id].append(EndpointKey.unpack(key).addr)
        entries[entry.id] = entry
    texts = {NameKey.unpack(key).id: Name.unpack(name).text for key, name in names.items() if name}
    return {
        id_: Pod(
            id=id_,
            name=texts.get(id_, ""),
            ifindex=entry.ifindex,
            pod_mac=entry.pod_mac,
            node_mac=entry.node_mac,
            addresses=tuple(sorted(addresses[id_])),
        )
        for id_, entry in entries.items()
    }
