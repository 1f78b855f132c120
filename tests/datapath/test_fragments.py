"""Fragments: later ones carry no ports, and follow the first one of their datagram.

IPv6 extension headers stand here as well: how many are walked, and what they do to fragments.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from maps.abi import Step
from tests.datapath.checksums import ones_complement_sum
from tests.datapath.node import Node
from tests.datapath.packets import (
    IPV4,
    IPV6,
    End,
    Net,
    Talk,
    quote,
    refused_by_icmp,
    too_big,
)

PORT = 53
CUT = 32
"""Bytes of each fragment but the last: a multiple of 8."""

UDP_NUMBER = 17


def fragments(talk: Talk, whole: bytes, proto: int, before: Sequence[Packet] = ()) -> list[Packet]:
    """Cut a transport packet into fragments; `before` are extension headers in front."""
    pieces = [whole[at : at + CUT] for at in range(0, len(whole), CUT)]
    packets = []
    for number, piece in enumerate(pieces):
        more, place = number + 1 < len(pieces), number * CUT // 8
        if talk.net.version == 4:
            packet = talk.ip(id=4711, flags="MF" if more else 0, frag=place, proto=proto)
        else:
            packet = talk.ip()
            for header in before:
                packet /= header.copy()
            packet /= IPv6ExtHdrFragment(nh=proto, offset=place, m=more, id=4711)
        packets.append(packet / Raw(piece))
    return packets


def transport(packet: Packet) -> bytes:
    """The transport header and data of an unfragmented packet without extras."""
    return bytes(packet)[20 if packet.version == 4 else 40 :]


def in_fragments(talk: Talk, size: int = 80, before: Sequence[Packet] = ()) -> list[Packet]:
    return fragments(talk, transport(talk.data(b"x" * size)), UDP_NUMBER, before)


def served(node: Node, net: Net, backend: str, sport: int = 40000) -> tuple[Talk, Talk]:
    talk = net.to_service("UDP", port=PORT, sport=sport)
    node.serve(talk.dst, [End(backend, 5353)], "UDP")
    return talk, talk.to(backend, 5353)


# ---- there and back -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["remote", "server"])
def test_fragments_of_a_datagram_go_to_one_backend(node: Node, net: Net, backend: str) -> None:
    talk, inside = served(node, net, getattr(net, backend))
    into = node.server if backend == "server" else None
    pairs = list(zip(in_fragments(talk), in_fragments(inside), strict=True))
    assert len(pairs) > 2
    for number, (sent, arrives) in enumerate(pairs):
        result = node.from_pod(node.client, sent)
        result.expect("to_backend", arrives, into=into)
        assert (Step.FRAGMENT in result.steps) == (number > 0)
    assert node.flow_count() == 2


def test_fragments_of_a_reply_show_the_service(node: Node, net: Net) -> None:
    talk, inside = served(node, net, net.remote)
    node.from_pod(node.client, talk.opening())
    for sent, arrives in zip(in_fragments(inside.back), in_fragments(talk.back), strict=True):
        node.to_pod(node.client, sent).expect("reply", arrives)


def test_hairpin_works_in_fragments(node: Node, net: Net) -> None:
    talk, inside = served(node, net, net.client)
    inside = inside.seen_as(net.hairpin)
    for sent, arrives in zip(in_fragments(talk), in_fragments(inside), strict=True):
        node.from_pod(node.client, sent).expect("to_backend", arrives, into=node.client)
    for sent, arrives in zip(in_fragments(inside.back), in_fragments(talk.back), strict=True):
        node.from_pod(node.client, sent).expect("reply", arrives, into=node.client)


def test_reassembled_datagram_has_a_right_checksum(node: Node, net: Net) -> None:
    talk, _ = served(node, net, net.remote)
    frames = [node.from_pod(node.client, sent).data for sent in in_fragments(talk, 201)]
    header = 14 + (20 if net.version == 4 else 48)
    whole = b"".join(frame[header:] for frame in frames)
    addresses = frames[0][26:34] if net.version == 4 else frames[0][22:54]
    pseudo = addresses + bytes([0, UDP_NUMBER]) + len(whole).to_bytes(2, "big")
    assert ones_complement_sum(pseudo + whole) == 0xFFFF


def test_fragments_of_a_ping_go_on_as_they_are(node: Node, net: Net) -> None:
    talk = net.talk("ICMP", End(net.client, 9), End(net.server, 9))
    number = 1 if net.version == 4 else 58
    for sent in fragments(talk, transport(talk.data(b"x" * 80)), number):
        node.from_pod(node.client, sent).expect("direct", sent, into=node.server)
    for sent in fragments(talk.back, transport(talk.answer()) + b"x" * 80, number):
        node.from_pod(node.server, sent).expect("direct", sent, into=node.client)
    assert node.flow_count() == 1


def test_direct_datagrams_go_in_fragments(node: Node, net: Net) -> None:
    talk = net.talk("UDP", End(net.client, 40000), End(net.outside, 53))
    for sent in in_fragments(talk):
        node.from_pod(node.client, sent).expect("direct", sent)
    for sent in in_fragments(talk.back):
        node.to_pod(node.client, sent).expect("direct", sent)
    assert node.flow_count() == 1


# ---- a first fragment must come first -----------------------------------------------------


def test_later_fragment_before_its_first_is_dropped(node: Node, net: Net) -> None:
    talk, _ = served(node, net, net.remote)
    first, second, *_ = in_fragments(talk)
    node.from_pod(node.client, second).expect("fragment_unknown")
    assert node.from_pod(node.client, first).verdict == "to_backend"
    assert node.from_pod(node.client, second).verdict == "to_backend"
    node.to_pod(node.client, in_fragments(talk.back)[1]).expect("fragment_unknown")


def test_fragments_of_two_datagrams_are_told_apart(node: Node, net: Net) -> None:
    first, first_inside = served(node, net, net.remote)
    second, second_inside = served(node, net, net.second_remote, sport=40001)
    views = []
    for talk, inside, number in ((first, first_inside, 1), (second, second_inside, 2)):
        pair = in_fragments(talk), in_fragments(inside)
        for packet in (*pair[0], *pair[1]):
            (packet if net.version == 4 else packet[IPv6ExtHdrFragment]).id = number
        views.append(pair)
        node.serve(talk.dst, [End(inside.dst.addr, 5353)], "UDP")
        node.from_pod(node.client, pair[0][0]).expect("to_backend", pair[1][0])
    for sent, arrives in views:
        node.from_pod(node.client, sent[1]).expect("to_backend", arrives[1])


def test_first_fragment_too_small_for_its_header_is_dropped(node: Node, net: Net) -> None:
    talk, _ = served(node, net, net.remote)
    if net.version == 4:
        packet = talk.ip(flags="MF", proto=6) / Raw(b"\x9c\x40\x00\x35\0\0\0\0")
    else:
        packet = talk.ip() / IPv6ExtHdrFragment(nh=6, m=1) / Raw(b"\x9c\x40\x00\x35\0\0\0\0")
    node.from_pod(node.client, packet).expect("short")


def test_refused_first_fragment_is_quoted(node: Node) -> None:
    talk = IPV6.to_service("UDP", port=PORT)
    node.serve(talk.dst, [], "UDP")
    first, later, *_ = in_fragments(talk)
    result = node.from_pod(node.client, first)
    answer = refused_by_icmp(talk, first)
    answer[Raw].load = bytes(first)[: 40 + 8 + 8]
    result.expect_refused("no_backend", answer)
    node.from_pod(node.client, later).expect("fragment_unknown")


def test_error_about_an_ipv6_fragment_is_translated_if_it_was_the_first(node: Node) -> None:
    net = IPV6
    talk, inside = served(node, net, net.remote)
    node.from_pod(node.client, talk.opening())
    complaints = [
        too_big(net, net.router, net.client, quote(packet, 16)) for packet in in_fragments(inside)
    ]
    told = too_big(net, net.router, net.client, quote(in_fragments(talk)[0], 16))
    node.to_pod(node.client, complaints[0]).expect("icmp_error", told)
    node.to_pod(node.client, complaints[1]).expect("direct", complaints[1])


# ---- IPv6 extension headers ---------------------------------------------------------------

KINDS = [
    IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),
    IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)]),
    IPv6ExtHdrRouting(type=4, segleft=0, addresses=[IPV6.router]),
    AH(spi=1, seq=1, payloadlen=4, icv=b"\0" * 12),
    IPv6ExtHdrFragment(id=1),
    IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
    IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 20)]),
    IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
]
NUMBERS = [0, 60, 43, 51, 44, 60, 60, 60]


def behind(talk: Talk, headers: Sequence[int]) -> Packet:
    """A datagram behind extension headers, by their place in KINDS."""
    datagram = talk.data(b"question")[UDP]
    numbers = [NUMBERS[i] for i in headers] + [UDP_NUMBER]
    packet = talk.ip(nh=numbers[0])
    for place, i in enumerate(headers):
        header = KINDS[i].copy()
        header.nh = numbers[place + 1]
        packet /= header
    # Built apart, so that the checksum is that of the addresses in the IPv6 header.
    return packet / Raw(transport(talk.ip() / datagram))


@pytest.mark.parametrize("count", range(8))
def test_up_to_seven_extension_headers_are_walked(node: Node, count: int) -> None:
    talk, inside = served(node, IPV6, IPV6.remote)
    result = node.from_pod(node.client, behind(talk, range(count)))
    result.expect("to_backend", behind(inside, range(count)))


@pytest.mark.parametrize("kind", range(len(KINDS) - 1))
def test_each_kind_of_extension_header_is_walked_alone(node: Node, kind: int) -> None:
    talk, inside = served(node, IPV6, IPV6.remote)
    result = node.from_pod(node.client, behind(talk, [kind]))
    result.expect("to_backend", behind(inside, [kind]))
    result = node.to_pod(node.client, behind(inside.back, [kind]))
    result.expect("reply", behind(talk.back, [kind]))


def test_eighth_extension_header_is_one_too_many(node: Node) -> None:
    talk, _ = served(node, IPV6, IPV6.remote)
    node.from_pod(node.client, behind(talk, range(8))).expect("extension_headers")


def test_extension_headers_that_reach_too_far_are_dropped(node: Node) -> None:
    talk, _ = served(node, IPV6, IPV6.remote)
    long = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 250), PadN(optdata=b"\0" * 250)])
    packet = talk.ip() / long / talk.data(b"")[UDP]
    node.from_pod(node.client, packet).expect("extension_headers")


def test_atomic_fragment_is_a_whole_datagram(node: Node) -> None:
    talk, inside = served(node, IPV6, IPV6.remote)
    node.from_pod(node.client, behind(talk, [4])).expect("to_backend", behind(inside, [4]))
    assert not node.written(["fragments"])["fragments"]


@pytest.mark.parametrize("before", [[0], [1], [0, 1], [0, 2, 1]])
def test_fragments_behind_other_extension_headers(node: Node, before: list[int]) -> None:
    talk, inside = served(node, IPV6, IPV6.remote)
    headers = [KINDS[i] for i in before]
    sent, arrives = in_fragments(talk, before=headers), in_fragments(inside, before=headers)
    for one, other in zip(sent, arrives, strict=True):
        node.from_pod(node.client, one).expect("to_backend", other)


def test_fragments_of_a_datagram_behind_destination_options(node: Node) -> None:
    talk, inside = served(node, IPV6, IPV6.remote)
    views = []
    for view in (talk, inside):
        options = bytes(IPv6ExtHdrDestOpt(nh=UDP_NUMBER, options=[PadN(optdata=b"\0" * 4)]))
        views.append(fragments(view, options + transport(view.data(b"x" * 80)), 60))
    for sent, arrives in zip(*views, strict=True):
        node.from_pod(node.client, sent).expect("to_backend", arrives)


def test_ipv4_and_ipv6_fragments_with_one_id_do_not_meet(node: Node) -> None:
    for net in (IPV4, IPV6):
        talk, inside = served(node, net, net.remote)
        sent, arrives = in_fragments(talk), in_fragments(inside)
        node.from_pod(node.client, sent[0]).expect("to_backend", arrives[0])
    assert len(node.written(["fragments"])["fragments"]) == 2
