"""What the kernel knows of this node's interfaces: one question, one request.

Routes, neighbours, bridge ports, and the far ends of veth pairs, which are looked at by the
number that our namespace has for theirs: no path to it, no entering, no process. Decides
nothing about pods.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from kpbpf.address import MAPPED, Address, is_ipv4
from kpbpf.datapath import netlink
from kpbpf.datapath.netlink import Message, Netlink
from kpbpf.errors import LinkGone

REFUSING, UNICAST, LOCAL = 0, 1, 2
"""Kinds of route (RTN_); all others refuse."""

_REFUSED = (errno.EINVAL, errno.EHOSTUNREACH, errno.EACCES)
"""What a blackhole, an unreachable and a prohibiting route say."""

_FIB_MATCH = 0x2000
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER = 1, 3, 5, 10
_IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID, _IFLA_TARGET_NETNSID = 18, 29, 37, 46
_INFO_KIND = 1
_SKIP_STATISTICS = struct.pack("=I", 1 << 3)
_IFA_ADDRESS, _IFA_LOCAL, _IFA_TARGET_NETNSID = 1, 2, 10
_SCOPE_GLOBAL = 0
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 1, 4, 5, 9, 18
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_NTF_USE = 0x1
_PROBE, _PERMANENT = 0x10, 0x80
_KNOWN = 0x02 | 0x04 | 0x08 | _PROBE | 0x40 | _PERMANENT
"""States of a neighbour (NUD_) in which its MAC is used."""


class Interface(NamedTuple):
    """An interface of this network namespace."""

    ifindex: int
    name: str
    kind: str
    """"veth", "bridge", "ipvlan", ...; "" for hardware."""
    mac: bytes
    bridge: int
    """Index of the bridge whose port it is, or 0."""
    peer: int
    """Index of a veth's other end, in the namespace that it is in."""
    namespace: int | None
    """Our number for that namespace; None: it is ours."""


class Route(NamedTuple):
    """The route that a packet to an address would take."""

    kind: int
    """UNICAST, LOCAL, or one that refuses."""
    ifindex: int
    """0 when there are several ways, or none."""
    prefix: int
    """Length of the prefix that matched."""
    gateway: bool
    host: bool
    """Whether it is the route of this one address."""


class FarEnd(NamedTuple):
    """The other end of a veth pair, in its own namespace; addresses of global scope."""

    mac: bytes
    addresses: frozenset[Address]


