"""ICMP errors at the wire (A38): whoever sent what got stuck is told, and knows what it is about.

Clients are outside, on this node, or its pods; backends are pods here, elsewhere, or processes of
this node. The packets quoted are those of a connection that was really opened through the hooks.
"""

from __future__ import annotations

import pytest
from scapy.packet import Packet

from maps.abi import FrontendFlag
from tests.datapath.packets import End, Net, Talk, port_unreachable, quote, too_big
from tests.datapath.result import PASS, REDIRECT, Result
from tests.datapath.test_icmp import LENGTHS, Error, errors
from tests.datapath.wire import FIRST, SECOND, Wire, node_address

PORT = 8080


@pytest.fixture
def outer(net: Net, proto: str) -> Talk:
    """A connection from outside to a Service's external address."""
    return net.talk(proto, End(net.outside, 40000), End(net.service, 80))


def serve(wire: Wire, talk: Talk, backend: str, flags: int = FrontendFlag.EXTERNAL) -> None:
    """Write a Service of one backend, on PORT."""
    wire.node.serve(talk.dst, [End(backend, PORT)], talk.proto, flags=flags)


def masqueraded(result: Result, talk: Talk) -> Talk:
    """The connection as its backend sees it, from the packet that was sent on."""
    assert result.action in (PASS, REDIRECT), result
    packet = result.packet
    src = End(packet.src, packet.sport)
    assert src.addr == node_address(talk.net)
    return Talk(talk.net, talk.proto, src, End(packet.dst, packet.dport))


def crc_kept(told: bytes, complaint: Packet, net: Net, proto: str, length: int) -> bytes:
    """The CRC of a quoted SCTP packet stays as it was quoted."""
    header = 20 if net.version == 4 else 40
    at = header + 8
    if proto != "SCTP" or length < 9:
        return told
    quoted = bytes(complaint)[header + 8 :]
    return told[:at] + quoted[at : at + 4] + told[at + 4 :]


# ---- about what a client sent ---------------------------------------------------------------


@errors
@pytest.mark.parametrize("length", LENGTHS)
def test_router_complains_about_what_a_client_outside_sent_to_a_backend_elsewhere(
    wire: Wire, outer: Talk, error: Error, length: int
) -> None:
    net = outer.net
    serve(wire, outer, net.remote)
    inside = masqueraded(wire.receives(outer.opening()), outer)
    complaint = error(net, net.router, inside.src.addr, quote(inside.more(), length))
    quoted = crc_kept(quote(outer.more(), length), complaint, net, outer.proto, length)
    told = error(net, net.service, net.outside, quoted)
    wire.receives(complaint, SECOND).expect_routed("icmp_error", told)
    wire.sends(told).expect("direct", told)


@errors
def test_backend_elsewhere_complains_and_the_service_is_heard(
    wire: Wire, outer: Talk, error: Error
) -> None:
    net = outer.net
    serve(wire, outer, net.remote)
    inside = masqueraded(wire.receives(outer.opening()), outer)
    complaint = error(net, net.remote, inside.src.addr, quote(inside.more()))
    told = error(net, net.service, net.outside, quote(outer.more()))
    wire.receives(complaint, SECOND).expect_routed("icmp_error", told)


def test_complaint_about_what_a_pod_sent_through_a_masquerade_is_handed_into_it(
    wire: Wire, net: Net, proto: str
) -> None:
    node, talk = wire.node, net.to_service(proto)
    serve(wire, talk, net.remote)
    inside = masqueraded(node.from_pod(node.client, talk.opening()), talk)
    complaint = too_big(net, net.router, inside.src.addr, quote(inside.more()))
    told = too_big(net, net.router, net.client, quote(talk.more()))
    wire.receives(complaint, SECOND).expect("icmp_error", told, into=node.client)


def test_complaint_about_what_a_process_of_the_node_sent_is_handed_in(
    wire: Wire, net: Net, proto: str
) -> None:
    talk = net.talk(proto, End(node_address(net, FIRST), 40000), End(net.service, 80))
    serve(wire, talk, net.remote, flags=0)
    inside = masqueraded(wire.sends(talk.opening()), talk)
    complaint = port_unreachable(net, net.remote, inside.src.addr, quote(inside.more()))
    told = port_unreachable(net, net.service, talk.src.addr, quote(talk.more()))
    wire.receives(complaint, SECOND).expect_to_node("icmp_error", told, FIRST)


def test_pod_complains_to_a_client_outside_and_the_service_is_heard(
    wire: Wire, outer: Talk
) -> None:
    net, node = outer.net, wire.node
    serve(wire, outer, net.server)
    inside = outer.to(net.server)
    assert wire.receives(outer.opening()).verdict == "to_backend"
    complaint = port_unreachable(net, net.server, net.outside, quote(inside.opening()))
    told = port_unreachable(net, net.service, net.outside, quote(outer.opening()))
    node.from_pod(node.server, complaint).expect_routed("icmp_error", told)


def test_pod_does_not_complain_about_the_connections_of_another(wire: Wire, outer: Talk) -> None:
    net, node = outer.net, wire.node
    serve(wire, outer, net.server)
    wire.receives(outer.opening())
    inside = outer.to(net.server)
    complaint = port_unreachable(net, net.other, net.outside, quote(inside.opening()))
    node.from_pod(node.other, complaint).expect("direct", complaint)


