"""Frames that lie, end early, or are none of our business: named verdicts, and nothing worse."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.datapath.node import Node
from tests.datapath.packets import IPV4, IPV6, End, Net

hooks = pytest.mark.parametrize("hook", ["from_pod", "to_pod"])
LINK = {"src": "02:00:00:00:01:01", "dst": "02:00:00:00:00:01"}


def check(node: Node, hook: str, packet: Packet, verdict: str) -> None:
    """The verdict must be this one at either hook, and only what passes comes out, unchanged."""
    result = getattr(node, hook)(node.client, packet)
    result.expect(verdict, result.sent if verdict in ("not_ours", "direct") else None)


# ---- headers that contradict themselves ---------------------------------------------------

TALK4 = IPV4.talk("TCP", End(IPV4.client, 40000), End(IPV4.outside, 80))
TALK6 = IPV6.talk("TCP", End(IPV6.client, 40000), End(IPV6.outside, 80))

LIES = {
    "IPv4 of version 5": (TALK4.ip(version=5, ihl=5) / TCP(), "bad_ip"),
    "IPv4 of version 6": (TALK4.ip(version=6, ihl=5) / TCP(), "bad_ip"),
    "IPv4 header of 16 bytes": (TALK4.ip(ihl=4) / TCP(), "bad_ip"),
    "IPv4 header of 0 bytes": (TALK4.ip(ihl=0) / TCP(), "bad_ip"),
    "IPv4 shorter than its header": (TALK4.ip(len=19) / TCP(), "bad_ip"),
    "IPv4 shorter than its options": (TALK4.ip(ihl=15, len=40) / TCP(), "bad_ip"),
    "IPv4 of length 0": (TALK4.ip(len=0) / TCP(), "bad_ip"),
    "IPv4 longer than the frame": (TALK4.ip(len=41) / TCP(), "short"),
    "IPv4 options longer than the frame": (TALK4.ip(ihl=15, len=60) / TCP(), "short"),
    "IPv4 that ends before TCP's flags": (TALK4.ip(len=32) / TCP(), "short"),
    "IPv4 without any transport header": (TALK4.ip(len=20) / TCP(), "short"),
    "IPv4 that ends inside UDP": (TALK4.ip(len=27, proto=17) / UDP() / Raw(b"x" * 9), "short"),
    "IPv4 that ends inside ICMP": (TALK4.ip(len=24, proto=1) / Raw(b"\x08" * 30), "short"),
    "IPv4 that ends inside SCTP": (TALK4.ip(len=32, proto=132) / Raw(b"\0" * 30), "short"),
    "IPv6 of version 4": (TALK6.ip(version=4) / TCP(), "bad_ip"),
    "IPv6 of version 0": (TALK6.ip(version=0) / TCP(), "bad_ip"),
    "IPv6 longer than the frame": (TALK6.ip(plen=21) / TCP(), "short"),
    "IPv6 that ends before TCP's flags": (TALK6.ip(plen=12) / TCP(), "short"),
    "IPv6 without any transport header": (TALK6.ip(plen=0) / TCP(), "short"),
    "IPv6 that ends inside UDP": (TALK6.ip(plen=7) / UDP() / Raw(b"x" * 9), "short"),
    "IPv6 extension header longer than the packet": (
        TALK6.ip() / IPv6ExtHdrDestOpt(nh=6, len=20) / TCP(),
        "short",
    ),
    "IPv6 that ends inside an extension header": (
        TALK6.ip(plen=4) / IPv6ExtHdrHopByHop(nh=6) / TCP(),
        "short",
    ),
}


@hooks
@pytest.mark.parametrize("lie", LIES)
def test_header_that_lies_is_dropped(node: Node, hook: str, lie: str) -> None:
    packet, verdict = LIES[lie]
    check(node, hook, packet, verdict)
    assert node.flow_count() == 0


@hooks
def test_padding_behind_the_packet_goes_along(node: Node, net: Net, hook: str) -> None:
    talk = net.talk("UDP", End(net.client, 40000), End(net.outside, 53))
    talk = talk if hook == "from_pod" else talk.back
    frame = Ether(**LINK) / talk.data(b"x")
    check(node, hook, Ether(bytes(frame) + bytes(17)), "direct")


def test_ipv4_too_long_for_its_length_field_is_taken_by_its_frame(node: Node) -> None:
    """BIG TCP leaves the length 0 where a segment is not cut yet."""
    talk = IPV4.to_service()
    node.serve(talk.dst, [End(IPV4.remote, 80)])
    node.from_pod(node.client, talk.opening())
    sent, arrives = talk.more(), talk.to(IPV4.remote, 80).more()
    for packet in (sent, arrives):
        right = TCP(bytes(packet)[20:]).chksum
        packet.len, packet[TCP].chksum = 0, right
    result = node.from_pod(node.client, sent, gso_size=1400, gso_segs=2)
    result.expect("to_backend", arrives)


@hooks
@pytest.mark.parametrize("number", [2, 4, 41, 47, 50, 59, 103, 255])
def test_protocol_without_ports_is_remembered_by_addresses(
    node: Node, net: Net, hook: str, number: int
) -> None:
    ends = (net.client, net.outside) if hook == "from_pod" else (net.outside, net.client)
    check(node, hook, net.ip(*ends, proto=number) / Raw(b"\xff" * 40), "direct")
    check(node, hook, net.ip(*ends, proto=number), "direct")
    assert node.flow_count() == 1


# ---- none of our business -----------------------------------------------------------------

SELF6 = "fe80::1:1"
UNTOUCHED = {
    "ARP": Ether(**LINK) / ARP(psrc=IPV4.client, pdst="169.254.1.1"),
    "VLAN": Ether(**LINK) / Dot1Q(vlan=7) / TALK4.opening(),
    "VLAN in VLAN": Ether(**LINK, type=0x88A8) / Dot1Q(vlan=7) / Dot1Q(vlan=8) / TALK4.opening(),
    "VLAN with IPv6": Ether(**LINK) / Dot1Q(vlan=7) / TALK6.opening(),
    "802.3 length": Ether(**LINK, type=46) / Raw(b"\x42\x42\x03" + bytes(43)),
    "LLDP": Ether(src=LINK["src"], dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(40)),
    "MPLS": Ether(**LINK, type=0x8847) / Raw(b"\0\0\x11\xff" + bytes(TALK4.opening())),
    "multicast": Ether(**LINK) / IP(src=IPV4.client, dst="224.0.0.251") / UDP(dport=5353),
    "last multicast": Ether(**LINK) / IP(src=IPV4.client, dst="239.255.255.255") / UDP(),
    "broadcast": Ether(**LINK) / IP(src=IPV4.client, dst="255.255.255.255") / UDP(dport=9),
    "DHCP": Ether(**LINK) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67),
    "DHCP by unicast": Ether(**LINK) / IP(src="0.0.0.0", dst="10.1.0.254") / UDP(sport=68),
    "router solicitation": Ether(**LINK) / IPv6(src=SELF6, dst="ff02::2") / ICMPv6ND_RS(),
    "duplicate address detection": Ether(**LINK)
    / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255)
    / ICMPv6ND_NS(tgt=IPV6.client),
    "neighbour solicitation": Ether(**LINK)
    / IPv6(src=IPV6.client, dst="ff02::1:ff00:2", hlim=255)
    / ICMPv6ND_NS(tgt=IPV6.server),
    "neighbour is asked whether it is still there": Ether(**LINK)
    / IPv6(src=IPV6.client, dst=IPV6.server, hlim=255)
    / ICMPv6ND_NS(tgt=IPV6.server),
    "neighbour says that it is still there": Ether(**LINK)
    / IPv6(src=IPV6.client, dst=IPV6.server, hlim=255)
    / ICMPv6ND_NA(tgt=IPV6.client),
    "to a link-local address": Ether(**LINK) / IPv6(src=IPV6.client, dst="fe80::1") / UDP(),
    "from a link-local address": Ether(**LINK) / IPv6(src=SELF6, dst=IPV6.server) / UDP(),
    "DHCPv6": Ether(**LINK) / IPv6(src=SELF6, dst="ff02::1:2") / UDP(sport=546, dport=547),
}


@hooks
@pytest.mark.parametrize("what", UNTOUCHED)
def test_what_is_not_ours_passes_untouched(node: Node, hook: str, what: str) -> None:
    check(node, hook, UNTOUCHED[what], "not_ours")
    assert node.flow_count() == 0


@hooks
def test_what_is_not_ours_passes_even_before_there_is_a_configuration(
    node: Node, hook: str
) -> None:
    node.change_config(flags=0)
    check(node, hook, UNTOUCHED["ARP"], "not_ours")
    check(node, hook, UNTOUCHED["neighbour solicitation"], "not_ours")


@hooks
def test_nothing_of_ours_passes_before_there_is_a_configuration(
    node: Node, net: Net, hook: str, proto: str
) -> None:
    node.change_config(flags=0)
    check(node, hook, net.to_service(proto).opening(), "not_configured")


def test_udp_without_checksum_stays_without(node: Node) -> None:
    talk = IPV4.to_service("UDP")
    inside = talk.to(IPV4.remote, 53)
    node.serve(talk.dst, [inside.dst], "UDP")
    for _ in range(2):
        result = node.from_pod(node.client, talk.data(b"q", chksum=0))
        result.expect("to_backend", inside.data(b"q", chksum=0))
    node.to_pod(node.client, inside.back.data(b"a", chksum=0)).expect(
        "reply", talk.back.data(b"a", chksum=0)
    )


def test_udp_checksum_that_comes_out_as_zero_is_written_as_ones(node: Node, net: Net) -> None:
    """RFC 768: zero would say that there is none."""
    talk = net.to_service("UDP")
    inside = talk.to(net.remote, 53)
    node.serve(talk.dst, [inside.dst], "UDP")
    check_of = UDP(bytes(inside.data(b"\0\0"))[20 if net.version == 4 else 40 :]).chksum
    data = check_of.to_bytes(2, "big")
    result = node.from_pod(node.client, talk.data(data))
    result.expect("to_backend", inside.data(data))
    assert result.packet[UDP].chksum == 0xFFFF
