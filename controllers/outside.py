"""What programs must know of this node and its surroundings, and writing it: only differences.

A pure function from settings, Node and uplinks to the entries of kp_addresses, kp_devices, two
scopes of kp_ranges, and most fields of the configuration; no interface is touched here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from kpbpf.address import ZERO, Address, from_text, is_ipv4, lies_in
from kpbpf.datapath.snapshot import Snapshot
from kpbpf.datapath.uplinks import Choice, served
from kpbpf.errors import MapFull
from kpbpf.model.objects import Block, Node
from kpbpf.settings import NodePortAddresses, Settings
from maps import abi, config
from maps.abi import AddressFlag, AddressKey, ConfigFlag, Device, DeviceFlag, RangeKey, RangeScope
from maps.layout import U32, Record
from maps.table import Table, Tables

_OWN_FLAGS = (
    ConfigFlag.MASQUERADE_ALL
    | ConfigFlag.DETECT_LOCAL
    | ConfigFlag.DETECT_BY_RANGE
    | ConfigFlag.SOCKET_HOST
    | ConfigFlag.SOCKET_PODS
    | ConfigFlag.LOCALHOST_NODE_PORTS
    | ConfigFlag.SERVICE_RANGES
)
"""Of the configuration's flags, those that are written here."""

_OWN_SCOPES = (RangeScope.RANGE_PODS, RangeScope.RANGE_SERVICES)

_SOCKET_FLAGS = {
    "off": ConfigFlag(0),
    "host": ConfigFlag.SOCKET_HOST,
    "all": ConfigFlag.SOCKET_HOST | ConfigFlag.SOCKET_PODS,
}
K = TypeVar("K", bound=Record)
V = TypeVar("V")
_LOCALHOST = from_text("127.0.0.1")


class Outside(NamedTuple):
    """What should be there; of kp_ranges and flags only what is our own."""

    addresses: dict[AddressKey, abi.Address]
    devices: dict[U32, Device]
    ranges: dict[RangeKey, U32]
    flags: ConfigFlag
    node4: Address
    node6: Address
    node_netns: int
    uplink_ifindex: int
    masquerade_ports: tuple[int, int]


def follows(
    settings: Settings,
    node: Node | None,
    seen: Snapshot,
    choice: Choice,
    service_blocks: Collection[Block],
    netns: int,
) -> Outside:
    """What should be written; `node` is None where there is no API, or it is not known yet."""
    local = served(seen)
    node4, node6 = (_primary(ipv4, node, local, choice) for ipv4 in (True, False))
    detect, pods = detection(settings, node)
    flags = detect | _SOCKET_FLAGS[settings.socket_lb]
    if settings.masquerade_all:
        flags |= ConfigFlag.MASQUERADE_ALL
    if settings.localhost_node_ports and _serves(settings.node_port_addresses, _LOCALHOST, ()):
        flags |= ConfigFlag.LOCALHOST_NODE_PORTS
    if service_blocks:
        flags |= ConfigFlag.SERVICE_RANGES
    ranges = _ranges(RangeScope.RANGE_PODS, pods)
    return Outside(
        addresses=_addresses(settings.node_port_addresses, local, (node4, node6)),
        devices=_devices(choice),
        ranges=ranges | _ranges(RangeScope.RANGE_SERVICES, service_blocks),
        flags=flags,
        node4=node4,
        node6=node6,
        node_netns=netns,
        uplink_ifindex=choice.first,
        masquerade_ports=settings.masquerade_ports,
    )


# ---- parts ----------------------------------------------------------------------------------


def detection(settings: Settings, node: Node | None) -> tuple[ConfigFlag, tuple[Block, ...]]:
    """How local pods are told apart, and the ranges that does it (A42).

    By the modes that name interfaces, and while the Node has no podCIDRs yet, as by none: a
    pod of this node is what our program of pods is attached to, which is what they try to guess.
    ClusterCIDR without a CIDR is kube-proxy's way to tell nobody apart.
    """
    asked = settings.detect_local
    blocks = tuple(Block(base, prefix) for base, prefix in asked.blocks)
    if asked.mode == "NodeCIDR":
        blocks = _first_of_each_family(node.pod_cidrs if node else ())
    if blocks:
        return ConfigFlag.DETECT_LOCAL | ConfigFlag.DETECT_BY_RANGE, blocks
    by_nothing = asked.mode == "ClusterCIDR"
    return ConfigFlag(0) if by_nothing else ConfigFlag.DETECT_LOCAL, ()


def _first_of_each_family(blocks: Iterable[Block]) -> tuple[Block, ...]:
    first: dict[bool, Block] = {}
    for block in blocks:
        first.setdefault(is_ipv4(block.base), block)
    return tuple(first.values())


