"""Refusals at the wire: clients outside, on this node, and pods whose connection nobody knows."""

from __future__ import annotations

import pytest
from scapy.packet import Packet

from maps.abi import FrontendFlag, Step
from tests.datapath.packets import (
    CLIENT_SEQ,
    SERVER_SEQ,
    End,
    Net,
    Talk,
    refused_by_icmp,
    refused_by_reset,
    reset_at,
)
from tests.datapath.wire import FIRST, Wire, frontend, node_address

UNTOUCHED_FLAGS = ["R", "RA"]


def answer(talk: Talk, packet: Packet) -> Packet:
    """What an opening packet is refused with."""
    if talk.proto == "TCP":
        return refused_by_reset(talk, CLIENT_SEQ + 1)
    return refused_by_icmp(talk, packet)


def serve_whole_address(wire: Wire, net: Net) -> None:
    """Write what stands for all other ports of a ClusterIP."""
    wire.node.serve(End(net.service, 0), [], "", flags=FrontendFlag.WHOLE_ADDRESS)


# ---- clients outside, and of this node ------------------------------------------------------


def test_client_outside_is_refused_where_it_came_from_a19(wire: Wire, net: Net, proto: str) -> None:
    for kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        front, key, flags = frontend(net, kind)
        wire.node.serve(key, [], proto, flags=flags)
        talk = net.talk(proto, End(net.outside, 40000), front)
        result = wire.receives(talk.opening())
        result.expect_refused("no_backend", answer(talk, talk.opening()))
        assert Step.REFUSED in result.steps
        wire.sends(result.packet, came_by=FIRST.ifindex).expect("direct", result.packet)


def test_process_of_the_node_is_refused_by_the_uplink_it_thinks_of(
    wire: Wire, net: Net, proto: str
) -> None:
    talk = net.talk(proto, End(node_address(net, FIRST), 40000), End(net.service, 80))
    wire.node.serve(talk.dst, [], proto)
    result = wire.sends(talk.opening())
    result.expect_refused("no_backend", answer(talk, talk.opening()))
    wire.receives(result.packet).expect("direct", result.packet)


def test_unknown_port_of_a_cluster_ip_is_refused_a22(wire: Wire, net: Net, proto: str) -> None:
    serve_whole_address(wire, net)
    wire.node.serve(End(net.service, 80), [End(net.server, 80)], proto)
    pod = net.to_service(proto, port=81)
    result = wire.node.from_pod(wire.node.client, pod.opening())
    result.expect_refused("unknown_port", answer(pod, pod.opening()))
    outer = net.talk(proto, End(net.outside, 40000), pod.dst)
    wire.receives(outer.opening()).expect_refused("unknown_port", answer(outer, outer.opening()))
    served = net.to_service(proto)
    result = wire.node.from_pod(wire.node.client, served.opening())
    assert result.verdict == "to_backend"


def test_ping_of_a_cluster_ip_is_not_refused(wire: Wire, net: Net) -> None:
    serve_whole_address(wire, net)
    talk = net.talk("ICMP", End(net.client, 7), End(net.service, 7))
    wire.node.from_pod(wire.node.client, talk.opening()).expect("direct", talk.opening())


def test_local_policy_drops_outside_clients_without_answer_a21(
    wire: Wire, net: Net, proto: str
) -> None:
    front, key, flags = frontend(net, "NodePort")
    flags |= FrontendFlag.EXTERNAL_LOCAL
    wire.node.serve(key, [End(net.remote, 80)], proto, flags=flags)
    talk = net.talk(proto, End(net.outside, 40000), front)
    wire.receives(talk.opening()).expect("no_local_backend")


# ---- pods in the middle of a connection that nobody knows -----------------------------------


def forwarded(wire: Wire, net: Net, packet: Packet) -> Packet:
    """What from_pod leaves alone, as it comes to the wire."""
    result = wire.node.from_pod(wire.node.client, packet)
    result.expect("untracked", packet)
    assert wire.node.flow_count() == 0
    return result.packet


def test_data_without_a_flow_is_answered_by_a_reset_at_its_ack(wire: Wire, net: Net) -> None:
    talk, client = net.to_service(), wire.node.client
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    for packet in (talk.more(), talk.tcp("FA", ack=SERVER_SEQ + 1)):
        there = forwarded(wire, net, packet)
        result = wire.sends(there, came_by=client.ifindex)
        result.expect_refused("no_flow", reset_at(talk, SERVER_SEQ + 1), client)
        # On its way into the pod it leaves nothing behind that the next attempt would meet.
        wire.node.to_pod(client, result.packet).expect("direct", result.packet)
        assert wire.node.flow_count() == 0


@pytest.mark.parametrize(("flags", "data", "ack"), [("F", b"bye", 4), ("", b"hello", 5)])
def test_segment_without_ack_is_acknowledged_by_the_reset(
    wire: Wire, net: Net, flags: str, data: bytes, ack: int
) -> None:
    talk, client = net.to_service(), wire.node.client
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    there = forwarded(wire, net, talk.tcp(flags, data))
    result = wire.sends(there, came_by=client.ifindex)
    result.expect_refused("no_flow", refused_by_reset(talk, CLIENT_SEQ + ack), client)


def test_large_segment_that_was_not_cut_yet_is_refused_whole(wire: Wire, net: Net) -> None:
    talk, client = net.to_service(), wire.node.client
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    packet = talk.tcp("PA", b"x" * 2800, ack=SERVER_SEQ)
    result = wire.sends(packet, came_by=client.ifindex, gso_size=1400, gso_segs=2)
    result.expect_refused("no_flow", reset_at(talk, SERVER_SEQ), client)


@pytest.mark.parametrize("flags", UNTOUCHED_FLAGS)
def test_reset_is_never_answered(wire: Wire, net: Net, flags: str) -> None:
    talk = net.to_service()
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    wire.sends(talk.tcp(flags), came_by=wire.node.client.ifindex).expect("no_flow")


def test_only_what_a_pod_sent_to_a_frontend_is_refused(wire: Wire, net: Net) -> None:
    talk = net.to_service()
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    for sent, came_by in (
        (talk, 0),
        (talk.seen_as(net.outside), FIRST.ifindex),
        (talk.to(net.outside, 80), wire.node.client.ifindex),
    ):
        wire.sends(sent.more(), came_by=came_by).expect("direct", sent.more())
