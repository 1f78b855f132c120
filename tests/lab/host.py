"""A node with the socket programs and no daemon: Services are put straight into the maps.

For tests of what a process of the node gets when it names a Service: Host is a World with two
pods that answer, a and b, and one that only asks, client. What the daemon would write of the node
and of Services is written by `configure` and `serve`; what the programs remember is read back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

from controllers.sockets import Sockets
from kpbpf import address
from kpbpf.datapath import cgroup, cgroup_root, sockdiag
from kpbpf.datapath.programs import ensure_programs
from kpbpf.home import Home
from maps import abi, config
from maps.abi import AddressFlag, ConfigFlag, FrontendFlag, Hook, MemberFlag, Verdict
from maps.layout import U32
from maps.table import open_tables
from tests.lab.agent import PATIENCE, PROTOCOLS
from tests.lab.sockets import Answer, Connection, serve
from tests.lab.world import FAMILIES, Place, World

TARGET = 8080
NODE_PORTS = (30000, 32767)
NODE_PORT = 30080
VIP = {4: "10.96.0.1", 6: "fd96::1"}
OTHER_VIP = {4: "10.96.0.2", 6: "fd96::2"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
UNSPECIFIED = {4: "0.0.0.0", 6: "::"}

_numbers = count(1)


class Host:
    """See the module's head. A context manager, with programs attached for the node's own."""

    def __init__(self, directory: Path) -> None:
        self.world = World()
        self.home = Home(self.world.pins, directory / "run")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.world)
            self.node, self.remote = self.world.node, self.world.remote
            self.client, self.a, self.b = map(self.world.add_pod, ("client", "a", "b"))
            for name, place in (("a", self.a), ("b", self.b)):
                for protocol in ("TCP", "UDP"):
                    stack.enter_context(serve(place, TARGET, protocol, name))
            self.tables = stack.enter_context(open_tables(self.home, create=True))
            self.pins = ensure_programs(self.home)
            with self.node.inside():
                self.cookie = sockdiag.netns_cookie()
            stack.callback(cgroup.detach, self.home)
            self.reset()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ---- what the daemon would write --------------------------------------------------------

    def reset(self) -> None:
        """Have the programs attached, no Service, and the configuration of --socket-lb=host."""
        for table in self.tables.by_name.values():
            if not table.spec.kind.is_array:
                table.delete_many_raw([key for key, _ in table.items_raw()])
        self.sockets = Sockets(self.home, self.tables)
        self.configure()
        self.node_address(*self.node.addresses.values())
        cgroup.attach(self.home, self.pins, "host")

    def configure(self, *more: ConfigFlag, without: int = 0, **changes: Any) -> None:
        """Write the configuration: that of --socket-lb=host, with other flags and fields."""
        flags = ConfigFlag.READY | ConfigFlag.SOCKET_HOST | ConfigFlag.LOCALHOST_NODE_PORTS
        for flag in more:
            flags |= flag
        fields = {
            "flags": flags & ~without,
            "node4": address.from_text(self.node.addresses[4]),
            "node6": address.from_text(self.node.addresses[6]),
            "node_netns": self.cookie,
            "node_port_first": NODE_PORTS[0],
            "node_port_last": NODE_PORTS[1],
        }
        config.write(self.tables, config.default_config()._replace(**{**fields, **changes}))

    def node_address(self, *texts: str, flags: int = AddressFlag.NODE_PORT) -> None:
        """Serve NodePorts at these addresses, or with flags 0 do not."""
        for text in texts:
            key = abi.AddressKey(address.from_text(text))
            self.tables.addresses.put(key, abi.Address(AddressFlag.NODE | flags))

    def serve(
        self,
        front: str,
        backends: Sequence[Place],
        *,
        port: int = 80,
        target: int = TARGET,
        protocol: str = "TCP",
        local: Sequence[Place] = (),
        affinity_sec: int = 0,
        flags: int = 0,
        service: int = 0,
    ) -> int:
        """Write a Service port, or what became of it (`service`), and return its number."""
        number, base = service or next(_numbers), next(_numbers)
        family = 6 if ":" in front else 4
        ends = [address.from_text(place.addresses[family]) for place in (*backends, *local)]
        for slot, end in enumerate(ends):
            self.tables.backends.put(abi.BackendKey(base, slot), abi.Backend(end, target, 0))
        self._members(number, target, set(ends[: len(backends)]), set(ends[len(backends) :]))
        key = abi.FrontendKey(address.from_text(front), port, PROTOCOLS[protocol])
        counts = (len(backends), len(local))
        self.tables.frontends.put(key, abi.Frontend(number, base, *counts, affinity_sec, flags))
        return number

    def _members(self, service: int, target: int, cluster: set[bytes], local: set[bytes]) -> None:
        for key, _ in list(self.tables.members.items()):
            if key.service == service:
                self.tables.members.delete(key)
        for end in cluster | local:
            flags = MemberFlag.SERVING
            flags |= MemberFlag.CLUSTER if end in cluster else 0
            flags |= MemberFlag.LOCAL if end in local else 0
            self.tables.members.put(abi.MemberKey(end, service, target), abi.Member(flags))

    def node_port(self, backends: Sequence[Place], port: int, **more: Any) -> None:
        """Write a NodePort of both families."""
        for family in FAMILIES:
            self.serve(
                UNSPECIFIED[family], backends, port=port, flags=FrontendFlag.EXTERNAL, **more
            )

    def whole_address(self, front: str) -> None:
        """Have all the other ports of a cluster IP refused."""
        key = abi.FrontendKey(address.from_text(front), 0, 0)
        value = abi.Frontend(next(_numbers), 0, 0, 0, 0, FrontendFlag.WHOLE_ADDRESS)
        self.tables.frontends.put(key, value)

    def allow(self, service: int, block: str, bits: int) -> None:
        """Add a source range: `bits` of the 16-byte form of an address."""
        key = abi.RangeKey(32 + bits, service, address.from_text(block))
        self.tables.ranges.put(key, U32(1))

    def backends_left(self) -> None:
        """What the daemon does after UDP backends left."""
        with self.node.inside():
            config.raise_epoch(self.tables, udp=True)
            self.sockets.work()

    # ---- what the programs tell ---------------------------------------------------------------

    def counted(self, verdict: Verdict) -> int:
        """How many calls have ended with this verdict."""
        slot = U32(Hook.SOCKET * abi.VERDICTS + verdict)
        found = self.tables.counters.sum(slot)
        return found.packets if found else 0

    def given(self) -> list[tuple[abi.SocketKey, abi.Socket]]:
        """What the programs remember of sockets."""
        return list(self.tables.sockets.items())

    def dropped(self) -> set[tuple[str, int, Verdict]]:
        """Destination, port and verdict of what was refused to processes."""
        return {
            (address.to_text(key.dst), key.dst_port, Verdict(key.verdict))
            for key, _ in self.tables.drops.items()
            if key.hook == Hook.SOCKET
        }


# ---- clients --------------------------------------------------------------------------------


class Udp:
    """A UDP socket in a place. Waits for an answer, or says that there was none."""

    def __init__(self, place: Place, family: int) -> None:
        self.sock = place.socket(family, socket.SOCK_DGRAM)
        self.sock.settimeout(2)

    def __enter__(self) -> Udp:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, host: str, port: int = 80, payload: bytes = b"x") -> tuple[str, tuple[str, int]]:
        """Send a datagram there; return who answered, and from which address that came."""
        self.sock.sendto(payload, (host, port))
        return self.hear(payload)

    def ask_peer(self, payload: bytes = b"x") -> tuple[str, tuple[str, int]]:
        """Send a datagram to the peer that it is connected to."""
        self.sock.send(payload)
        return self.hear(payload)

    def hear(self, payload: bytes) -> tuple[str, tuple[str, int]]:
        """Receive an answer that repeats the payload."""
        data, source = self.sock.recvfrom(2048)
        greeting, _, echoed = data.partition(b"\n")
        assert echoed == payload
        return greeting.decode().split()[0], source[:2]


def ask_tcp(place: Place, host: str, port: int = 80) -> tuple[Answer, tuple[str, int]]:
    """Connect; return who answered, and the peer that the socket shows."""
    with Connection(place, host, port) as connection:
        return connection.who(), connection.sock.getpeername()[:2]


def reach(place: Place, front: str, port: int = 80) -> str:
    """Who answers by TCP, or what went wrong."""
    try:
        return ask_tcp(place, front, port)[0].server
    except OSError as error:
        return type(error).__name__


def silent(place: Place, front: str) -> bool:
    """Whether nobody answers by TCP there: nothing is said for a while, or there is no way."""
    try:
        with Connection(place, front, 80, timeout_sec=0.5 * PATIENCE):
            return False
    except ConnectionRefusedError:
        return False
    except OSError:
        return True


# ---- cgroups --------------------------------------------------------------------------------


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup of the test's own, which this process is in for the length of the block.

    Sockets that are made meanwhile belong to it, those of other processes do not: for programs
    that would have a say about all of the machine's namespaces.
    """
    with cgroup_root.opened() as root:
        top = Path(root.path)
    remove_cgroups(top)
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (before,) = (line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    fresh = top / f"kpt-{os.getpid()}-{next(_numbers)}"
    fresh.mkdir()
    try:
        _enter(fresh)
        yield fresh
    finally:
        _enter(top / before)
        fresh.rmdir()


def _enter(directory: Path) -> None:
    (directory / "cgroup.procs").write_text(f"{os.getpid()}\n")


def remove_cgroups(top: Path) -> None:
    """Remove what killed test runs left."""
    for left in top.glob("kpt-*-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            left.rmdir()
