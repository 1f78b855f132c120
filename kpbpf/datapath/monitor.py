"""What changes on this node's network, as the kernel tells it: links, addresses, routes, filters.

A thread listens and notes; it wakes the loop with a coarse reason, and `take` hands out what was
noted since. A tcx program that is removed sends no message: that is polled (`attached`).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple, Self

from cachetools import LRUCache

from kpbpf import log
from kpbpf.address import Address
from kpbpf.datapath import netlink
from kpbpf.datapath.interfaces import host_route_in, neighbour_in

_LOG = log.get(__name__)

_GROUPS = (1, 3, 4, 5, 7, 9, 11)
"""RTNLGRP_LINK, NEIGH, TC, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE."""

_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_REMEMBERED = 8192
"""Neighbours whose MAC is remembered, so that only another one is news."""

LINKS, NEIGHBOURS, ROUTES, FILTERS = "links", "neighbours", "routes", "filters"
ADDRESSES, EVERYTHING = "addresses", "everything"

Wake = Callable[[frozenset[str]], None]
"""Told of the reasons, in the monitor's thread."""


class News(NamedTuple):
    """What changed; nothing of it is told twice."""

    links: frozenset[int] = frozenset()
    """Interfaces that came, went or changed."""
    addresses: frozenset[Address] = frozenset()
    """Have another MAC address, or another route of their own."""
    routes: bool = False
    """Wider routes."""
    default_routes: bool = False
    own_addresses: bool = False
    """This node's own, of any interface."""
    filters: frozenset[int] = frozenset()
    """Interfaces where a tc filter or qdisc came or went; ours included."""
    everything: bool = False
    """Messages were lost: anything may have changed."""


class Monitor:
    """Listens in the network namespace of the thread that makes it; start and close it once."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._news = _Notes()
        self._macs: LRUCache[tuple[int, Address], bytes] = LRUCache(_REMEMBERED)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind((0, sum(1 << (group - 1) for group in _GROUPS)))
        self._ended = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._listen, name="netlink", daemon=True)

    def start(self) -> Self:
        """Begin to listen. What changed since the monitor was made is told too."""
        self._thread.start()
        return self

    def take(self) -> News:
        """What changed since the last call; from any thread."""
        with self._lock:
            notes, self._news = self._news, _Notes()
        return notes.sealed()

    def close(self) -> None:
        """End the thread, and close."""
        os.eventfd_write(self._ended, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()
        os.close(self._ended)

    # ---- the thread ---------------------------------------------------------------------

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._ended in ready:
                return
            reasons = self._receive()
            if reasons:
                self._wake(frozenset(reasons))

    def _receive(self) -> set[str]:
        """Note all that waits to be read; say what kinds of news there were."""
        reasons: set[str] = set()
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return reasons
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                _LOG.info("the kernel had more news than we could read: looking at everything")
                reasons.add(EVERYTHING)
                with self._lock:
                    self._news.everything = True
                continue
            with self._lock:
                for kind, _, _, body in netlink.split(data):
                    reason = self._note(kind, body)
                    if reason:
                        reasons.add(reason)

    def _note(self, kind: int, body: bytes) -> str | None:
        if kind in (netlink.NEWLINK, netlink.DELLINK):
            family, _, index, _, _ = struct.unpack_from(netlink.LINK, body)
            if family != socket.AF_UNSPEC:
                return None  # a bridge's port, or settings of one family
            self._news.links.add(index)
            return LINKS
        if kind in (netlink.NEWQDISC, netlink.DELQDISC, netlink.NEWTFILTER, netlink.DELTFILTER):
            self._news.filters.add(struct.unpack_from(netlink.TC, body)[1])
            return FILTERS
        if kind in (netlink.NEWROUTE, netlink.DELROUTE):
            address = host_route_in(netlink.message(kind, body))
            if address:
                self._news.addresses.add(address)
            else:
                self._news.routes = True
                self._news.default_routes |= body[1] == 0  # the length of the prefix
            return ROUTES
        if kind in (netlink.NEWADDR, netlink.DELADDR):
            self._news.own_addresses = True
            return ADDRESSES
        if kind in (netlink.NEWNEIGH, netlink.DELNEIGH):
            return self._note_neighbour(kind, body)
        return None

    def _note_neighbour(self, kind: int, body: bytes) -> str | None:
        """Most messages only say that a neighbour was heard again, or not: no news."""
        seen = neighbour_in(netlink.message(kind, body))
        if seen is None:
            return None
        index, address, mac = seen
        if mac is None or kind == netlink.DELNEIGH:
            self._macs.pop((index, address), None)
            return None
        if self._macs.get((index, address)) == mac:
            return None
        self._macs[index, address] = mac
        self._news.addresses.add(address)
        return NEIGHBOURS


class _Notes:
    """News while they are being gathered."""

    def __init__(self) -> None:
        self.links: set[int] = set()
        self.addresses: set[Address] = set()
        self.routes = False
        self.default_routes = False
        self.own_addresses = False
        self.filters: set[int] = set()
        self.everything = False

    def sealed(self) -> News:
        return News(
            frozenset(self.links),
            frozenset(self.addresses),
            self.routes,
            self.default_routes,
            self.own_addresses,
            frozenset(self.filters),
            self.everything,
        )
