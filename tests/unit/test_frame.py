"""Packets of `kpbpf trace`: what is built is what a kernel would send, and reads back."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit

from kpbpf.address import from_text
from kpbpf.datapath import frame

POD_MAC, NODE_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
FAMILIES = (("10.0.0.1", "10.96.0.10"), ("fd00::1", "fd96::10"))


def packet(src: str, dst: str, protocol: str) -> frame.Packet:
    proto = frame.PROTOCOLS[protocol]
    return frame.Packet(from_text(src), from_text(dst), proto, 40001, 80)


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize("protocol", frame.PROTOCOLS)
def test_lengths_and_checksums_are_those_that_scapy_computes(
    src: str, dst: str, protocol: str
) -> None:
    built = frame.build(packet(src, dst, protocol), POD_MAC, NODE_MAC)
    again = Ether(built)
    layer = again
    while layer:
        for name in ("chksum", "cksum", "len", "plen"):
            if name in layer.fields and not isinstance(layer, SCTPChunkInit):
                del layer.fields[name]
        layer.raw_packet_cache = None
        layer = layer.payload
    assert bytes(again) == built


@pytest.mark.parametrize(("src", "dst"), FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_what_was_built_reads_back(src: str, dst: str, protocol: str) -> None:
    made = packet(src, dst, protocol)
    assert frame.read(frame.build(made, POD_MAC, NODE_MAC))._replace(kind="") == made


def test_two_families_in_one_packet_are_refused() -> None:
    with pytest.raises(ValueError, match="two families"):
        frame.build(packet("10.0.0.1", "fd00::1", "tcp"), POD_MAC, NODE_MAC)


V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (V4 / TCP(sport=1, dport=2, flags="S"), "TCP SYN 10.0.0.1:1 -> 10.0.0.2:2, TTL 64"),
        (V4 / TCP(sport=1, dport=2, flags="RA"), "TCP RST ACK 10.0.0.1:1 -> 10.0.0.2:2, TTL 64"),
        (V6 / UDP(sport=1, dport=2), "UDP [fd00::1]:1 -> [fd00::2]:2, TTL 64"),
        (
            V4 / SCTP(sport=1, dport=2) / SCTPChunkInit(),
            "SCTP INIT 10.0.0.1:1 -> 10.0.0.2:2, TTL 64",
        ),
        (V4 / ICMP(type=3, code=3), "ICMP port unreachable 10.0.0.1 -> 10.0.0.2, TTL 64"),
        (V4 / ICMP(type=3, code=4), "ICMP type 3 code 4 10.0.0.1 -> 10.0.0.2, TTL 64"),
        (V6 / ICMPv6DestUnreach(code=4), "ICMPv6 port unreachable fd00::1 -> fd00::2, TTL 64"),
        (V6 / ICMPv6EchoRequest(), "ICMPv6 echo request fd00::1 -> fd00::2, TTL 64"),
        (V4.copy() / b"x", "protocol 0 10.0.0.1:0 -> 10.0.0.2:0, TTL 64"),
    ],
)
def test_a_packet_in_words(sent: Any, told: str) -> None:
    # Without an address Scapy would ask the network for one.
    ether = Ether(dst=POD_MAC, src=NODE_MAC)
    assert str(frame.read(bytes(ether / sent))) == told


@pytest.mark.parametrize("cut", range(0, 48, 3))
def test_a_cut_frame_is_told_apart(cut: int) -> None:
    whole = frame.build(packet("10.0.0.1", "10.0.0.2", "tcp"), POD_MAC, NODE_MAC)
    with pytest.raises(ValueError, match="ends inside a header"):
        frame.read(whole[:cut])
