"""Packets larger than what their way takes: the sender is told, or the kernel cuts them.

Behind either uplink the way is narrower here than the link itself, as behind a tunnel.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, fragment
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from maps.abi import ConfigFlag, FlowFlag, FrontendFlag, Step
from tests.datapath.packets import IPV4, End, Net, Talk, quote, too_big
from tests.datapath.result import DROP
from tests.datapath.wire import BEHIND, FIRST, ROUTERS, SECOND, Wire, node_address

MTU = 1400
"""The MTU that packets.too_big names."""

PORT = 8080
LARGE = b"x" * 1420


@pytest.fixture(autouse=True)
def _narrow(wire: Wire) -> Iterator[None]:
    """Narrow the ways behind both uplinks."""
    lines = [
        f"route replace {block} via {router} dev {uplink.name} onlink"
        for uplink, routers, behind in zip((FIRST, SECOND), ROUTERS, BEHIND, strict=True)
        for block, router in zip(behind, routers, strict=True)
    ]
    _ip([f"{line} mtu lock {MTU}" for line in lines])
    yield
    _ip(lines)


def _ip(lines: list[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), check=True, text=True)


def large(talk: Talk, data: bytes = LARGE) -> Packet:
    """What a client says next, and much of it; in IPv4, not to be cut."""
    if talk.proto == "TCP":
        packet = talk.tcp("PA", data, seq=1001, ack=5001)
    elif talk.proto == "UDP":
        packet = talk.data(data)
    else:
        packet = talk.ip() / SCTP(sport=talk.src.port, dport=talk.dst.port, tag=9) / Raw(data)
    if talk.net.version == 4:
        packet.flags = "DF"
    return packet


def told(talk: Talk, packet: Packet) -> Packet:
    """The answer: from where it was sent to, quoting it as it was sent."""
    whole = quote(packet, 20 if talk.proto == "TCP" else 8)
    answer = too_big(talk.net, talk.dst.addr, talk.src.addr, whole)
    if talk.net.version == 4:
        answer.tos, answer.id = 0xC0, 0
        assert answer[ICMP].nexthopmtu == MTU
    else:
        assert answer[ICMPv6PacketTooBig].mtu == MTU
    return answer


def opened(wire: Wire, net: Net, proto: str) -> tuple[Talk, Talk]:
    """A connection from outside to a backend elsewhere: as either side sees it."""
    talk = net.talk(proto, End(net.outside, 40000), End(net.service, 80))
    wire.node.serve(talk.dst, [End(net.remote, PORT)], proto, flags=FrontendFlag.EXTERNAL)
    seen = talk.to(net.remote, PORT).seen_as(node_address(net))
    wire.receives(talk.opening()).expect_routed("to_backend", seen.opening())
    return talk, seen


# ---- the sender is told -----------------------------------------------------------------------


def test_client_outside_is_told_by_the_service(wire: Wire, net: Net, proto: str) -> None:
    talk, seen = opened(wire, net, proto)
    packet = large(talk)
    result = wire.receives(packet)
    result.expect_refused("too_big", told(talk, packet))
    assert Step.REFUSED in result.steps
    fits = large(talk, LARGE[:1300])
    wire.receives(fits).expect_routed("to_backend", large(seen, LARGE[:1300]))


def test_pod_is_told_about_what_it_sends_through_a_masquerade(
    wire: Wire, net: Net, proto: str
) -> None:
    node, talk = wire.node, net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, PORT)], proto, flags=FrontendFlag.EXTERNAL)
    node.from_pod(node.client, talk.opening())
    packet = large(talk)
    node.from_pod(node.client, packet).expect_refused("too_big", told(talk, packet))


def test_pod_is_told_about_a_reply(wire: Wire, net: Net, proto: str) -> None:
    node = wire.node
    talk = net.talk(proto, End(net.outside, 40000), End(net.service, 80))
    node.serve(talk.dst, [End(net.server, PORT)], proto, flags=FrontendFlag.EXTERNAL)
    wire.receives(talk.opening())
    back = talk.to(net.server, PORT).back
    packet = large(back)
    node.from_pod(node.server, packet).expect_refused("too_big", told(back, packet))


def test_process_of_the_node_is_told(wire: Wire, net: Net, proto: str) -> None:
    talk = net.talk(proto, End(node_address(net, FIRST), 40000), End(net.service, 80))
    wire.node.serve(talk.dst, [End(net.remote, PORT)], proto)
    wire.sends(talk.opening())
    packet = large(talk)
    wire.sends(packet).expect_refused("too_big", told(talk, packet))


def test_segments_to_be_cut_by_the_device_count_one_by_one(wire: Wire, net: Net) -> None:
    talk, seen = opened(wire, net, "TCP")
    packet = large(talk, LARGE * 2)
    result = wire.receives(packet, gso_size=1420, gso_segs=2)
    result.expect_refused("too_big", told(talk, packet))
    fits = wire.receives(packet, gso_size=1300, gso_segs=3)
    fits.expect_routed("to_backend", large(seen, LARGE * 2))


def test_beyond_the_rate_of_refusals_it_is_dropped_silently(
    wire: Wire, net: Net, proto: str
) -> None:
    talk, _ = opened(wire, net, proto)
    wire.node.change_config(refusals_per_sec=0)
    result = wire.receives(large(talk))
    assert (result.verdict, result.action) == ("refusal_rate", DROP)


# ---- the kernel cuts it -------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_what_may_be_cut_goes_by_the_stack_and_is_masqueraded_as_it_leaves(
    wire: Wire, transport: str
) -> None:
    net = IPV4
    talk, seen = opened(wire, net, transport)
    packet, inside = large(talk), large(talk.to(net.remote, PORT))
    packet.flags = inside.flags = 0
    for _ in range(2):
        wire.receives(packet).expect("to_backend", inside)
    transit = wire.node.flow(talk.to(net.remote, PORT))
    assert transit
    assert transit.flags & FlowFlag.TRANSIT
    masqueraded = large(seen)
    masqueraded.flags = 0
    pieces = zip(cut(inside), cut(masqueraded), strict=True)
    for piece, expected in pieces:
        result = wire.sends(piece, SECOND, came_by=FIRST.ifindex)
        result.expect("to_backend", expected)
        assert Step.MASQUERADED in result.steps
    wire.receives(seen.answer(), SECOND).expect_routed("reply", talk.answer())


def cut(packet: Packet) -> list[Packet]:
    """The pieces that a router would make of it."""
    whole = IP(bytes(packet))
    pieces: list[Packet] = fragment(whole, MTU - 20)
    assert len(pieces) == 2
    return pieces


def test_nodes_word_about_what_is_in_transit_reaches_the_client(
    wire: Wire, net: Net, proto: str
) -> None:
    talk, _ = opened(wire, net, proto)
    inside, last_hop, expected = talk.to(net.remote, PORT), talk.more(), talk.to(net.remote).more()
    for packet in (last_hop, expected):
        setattr(packet, "ttl" if net.version == 4 else "hlim", 1)
    wire.receives(last_hop).expect("to_backend", expected)
    own = node_address(net, FIRST)
    complaint = too_big(net, own, net.outside, quote(inside.more()))
    told_so = too_big(net, own, net.outside, quote(talk.more()))
    wire.sends(complaint).expect("icmp_error", told_so)


def test_way_through_the_stack_is_not_taken_from_another_connection(wire: Wire, net: Net) -> None:
    talk, _ = opened(wire, net, "UDP")
    same_ends = talk.to(net.second_service, 80)
    wire.node.serve(same_ends.dst, [End(net.remote, PORT)], "UDP")
    wire.node.change_config(flags=ConfigFlag.READY | ConfigFlag.LOCAL_FAST_PATH)
    wire.receives(same_ends.opening()).expect_routed(
        "to_backend", same_ends.to(net.remote).opening()
    )
    last_hop = talk.more()
    setattr(last_hop, "ttl" if net.version == 4 else "hlim", 1)
    wire.receives(last_hop).expect("no_port")
