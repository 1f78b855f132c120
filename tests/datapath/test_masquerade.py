"""Masquerade: no two live connections look the same to a backend, and none like the node's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from scapy.packet import Packet

from kpbpf import address
from maps import abi
from maps.abi import ConfigFlag, FlowFlag, FrontendFlag, State, Step
from maps.layout import U32
from tests.datapath.node import TIMEOUTS, Node
from tests.datapath.packets import End, Net, Talk
from tests.datapath.wire import FIRST, SECOND, Wire, frontend, node_address

FEW = (40000, 40003)
"""Source ports: four of them."""


@pytest.fixture
def talk(wire: Wire, net: Net, proto: str) -> Talk:
    """A client outside and a NodePort whose backend is elsewhere."""
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.remote, 8080)], proto, flags=flags)
    return net.talk(proto, End(net.outside, 40000), front)


def opened(wire: Wire, talk: Talk, opening: Packet | None = None) -> Talk:
    """Open a connection; return it as its backend sees it."""
    result = wire.receives(opening or talk.opening())
    assert result.verdict == "to_backend", result
    packet = result.packet
    seen = talk.to(packet.dst, packet.dport).seen_as(packet.src, packet.sport)
    assert packet.src == node_address(talk.net)
    return seen


def is_answered(wire: Wire, seen: Talk, talk: Talk) -> None:
    """The backend's answer goes to this client, and to no other."""
    wire.receives(seen.answer(), SECOND).expect_routed("reply", talk.answer())


def limit_ports(wire: Wire, first: int, last: int) -> None:
    wire.node.change_config(masquerade_first=first, masquerade_last=last)


# ---- source ports ---------------------------------------------------------------------------


def test_client_keeps_its_port_where_that_is_free(wire: Wire, talk: Talk) -> None:
    assert opened(wire, talk).src.port == talk.src.port


def test_client_whose_port_is_none_for_masquerade_gets_another(wire: Wire, talk: Talk) -> None:
    low = talk.seen_as(port=1024)
    seen = opened(wire, low)
    assert seen.src.port >= 32768
    for _ in range(2):
        wire.receives(low.more()).expect_routed("to_backend", seen.more())
        is_answered(wire, seen, low)


def test_two_clients_of_one_port_are_told_apart(wire: Wire, talk: Talk) -> None:
    net = talk.net
    other = talk.seen_as(net.outside[:-1] + "8")
    one, two = opened(wire, talk), opened(wire, other)
    assert one.src.port == 40000
    assert two.src.port != 40000
    for seen, client in ((one, talk), (two, other), (one, talk)):
        is_answered(wire, seen, client)
        wire.receives(client.more()).expect_routed("to_backend", seen.more())


def test_pod_and_outside_client_of_one_port_are_told_apart(wire: Wire, talk: Talk) -> None:
    net, client = talk.net, wire.node.client
    pod = talk.seen_as(net.client)
    one = opened(wire, talk)
    sent = wire.node.from_pod(client, pod.opening())
    assert sent.verdict == "to_backend"
    two = talk.to(net.remote).seen_as(node_address(net), sent.packet.sport)
    assert one.src.addr == two.src.addr
    assert one.src.port != two.src.port
    is_answered(wire, one, talk)
    wire.receives(two.answer(), SECOND).expect("reply", pod.answer(), into=client)


def test_one_client_of_two_services_with_one_backend_is_told_apart(wire: Wire, talk: Talk) -> None:
    front, key, flags = frontend(talk.net, "LoadBalancer")
    wire.node.serve(key, [End(talk.net.remote, 8080)], talk.proto, flags=flags)
    other = talk.to(*front)
    one, two = opened(wire, talk), opened(wire, other)
    assert one.src.port != two.src.port
    is_answered(wire, one, talk)
    is_answered(wire, two, other)


def test_same_port_is_used_with_different_backends(wire: Wire, talk: Talk) -> None:
    one = opened(wire, talk)
    front, key, flags = frontend(talk.net, "LoadBalancer")
    wire.node.serve(key, [End(talk.net.second_remote, 8080)], talk.proto, flags=flags)
    assert opened(wire, talk.to(*front)).src.port == one.src.port


def test_opening_packet_sent_again_changes_nothing(wire: Wire, talk: Talk) -> None:
    assert opened(wire, talk) == opened(wire, talk)
    wire.node.forget(talk)
    assert opened(wire, talk) == opened(wire, talk)
    assert wire.node.flow_count() == 2


# ---- none left ------------------------------------------------------------------------------


