"""What the Service maps hold now: read from the pins once, then kept along with every write.

Finds what a killed run left behind. Writes nothing itself; maps.sync does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kpbpf.address import ZERO
from maps.abi import Backend, BackendKey, Frontend, Member, MemberKey, Name, NameKey, NameKind
from maps.table import Tables

#: A member of no Service: UDP flows are due to be judged again. See maps.sync.
UDP_DUE = MemberKey(ZERO, 0, 0).pack()

_ID_LIMIT = 2**32


@dataclass(slots=True)
class Port:
    """What the maps hold of one Service port in one family, packed.

    `inherited`: it is as an earlier process left it; nothing was planned for it since. `named`:
    the entry in names is there. `frontends` are those whose entry names this id. `sets` are
    backend sets by base, each as its packed backends one after the other. `members` are
    MemberFlags by packed MemberKey.
    """

    id: int
    name: str
    inherited: bool = True
    named: bool = False
    frontends: dict[bytes, bytes] = field(default_factory=dict)
    sets: dict[int, bytes] = field(default_factory=dict)
    members: dict[bytes, int] = field(default_factory=dict)


class Present:
    """All Service ports that the maps hold, by name, and what belongs to none.

    `torn` are bases whose set may not be there in whole. `orphans` are names of ports that
    had no frontend when they were read. The leftovers are packed keys to be deleted.
    """

    def __init__(self) -> None:
        self.ports: dict[str, Port] = {}
        self.owners: dict[bytes, Port] = {}
        self.torn: set[int] = set()
        self.orphans: set[str] = set()
        self.left_names: list[bytes] = []
        self.left_backends: list[bytes] = []
        self.left_members: list[bytes] = []
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
        if owner is not None and owner is not port:
            owner.frontends.pop(key, None)
        self.owners[key] = port
        port.frontends[key] = value

    def drop_frontend(self, port: Port, key: bytes) -> None:
        """The frontend is gone."""
        port.frontends.pop(key, None)
        self.owners.pop(key, None)

    def settle_orphans(self) -> None:
        """Those that are served by now, or gone, are orphans no more."""
        if self.orphans:
            self.orphans = {
                name
                for name in self.orphans
                if name in self.ports and not self.ports[name].frontends
            }


def _fresh(last: int, taken: set[int]) -> int:
    """The number after `last`; those in use are passed over, and after 2^32-1 comes 1."""
    number = last
    while True:
        number = number + 1 if number + 1 < _ID_LIMIT else 1
        if number not in taken:
            return number


def read_present(tables: Tables) -> Present:
    """Read names, frontends, backends and members from the maps."""
    present = Present()
    by_id = _read_ports(present, tables)
    _read_sets(present, tables)
    _read_members(present, tables, by_id)
    present.orphans = set(present.ports)
    present.settle_orphans()
    return present


def _read_ports(present: Present, tables: Tables) -> dict[int, Port]:
    frontends: dict[int, dict[bytes, bytes]] = {}
    for key, value in tables.frontends.items_raw():
        frontends.setdefault(Frontend.unpack(value).service, {})[key] = value
    by_id: dict[int, Port] = {}
    names = [(NameKey.unpack(key), key, value) for key, value in tables.names.items_raw()]
    # Of two ids with one name the one that is served counts.
    names.sort(key=lambda item: (item[0].id not in frontends, item[0].id))
    for name_key, key, value in names:
        name = Name.unpack(value).text
        if name_key.kind != NameKind.SERVICE:
            continue
        if name in present.ports:
            present.left_names.append(key)
        else:
            port = by_id[name_key.id] = present.add(name_key.id, name)
            port.named = True
    for number, served in frontends.items():
        # A frontend without a name is not ours to keep; under this one it is seen to be gone.
        port = by_id.get(number) or present.add(number, f"unnamed {number}")
        by_id[number] = port
        for key, value in served.items():
            present.put_frontend(port, key, value)
    return by_id


def _read_sets(present: Present, tables: Tables) -> None:
    """Put the backends together to the sets that frontends use; the others are leftovers.

    A slot that is missing reads as zeros, so that the set equals none that is wanted.
    """
    buffers: dict[int, bytearray] = {}
    for port in present.ports.values():
        for value in port.frontends.values():
            frontend = Frontend.unpack(value)
            count = frontend.count + frontend.local_count
            if frontend.base and count:
                buffers[frontend.base] = bytearray(Backend.SIZE * count)
                present.take_base(frontend.base)
    unpack = BackendKey.STRUCT.unpack
    for key, value in tables.backends.items_raw():
        base, slot = unpack(key)
        buffer = buffers.get(base)
        start = slot * Backend.SIZE
        if buffer is None or start >= len(buffer):
            present.left_backends.append(key)
            present.take_base(base)
        else:
            buffer[start : start + Backend.SIZE] = value
    for port in present.ports.values():
        for value in port.frontends.values():
            base = Frontend.unpack(value).base
            if base in buffers:
                port.sets[base] = bytes(buffers[base])


def _read_members(present: Present, tables: Tables, by_id: dict[int, Port]) -> None:
    for key, value in tables.members.items_raw():
        port = by_id.get(MemberKey.unpack(key).service)
        if key == UDP_DUE:
            present.udp_due = True
        elif port is None:
            present.left_members.append(key)
        else:
            port.members[key] = Member.unpack(value).flags
