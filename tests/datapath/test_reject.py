"""Refusals: the client learns at once, by a reset or a port unreachable, byte by byte."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, PadN
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from maps.abi import Hook, Step
from tests.datapath.node import SECOND, ZERO, Node
from tests.datapath.packets import (
    CLIENT_SEQ,
    Net,
    Talk,
    port_unreachable,
    refused_by_icmp,
    refused_by_reset,
)
from tests.datapath.result import DROP, REDIRECT


def unserved(node: Node, net: Net, proto: str = "TCP") -> Talk:
    """A connection to a Service without endpoints."""
    talk = net.to_service(proto)
    node.serve(talk.dst, [], proto)
    return talk


# ---- TCP: RFC 9293, 3.5.2 -----------------------------------------------------------------


def test_syn_is_answered_by_a_reset_that_acknowledges_it(node: Node, net: Net) -> None:
    talk = unserved(node, net)
    result = node.from_pod(node.client, talk.opening())
    result.expect_refused("no_backend", refused_by_reset(talk, CLIENT_SEQ + 1))
    assert Step.REFUSED in result.steps
    assert node.flow_count() == 0


def test_sequence_numbers_wrap_around(node: Node, net: Net) -> None:
    talk = unserved(node, net)
    result = node.from_pod(node.client, talk.tcp("S", seq=0xFFFFFFFF))
    result.expect_refused("no_backend", refused_by_reset(talk, 0))


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 1300])
def test_data_on_a_syn_is_acknowledged_too(node: Node, net: Net, size: int) -> None:
    talk = unserved(node, net)
    result = node.from_pod(node.client, talk.tcp("S", b"x" * size))
    result.expect_refused("no_backend", refused_by_reset(talk, CLIENT_SEQ + 1 + size))


def test_tcp_options_are_no_data_and_do_not_come_back(node: Node, net: Net) -> None:
    talk = unserved(node, net)
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    result = node.from_pod(node.client, talk.tcp("S", b"early", options=options))
    result.expect_refused("no_backend", refused_by_reset(talk, CLIENT_SEQ + 1 + 5))


def test_padding_of_the_frame_is_no_data(node: Node, net: Net) -> None:
    talk = unserved(node, net)
    frame = Ether(src=node.client.mac, dst=node.client.node_mac) / talk.tcp("S")
    result = node.from_pod(node.client, Ether(bytes(frame) + bytes(6)))
    result.expect_refused("no_backend", refused_by_reset(talk, CLIENT_SEQ + 1))


@pytest.mark.parametrize("flags", ["R", "RA", "SR"])
def test_reset_is_never_answered(node: Node, net: Net, flags: str) -> None:
    talk = unserved(node, net)
    result = node.from_pod(node.client, talk.tcp(flags))
    if flags == "SR":
        result.expect("no_backend")
    else:  # no beginning: from_pod leaves it alone
        result.expect("untracked", talk.tcp(flags))


def with_options(packet: Packet) -> Packet:
    """The packet with more between its network and transport header."""
    if isinstance(packet, IP):
        packet.options = [IPOption_Router_Alert()]
        return packet
    payload = packet.payload
    packet.remove_payload()
    return packet / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / payload


def test_reset_to_a_packet_with_ip_options_keeps_them(node: Node, net: Net) -> None:
    talk = unserved(node, net)
    result = node.from_pod(node.client, with_options(talk.tcp("S", b"data")))
    answer = with_options(refused_by_reset(talk, CLIENT_SEQ + 1 + 4))
    result.expect_refused("no_backend", answer)


# ---- the others: RFC 792, RFC 4443 --------------------------------------------------------


@pytest.mark.parametrize("datagrams", ["UDP", "SCTP"])
@pytest.mark.parametrize("pod", ["client", "server"])
def test_datagram_is_answered_by_port_unreachable_from_the_service(
    node: Node, net: Net, datagrams: str, pod: str
) -> None:
    talk = unserved(node, net, datagrams).seen_as(getattr(net, pod))
    packet = talk.opening()
    result = node.from_pod(getattr(node, pod), packet)
    result.expect_refused("no_backend", refused_by_icmp(talk, packet))
    assert Step.REFUSED in result.steps
    assert node.flow_count() == 0


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1400])
def test_refusal_quotes_as_far_as_the_ports_whatever_follows(
    node: Node, net: Net, size: int
) -> None:
    talk = unserved(node, net, "UDP")
    packet = talk.data(b"x" * size)
    result = node.from_pod(node.client, packet)
    result.expect_refused("no_backend", refused_by_icmp(talk, packet))


def test_refusal_quotes_ip_options_and_extension_headers(node: Node, net: Net) -> None:
    talk = unserved(node, net, "UDP")
    packet = with_options(talk.opening())
    whole = bytes(packet)
    quoted = whole[: len(whole) - len(packet[UDP].payload)]
    fields = {"tos": 0xC0, "id": 0} if net.version == 4 else {}
    answer = port_unreachable(net, talk.dst.addr, talk.src.addr, quoted, **fields)
    node.from_pod(node.client, packet).expect_refused("no_backend", answer)


def test_first_fragment_is_refused_and_later_ones_are_not(node: Node, net: Net) -> None:
    if net.version == 6:
        return  # test_fragments.py has IPv6's
    talk = unserved(node, net, "UDP")
    whole = bytes(UDP(sport=40000, dport=80, len=8 + 32) / Raw(b"x" * 32))
    first, later = (
        talk.ip(flags=flags, frag=frag, proto=17) / Raw(data)
        for flags, frag, data in (("MF", 0, whole[:24]), (0, 3, whole[24:]))
    )
    result = node.from_pod(node.client, first)
    result.expect_refused("no_backend", refused_by_icmp(talk, first))
    node.from_pod(node.client, later).expect("fragment_unknown")


# ---- so many a second ---------------------------------------------------------------------


@pytest.fixture
def _one_cpu() -> Iterator[None]:
    """Refusals are counted per CPU: stay on one."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