def _primary(ipv4: bool, node: Node | None, local: Collection[Address], choice: Choice) -> Address:
    """The address of a family that stands for this node; ZERO: it has none."""
    for one in node.addresses if node else ():
        if one in local and is_ipv4(one) is ipv4:
            return one
    uplinks = sorted(choice.uplinks, key=lambda uplink: uplink.ifindex != choice.first)
    found = (uplink.masquerade4 if ipv4 else uplink.masquerade6 for uplink in uplinks)
    return next((one for one in found if one != ZERO), ZERO)


def _addresses(
    asked: NodePortAddresses, local: Iterable[Address], primaries: Collection[Address]
) -> dict[AddressKey, abi.Address]:
    node, both = AddressFlag.NODE, AddressFlag.NODE | AddressFlag.NODE_PORT
    return {
        AddressKey(one): abi.Address(both if _serves(asked, one, primaries) else node)
        for one in local
    }


def _serves(asked: NodePortAddresses, one: Address, primaries: Collection[Address]) -> bool:
    """Whether NodePorts are served at an address (A32)."""
    if not asked.primary and not asked.blocks:
        return True
    within = any(lies_in(one, base, prefix) for base, prefix in asked.blocks)
    return within or (asked.primary and one in primaries)


def _devices(choice: Choice) -> dict[U32, Device]:
    return {
        U32(one.ifindex): Device(
            masquerade4=one.masquerade4,
            masquerade6=one.masquerade6,
            flags=DeviceFlag(0) if one.ethernet else DeviceFlag.NO_ETHERNET,
            mac=one.mac,
        )
        for one in choice.uplinks
    }


def _ranges(scope: RangeScope, blocks: Iterable[Block]) -> dict[RangeKey, U32]:
    found = {}
    for base, prefix in blocks:
        host_bits = 128 - prefix
        cleared = int.from_bytes(base, "big") >> host_bits << host_bits
        found[RangeKey(32 + prefix, scope, cleared.to_bytes(16, "big"))] = U32(1)
    return found


# ---- writing --------------------------------------------------------------------------------


class Writer:
    """Writes what is wanted over what is there. The caller holds the writer's lock."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._ranges: dict[RangeKey, U32] | None = None
        """As written; read once, since other scopes may have many thousand."""

    def add(self, wanted: Outside) -> int:
        """Write what is missing or different, before programs need it; how many entries.

        MapFull comes after everything else was written.
        """
        tables = self._tables
        written = self._configure(wanted)
        full: MapFull | None = None
        puts: tuple[Callable[[], int], ...] = (
            lambda: _put(tables.devices, wanted.devices),
            lambda: _put(tables.addresses, wanted.addresses),
            lambda: self._put_ranges(wanted.ranges),
        )
        for put in puts:
            try:
                written += put()
            except MapFull as error:
                full = error
        if full is not None:
            raise full
        return written

    def take_away(self, wanted: Outside) -> int:
        """Delete what is there too much, after programs have gone; how many entries."""
        tables, ranges = self._tables, self._present_ranges()
        deleted = _delete(tables.devices, wanted.devices)
        deleted += _delete(tables.addresses, wanted.addresses)
        deleted += _delete(tables.ranges, wanted.ranges, ranges)
        self._ranges = {key: ranges[key] for key in ranges.keys() & wanted.ranges.keys()}
        return deleted

    def service_blocks(self) -> tuple[Block, ...]:
        """The blocks of cluster IPs that are there."""
        scope = RangeScope.RANGE_SERVICES
        found = (key for key in self._present_ranges() if key.scope == scope)
        return tuple(Block(key.addr, key.prefix - 32) for key in found)

    def _put_ranges(self, wanted: Mapping[RangeKey, U32]) -> int:
        ranges = self._present_ranges()
        self._ranges = None  # unless all goes well
        written = _put(self._tables.ranges, wanted, ranges)
        self._ranges = ranges | dict(wanted)
        return written

    def _configure(self, wanted: Outside) -> int:
        before = config.read(self._tables)
        after = before._replace(
            flags=before.flags & ~_OWN_FLAGS | wanted.flags,
            node4=wanted.node4,
            node6=wanted.node6,
            node_netns=wanted.node_netns,
            uplink_ifindex=wanted.uplink_ifindex,
            masquerade_first=wanted.masquerade_ports[0],
            masquerade_last=wanted.masquerade_ports[1],
        )
        if after == before:
            return 0
        config.write(self._tables, after)
        return 1

    def _present_ranges(self) -> dict[RangeKey, U32]:
        if self._ranges is None:
            self._ranges = {
                key: value for key, value in self._tables.ranges.items() if key.scope in _OWN_SCOPES
            }
        return self._ranges


def _put(table: Table[K, V], wanted: Mapping[K, V], present: Mapping[K, V] | None = None) -> int:
    there = dict(table.items()) if present is None else present
    changed = [(key, value) for key, value in wanted.items() if there.get(key) != value]
    for key, value in changed:
        table.put(key, value)
    return len(changed)


def _delete(table: Table[K, V], wanted: Collection[K], present: Collection[K] | None = None) -> int:
    there = {key for key, _ in table.items()} if present is None else set(present)
    return sum(table.delete(key) for key in there - set(wanted))
