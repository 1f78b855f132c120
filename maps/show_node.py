"""Rows about the node itself, read from the tables: uplinks, addresses, masquerade, sockets.

As in maps/show.py: plain values, only reading, and what this version does not know stays visible.
"""

from collections import Counter
from collections.abc import Callable
from typing import TypedDict

from kpbpf.address import ZERO, mac_text, to_text, with_port
from maps import abi, config
from maps.abi import AddressFlag, ConfigFlag, DeviceFlag, FlowFlag, NameKind, RangeScope, Way
from maps.layout import short_bits
from maps.show import SECOND_NS, interface_name, protocol
from maps.table import Tables

_ADDRESS_BITS, _SCOPE_BITS = 128, 32
_IPV4_BITS = 96
"""Of a prefix length, those that are the same in all IPv4 addresses."""


class UplinkRow(TypedDict):
    """One entry of kp_devices; `name` is None once the interface is gone."""

    name: str | None
    ifindex: int
    kind: str
    """"ethernet", or "ip" where packets have no Ethernet header."""
    mac: str | None
    masquerade: list[str]
    """What a backend that is reached this way sees as its client: one for each family."""


class AddressRow(TypedDict):
    """One address of this node."""

    address: str
    node: bool
    node_ports: bool
    """Whether NodePorts are served there."""


class ConfigRow(TypedDict):
    """What the programs are told, but for epochs and time-outs."""

    flags: list[str]
    socket_lb: str
    """"off", "host" (processes of the node), "all" (those of pods as well)."""
    detect_local: str
    """How a pod of this node is told from others: "off", "interface", "range"."""
    node_addresses: list[str]
    hairpin_addresses: list[str]
    uplink: str | None
    uplink_ifindex: int
    node_ports: list[int]
    """First and last in use; empty: there are none."""
    masquerade_ports: list[int]
    refusals_per_sec: int
    pod_ranges: list[str]
    service_ranges: list[str]


class MasqueradeRow(TypedDict):
    """Source ports of one address of the node that one backend holds."""

    address: str
    protocol: str
    backend: str
    used: int
    limit: int
    percent: float


class SocketRow(TypedDict):
    """A backend that a socket of a process was given when it connected or sent."""

    protocol: str
    destination: str
    backend: str
    service: str
    cookie: int
    netns: int
    """Cookie of its network namespace."""
    idle_sec: int


def uplinks(
    tables: Tables, interface: Callable[[int], str | None] | None = None
) -> list[UplinkRow]:
    """One row for each uplink, by name; `interface` names an index otherwise than the kernel."""
    interface = interface or interface_name
    found = []
    for ifindex, device in tables.devices.items():
        raw = bool(device.flags & DeviceFlag.NO_ETHERNET)
        found.append(
            UplinkRow(
                name=interface(ifindex),
                ifindex=ifindex,
                kind="ip" if raw else "ethernet",
                mac=None if raw else mac_text(device.mac),
                masquerade=_set(device.masquerade4, device.masquerade6),
            )
        )
    return sorted(found, key=lambda row: (row["name"] or "", row["ifindex"]))


def addresses(tables: Tables) -> list[AddressRow]:
    """One row for each address, IPv4 first, those that serve NodePorts before the others."""
    found = [
        (
            key.addr,
            AddressRow(
                address=to_text(key.addr),
                node=bool(value.flags & AddressFlag.NODE),
                node_ports=bool(value.flags & AddressFlag.NODE_PORT),
            ),
        )
        for key, value in tables.addresses.items()
    ]
    return [row for _, row in sorted(found, key=lambda one: (not one[1]["node_ports"], one[0]))]


def configuration(
    tables: Tables, interface: Callable[[int], str | None] | None = None
) -> ConfigRow:
    """The one entry of kp_configs in words, with the ranges that belong to it."""
    interface = interface or interface_name
    found = config.read(tables)
    flags = found.flags
    return ConfigRow(
        flags=short_bits(ConfigFlag, flags),
        socket_lb=_first(flags, (ConfigFlag.SOCKET_PODS, "all"), (ConfigFlag.SOCKET_HOST, "host")),
        detect_local=_first(
            # By range is a way of telling apart: without DETECT_LOCAL nobody is told apart.
            flags if flags & ConfigFlag.DETECT_LOCAL else 0,
            (ConfigFlag.DETECT_BY_RANGE, "range"),
            (ConfigFlag.DETECT_LOCAL, "interface"),
        ),
        node_addresses=_set(found.node4, found.node6),
        hairpin_addresses=_set(found.hairpin4, found.hairpin6),
        uplink=interface(found.uplink_ifindex) if found.uplink_ifindex else None,
        uplink_ifindex=found.uplink_ifindex,
        node_ports=[found.node_port_first, found.node_port_last] if found.node_port_first else [],
        masquerade_ports=[found.masquerade_first, found.masquerade_last],
        refusals_per_sec=found.refusals_per_sec,
        pod_ranges=_ranges(tables, RangeScope.RANGE_PODS),
        service_ranges=_ranges(tables, RangeScope.RANGE_SERVICES),
    )


