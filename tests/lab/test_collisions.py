"""Connections that would look the same somewhere: each still gets its own answers.

Masquerade gives several clients one address, and what goes by a Service meets what goes straight
to its endpoint. Where the kernel's connection tracking would give one of them another source
port, so must kpbpf; an ended connection stands in nobody's way.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from tests.lab.fleet import CLUSTER_IP, NODE_PORT, Fleet
from tests.lab.manifests import USUAL_PORTS
from tests.lab.world import Place

KIND = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
TIMES = 3


def free_port() -> int:
    """A source port for masquerade that no test before has used, but for one in many."""
    return random.randrange(10_240, 30_000)


@contextmanager
def speaking(
    place: Place, family: int, protocol: str, port: int, target: tuple[str, int]
) -> Iterator[socket.socket]:
    """A connection, or connected datagrams, from this very port."""
    with closing(place.socket(family, KIND[protocol])) as sock:
        sock.settimeout(3)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        sock.connect(target)
        yield sock


def say(sock: socket.socket, what: str) -> tuple[str, str]:
    """Say something; return who answered, and which client it saw. Datagrams come back whole."""
    datagram = sock.type == socket.SOCK_DGRAM
    sock.send(what.encode() if datagram else b"who\n")
    line, _, back = sock.recv(2000).partition(b"\n")
    assert not datagram or back.decode() == what
    server, client, _ = line.decode().split()
    return server, client


def test_two_clients_with_the_same_port_are_not_mixed(
    fleet: Fleet, family: int, protocol: str
) -> None:
    node, port = fleet.place("node-1"), free_port()
    with fleet.service("a2") as service, ExitStack() as stack:
        target = service.at(NODE_PORT, family, node)
        socks = [
            stack.enter_context(speaking(fleet.place(name), family, protocol, port, target))
            for name in ("outside", "stranger", "client")
        ]
        for _ in range(TIMES):
            for number, sock in enumerate(socks):
                assert say(sock, f"{number}") == ("a2", node.addresses[family])


def test_the_nodes_own_connection_is_not_taken_for_a_masqueraded_one(
    fleet: Fleet, family: int, protocol: str
) -> None:
    node, port = fleet.place("node-1"), free_port()
    straight = (fleet.place("a2").addresses[family], USUAL_PORTS.target)
    with (
        fleet.service("a2") as service,
        speaking(
            fleet.place("outside"), family, protocol, port, service.at(NODE_PORT, family, node)
        ) as masqueraded,
    ):
        assert say(masqueraded, "first") == ("a2", node.addresses[family])
        with speaking(node, family, protocol, port, straight) as own:
            for number in range(TIMES):
                assert say(own, f"own {number}") == ("a2", node.addresses[family])
                assert say(masqueraded, f"masqueraded {number}") == ("a2", node.addresses[family])


def test_the_node_may_use_the_port_of_a_masqueraded_connection_that_has_ended(
    fleet: Fleet, family: int, protocol: str
) -> None:
    node, port = fleet.place("node-1"), free_port()
    straight = (fleet.place("a2").addresses[family], USUAL_PORTS.target)
    with fleet.service("a2") as service:
        target = service.at(NODE_PORT, family, node)
        with speaking(fleet.place("outside"), family, protocol, port, target) as masqueraded:
            assert say(masqueraded, "first") == ("a2", node.addresses[family])
        with speaking(node, family, protocol, port, straight) as own:
            assert say(own, "own") == ("a2", node.addresses[family])


def test_straight_to_an_endpoint_beside_a_connection_by_its_nodes_port(
    fleet: Fleet, family: int, protocol: str
) -> None:
    """The endpoint is on the network of its node, which keeps the client's address."""
    client, far, port = fleet.place("client"), fleet.place("node-2"), free_port()
    seen = ("node-2", client.addresses[family])
    with fleet.service("node-2") as service:
        by_node_port = service.at(NODE_PORT, family, far)
        for target in (
            (far.addresses[family], USUAL_PORTS.target),
            service.at(CLUSTER_IP, family),  # which node-1 translates, so that node-2 sees the same
        ):
            port += 1
            with speaking(client, family, protocol, port, by_node_port) as translated:
                assert say(translated, "first") == seen
                with speaking(client, family, protocol, port, target) as straight:
                    for number in range(TIMES):
                        assert say(straight, f"straight {number}") == seen
                        assert say(translated, f"translated {number}") == seen


def test_straight_to_an_endpoint_after_a_connection_by_its_nodes_port(
    fleet: Fleet, family: int, protocol: str
) -> None:
    client, far = fleet.place("client"), fleet.place("node-2")
    for backend, pod in (("node-2", far), ("a2", fleet.place("a2"))):
        seen, port = (backend, client.addresses[family]), free_port()
        with fleet.service(backend) as service:
            by_node_port = service.at(NODE_PORT, family, far)
            with speaking(client, family, protocol, port, by_node_port) as translated:
                assert say(translated, "first") == seen
            straight = (pod.addresses[family], USUAL_PORTS.target)
            with speaking(client, family, protocol, port, straight) as sock:
                assert say(sock, "straight") == seen
