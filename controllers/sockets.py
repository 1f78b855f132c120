"""Sockets that were given a backend: moved or ended when it leaves, forgotten when they are gone.

Only UDP is moved: its clients would go on sending to a backend that is no more (A43). TCP is never
touched (A40). What the programs keep of a socket stands in kp_sockets; which sockets there are,
the kernel tells, in one list for a round. Decides in pure functions, acts in `Sockets`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kpbpf import log
from kpbpf.address import Address
from kpbpf.datapath import cgroup, sockdiag
from kpbpf.datapath.kernel import now_ns
from kpbpf.datapath.netns import in_netns
from kpbpf.errors import Fix, KpbpfError
from kpbpf.home import Home
from maps import config
from maps.abi import MemberFlag, MemberKey, Socket, SocketKey, Way
from maps.table import Tables

YOUNG_NS = 10_000_000_000
"""A socket is in no list between its connect() and its first packet: so long it is not missed."""

Given = tuple[SocketKey, Socket]
"""An entry of kp_sockets."""

Serves = Callable[[int, Address, int], bool]
"""Whether Service port (id), address, port is an endpoint that still serves."""

_LOG = log.get(__name__)


class Connected(NamedTuple):
    """A UDP socket that was connected to this backend."""

    cookie: int
    backend: Address
    port: int


class Left(NamedTuple):
    """What is to be done about backends that left."""

    choose_anew: list[SocketKey]
    """Choices of unconnected sockets: forgotten, the next datagram makes another."""
    end: dict[int, dict[Connected, SocketKey]]
    """Sockets to be ended if they are still connected there, by network namespace."""


def left_behind(given: Iterable[Given], serves: Serves) -> Left:
    """Find the UDP sockets whose backend serves no more."""
    choose_anew: list[SocketKey] = []
    end: defaultdict[int, dict[Connected, SocketKey]] = defaultdict(dict)
    for key, value in given:
        if key.proto != sockdiag.UDP:
            continue
        if key.way == Way.TO_BACKEND:
            if not serves(value.service, value.addr, value.port):
                choose_anew.append(key)
        elif not serves(value.service, key.addr, key.port):
            end[value.netns][Connected(key.cookie, key.addr, key.port)] = key
    return Left(choose_anew, dict(end))


def closed(given: Iterable[Given], alive: Mapping[int, set[int]], now: int) -> list[SocketKey]:
    """Find entries of sockets that are no more; `alive` has the cookies of known namespaces."""
    return [
        key
        for key, value in given
        if value.netns in alive
        and key.cookie not in alive[value.netns]
        and now - value.last_used_ns > YOUNG_NS
    ]


class Sockets:
    """See the module's head. `work` and `sweep` may be called from two threads."""

    def __init__(self, home: Home, tables: Tables) -> None:
        self._home = home
        self._tables = tables
        self._udp_epoch = -1
        self._told: set[str] = set()

    # ---- programs ---------------------------------------------------------------------------

    def keep(self, programs: Mapping[str, Path], mode: str) -> None:
        """Have the socket programs attached as --socket-lb says, or say once why they are not.

        Again and again, because others may take them off. Without them, processes of the node
        reach Services by the programs on packets.
        """
        try:
            cgroup.attach(self._home, programs, mode)
        except Fix as error:
            self._say_once(str(error))

    def state(self) -> dict[str, Any]:
        """Tell how the programs are attached: see kpbpf.datapath.cgroup.state."""
        return cgroup.state(self._home)

    # ---- sockets ----------------------------------------------------------------------------

    def work(self) -> None:
        """Move or end the sockets of UDP backends that left, if any did since the last time."""
        epoch = config.read(self._tables).udp_epoch
        if epoch != self._udp_epoch:
            self._move(list(self._tables.sockets.items()))
            self._udp_epoch = epoch

    def sweep(self) -> int:
        """Forget the sockets that are gone, and return of how many entries.

        Also looks for backends that left while a socket was being connected to them.
        """
        given = list(self._tables.sockets.items())
        if not given:
            return 0
        self._move(given)
        alive: dict[int, set[int]] = {}
        for netns, path in self._reachable({value.netns for _, value in given}).items():
            protocols = {key.proto for key, value in given if value.netns == netns}
            with suppress(KpbpfError):
                alive[netns] = self._cookies(path, protocols)
        return self._forget(closed(given, alive, now_ns()))

    def _move(self, given: list[Given]) -> None:
        left = left_behind(given, self._serves())
        moved = self._forget(left.choose_anew)
        ended = 0
        for netns, path in self._reachable(set(left.end)).items():
            ended += self._end(path, left.end[netns])
        if moved or ended:
            _LOG.info("UDP backends left: %d choices forgotten, %d sockets ended", moved, ended)

    def _serves(self) -> Serves:
        @cache
        def serves(service: int, address: Address, port: int) -> bool:
            member = self._tables.members.get(MemberKey(address, service, port))
            return bool(member and member.flags & MemberFlag.SERVING)

        return serves

    def _forget(self, keys: list[SocketKey]) -> int:
        return self._tables.sockets.delete_many_raw(key.pack() for key in keys)

    # ---- the kernel's sockets -----------------------------------------------------------------

    def _reachable(self, wanted: set[int]) -> dict[int, Path | None]:
        """Find the way into network namespaces; None: this is the one we are in."""
        own = sockdiag.netns_cookie() if wanted else 0
        found: dict[int, Path | None] = {own: None} if own in wanted else {}
        others = wanted - {own}
        return {**found, **(sockdiag.find_namespaces(others) if others else {})}

    def _cookies(self, netns: Path | None, protocols: set[int]) -> set[int]:
        """List the sockets of a namespace; KpbpfError when that did not work."""
        try:
            with in_netns(netns) if netns else nullcontext():
                return {one.cookie for proto in protocols for one in sockdiag.sockets(proto)}
        except OSError as error:
            self._say_once(f"sockets that are gone are not forgotten: {error}")
            raise KpbpfError(str(error)) from error

    def _end(self, netns: Path | None, doomed: dict[Connected, SocketKey]) -> int:
        """End the sockets that are still connected to what left."""
        ended: list[SocketKey] = []
        try:
            with in_netns(netns) if netns else nullcontext():
                for one in list(sockdiag.sockets(sockdiag.UDP, sockdiag.CONNECTED)):
                    key = doomed.get(Connected(one.cookie, one.peer, one.peer_port))
                    if key and sockdiag.destroy(sockdiag.UDP, one):
                        ended.append(key)
        except (KpbpfError, OSError) as error:
            self._say_once(f"UDP sockets of backends that left are not ended: {error}")
        self._forget(ended)
        return len(ended)

    def _say_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            _LOG.warning("%s", message)
