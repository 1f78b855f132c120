"""What somebody with bad intent sends: it must not touch a connection that is not his."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from maps.abi import Hook, State
from tests.datapath.node import Node
from tests.datapath.packets import End, Net, port_unreachable, quote, refused_by_reset
from tests.datapath.test_fragments import UDP_NUMBER, fragments, transport
from tests.datapath.test_icmp import opened

PORT = 8080


def test_spoofed_first_fragment_does_not_lend_its_ports_to_another_pods(
    node: Node, net: Net
) -> None:
    talk, inside = opened(node, net, "UDP", net.remote)
    whole = transport(talk.data(b"x" * 64))
    first, *later = fragments(talk, whole, UDP_NUMBER)
    node.from_pod(node.client, first)
    forged = talk.seen_as(port=1).to(talk.dst.addr, 2)
    node.from_pod(node.other, fragments(forged, transport(forged.data(b"x" * 64)), UDP_NUMBER)[0])
    for packet in later:
        result = node.from_pod(node.client, packet)
        assert (result.verdict, result.packet.dst) == ("to_backend", inside.dst.addr)


@pytest.mark.parametrize("flags", ["R", "RA", "FA"])
def test_outsider_with_the_services_address_cannot_end_a_connection(
    node: Node, net: Net, flags: str
) -> None:
    talk, inside = opened(node, net, "TCP", net.remote)
    node.to_pod(node.client, inside.answer())
    forged = talk.back.tcp(flags, seq=1)
    node.to_pod(node.client, forged).expect("direct", forged)
    for view in (talk, inside):
        flow = node.flow(view)
        assert flow is not None
        assert flow.state == State.TCP_ESTABLISHED


def test_reset_of_a_segment_that_lies_about_its_header_length(node: Node, net: Net) -> None:
    talk = net.to_service("TCP")
    node.serve(talk.dst, [])
    packet = talk.tcp("S", dataofs=15)
    result = node.from_pod(node.client, packet)
    answer = refused_by_reset(talk, ack=packet[TCP].seq + 1)
    result.expect_refused("no_backend", answer)


def test_segment_in_fragments_is_dropped_and_not_answered(node: Node, net: Net) -> None:
    talk = net.to_service("TCP")
    node.serve(talk.dst, [])
    whole = transport(talk.tcp("S", b"y" * 64))
    node.from_pod(node.client, fragments(talk, whole, 6)[0]).expect("no_backend")


def test_error_about_a_diverted_connection_speaks_of_that_one(node: Node, net: Net) -> None:
    talk, inside = opened(node, net, "UDP", net.remote)
    direct = talk.to(net.remote, PORT)
    as_seen = direct.seen_as(port=node.from_pod(node.client, direct.opening()).packet.sport)
    complaint = port_unreachable(net, net.client, net.remote, quote(direct.answer()))
    told = port_unreachable(net, net.client, net.remote, quote(as_seen.answer()))
    node.from_pod(node.client, complaint).expect("icmp_error", told)
    assert inside.src.port != as_seen.src.port


def test_icmp_of_the_other_family_is_a_protocol_without_ports(node: Node, net: Net) -> None:
    number = 58 if net.version == 4 else 1
    packet = net.ip(net.client, net.remote, proto=number) / Raw(b"\x03\x03" + bytes(40))
    node.run(Hook.FROM_POD, node.client, bytes(Ether(dst=node.client.node_mac) / packet))
    key = next(iter(node.tables.flows.items()))[0]
    assert (key.proto, key.low_port, key.high_port) == (number, 0, 0)


def test_end_of_a_service_is_no_source_for_a_pod(node: Node, net: Net) -> None:
    talk, _ = opened(node, net, "TCP", net.server)
    forged = net.talk("TCP", End(talk.dst.addr, talk.dst.port), talk.src)
    node.from_pod(node.server, forged.tcp("A")).expect("spoofed_source")
