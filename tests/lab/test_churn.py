"""A minute in which everything changes at once, under some 2,000 connections a second.

Endpoints, Services and node addresses change while a pod, a process of the node and a client
outside open connection after connection (load.py). Each knows who answered it and when, and the
test knows which endpoints a Service had at that time; so it can be said that no connection went
to an endpoint that was removed, that none failed, and that none got another's answer. Beside
them, long connections stay with endpoints that are ending or gone.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.agent import ROOT
from tests.lab.fleet import BALANCER, CLUSTER_IP, NODE_PORT, Fleet, FleetService
from tests.lab.load import Visit, read_visits
from tests.lab.manifests import Endpoint, Ports
from tests.lab.sockets import Connection
from tests.lab.world import FAMILIES, IPV4, IPV6

SECONDS = 60
RATES = {"client": 700, "node-1": 600, "outside": 700}
PORTS = Ports(target=9090, protocols=("TCP",))
SERVERS = ("a1", "a2", "b2", "a3", "node-2")
SERVICES = 8
CHANGE_SEC = 0.1
LEAST_CONNECTIONS = 5_000
"""Of each client, to have shown anything: a tenth of what is asked of the slowest."""


@dataclass
class Changing:
    """A Service whose endpoints change, and which it had when."""

    service: FleetService
    written: list[float] = field(default_factory=list)
    settled: list[float] = field(default_factory=list)
    names: list[set[str]] = field(default_factory=list)

    def put(self, fleet: Fleet, names: set[str]) -> None:
        """Give it these endpoints, and note when no node has the ones before any more."""
        self.names.append(names)
        self.written.append(time.monotonic())
        self.service.put(*fleet.places(*names))
        self.settled.append(time.monotonic())

    def allowed(self, visit: Visit) -> set[str]:
        """Who may have answered a connection of that time."""
        found: set[str] = set()
        until_when = [*self.settled[1:], float("inf")]
        for names, since, gone in zip(self.names, self.written, until_when, strict=True):
            if since <= visit.ended and visit.began <= gone:
                found |= names
        return found


@contextmanager
def load_server(fleet: Fleet) -> Iterator[None]:
    """Let load.py serve in the places of SERVERS, for the block."""
    places = [f"{place.name}={place.netns}" for place in fleet.places(*SERVERS)]
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.lab.load", "serve"]
    with subprocess.Popen(
        [*command, str(PORTS.target), *places], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


@contextmanager
def load_client(
    fleet: Fleet, name: str, targets: list[tuple[str, int]], path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Let load.py ask from a place; it ends by itself."""
    command = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={fleet.place(name).netns}"]
    command += [sys.executable, "-m", "tests.lab.load", "ask", str(path), str(RATES[name])]
    asked = [f"{address},{port}" for address, port in targets]
    with subprocess.Popen([*command, str(SECONDS), *asked], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def targets_of(fleet: Fleet, services: list[Changing]) -> list[tuple[Changing, tuple[str, int]]]:
    """Which doors a client goes to: all there are, at all nodes."""
    nodes = [fleet.nodes.nodes[number].node for number in fleet.kpbpfs]
    doors = [(CLUSTER_IP, None), (BALANCER, None), *((NODE_PORT, node) for node in nodes)]
    return [
        (changing, changing.service.at(kind, family, node))
        for changing in services
        for family in FAMILIES
        for kind, node in doors
    ]


def test_a_minute_of_changes_fails_no_connection(fleet: Fleet, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with ExitStack() as stack:
        stack.enter_context(load_server(fleet))
        services = [
            Changing(stack.enter_context(fleet.service(ports=PORTS))) for _ in range(SERVICES)
        ]
        for changing in services:
            changing.put(fleet, set(SERVERS))
        long = stack.enter_context(LongConnections(fleet))
        targets = targets_of(fleet, services)
        clients = [
            stack.enter_context(
                load_client(fleet, name, [at for _, at in targets], tmp_path / name)
            )
            for name in RATES
        ]
        change_all(fleet, services, long, dice, time.monotonic() + SECONDS)
        for client in clients:
            assert client.wait(30) == 0
        long.check()
    for name in RATES:
        visits = read_visits(tmp_path / name)
        faults = Counter(visit.fault.split(",")[0] for visit in visits if visit.fault)
        print(f"{name}: {len(visits) / SECONDS:.0f} connections/s, {dict(faults)}")
        assert not faults
        wrong = [v for v in visits if v.server not in targets[v.target][0].allowed(v)]
        assert not wrong, f"{name}: answered by endpoints that were gone: {wrong[:5]}"
        assert len(visits) > LEAST_CONNECTIONS


def change_all(
    fleet: Fleet,
    services: list[Changing],
    long: LongConnections,
    dice: random.Random,
    deadline: float,
) -> None:
    """Change endpoints again and again, in between a Service or a node's address."""
    passing = fleet.prepare(ports=PORTS)
    changes = 0
    with suppress_removal(fleet):
        while time.monotonic() < deadline:
            changes += 1
            names = set(dice.sample(SERVERS, dice.randrange(1, len(SERVERS) + 1)))
            dice.choice(services).put(fleet, names)
            if changes % 5 == 0:
                come_and_go(passing, fleet, changes // 5 % 2 == 1)
            if changes % 8 == 0:
                readdress(fleet, changes // 8 % 2 == 1)
            if changes % 10 == 0:
                long.check()
            time.sleep(CHANGE_SEC)
        passing.path.unlink(missing_ok=True)
    print(f"{changes} changes of endpoints")


def come_and_go(service: FleetService, fleet: Fleet, comes: bool) -> None:
    """Make the Service, or remove it again."""
    if comes:
        service.write([Endpoint(place) for place in fleet.places("a1", "a2")])
    else:
        service.path.unlink(missing_ok=True)


FURTHER = {IPV4: "192.168.7{}.9/24", IPV6: "fd7{}::9/64"}


def readdress(fleet: Fleet, add: bool) -> None:
    """Give each node a further address, in its Node object as well, or take it away."""
    for number, node in fleet.nodes.nodes.items():
        further = {family: text.format(number) for family, text in FURTHER.items()}
        if add:
            node.node.links(
                f"address add {further[IPV4]} dev uplink",
                f"address add {further[IPV6]} dev uplink nodad preferred_lft 0",
            )
        else:
            node.node.links(*(f"address del {one} dev uplink" for one in further.values()))
    second = fleet.nodes.nodes[3]
    if add:
        fleet.write_nodes(node_3=second.second)
    else:
        fleet.write_nodes()


@contextmanager
def suppress_removal(fleet: Fleet) -> Iterator[None]:
    """Leave the nodes with the addresses that they had."""
    try:
        yield
    finally:
        with suppress(RuntimeError):  # they have been taken away
            readdress(fleet, False)
        fleet.write_nodes()


class LongConnections:
    """Connections that go on while their endpoint ends, is gone, and their Service is deleted."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._stack = ExitStack()
        self._held: list[tuple[str, Connection, str]] = []

    def __enter__(self) -> LongConnections:
        fleet, stack = self._fleet, self._stack
        for backend in ("a1", "a2"):
            other = Endpoint(fleet.place("a3"))
            ending = [Endpoint(fleet.place(backend), False, True, True), other]
            for next_ones in (ending, [other], None):
                service = stack.enter_context(fleet.service(backend))
                for client in RATES:
                    for family in FAMILIES:
                        for kind in (CLUSTER_IP, NODE_PORT):
                            target = service.at(kind, family, fleet.place("node-1"))
                            held = stack.enter_context(Connection(fleet.place(client), *target))
                            assert held.who().server == backend
                            self._held.append((client, held, backend))
                if next_ones is None:
                    service.remove()
                else:
                    service.put(*next_ones)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Every one of them is answered by the endpoint that it has had from the start."""
        for client, held, backend in self._held:
            assert held.who().server == backend, client