class Interfaces:
    """The interfaces of the calling thread's network namespace. OSError where asking fails."""

    def __init__(self) -> None:
        self._netlink = Netlink()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def interface(self, index: int) -> Interface:
        """Return an interface; LinkGone when there is none of this index."""
        try:
            found = self._link(index, {})
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise LinkGone(index) from None
            raise
        return _interface(found)

    def every(self) -> list[Interface]:
        """List all interfaces; some 10 µs each."""
        fixed = struct.pack(netlink.LINK, 0, 0, 0, 0, 0)
        attributes = {_IFLA_EXT_MASK: _SKIP_STATISTICS}
        return [
            _interface(found)
            for found in self._netlink.ask(netlink.GETLINK, fixed, attributes, dump=True)
        ]

    def _link(self, index: int, attributes: dict[int, bytes]) -> Message:
        fixed = struct.pack(netlink.LINK, 0, 0, index, 0, 0)
        attributes = {_IFLA_EXT_MASK: _SKIP_STATISTICS, **attributes}
        return self._netlink.ask(netlink.GETLINK, fixed, attributes)[0]

    def far_end(self, veth: Interface) -> FarEnd | None:
        """Look at a veth's other end; None where it is gone, ours, or not to be looked at."""
        if veth.namespace is None or not veth.peer:
            return None
        namespace = struct.pack("=i", veth.namespace)
        try:
            far = self._link(veth.peer, {_IFLA_TARGET_NETNSID: namespace})
            fixed = struct.pack(netlink.ADDRESS, 0, 0, 0, 0, veth.peer)
            attributes = {_IFA_TARGET_NETNSID: namespace}
            listed = self._netlink.ask(netlink.GETADDR, fixed, attributes, dump=True)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL, errno.EPERM, errno.EACCES):
                return None
            raise
        addresses = (
            _address(found.attributes.get(_IFA_LOCAL) or found.attributes[_IFA_ADDRESS])
            for found in listed
            if found.fixed[3] == _SCOPE_GLOBAL
        )
        return FarEnd(far.attributes[_IFLA_ADDRESS], frozenset(addresses))

    def route(self, address: Address) -> Route | None:
        """Look up a route, as for a packet of this node's own; None when none leads there."""
        family, raw = _raw(address)
        bits = len(raw) * 8
        fixed = struct.pack(netlink.ROUTE, family, bits, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
        try:
            found = self._netlink.ask(netlink.GETROUTE, fixed, {_RTA_DST: raw})[0]
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                return None
            if error.errno in _REFUSED:
                return Route(REFUSING, 0, 0, gateway=False, host=False)
            raise
        _, prefix, _, _, _, _, _, kind, _ = struct.unpack(netlink.ROUTE, found.fixed)
        several = _RTA_MULTIPATH in found.attributes
        return Route(
            kind=kind,
            ifindex=0 if several else found.number(_RTA_OIF) or 0,
            prefix=prefix,
            gateway=bool({_RTA_GATEWAY, _RTA_VIA} & found.attributes.keys()),
            host=prefix == bits,
        )

    # ---- neighbours ---------------------------------------------------------------------

    def neighbour(self, address: Address, ifindex: int) -> bytes | None:
        """The MAC address that the kernel uses for a neighbour; None when it knows none."""
        family, raw = _raw(address)
        fixed = struct.pack(netlink.NEIGHBOUR, family, ifindex, 0, 0, 0)
        try:
            found = self._netlink.ask(netlink.GETNEIGH, fixed, {_NDA_DST: raw})[0]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return None
            raise
        return _mac(found)

    def neighbours(self) -> dict[tuple[int, Address], bytes]:
        """All neighbours with a known MAC address, by interface and address."""
        fixed = struct.pack(netlink.NEIGHBOUR, 0, 0, 0, 0, 0)
        known = {}
        for found in self._netlink.ask(netlink.GETNEIGH, fixed, {}, dump=True):
            seen = neighbour_in(found)
            if seen and seen[2]:
                known[seen[0], seen[1]] = seen[2]
        return known

    def resolve(self, address: Address, ifindex: int) -> None:
        """Have the kernel find out a neighbour's MAC address; the answer comes a moment later."""
        self._put_neighbour(address, ifindex, 0, _NTF_USE, {})

    def confirm(self, address: Address, ifindex: int, mac: bytes) -> None:
        """Have the kernel ask a neighbour again now, which a bridge on the way learns from."""
        self._put_neighbour(address, ifindex, _PROBE, 0, {_NDA_LLADDR: mac})

    def _put_neighbour(
        self, address: Address, ifindex: int, state: int, flags: int, more: dict[int, bytes]
    ) -> None:
        family, raw = _raw(address)
        fixed = struct.pack(netlink.NEIGHBOUR, family, ifindex, state, flags, 0)
        attributes = {_NDA_DST: raw, **more}
        how = netlink.CREATE | netlink.REPLACE
        try:
            self._netlink.ask(netlink.NEWNEIGH, fixed, attributes, flags=how)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise LinkGone(ifindex) from None
            raise

    def port(self, mac: bytes, bridge: int) -> int | None:
        """Index of the bridge's port behind which a MAC address is; None when not learned."""
        fixed = struct.pack(netlink.NEIGHBOUR, socket.AF_BRIDGE, 0, 0, 0, 0)
        attributes = {_NDA_LLADDR: mac, _NDA_MASTER: struct.pack("=I", bridge)}
        try:
            entries = self._netlink.ask(netlink.GETNEIGH, fixed, attributes)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            # It may be known in a VLAN of the bridge only, whose number we do not know.
            del attributes[_NDA_LLADDR]
            entries = self._netlink.ask(netlink.GETNEIGH, fixed, attributes, dump=True)
        for entry in entries:
            _, index, state, _, _ = struct.unpack(netlink.NEIGHBOUR, entry.fixed)
            learned = entry.attributes.get(_NDA_LLADDR) == mac and not state & _PERMANENT
            if learned and index != bridge:
                return int(index)
        return None


def neighbour_in(found: Message) -> tuple[int, Address, bytes | None] | None:
    """Read a neighbour message as (interface, address, MAC); None when it is of a bridge."""
    family, index, _, _, _ = struct.unpack(netlink.NEIGHBOUR, found.fixed)
    raw = found.attributes.get(_NDA_DST)
    if family not in (socket.AF_INET, socket.AF_INET6) or not raw:
        return None
    return index, _address(raw), _mac(found)


def host_route_in(found: Message) -> Address | None:
    """Read the one address that a route message is about; None when it is about more."""
    length, raw = found.fixed[1], found.attributes.get(_RTA_DST)
    return _address(raw) if raw and length == len(raw) * 8 else None


def _interface(found: Message) -> Interface:
    index: int = struct.unpack(netlink.LINK, found.fixed)[2]
    nested = netlink.attributes_in(found.attributes.get(_IFLA_LINKINFO, b""))
    namespace = found.attributes.get(_IFLA_LINK_NETNSID)
    return Interface(
        ifindex=index,
        name=_text(found.attributes.get(_IFLA_IFNAME, b"")),
        kind=_text(nested.get(_INFO_KIND, b"")),
        mac=found.attributes.get(_IFLA_ADDRESS, b""),
        bridge=found.number(_IFLA_MASTER) or 0,
        peer=found.number(_IFLA_LINK) or 0,
        namespace=struct.unpack("=i", namespace)[0] if namespace else None,
    )


def _mac(found: Message) -> bytes | None:
    state: int = struct.unpack(netlink.NEIGHBOUR, found.fixed)[2]
    mac = found.attributes.get(_NDA_LLADDR, b"")
    return mac if state & _KNOWN and len(mac) == 6 else None


def _raw(address: Address) -> tuple[int, bytes]:
    return (socket.AF_INET, address[12:]) if is_ipv4(address) else (socket.AF_INET6, address)


def _address(raw: bytes) -> Address:
    return MAPPED + raw if len(raw) == 4 else raw


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
