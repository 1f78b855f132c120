"""What the Service maps hold now: read from the pins once, then kept along with every write.

Finds what a killed run left behind. Writes nothing itself; maps.sync does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from struct import Struct

from kpbpf.address import UNSPECIFIED4, ZERO
from maps.abi import (
    Backend,
    BackendKey,
    Frontend,
    FrontendKey,
    Member,
    MemberKey,
    Name,
    NameKey,
    NameKind,
    RangeKey,
    RangeScope,
)
from maps.layout import ntohs, unpack_text
from maps.table import Tables

#: A member of no Service: UDP flows are due to be judged again. See maps.sync.
UDP_DUE = MemberKey(ZERO, 0, 0).pack()

# Ids share the field with what else a range may be for.
_ID_LIMIT = min(RangeScope)
# A packed backend in whole.
_BACKEND = Struct(f"{Backend.SIZE}s")
_UNSPECIFIED = (UNSPECIFIED4, ZERO)


@dataclass(slots=True)
class Port:
    """What the maps hold of one Service port in one family, packed.

    `inherited`: it is as an earlier process left it; nothing was planned for it since. `named`:
    the entry in names is there. `frontends` are those whose entry names this id. `sets` are
    backend sets by base, each as its packed backends one after the other. `members` are
    MemberFlags by packed MemberKey. `ranges` are packed RangeKeys.
    """

    id: int
    name: str
    inherited: bool = True
    named: bool = False
    frontends: dict[bytes, bytes] = field(default_factory=dict)
    sets: dict[int, bytes] = field(default_factory=dict)
    members: dict[bytes, int] = field(default_factory=dict)
    # Nearly all have none: one object for them.
    ranges: Set[bytes] = frozenset()

    def add_range(self, key: bytes) -> None:
        """The range is in the map."""
        if not isinstance(self.ranges, set):
            self.ranges = set(self.ranges)
        self.ranges.add(key)

    def drop_range(self, key: bytes) -> None:
        """The range is gone."""
        if isinstance(self.ranges, set):
            self.ranges.discard(key)

    def in_use(self) -> bool:
        """Whether any map but names holds something of it."""
        return bool(self.frontends or self.sets or self.members or self.ranges)


class Present:
    """All Service ports that the maps hold, by name, and what belongs to none.

    `torn` are bases whose set may not be there in whole. `orphans` are names of ports that
    had no frontend when they were read. The leftovers are packed keys to be deleted. `node_ports`
    counts the frontends at each NodePort.
    """

    def __init__(self) -> None:
        self.ports: dict[str, Port] = {}
        self.owners: dict[bytes, Port] = {}
        self.node_ports: Counter[int] = Counter()
        self.torn: set[int] = set()
        self.orphans: set[str] = set()
        self.left_names: list[bytes] = []
        self.left_backends: list[bytes] = []
        self.left_members: list[bytes] = []
        self.left_ranges: list[bytes] = []
        self.udp_due = False
        self._ids: set[int] = set()
        self._bases: set[int] = set()
        self._last_id = 0
        self._last_base = 0

    def port(self, name: str) -> Port:
        """The port of that name; a new one with a fresh id when there is none."""
        port = self.ports.get(name)
        if port is None:
            self._last_id = _fresh(self._last_id, self._ids)
            port = self.add(self._last_id, name)
        return port

    def add(self, number: int, name: str) -> Port:
        """A port that is known to have this id."""
        port = self.ports[name] = Port(number, name)
        self._ids.add(number)
        self._last_id = max(self._last_id, number)
        return port

    def take_id(self, number: int) -> None:
        """Note that the map holds something of nobody under this id."""
        self._ids.add(number)

    def forget(self, port: Port) -> None:
        """The port is gone from every map; its id may be given again, late."""
        del self.ports[port.name]
        self._ids.discard(port.id)

    def fresh_base(self) -> int:
        """A base that no set in the map has; never 0, which is that of the empty set."""
        self._last_base = _fresh(self._last_base, self._bases)
        self._bases.add(self._last_base)
        return self._last_base

    def take_base(self, base: int) -> None:
        """Note that the map holds something under this base."""
        self._bases.add(base)
        self._last_base = max(self._last_base, base)

    def free_base(self, base: int) -> None:
        """Nothing is left under this base."""
        self._bases.discard(base)
        self.torn.discard(base)

    def put_frontend(self, port: Port, key: bytes, value: bytes) -> None:
        """The frontend is this port's now, whoever had it."""
        owner = self.owners.get(key)
        if owner is None and (number := node_port_of(key)):
            self.node_ports[number] += 1
        if owner is not None and owner is not port:
            owner.frontends.pop(key, None)
        self.owners[key] = port
        port.frontends[key] = value

    def drop_frontend(self, port: Port, key: bytes) -> None:
        """The frontend is gone."""
        port.frontends.pop(key, None)
        if self.owners.pop(key, None) is not None and (number := node_port_of(key)):
            self.node_ports[number] -= 1
            if not self.node_ports[number]:
                del self.node_ports[number]

    def settle_orphans(self) -> None:
        """Those that are served by now, or gone, are orphans no more."""
        if self.orphans:
            self.orphans = {
                name
                for name in self.orphans
                if name in self.ports and not self.ports[name].frontends
            }


