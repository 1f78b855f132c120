"""This node's network at one moment: its links, its own addresses, its default routes.

Listing links is what costs, some 50 µs each: only those that changed are asked for again. Says
what the kernel says; what follows from it is for `uplinks`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

from kpbpf import address
from kpbpf.datapath import netlink
from kpbpf.datapath.netlink import Message, Netlink

UP, LOOPBACK = 0x1, 0x8
"""Flags of a link (IFF_)."""

ETHERNET = 1
"""Type of a link (ARPHRD_)."""

SECONDARY, DADFAILED, DEPRECATED, TENTATIVE = 0x1, 0x8, 0x20, 0x40
"""Flags of an address (IFA_F_); of IPv6, the first means a temporary one."""

GLOBAL_SCOPE = 0

_UNICAST = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK = 1, 3, 10, 18, 29
_INFO_KIND = 1
_SKIP_STATISTICS = struct.pack("=I", 1 << 3)
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_OIF, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 4, 6, 9, 15
_NEXT_HOP = struct.Struct("=HBBi")
_SO_NETNS_COOKIE = 71


class Link(NamedTuple):
    """An interface of this network namespace."""

    ifindex: int
    name: str
    kind: str = ""
    """"veth", "bridge", "vxlan", ...; "" for hardware."""
    type: int = ETHERNET
    """What its frames are (ARPHRD_)."""
    flags: int = UP
    mac: bytes = bytes(6)
    master: int = 0
    """Index of the bridge, bond or VRF that it is part of, or 0."""


class LocalAddress(NamedTuple):
    """An address of this node, of either family."""

    ifindex: int
    address: address.Address
    prefix: int
    """Length of its network's prefix, 0 to 128; IPv4 from 96."""
    scope: int = GLOBAL_SCOPE
    flags: int = 0


class DefaultRoute(NamedTuple):
    """One way of a default route, of whatever table."""

    ifindex: int
    is_ipv4: bool
    table: int = 254
    """254 is the main one."""
    metric: int = 0


class Snapshot(NamedTuple):
    """All of it; addresses of an interface in the order in which they were added."""

    links: tuple[Link, ...] = ()
    addresses: tuple[LocalAddress, ...] = ()
    routes: tuple[DefaultRoute, ...] = ()


class Network:
    """Looks at the network namespace of the thread that makes it. OSError where asking fails."""

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._links: dict[int, Link] = {}
        self.netns = _netns_cookie()
        """The cookie of the network namespace, as programs see it; 0 before Linux 5.14."""

    def look(self, changed: Collection[int] | None = None) -> Snapshot:
        """Look now. `changed` are the links that came, went or changed since; None: any may."""
        if changed is None:
            self._links = {link.ifindex: link for link in map(_link, self._ask_links())}
        for index in changed or ():
            self._look_again(index)
        every = struct.pack(netlink.ADDRESS, 0, 0, 0, 0, 0)
        addresses = self._netlink.ask(netlink.GETADDR, every, {}, dump=True)
        routes: list[DefaultRoute] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            every = struct.pack(netlink.ROUTE, family, 0, 0, 0, 0, 0, 0, 0, 0)
            for found in self._netlink.ask(netlink.GETROUTE, every, {}, dump=True):
                routes += _default_routes(found)
        return Snapshot(
            tuple(self._links.values()),
            tuple(one for found in addresses for one in _addresses(found)),
            tuple(routes),
        )

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def _look_again(self, index: int) -> None:
        try:
            self._links[index] = _link(self._ask_links(index)[0])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            self._links.pop(index, None)

    def _ask_links(self, index: int = 0) -> list[Message]:
        """Ask for one link, or for all."""
        fixed = struct.pack(netlink.LINK, 0, 0, index, 0, 0)
        attributes = {_IFLA_EXT_MASK: _SKIP_STATISTICS}
        return self._netlink.ask(netlink.GETLINK, fixed, attributes, dump=not index)


def _netns_cookie() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int(struct.unpack("=Q", cookie)[0])


def _link(found: Message) -> Link:
    _, type_, index, flags, _ = struct.unpack(netlink.LINK, found.fixed)
    nested = netlink.attributes_in(found.attributes.get(_IFLA_LINKINFO, b""))
    return Link(
        ifindex=index,
        name=_text(found.attributes.get(_IFLA_IFNAME, b"")),
        kind=_text(nested.get(_INFO_KIND, b"")),
        type=type_,
        flags=flags,
        mac=found.attributes.get(_IFLA_ADDRESS, b""),
        master=found.number(_IFLA_MASTER) or 0,
    )


def _addresses(found: Message) -> Iterator[LocalAddress]:
    family, prefix, flags, scope, index = struct.unpack(netlink.ADDRESS, found.fixed)
    # Of a point-to-point link, IFA_ADDRESS is the other end's.
    raw = found.attributes.get(_IFA_LOCAL) or found.attributes.get(_IFA_ADDRESS)
    if not raw or family not in (socket.AF_INET, socket.AF_INET6):
        return
    if family == socket.AF_INET:
        raw, prefix = address.MAPPED + raw, prefix + 96
    whole = found.number(_IFA_FLAGS)
    yield LocalAddress(index, raw, prefix, scope, flags if whole is None else whole)


def _default_routes(found: Message) -> Iterator[DefaultRoute]:
    family, length, _, _, table, _, _, kind, _ = struct.unpack(netlink.ROUTE, found.fixed)
    if length or kind != _UNICAST:
        return
    table = found.number(_RTA_TABLE) or table
    metric = found.number(_RTA_PRIORITY) or 0
    ways = _ways(found.attributes.get(_RTA_MULTIPATH, b""))
    for index in [found.number(_RTA_OIF), *ways]:
        if index:
            yield DefaultRoute(index, family == socket.AF_INET, table, metric)


def _ways(data: bytes) -> Iterator[int]:
    """Interfaces of a route that has several ways."""
    at = 0
    while at + _NEXT_HOP.size <= len(data):
        length, _, _, index = _NEXT_HOP.unpack_from(data, at)
        if length < _NEXT_HOP.size:
            return
        yield index
        at += (length + 3) & ~3


def _text(data: bytes) -> str:
    return os.fsdecode(data.rstrip(b"\0"))
