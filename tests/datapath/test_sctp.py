"""SCTP whose ports change: its CRC32c is moved, not computed anew, and must be right all the same.

Packets expected are Scapy's, which reads every byte; `Node` checks the CRC of whatever comes out
besides.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from maps.abi import Hook
from tests.datapath.node import Node
from tests.datapath.packets import End, Net, Talk, refused_by_icmp
from tests.datapath.test_device_sums import summed

PORT = 8080
LENGTHS = [*range(41), *random.Random(9260).sample(range(41, 2000), 60), 1024, 2000]
"""Of a chunk's data: bytes that are no multiple of four come only from strange senders."""


def served(node: Node, net: Net, backend: str) -> tuple[Talk, Talk]:
    """A connection to a Service of one backend: as the client sees it, and as the backend."""
    talk = net.to_service("SCTP")
    node.serve(talk.dst, [End(backend, PORT)], "SCTP")
    return talk, talk.to(backend, PORT)


def message(talk: Talk, data: bytes, **header: int) -> Packet:
    """A DATA chunk of any length, unpadded; fields are those of the common header."""
    head = SCTP(sport=talk.src.port, dport=talk.dst.port, tag=0x5EED, **header)
    chunk = bytes(SCTPChunkData(type=0, len=16 + len(data), tsn=7))[:16]
    return talk.ip() / head / Raw(chunk + data)


@pytest.mark.parametrize("backend", ["remote", "server"])
def test_association_to_a_service_with_another_target_port(
    node: Node, net: Net, backend: str
) -> None:
    addr = getattr(net, backend)
    talk, inside = served(node, net, addr)
    into = node.server if backend == "server" else None
    node.from_pod(node.client, talk.opening()).expect("to_backend", inside.opening(), into=into)
    if into:
        result = node.from_pod(into, inside.answer())
        result.expect("reply", talk.answer(), into=node.client)
    else:
        node.to_pod(node.client, inside.answer()).expect("reply", talk.answer())
    node.from_pod(node.client, talk.more()).expect("to_backend", inside.more(), into=into)
    result = node.from_pod(node.client, talk.sctp_abort())
    result.expect("to_backend", inside.sctp_abort(), into=into)


def test_crc_is_right_whatever_the_length(node: Node, net: Net) -> None:
    talk, inside = served(node, net, net.remote)
    node.from_pod(node.client, talk.opening())
    source = random.Random(1)
    for length in LENGTHS:
        data = source.randbytes(length)
        sent, expected = message(talk, data), message(inside, data)
        node.from_pod(node.client, sent).expect("to_backend", expected)
        reply, shown = message(inside.back, data), message(talk.back, data)
        node.to_pod(node.client, reply).expect("reply", shown)


def test_crc_is_right_whatever_the_ports(node: Node, net: Net) -> None:
    source = random.Random(2)
    for _ in range(100):
        client, front, back = (source.randrange(1, 1 << 16) for _ in range(3))
        talk = net.to_service("SCTP", front, client)
        inside = talk.to(net.remote, back)
        node.serve(talk.dst, [End(net.remote, back)], "SCTP")
        data = source.randbytes(source.randrange(200))
        result = node.from_pod(node.client, message(talk, data))
        seen = replace(inside, src=End(inside.src.addr, result.packet.sport))
        result.expect("to_backend", message(seen, data))


def test_wrong_crc_stays_as_wrong_as_it_was(node: Node, net: Net) -> None:
    talk, inside = served(node, net, net.remote)
    node.from_pod(node.client, talk.opening())
    sent, expected = (bytearray(bytes(Ether() / message(t, b"abc"))) for t in (talk, inside))
    for frame in (sent, expected):
        frame[-20] ^= 0x5A  # of the CRC, before the chunk of 19 bytes
    assert node.run(Hook.FROM_POD, node.client, bytes(sent)).data == bytes(expected)


@pytest.mark.parametrize("fields", [{}, {"gso_size": 1400, "gso_segs": 2}], ids=["one", "many"])
def test_checksum_that_a_device_is_to_fill_in_stays_empty(
    node: Node, net: Net, fields: dict[str, int]
) -> None:
    talk, inside = served(node, net, net.remote)
    node.from_pod(node.client, talk.opening())
    sent, expected = message(talk, b"abcd", chksum=0), message(inside, b"abcd", chksum=0)
    node.from_pod(node.client, sent, **fields).expect("to_backend", expected)


def test_sum_that_a_device_has_made_stays_true(node: Node, net: Net) -> None:
    talk, inside = served(node, net, net.remote)
    node.from_pod(node.client, talk.opening())
    for length in (0, 1, 100):
        packet = message(inside.back, b"x" * length)
        assert summed(node, packet) == bytes(message(talk.back, b"x" * length))


# ---- fragments: the first does not say how long the whole is -----------------------------------


def first_fragment(talk: Talk) -> Packet:
    """The first 24 bytes of a longer message."""
    start = bytes(message(talk, b"f" * 64).getlayer(SCTP))[:24]
    if talk.net.version == 4:
        return talk.ip(flags="MF", proto=132) / Raw(start)
    return talk.ip() / IPv6ExtHdrFragment(nh=132, m=1, id=5) / Raw(start)


def test_fragment_whose_ports_would_change_is_dropped(node: Node, net: Net) -> None:
    talk, _ = served(node, net, net.remote)
    node.from_pod(node.client, talk.opening())
    node.from_pod(node.client, first_fragment(talk)).expect("rewrite")


def test_fragment_whose_ports_stay_goes_on(node: Node, net: Net) -> None:
    talk = net.to_service("SCTP", port=80)
    node.serve(talk.dst, [End(net.remote, 80)], "SCTP")
    inside = talk.to(net.remote, 80)
    node.from_pod(node.client, talk.opening())
    expected = first_fragment(inside)
    expected[Raw].load = first_fragment(talk)[Raw].load
    node.from_pod(node.client, first_fragment(talk)).expect("to_backend", expected)


# ---- nothing to rewrite --------------------------------------------------------------------------


def test_refusal_of_sctp_quotes_it(node: Node, net: Net) -> None:
    talk = net.to_service("SCTP")
    node.serve(talk.dst, [], "SCTP")
    opening = talk.opening()
    node.from_pod(node.client, opening).expect_refused("no_backend", refused_by_icmp(talk, opening))