def test_without_the_fast_path_a_pods_complaint_is_translated_as_it_leaves(
    wire: Wire, outer: Talk
) -> None:
    net, node = outer.net, wire.node
    node.fast_path(False)
    serve(wire, outer, net.server)
    wire.receives(outer.opening())
    inside = outer.to(net.server)
    complaint = port_unreachable(net, net.server, net.outside, quote(inside.opening()))
    told = port_unreachable(net, net.service, net.outside, quote(outer.opening()))
    node.from_pod(node.server, complaint).expect("direct", complaint)
    wire.sends(complaint).expect("icmp_error", told)


def test_process_of_the_node_complains_to_a_client_outside(wire: Wire, outer: Talk) -> None:
    net, own = outer.net, node_address(outer.net, FIRST)
    serve(wire, outer, own)
    inside = outer.to(own)
    wire.receives(outer.opening()).expect("to_backend", inside.opening())
    complaint = port_unreachable(net, own, net.outside, quote(inside.opening()))
    told = port_unreachable(net, net.service, net.outside, quote(outer.opening()))
    wire.sends(complaint).expect("icmp_error", told)


# ---- about a reply --------------------------------------------------------------------------


@errors
@pytest.mark.parametrize("whose", ["router", "outside"])
def test_complaint_from_outside_about_a_reply_reaches_the_pod(
    wire: Wire, outer: Talk, error: Error, whose: str
) -> None:
    net, node, inside = outer.net, wire.node, outer.to(outer.net.server)
    serve(wire, outer, net.server)
    wire.receives(outer.opening())
    speaker = getattr(net, whose)
    complaint = error(net, speaker, net.service, quote(outer.answer()))
    told = error(net, speaker, net.server, quote(inside.answer()))
    wire.receives(complaint).expect("icmp_error", told, into=node.server)


def test_complaint_of_the_client_about_a_reply_reaches_a_backend_elsewhere(
    wire: Wire, outer: Talk
) -> None:
    net = outer.net
    serve(wire, outer, net.remote)
    inside = masqueraded(wire.receives(outer.opening()), outer)
    complaint = port_unreachable(net, net.outside, net.service, quote(outer.answer()))
    told = port_unreachable(net, inside.src.addr, net.remote, quote(inside.answer()))
    wire.receives(complaint).expect_routed("icmp_error", told)
    complaint = too_big(net, net.router, net.service, quote(outer.answer()))
    told = too_big(net, inside.src.addr, net.remote, quote(inside.answer()))
    wire.receives(complaint).expect_routed("icmp_error", told)


def test_complaint_about_a_reply_reaches_a_process_of_the_node(wire: Wire, outer: Talk) -> None:
    net, own = outer.net, node_address(outer.net, FIRST)
    serve(wire, outer, own)
    wire.receives(outer.opening())
    complaint = too_big(net, net.router, net.service, quote(outer.answer()))
    told = too_big(net, net.router, own, quote(outer.to(own).answer()))
    wire.receives(complaint).expect("icmp_error", told)


def test_pod_complains_about_a_reply_through_a_masquerade(wire: Wire, net: Net, proto: str) -> None:
    node, talk = wire.node, net.to_service(proto)
    serve(wire, talk, net.remote)
    inside = masqueraded(node.from_pod(node.client, talk.opening()), talk)
    complaint = port_unreachable(net, net.client, net.service, quote(talk.answer()))
    told = port_unreachable(net, inside.src.addr, net.remote, quote(inside.answer()))
    node.from_pod(node.client, complaint).expect_routed("icmp_error", told)


def test_process_of_the_node_complains_about_a_reply(wire: Wire, net: Net, proto: str) -> None:
    own = node_address(net, FIRST)
    talk = net.talk(proto, End(own, 40000), End(net.service, 80))
    serve(wire, talk, net.remote, flags=0)
    inside = masqueraded(wire.sends(talk.opening()), talk)
    complaint = port_unreachable(net, own, net.service, quote(talk.answer()))
    told = port_unreachable(net, inside.src.addr, net.remote, quote(inside.answer()))
    wire.sends(complaint).expect_routed("icmp_error", told)


# ---- nothing to translate ---------------------------------------------------------------------


@errors
def test_complaint_about_what_we_do_not_know_passes_untouched(
    wire: Wire, outer: Talk, error: Error
) -> None:
    net = outer.net
    complaint = error(net, net.router, node_address(net), quote(outer.more()))
    for hook in (wire.receives, wire.sends):
        hook(complaint).expect("direct", complaint)
    assert wire.node.flow_count() == 0


@pytest.mark.parametrize("cut", [0, 1, 19, 20, 23, 39, 40, 43])
def test_quote_too_short_for_ports_passes_untouched(wire: Wire, outer: Talk, cut: int) -> None:
    net = outer.net
    serve(wire, outer, net.remote)
    inside = masqueraded(wire.receives(outer.opening()), outer)
    header = 20 if net.version == 4 else 40
    quoted = bytes(inside.more())[: min(cut, header + 3)]
    complaint = too_big(net, net.router, inside.src.addr, quoted)
    wire.receives(complaint).expect("direct", complaint)


@pytest.mark.parametrize("seed", range(20))
def test_noise_in_a_quote_harms_nothing(wire: Wire, outer: Talk, seed: int) -> None:
    net = outer.net
    serve(wire, outer, net.remote)
    inside = masqueraded(wire.receives(outer.opening()), outer)
    quoted = bytearray(quote(inside.more(), 20))
    for place in range(seed, len(quoted), 7):
        quoted[place] ^= 1 + (seed * 37 + place) % 255
    complaint = too_big(net, net.router, inside.src.addr, bytes(quoted))
    result = wire.receives(complaint)
    assert result.verdict in ("direct", "icmp_error")
    assert wire.node.flow_count() == 2