def fill(wire: Wire, talk: Talk) -> list[tuple[Talk, Talk]]:
    """Have as many clients as there are ports, all with the same."""
    limit_ports(wire, *FEW)
    clients = [talk.seen_as(f"{talk.net.outside[:-1]}{number}") for number in range(1, 5)]
    pairs = [(client, opened(wire, client)) for client in clients]
    assert sorted(seen.src.port for _, seen in pairs) == [40000, 40001, 40002, 40003]
    return pairs


def test_port_range_is_used_up_and_no_further_connection_is_mixed_in(
    wire: Wire, talk: Talk
) -> None:
    pairs = fill(wire, talk)
    before = wire.node.flow_count()
    fifth = talk.seen_as(port=40009)
    wire.receives(fifth.opening()).expect("no_port")
    assert wire.node.flow_count() == before
    for client, seen in pairs:
        is_answered(wire, seen, client)


def test_another_backend_has_ports_left(wire: Wire, talk: Talk) -> None:
    fill(wire, talk)
    front, key, flags = frontend(talk.net, "LoadBalancer")
    wire.node.serve(key, [End(talk.net.second_remote, 8080)], talk.proto, flags=flags)
    assert opened(wire, talk.to(*front)).src.port == 40000


def test_port_is_free_again_when_its_connection_has_timed_out(wire: Wire, talk: Talk) -> None:
    (first, seen), *_ = fill(wire, talk)
    wire.node.idle(TIMEOUTS[State.TCP_NEW] + 1, first, seen)
    fifth = talk.seen_as(port=50000)
    again = opened(wire, fifth)
    assert again.src.port == seen.src.port
    is_answered(wire, again, fifth)


def test_port_of_a_closed_connection_waits_a_while(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.remote, 8080)], flags=flags)
    talk = net.talk("TCP", End(net.outside, 40000), front)
    (first, seen), *_ = fill(wire, talk)
    wire.receives(seen.answer(), SECOND)
    wire.receives(first.tcp("R"))
    fifth = talk.seen_as(port=50000)
    wire.receives(fifth.opening()).expect("no_port")
    wire.node.idle(TIMEOUTS[State.TCP_CLOSING] + 1, first, seen)
    assert opened(wire, fifth).src.port == seen.src.port


# ---- sockets of the node --------------------------------------------------------------------


@pytest.fixture
def own_socket(wire: Wire, net: Net, proto: str) -> Iterator[socket.socket]:
    """A socket of the node that has the client's port already."""
    kind = socket.SOCK_STREAM if proto == "TCP" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET if net.version == 4 else socket.AF_INET6, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((node_address(net), 40000))
        yield made


@pytest.mark.parametrize("proto", ["TCP", "UDP"])
def test_socket_of_the_node_keeps_its_port(
    wire: Wire, talk: Talk, own_socket: socket.socket
) -> None:
    own_socket.setblocking(False)
    own_socket.connect_ex((talk.net.remote, 8080))
    seen = opened(wire, talk)
    assert seen.src.port != 40000
    is_answered(wire, seen, talk)


@pytest.mark.parametrize("proto", ["TCP"])
def test_listening_socket_is_in_nobodys_way(
    wire: Wire, talk: Talk, own_socket: socket.socket
) -> None:
    own_socket.listen()
    assert opened(wire, talk).src.port == 40000


# ---- the address ----------------------------------------------------------------------------


def test_address_is_that_of_the_way_out_else_the_nodes_first(wire: Wire, talk: Talk) -> None:
    net = talk.net
    one = node_address(net, FIRST)
    wire.node.tables.devices.delete(U32(SECOND.ifindex))
    wire.receives(talk.opening()).expect("no_port")
    wire.node.change_config(
        node4=address.from_text(FIRST.addresses[0]), node6=address.from_text(FIRST.addresses[1])
    )
    result = wire.receives(talk.opening())
    result.expect_routed("to_backend", talk.to(net.remote).seen_as(one).opening())


def test_nothing_of_a_masquerade_changes_when_the_nodes_address_does(
    wire: Wire, talk: Talk
) -> None:
    seen = opened(wire, talk)
    new = abi.Device(address.from_text("10.72.0.9"), address.from_text("fd72::9"), 0, bytes(6))
    wire.node.tables.devices.put(U32(SECOND.ifindex), new)
    wire.receives(talk.more()).expect_routed("to_backend", seen.more())
    is_answered(wire, seen, talk)


# ---- records --------------------------------------------------------------------------------