def source_ranges(tables: Tables, service: int) -> list[str]:
    """The loadBalancerSourceRanges of a Service port, by its id: "10.0.0.0/8"."""
    return _ranges(tables, service)


def _ranges(tables: Tables, scope: int) -> list[str]:
    found = [
        (key.addr, key.prefix - _SCOPE_BITS)
        for key, _ in tables.ranges.items()
        if key.scope == scope
    ]
    return [_block(addr, prefix) for addr, prefix in sorted(found)]


def _block(addr: bytes, prefix: int) -> str:
    text = to_text(addr)
    return f"{text}/{prefix}" if ":" in text else f"{text}/{prefix - _IPV4_BITS}"


def _set(*found: bytes) -> list[str]:
    return [to_text(address) for address in found if address != ZERO]


def _first(flags: int, *words: tuple[int, str]) -> str:
    """The word of the first bit that is set."""
    return next((word for bit, word in words if flags & bit), "off")


# ---- masquerade -------------------------------------------------------------------------

_FLOW_FLAGS_AT = 28
"""Offset in a packed Flow; tests compare it with the layout."""

_MASQUERADED = int(FlowFlag.MASQUERADED)
_SECOND_RECORD = int(FlowFlag.ALIAS | FlowFlag.TRANSIT)


def masquerade(tables: Tables, most: int | None = None) -> list[MasqueradeRow]:
    """Which backends hold the most source ports, the fullest first; `most` rows at most.

    There may be 262,144 flows: only those that are masqueraded are looked at closer.
    """
    found = config.read(tables)
    limit = max(0, found.masquerade_last - found.masquerade_first + 1)
    used: Counter[tuple[bytes, int, bytes, int]] = Counter()
    size, step = abi.FlowKey.SIZE, abi.Flow.SIZE // 2
    for keys, values in tables.flows.blocks_raw():
        flags = values.cast("B").cast("H")[_FLOW_FLAGS_AT // 2 :: step].tolist()
        for number, flag in enumerate(flags):
            if flag & _MASQUERADED and not flag & _SECOND_RECORD:
                key = abi.FlowKey.unpack(keys[number * size : (number + 1) * size])
                low, high = (key.low, key.low_port), (key.high, key.high_port)
                node, backend = (high, low) if flag & FlowFlag.CLIENT_IS_HIGH else (low, high)
                used[node[0], key.proto, *backend] += 1
    return [
        MasqueradeRow(
            address=to_text(node),
            protocol=protocol(proto),
            backend=with_port(backend, port),
            used=number,
            limit=limit,
            percent=round(100 * number / limit, 1) if limit else 100.0,
        )
        for (node, proto, backend, port), number in used.most_common(most)
    ]


# ---- sockets ----------------------------------------------------------------------------


def sockets(tables: Tables, now_ns: int) -> list[SocketRow]:
    """One row for each socket, destination and backend, by Service.

    Most stand in the table for the way back alone; those of unconnected sockets in both directions.
    """
    names = {
        key.id: name.text for key, name in tables.names.items() if key.kind == NameKind.SERVICE
    }
    found: dict[tuple[int, int, bytes, int, bytes, int], abi.Socket] = {}
    for key, value in tables.sockets.items():
        service, backend = (value.addr, value.port), (key.addr, key.port)
        if key.way == Way.TO_BACKEND:
            service, backend = backend, service
        place = (key.cookie, key.proto, *service, *backend)
        other = found.get(place)
        if other is None or other.last_used_ns < value.last_used_ns:
            found[place] = value
    rows = [
        SocketRow(
            protocol=protocol(proto),
            destination=with_port(addr, port),
            backend=with_port(backend, backend_port),
            service=names.get(value.service, f"service {value.service}"),
            cookie=cookie,
            netns=value.netns,
            idle_sec=max(0, now_ns - value.last_used_ns) // SECOND_NS,
        )
        for (cookie, proto, addr, port, backend, backend_port), value in found.items()
    ]
    return sorted(rows, key=lambda row: (row["service"], row["destination"], row["cookie"]))
