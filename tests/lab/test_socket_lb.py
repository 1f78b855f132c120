"""Processes of the node name a Service and get a backend: real sockets, and who answered.

All of it without a daemon and without a program on packets: what answers here was reached by the
address that the socket programs gave.
"""

from __future__ import annotations

import errno
import socket

import pytest

from kpbpf import address
from maps import abi
from maps.abi import ConfigFlag, FrontendFlag, Verdict
from tests.lab.host import LOOPBACK, NODE_PORT, VIP, Host, Udp, ask_tcp


def mapped(text: str) -> str:
    return f"::ffff:{text}"


# ---- addresses of every kind ----------------------------------------------------------------


def test_tcp_to_a_cluster_ip_reaches_the_backend_and_shows_the_service(
    host: Host, family: int
) -> None:
    host.serve(VIP[family], [host.a])
    answer, peer = ask_tcp(host.node, VIP[family])
    assert answer.server == "a"
    assert peer == (VIP[family], 80)
    assert host.counted(Verdict.PASS_TO_BACKEND) > 0


def test_connected_udp_reaches_the_backend_and_shows_the_service(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp:
        udp.sock.connect((VIP[family], 80))
        assert udp.sock.getpeername()[:2] == (VIP[family], 80)
        assert udp.ask_peer(b"one") == ("a", (VIP[family], 80))


def test_unconnected_udp_reaches_the_backend_and_hears_the_service(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp:
        assert udp.ask(VIP[family]) == ("a", (VIP[family], 80))


def test_an_ipv6_socket_reaches_an_ipv4_service(host: Host) -> None:
    host.serve(VIP[4], [host.a])
    host.serve(VIP[4], [host.b], protocol="UDP")
    answer, peer = ask_tcp(host.node, mapped(VIP[4]))
    assert (answer.server, peer) == ("a", (mapped(VIP[4]), 80))
    with Udp(host.node, 6) as udp:
        assert udp.ask(mapped(VIP[4])) == ("b", (mapped(VIP[4]), 80))
        udp.sock.connect((mapped(VIP[4]), 80))
        assert udp.sock.getpeername()[:2] == (mapped(VIP[4]), 80)
        for _ in range(2):
            assert udp.ask_peer() == ("b", (mapped(VIP[4]), 80))


def test_what_is_no_service_is_left_alone(host: Host, family: int, protocol: str) -> None:
    direct = host.a.addresses[family]
    if protocol == "TCP":
        answer, peer = ask_tcp(host.node, direct, 8080)
        assert (answer.server, peer) == ("a", (direct, 8080))
    else:
        with Udp(host.node, family) as udp:
            assert udp.ask(direct, 8080) == ("a", (direct, 8080))
    assert not host.given()


def test_every_backend_has_its_turn(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a, host.b])
    assert {ask_tcp(host.node, VIP[family])[0].server for _ in range(40)} == {"a", "b"}


def test_external_addresses_have_the_endpoints_of_the_whole_cluster(
    host: Host, family: int
) -> None:
    """A28: the node itself goes past externalTrafficPolicy Local."""
    front = {4: "192.0.2.1", 6: "fd02::1"}[family]
    flags = FrontendFlag.EXTERNAL | FrontendFlag.EXTERNAL_LOCAL | FrontendFlag.LOCAL_ONLY
    host.serve(front, [host.a], local=[host.b], flags=flags)
    assert {ask_tcp(host.node, front)[0].server for _ in range(12)} == {"a"}


def test_internal_traffic_policy_local_has_those_of_this_node(host: Host, family: int) -> None:
    """A26."""
    host.serve(VIP[family], [host.a], local=[host.b], flags=FrontendFlag.LOCAL_ONLY)
    assert {ask_tcp(host.node, VIP[family])[0].server for _ in range(12)} == {"b"}


def test_without_an_endpoint_here_the_address_is_left_to_the_programs_on_packets(
    host: Host, family: int
) -> None:
    """A20: they drop it."""
    host.serve(VIP[family], [host.a], flags=FrontendFlag.LOCAL_ONLY)
    before = host.counted(Verdict.PASS_UNTRACKED)
    with Udp(host.node, family) as udp:
        udp.sock.connect((VIP[family], 80))
    with host.node.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        assert sock.connect_ex((VIP[family], 80)) == errno.EINPROGRESS
    assert host.counted(Verdict.PASS_UNTRACKED) == before + 1


# ---- NodePorts ------------------------------------------------------------------------------


def test_a_node_port_is_served_at_the_nodes_address(host: Host, family: int, protocol: str) -> None:
    host.node_port([host.a], NODE_PORT, protocol=protocol)
    front = host.node.addresses[family]
    if protocol == "TCP":
        answer, peer = ask_tcp(host.node, front, NODE_PORT)
        assert (answer.server, peer) == ("a", (front, NODE_PORT))
    else:
        with Udp(host.node, family) as udp:
            assert udp.ask(front, NODE_PORT) == ("a", (front, NODE_PORT))


@pytest.mark.parametrize("front", ["127.0.0.1", "127.1.2.3", "0.0.0.0"])
def test_a_node_port_is_served_at_ipv4_loopback(host: Host, front: str) -> None:
    """A33. The kernel takes 0.0.0.0 for 127.0.0.1."""
    host.node_port([host.a], NODE_PORT)
    answer, peer = ask_tcp(host.node, front, NODE_PORT)
    assert (answer.server, peer) == ("a", (front, NODE_PORT))


@pytest.mark.parametrize("front", ["::1", "::"])
def test_a_node_port_is_never_served_at_ipv6_loopback(host: Host, front: str) -> None:
    """A33."""
    host.node_port([host.a], NODE_PORT)
    with pytest.raises(ConnectionRefusedError):
        ask_tcp(host.node, front, NODE_PORT)


def test_node_ports_at_loopback_can_be_switched_off(host: Host) -> None:
    host.node_port([host.a], NODE_PORT)
    host.configure(without=ConfigFlag.LOCALHOST_NODE_PORTS)
    with pytest.raises(ConnectionRefusedError):
        ask_tcp(host.node, LOOPBACK[4], NODE_PORT)
    assert ask_tcp(host.node, host.node.addresses[4], NODE_PORT)[0].server == "a"


def test_node_ports_are_not_served_at_other_addresses_of_the_node(host: Host, family: int) -> None:
    """A32."""
    host.node_port([host.a], NODE_PORT)
    host.node_address(host.node.addresses[family], flags=0)
    with pytest.raises(ConnectionRefusedError):
        ask_tcp(host.node, host.node.addresses[family], NODE_PORT)


# ---- refusals -------------------------------------------------------------------------------


def test_a_service_without_endpoints_refuses_at_once(host: Host, family: int) -> None:
    """A19."""
    for protocol in ("TCP", "UDP"):
        host.serve(VIP[family], [], protocol=protocol)
    with pytest.raises(ConnectionRefusedError):
        ask_tcp(host.node, VIP[family])
    with Udp(host.node, family) as udp:
        with pytest.raises(ConnectionRefusedError):
            udp.sock.sendto(b"x", (VIP[family], 80))
        with pytest.raises(ConnectionRefusedError):
            udp.sock.connect((VIP[family], 80))
    assert host.dropped() == {(VIP[family], 80, Verdict.DROP_NO_BACKEND)}


def test_a_port_that_the_service_has_not_refuses_at_once(host: Host, family: int) -> None:
    """A22."""
    host.serve(VIP[family], [host.a])
    host.whole_address(VIP[family])
    with pytest.raises(ConnectionRefusedError):
        ask_tcp(host.node, VIP[family], 81)
    with Udp(host.node, family) as udp, pytest.raises(ConnectionRefusedError):
        udp.sock.sendto(b"x", (VIP[family], 80))
    assert {verdict for *_, verdict in host.dropped()} == {Verdict.DROP_UNKNOWN_PORT}
    assert ask_tcp(host.node, VIP[family])[0].server == "a"


def test_source_ranges_judge_the_node_by_its_address(host: Host, family: int) -> None:
    """A23, A30: and by the Service's own, bound to the node, where the node is in range."""
    front, own = {4: ("192.0.2.1", "192.168.50.1"), 6: ("fd02::1", "fd50::1")}[family]
    flags = FrontendFlag.EXTERNAL | FrontendFlag.SOURCE_RANGES
    service = host.serve(front, [host.a], flags=flags)
    host.allow(service, "192.168.99.0", 120)
    host.allow(service, "fd99::", 64)
    with pytest.raises(PermissionError):
        ask_tcp(host.node, front)
    assert host.dropped() == {(front, 80, Verdict.DROP_SOURCE_RANGE)}
    host.allow(service, own, 128)
    assert ask_tcp(host.node, front)[0].server == "a"


def test_source_ranges_judge_a_socket_by_the_address_it_is_bound_to(host: Host) -> None:
    flags = FrontendFlag.EXTERNAL | FrontendFlag.SOURCE_RANGES
    service = host.serve("192.0.2.1", [host.a], protocol="UDP", flags=flags)
    host.allow(service, "127.0.0.9", 128)
    with host.node.socket(4, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.9", 0))
        assert sock.connect_ex(("192.0.2.1", 80)) != errno.EPERM
    with host.node.socket(4, socket.SOCK_DGRAM) as sock:
        assert sock.connect_ex(("192.0.2.1", 80)) == errno.EPERM


# ---- affinity -------------------------------------------------------------------------------


def test_affinity_keeps_the_nodes_backend_while_it_is_in_the_set(host: Host, family: int) -> None:
    """A34: the node's address is the client."""
    service = host.serve(VIP[family], [host.a, host.b], affinity_sec=60)
    kept = {ask_tcp(host.node, VIP[family])[0].server for _ in range(12)}
    assert len(kept) == 1
    ((key, _),) = host.tables.affinities.items()
    client = address.from_text(host.node.addresses[family])
    assert (key.client, key.service) == (client, service)
    other, name = (host.b, "b") if kept == {"a"} else (host.a, "a")
    host.serve(VIP[family], [other], affinity_sec=60, service=service)
    assert {ask_tcp(host.node, VIP[family])[0].server for _ in range(4)} == {name}


def test_affinity_is_shared_with_the_programs_on_packets(host: Host, family: int) -> None:
    service = host.serve(VIP[family], [host.a, host.b], affinity_sec=60)
    key = abi.AffinityKey(address.from_text(host.node.addresses[family]), service)
    backend = address.from_text(host.b.addresses[family])
    host.tables.affinities.put(key, abi.Affinity((1 << 63) - 1, backend, 8080))
    assert {ask_tcp(host.node, VIP[family])[0].server for _ in range(12)} == {"b"}
