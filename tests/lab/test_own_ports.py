"""A source port of the node that two would have: a masqueraded connection, and somebody else.

The kernel gives ports to the node's processes, and to what others masquerade, without asking us.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.lab.lab import Lab
from tests.lab.manifests import Ports
from tests.lab.sockets import Answer, Connection, Datagrams
from tests.lab.world import Place

PORTS = Ports(node_port=30090)
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}


@pytest.fixture
def address(lab: Lab, family: int) -> Iterator[str]:
    """The node's, where a NodePort leads to the place outside."""
    with lab.service(lab.remote, ports=PORTS, type="NodePort"):
        yield lab.world.node.addresses[family]


def _asks(client: Connection | Datagrams) -> Answer:
    return client.who() if isinstance(client, Connection) else client.ask(b"who\n")


def _own_socket(node: Place, family: int, protocol: str, port: int) -> socket.socket:
    made = node.socket(family, KINDS[protocol])
    made.bind((node.addresses[family], port))
    return made


def test_a_process_with_the_port_of_a_masqueraded_connection_is_not_mixed_up_with_it(
    lab: Lab, family: int, protocol: str, address: str
) -> None:
    node = lab.world.node
    with ExitStack() as stack:
        client: Connection | Datagrams
        if protocol == "TCP":
            client = stack.enter_context(Connection(lab.client, address, PORTS.node_port))
        else:
            client = stack.enter_context(Datagrams(lab.client, address, PORTS.node_port))
        seen = _asks(client)
        assert (seen.server, seen.client) == ("remote", node.addresses[family])
        own = stack.enter_context(closing(_own_socket(node, family, protocol, seen.client_port)))
        own.connect((lab.remote.addresses[family], PORTS.target))
        for _ in range(3):
            own.sendall(b"who\n")
            assert own.recv(1000).split()[:2] == [b"remote", node.addresses[family].encode()]
            assert _asks(client) == seen


def test_a_connection_that_is_masqueraded_leaves_a_process_its_port(
    lab: Lab, family: int, protocol: str, address: str
) -> None:
    node = lab.world.node
    with ExitStack() as stack:
        own = stack.enter_context(closing(_own_socket(node, family, protocol, 0)))
        own.connect((lab.remote.addresses[family], PORTS.target))
        port = own.getsockname()[1]
        sock = stack.enter_context(closing(lab.client.socket(family, KINDS[protocol])))
        sock.bind((lab.client.addresses[family], port))
        sock.connect((address, PORTS.node_port))
        for _ in range(3):
            sock.sendall(b"who\n")
            server, client, seen_port = sock.recv(1000).split(b"\n")[0].split()
            assert (server, client) == (b"remote", node.addresses[family].encode())
            assert int(seen_port) != port
            own.sendall(b"who\n")
            assert own.recv(1000).split(b"\n")[0].split()[2] == str(port).encode()
