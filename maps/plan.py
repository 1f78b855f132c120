"""The difference between what the maps hold of one Service port and what is wanted.

Plans only; maps.sync writes. The parts of a Change stand in the order in which they are
written, so that nothing is ever pointed at before it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, replace

from maps.abi import (
    Backend,
    BackendKey,
    Frontend,
    FrontendFlag,
    FrontendKey,
    Member,
    MemberFlag,
    MemberKey,
    Name,
    NameKey,
    NameKind,
    RangeKey,
)
from maps.layout import U32
from maps.present import Port, Present
from maps.wanted import WantedService

UDP = 17

#: A packed key and its packed value.
Pair = tuple[bytes, bytes]

_SERVING = int(MemberFlag.SERVING)
_USEFUL = int(MemberFlag.CLUSTER | MemberFlag.LOCAL | MemberFlag.SERVING)
_SOURCE_RANGES = int(FrontendFlag.SOURCE_RANGES)
_WHOLE_ADDRESS = int(FrontendFlag.WHOLE_ADDRESS)
# A range begins with its scope, all of which counts.
_SCOPE_BITS = 32
# The value of an entry that only has to be there.
_THERE = U32(1).pack()
# Bytes of a packed Backend that are its address and port.
_PLACE = 16 + 2
# Where a packed FrontendKey has its protocol.
_PROTO = FrontendKey(bytes(16), 0, 0xFF).pack().index(0xFF)


@dataclass(slots=True)
class Change:
    """What is to be done for one port; `wanted` None: it is to go.

    `base` is that of a new backend set, 0 when none is needed. `inserts` are frontends that no
    port has yet, `flips` those that turn to another value. `udp`: known UDP flows must be
    judged again. `failed` is set when a write fails, `undo` when inserts must be taken back.
    """

    port: Port
    wanted: WantedService | None
    name: list[Pair] = field(default_factory=list)
    members: list[Pair] = field(default_factory=list)
    ranges: list[Pair] = field(default_factory=list)
    base: int = 0
    inserts: list[Pair] = field(default_factory=list)
    flips: list[Pair] = field(default_factory=list)
    stale_members: list[bytes] = field(default_factory=list)
    stale_ranges: list[bytes] = field(default_factory=list)
    udp: bool = False
    failed: bool = False
    undo: bool = False

    def writes_something(self) -> bool:
        """Whether an entry is to be put."""
        entries = self.name or self.members or self.ranges or self.inserts or self.flips
        return bool(entries or self.base)

    def leaves_something(self) -> bool:
        """Whether there is something to delete once the rest is written."""
        port, wanted = self.port, self.wanted
        if self.failed or wanted is None or self.stale_members or self.stale_ranges:
            return True
        if not port.frontends.keys() <= set(wanted.keys):
            return True
        return len(port.sets) > (1 if wanted.backends else 0)


def without_addresses_kept(
    present: Present, wanted: WantedService, keeps: Callable[[str], bool]
) -> WantedService:
    """The same without the frontends of other ports that keep what they were served with."""
    kept = {
        key
        for key, flags in wanted.frontends
        if not flags & _WHOLE_ADDRESS
        and (owner := present.owners.get(key)) is not None
        and owner.name != wanted.name
        and served_before(owner)
        and keeps(owner.name)
    }
    if not kept:
        return wanted
    left = tuple([one for one in wanted.frontends if one[0] not in kept])
    return replace(wanted, frontends=left)


def gives_up(present: Present, wanted: WantedService) -> bool:
    """Whether the port would lose anything that an earlier process has put into the maps.

    That is an address, a backend of either set, what a member is good for, or clients that may
    reach it. What this process wrote itself may go: then it is known to be wanted no more.
    """
    port = present.ports.get(wanted.name)
    if port is None or not served_before(port):
        return False
    return (
        _loses_addresses(port, wanted)
        or _loses_backends(port, wanted)
        or _loses_members(port, wanted)
        or _loses_clients(port, wanted)
    )


def served_before(port: Port) -> bool:
    """Whether it is still as it was served before this process began."""
    return port.inherited and bool(port.frontends)


def _loses_addresses(port: Port, wanted: WantedService) -> bool:
    """Whether one goes at which something is served; nothing is at the whole of an address."""
    gone = port.frontends.keys() - set(wanted.keys)
    return any(not Frontend.unpack(port.frontends[key]).flags & _WHOLE_ADDRESS for key in gone)


def _loses_backends(port: Port, wanted: WantedService) -> bool:
    cluster_then, local_then = _both_sets(wanted.backends, wanted.count)
    served = {Frontend.unpack(value)[1:3] for value in port.frontends.values()}
    for base, count in served:
        cluster, local = _both_sets(port.sets.get(base, b""), count)
        if not (cluster <= cluster_then and local <= local_then):
            return True
    return False


def _both_sets(backends: bytes, count: int) -> tuple[set[bytes], set[bytes]]:
    """Address and port of the cluster set, `count` backends, and of that of this node behind it."""
    size = Backend.SIZE
    each = [backends[start : start + _PLACE] for start in range(0, len(backends), size)]
    return set(each[:count]), set(each[count:])


def _loses_members(port: Port, wanted: WantedService) -> bool:
    then = _member_flags(port, wanted)
    return any(flags & _USEFUL & ~then.get(key, 0) for key, flags in port.members.items())


def _loses_clients(port: Port, wanted: WantedService) -> bool:
    """Whether somebody may reach an address now who may not then."""
    for key, flags in wanted.frontends:
        now = port.frontends.get(key)
        if now is not None and flags & _SOURCE_RANGES & ~Frontend.unpack(now).flags:
            return True
    return bool(wanted.ranges) and not port.ranges <= _range_keys(port, wanted)


def plan(present: Present, wanted: WantedService) -> Change | None:
    """The change for one port, None when it is as wanted. Takes an id and a base if need be."""
    port = present.port(wanted.name)
    port.inherited = False
    if _is_as_wanted(present, port, wanted):
        return None
    change = Change(port, wanted)
    if not change.port.named:
        key = NameKey(NameKind.SERVICE, change.port.id).pack()
        change.name.append((key, Name(wanted.name).pack()))
    _plan_members(change, wanted)
    _plan_ranges(change, wanted)
    _plan_frontends(present, change, wanted)
    if wanted.proto == UDP:
        change.udp |= any(
            key not in change.port.frontends for key, _ in (*change.inserts, *change.flips)
        )
    return change if change.writes_something() or change.leaves_something() else None


def _is_as_wanted(present: Present, port: Port, wanted: WantedService) -> bool:
    """Whether there is nothing to do: after a restart that is so for nearly all."""
    base = _base_there(present, port, wanted)
    return (
        base is not None
        and port.named
        and len(port.sets) == (1 if base else 0)
        and port.frontends == _frontends(port, wanted, base)
        and port.members == _member_flags(port, wanted)
        and port.ranges == _range_keys(port, wanted)
    )


def plan_removal(port: Port) -> Change:
    """The change that takes a port away."""
    stale = list(port.members), list(port.ranges)
    change = Change(port, None, stale_members=stale[0], stale_ranges=stale[1])
    serving = any(flags & _SERVING for flags in port.members.values())
    change.udp = serving and _serves_udp(port)
    return change


def _serves_udp(port: Port) -> bool:
    """Whether it is one of UDP so far; it may become one of TCP under the same name."""
    return any(key[_PROTO] == UDP for key in port.frontends)


def _plan_members(change: Change, wanted: WantedService) -> None:
    port = change.port
    now = _member_flags(port, wanted)
    for key, flags in now.items():
        if port.members.get(key) != flags:
            change.members.append((key, Member(flags).pack()))
    change.stale_members = [key for key in port.members if key not in now]
    ended = any(
        flags & _SERVING and not now.get(key, 0) & _SERVING for key, flags in port.members.items()
    )
    change.udp = ended and (wanted.proto == UDP or _serves_udp(port))


def _member_flags(port: Port, wanted: WantedService) -> dict[bytes, int]:
    return {
        MemberKey(addr, port.id, number).pack(): flags for addr, number, flags in wanted.members
    }


def _plan_ranges(change: Change, wanted: WantedService) -> None:
    port = change.port
    now = _range_keys(port, wanted)
    change.ranges = [(key, _THERE) for key in sorted(now - port.ranges)]
    change.stale_ranges = sorted(port.ranges - now)


def _range_keys(port: Port, wanted: WantedService) -> Set[bytes]:
    if not wanted.ranges:
        return frozenset()
    pack = RangeKey.STRUCT.pack
    return {pack(_SCOPE_BITS + prefix, port.id, addr) for prefix, addr in wanted.ranges}


def _plan_frontends(present: Present, change: Change, wanted: WantedService) -> None:
    port = change.port
    base = _base_there(present, port, wanted)
    if base is None:
        base = change.base = present.fresh_base()
        port.sets[base] = wanted.backends
        # Until it is written in whole.
        present.torn.add(base)
    for key, value in _frontends(port, wanted, base).items():
        owner = present.owners.get(key)
        if owner is None:
            change.inserts.append((key, value))
        elif owner.frontends[key] != value:
            change.flips.append((key, value))


def _base_there(present: Present, port: Port, wanted: WantedService) -> int | None:
    """The base of a set in the map that is as wanted, None if there is none; 0 if empty."""
    if not wanted.backends:
        return 0
    for base, backends in port.sets.items():
        if backends == wanted.backends and base not in present.torn:
            return base
    return None


def _frontends(port: Port, wanted: WantedService, base: int) -> dict[bytes, bytes]:
    """The packed values of all the port's frontends."""
    numbers = port.id, base, wanted.count, wanted.local_count, wanted.affinity_sec
    # Not by way of a Frontend, which takes most of the time of comparing a port.
    pack = Frontend.STRUCT.pack
    return {
        # The whole of an address is refused: it has no endpoints, and no need to know of them.
        key: pack(port.id, 0, 0, 0, 0, flags) if flags & _WHOLE_ADDRESS else pack(*numbers, flags)
        for key, flags in wanted.frontends
    }