def second_passes(node: Node) -> None:
    buckets = node.tables.buckets.get(ZERO)
    assert buckets
    full = [bucket._replace(since_ns=max(bucket.since_ns - SECOND, 0)) for bucket in buckets]
    node.tables.buckets.put(ZERO, full)


def second_begins(node: Node, talk: Talk) -> None:
    """Have a refusal at the start of a second, and none of it spent."""
    node.forget_refusals()
    node.from_pod(node.client, talk.opening())
    buckets = node.tables.buckets.get(ZERO)
    assert buckets
    node.tables.buckets.put(ZERO, [bucket._replace(spent=0) for bucket in buckets])


@pytest.mark.usefixtures("_one_cpu")
def test_refusals_beyond_the_rate_are_dropped_silently(node: Node, net: Net, proto: str) -> None:
    talk = unserved(node, net, proto)
    node.change_config(refusals_per_sec=3)
    second_begins(node, talk)
    frame = bytes(Ether(src=node.client.mac, dst=node.client.node_mac) / talk.opening())
    results = [node.run(Hook.FROM_POD, node.client, frame).retval for _ in range(6)]
    assert results == [REDIRECT] * 3 + [DROP] * 3
    second_passes(node)
    assert node.from_pod(node.client, talk.opening()).verdict == "no_backend"


@pytest.mark.usefixtures("_one_cpu")
def test_resets_and_traces_cost_no_refusal(node: Node, net: Net) -> None:
    talk = unserved(node, net)
    node.change_config(refusals_per_sec=1)
    second_begins(node, talk)
    for _ in range(5):
        node.from_pod(node.client, talk.tcp("SR"))
    assert node.from_pod(node.client, talk.opening()).verdict == "no_backend"
    assert node.from_pod(node.client, talk.opening()).verdict == "refusal_rate"


def test_rate_of_zero_refuses_silently(node: Node, net: Net, proto: str) -> None:
    node.change_config(refusals_per_sec=0)
    talk = unserved(node, net, proto)
    node.from_pod(node.client, talk.opening()).expect("refusal_rate")