def _fresh(last: int, taken: set[int]) -> int:
    """The number after `last`; those in use are passed over, and after the last one comes 1."""
    number = last
    while True:
        number = number + 1 if number + 1 < _ID_LIMIT else 1
        if number not in taken:
            return number


def node_port_of(key: bytes) -> int:
    """The number of the NodePort that a packed FrontendKey is of, 0 for one of another kind."""
    if not key.startswith(_UNSPECIFIED):
        return 0
    _, port, _ = FrontendKey.STRUCT.unpack(key)
    return ntohs(port)


def read_present(tables: Tables) -> Present:
    """Read names, frontends, backends, members and ranges from the maps."""
    present = Present()
    by_id = _read_ports(present, tables)
    _read_sets(present, tables)
    _read_members(present, tables, by_id)
    _read_ranges(present, tables, by_id)
    present.orphans = set(present.ports)
    present.settle_orphans()
    return present


def _read_ports(present: Present, tables: Tables) -> dict[int, Port]:
    frontends: dict[int, dict[bytes, bytes]] = {}
    service_of = Frontend.STRUCT.unpack
    for key, value in tables.frontends.items_raw():
        frontends.setdefault(service_of(value)[0], {})[key] = value
    by_id: dict[int, Port] = {}
    # Of two ids with one name the one that is served counts.
    for _, number, name in sorted(
        (number not in frontends, number, name) for number, name in _names(tables)
    ):
        if name in present.ports:
            present.left_names.append(NameKey(NameKind.SERVICE, number).pack())
        else:
            port = by_id[number] = present.add(number, name)
            port.named = True
    for number, served in frontends.items():
        # A frontend without a name is not ours to keep; under this one it is seen to be gone.
        port = by_id.get(number) or present.add(number, f"unnamed {number}")
        by_id[number] = port
        port.frontends = served
        present.owners.update(dict.fromkeys(served, port))
        present.node_ports.update(filter(None, map(node_port_of, served)))
    return by_id


def _names(tables: Tables) -> Iterator[tuple[int, str]]:
    """Ids of Service ports, and what they are called."""
    for keys, values in tables.names.blocks_raw():
        kinds = NameKey.STRUCT.iter_unpack(keys)
        for (kind, number), (name,) in zip(kinds, Name.STRUCT.iter_unpack(values), strict=True):
            if kind == NameKind.SERVICE:
                yield number, unpack_text(name)


def _read_sets(present: Present, tables: Tables) -> None:
    """Put the backends together to the sets that frontends use; the others are leftovers.

    A slot that is missing reads as zeros, so that the set equals none that is wanted.
    """
    size = Backend.SIZE
    owners: dict[int, Port] = {}
    buffers: dict[int, bytearray] = {}
    for port in present.ports.values():
        for value in port.frontends.values():
            _, base, count, local_count, _, _ = Frontend.STRUCT.unpack(value)
            if base and count + local_count:
                owners[base] = port
                buffers[base] = bytearray(size * (count + local_count))
                present.take_base(base)
    for keys, values in tables.backends.blocks_raw():
        places = BackendKey.STRUCT.iter_unpack(keys)
        for (base, slot), (backend,) in zip(places, _BACKEND.iter_unpack(values), strict=True):
            buffer = buffers.get(base)
            start = slot * size
            if buffer is None or start >= len(buffer):
                present.left_backends.append(BackendKey(base, slot).pack())
                present.take_base(base)
            else:
                buffer[start : start + size] = backend
    for base, port in owners.items():
        port.sets[base] = bytes(buffers.pop(base))


def _read_members(present: Present, tables: Tables, by_id: dict[int, Port]) -> None:
    for key, value in tables.members.items_raw():
        port = by_id.get(MemberKey.unpack(key).service)
        if key == UDP_DUE:
            present.udp_due = True
        elif port is None:
            present.left_members.append(key)
            present.take_id(MemberKey.unpack(key).service)
        else:
            port.members[key] = Member.unpack(value).flags


def _read_ranges(present: Present, tables: Tables, by_id: dict[int, Port]) -> None:
    for key, _ in tables.ranges.items_raw():
        scope = RangeKey.unpack(key).scope
        port = by_id.get(scope)
        if port is not None:
            port.add_range(key)
        elif scope < _ID_LIMIT:
            present.left_ranges.append(key)
            present.take_id(scope)