def test_records_refresh_each_other(wire: Wire, talk: Talk) -> None:
    seen = opened(wire, talk)
    for packet, uplink in ((talk.more(), FIRST), (seen.answer(), SECOND)):
        wire.node.idle(2)
        wire.receives(packet, uplink)
        alias, record = wire.node.flow(talk), wire.node.flow(seen)
        assert alias
        assert record
        assert alias.last_seen_ns == record.last_seen_ns
        both = FlowFlag.MASQUERADED | FlowFlag.TRANSLATED
        assert alias.flags & record.flags & both == both


# ---- who is masqueraded (SEMANTICS, truth table) --------------------------------------------

DETECT, BY_RANGE = ConfigFlag.DETECT_LOCAL, ConfigFlag.DETECT_BY_RANGE
ALL, NONE = ConfigFlag.MASQUERADE_ALL, ConfigFlag(0)
CLUSTER_IP, EXTERNAL = 0, FrontendFlag.EXTERNAL
LOCAL_EXTERNAL = FrontendFlag.EXTERNAL | FrontendFlag.EXTERNAL_LOCAL
MASQUERADED, OWN, LOCAL = "masqueraded", "own address", "local only"

TRUTH = {
    # config: pod -> ClusterIP, external, external Local; the same from outside
    DETECT: (OWN, MASQUERADED, OWN, MASQUERADED, MASQUERADED, LOCAL),
    NONE: (OWN, MASQUERADED, LOCAL, OWN, MASQUERADED, LOCAL),
    DETECT | ALL: (MASQUERADED, MASQUERADED, OWN, MASQUERADED, MASQUERADED, LOCAL),
    NONE | ALL: (MASQUERADED, MASQUERADED, LOCAL, MASQUERADED, MASQUERADED, LOCAL),
}
COLUMNS = [(who, flags) for who in ("pod", "outside") for flags in (0, EXTERNAL, LOCAL_EXTERNAL)]


def treated(wire: Wire, net: Net, who: str, flags: int) -> str:
    """How a client is treated whose Service has an endpoint elsewhere and one of this node."""
    net_front = End(net.service, 80)
    local = [End(node_address(net, FIRST), 8080)]
    wire.node.serve(net_front, [End(net.remote, 8080)], local=local, flags=flags)
    source = net.client if who == "pod" else net.outside
    talk = net.talk("TCP", End(source, 40000 + flags), net_front)
    node: Node = wire.node
    result = (
        node.from_pod(node.client, talk.opening())
        if who == "pod"
        else wire.receives(talk.opening())
    )
    assert result.verdict == "to_backend"
    if result.packet.dst != net.remote:
        assert result.packet.src == source
        return LOCAL
    assert (Step.MASQUERADED in result.steps) == (result.packet.src == node_address(net))
    return OWN if result.packet.src == source else MASQUERADED


@pytest.mark.parametrize("config", TRUTH, ids=["detect", "none", "detect-all", "none-all"])
def test_truth_table(wire: Wire, net: Net, config: ConfigFlag) -> None:
    wire.node.switch(DETECT | ALL, on=False)
    wire.node.switch(config)
    assert tuple(treated(wire, net, *column) for column in COLUMNS) == TRUTH[config]


def test_pods_told_by_address_range(wire: Wire, net: Net) -> None:
    wire.node.switch(DETECT | BY_RANGE)
    assert [treated(wire, net, *column) for column in COLUMNS] == [
        *(MASQUERADED, MASQUERADED, LOCAL),  # no pod is in any range
        *(MASQUERADED, MASQUERADED, LOCAL),
    ]
    for talk in list(wire.node.tables.flows.items()):
        wire.node.tables.flows.delete(talk[0])
    wire.pods_are_in(net)
    assert treated(wire, net, "pod", CLUSTER_IP) == OWN
    assert treated(wire, net, "pod", LOCAL_EXTERNAL) == OWN
    assert treated(wire, net, "outside", CLUSTER_IP) == MASQUERADED


def test_outside_address_in_the_range_of_pods_is_not_masqueraded(wire: Wire, net: Net) -> None:
    wire.node.switch(DETECT | BY_RANGE)
    wire.range(abi.RangeScope.RANGE_PODS, {4: "192.0.2.0/24", 6: "2001:db8::/64"}[net.version])
    assert treated(wire, net, "outside", CLUSTER_IP) == OWN
    talk = net.talk("TCP", End(net.outside, 40000), End(net.service, 80))
    back = wire.receives(talk.to(net.remote).answer(), SECOND)
    back.expect_routed("reply", talk.answer())
