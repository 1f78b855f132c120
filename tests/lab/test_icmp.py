"""ICMP errors about translated packets reach the socket that they are meant for."""

from __future__ import annotations

import socket

import pytest

from tests.lab.agent import until
from tests.lab.lab import Lab
from tests.lab.sockets import Connection, Datagrams, digest, pattern
from tests.lab.world import NARROW_MTU, POD_MTU

# Linux numbers that the socket module does not name: ask for the path MTU, set path MTU
# discovery, hop limit, and have ICMP errors reported.
LEVEL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}
PATH_MTU = {4: 14, 6: 24}
MTU_DISCOVER = {4: 10, 6: 23}
DISCOVER_DO = 2
HOPS = {4: socket.IP_TTL, 6: socket.IPV6_UNICAST_HOPS}
RECVERR = {4: 11, 6: 25}
UDP_OVERHEAD = {4: 28, 6: 48}


def path_mtu(sock: socket.socket, family: int) -> int:
    """The path MTU that the kernel holds for a connected socket."""
    return sock.getsockopt(LEVEL[family], PATH_MTU[family])


def test_a_tcp_transfer_through_a_service_learns_the_path_mtu_and_completes(
    lab: Lab, family: int
) -> None:
    payload = pattern(2_000_000)
    with (
        lab.service(lab.narrow) as service,
        Connection(lab.client, service.addresses[family], service.port) as connection,
    ):
        assert path_mtu(connection.sock, family) == POD_MTU
        assert connection.take(payload) == digest(payload)
        assert path_mtu(connection.sock, family) == NARROW_MTU


def test_a_udp_client_of_a_service_learns_the_path_mtu(lab: Lab, family: int) -> None:
    fitting = pattern(NARROW_MTU - UDP_OVERHEAD[family])
    with (
        lab.service(lab.narrow) as service,
        Datagrams(lab.client, service.addresses[family], service.port) as client,
    ):
        client.sock.setsockopt(LEVEL[family], MTU_DISCOVER[family], DISCOVER_DO)
        with pytest.raises(OSError, match="Message too long"):
            client.ask(fitting + b"x")
        assert path_mtu(client.sock, family) == NARROW_MTU
        assert client.ask(fitting).payload == fitting


def test_a_large_datagram_over_a_narrow_path_arrives_after_the_path_mtu_is_known(
    lab: Lab, family: int
) -> None:
    payload = pattern(6000)
    with (
        lab.service(lab.narrow) as service,
        Datagrams(lab.client, service.addresses[family], service.port) as client,
    ):
        client.sock.setsockopt(LEVEL[family], MTU_DISCOVER[family], DISCOVER_DO)
        with pytest.raises(OSError, match="Message too long"):
            client.ask(pattern(POD_MTU - UDP_OVERHEAD[family]))
        client.sock.setsockopt(LEVEL[family], MTU_DISCOVER[family], 1)
        assert client.ask(payload).payload == payload


def test_port_unreachable_from_a_backend_refuses_the_client(lab: Lab, family: int) -> None:
    for silent in (lab.client, lab.world.router):  # both have no server on the target port
        with (
            lab.service(silent) as service,
            Datagrams(lab.a, service.addresses[family], service.port) as client,
            pytest.raises(ConnectionRefusedError),
        ):
            client.ask()


def test_a_packet_whose_hops_are_spent_is_reported_to_the_client(lab: Lab, family: int) -> None:
    for hops in (1, 2):  # spent on the node, spent at the router
        with (
            lab.service(lab.remote) as service,
            Datagrams(lab.client, service.addresses[family], service.port) as client,
        ):
            client.sock.setsockopt(LEVEL[family], RECVERR[family], 1)
            client.sock.setsockopt(LEVEL[family], HOPS[family], hops)
            with pytest.raises(OSError, match="No route to host"):
                client.ask()


def test_a_spoofed_source_is_dropped_and_told(lab: Lab, family: int) -> None:
    transparent = {4: 19, 6: 75}[family]
    with lab.client.socket(family, socket.SOCK_DGRAM) as liar:
        liar.setsockopt(LEVEL[family], transparent, 1)
        liar.bind((lab.b.addresses[family], 0))
        liar.sendto(b"from b, honestly", (lab.a.addresses[family], 8080))

    def told() -> bool:
        lines = lab.kpbpf.ask("drop", "ls").splitlines()
        return any("spoofed_source" in x and lab.b.addresses[family] in x for x in lines)

    until(told, "drop ls tells of the spoofed source")