def backend_pairs(change: Change) -> list[Pair]:
    """The entries of the new backend set."""
    if not change.base or change.wanted is None:
        return []
    backends, size = change.wanted.backends, Backend.SIZE
    return [
        (key, backends[slot * size : slot * size + size])
        for slot, key in enumerate(backend_keys(change.port, change.base))
    ]


def backend_keys(port: Port, base: int) -> Iterator[bytes]:
    """The keys of a backend set."""
    pack = BackendKey.STRUCT.pack
    return (pack(base, slot) for slot in range(len(port.sets[base]) // Backend.SIZE))


def unused_bases(change: Change) -> list[int]:
    """Sets of the port that no frontend points to."""
    used = {Frontend.unpack(value).base for value in change.port.frontends.values()}
    return [base for base in change.port.sets if base not in used]


def stale_frontends(change: Change) -> list[bytes]:
    """Frontends to delete; of a port that failed, those it was to gain."""
    present = change.port.frontends
    if change.undo:
        return [key for key, _ in change.inserts if key in present]
    if change.failed:
        return []
    kept = change.wanted.keys if change.wanted else ()
    return [key for key in present if key not in kept]


def stale_members(change: Change) -> list[bytes]:
    """Members to delete; of a port that failed, all once nothing of it is served, else none."""
    if change.failed:
        return [] if change.port.frontends else list(change.port.members)
    return change.stale_members


def stale_ranges(change: Change) -> list[bytes]:
    """Ranges to delete; of a port that failed, all once nothing of it is served, else none."""
    if change.failed:
        return [] if change.port.frontends else list(change.port.ranges)
    return change.stale_ranges
