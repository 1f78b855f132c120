"""Packets by name, as Scapy values without a link layer: who speaks, to whom, and what.

A `Net` names the addresses of one family. A `Talk` is one connection as one place sees it; the
same connection behind a Service is `talk.to(backend)`. Nothing here knows a map or a program.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
)
from scapy.layers.sctp import SCTP, SCTPChunkAbort, SCTPChunkCookieEcho, SCTPChunkInit
from scapy.layers.sctp import SCTPChunkInitAck as InitAck
from scapy.packet import Packet, Raw

NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
CLIENT_SEQ, SERVER_SEQ = 1000, 5000


class End(NamedTuple):
    """One end of a connection."""

    addr: str
    port: int


class Net(NamedTuple):
    """Who is who, in one address family. The first three are pods of this node."""

    version: int
    client: str
    server: str
    other: str
    remote: str
    second_remote: str
    outside: str
    router: str
    service: str
    second_service: str
    hairpin: str

    def ip(self, src: str, dst: str, **fields: Any) -> Packet:
        """Make the network header."""
        if self.version == 4:
            return IP(src=src, dst=dst, **{"id": 7, **fields})
        names = {"ttl": "hlim", "proto": "nh"}
        return IPv6(src=src, dst=dst, **{names.get(k, k): v for k, v in fields.items()})

    def talk(self, proto: str, src: End, dst: End) -> Talk:
        """Name a connection."""
        return Talk(self, proto, src, dst)

    def to_service(self, proto: str = "TCP", port: int = 80, sport: int = 40000) -> Talk:
        """Name the usual one: the client pod to the Service."""
        return Talk(self, proto, End(self.client, sport), End(self.service, port))


IPV4 = Net(
    4,
    client="10.1.0.1",
    server="10.1.0.2",
    other="10.1.0.3",
    remote="10.2.0.1",
    second_remote="10.2.0.2",
    outside="192.0.2.9",
    router="198.51.100.1",
    service="10.96.0.10",
    second_service="10.96.0.20",
    hairpin="169.254.107.112",
)
IPV6 = Net(
    6,
    client="fd01::1",
    server="fd01::2",
    other="fd01::3",
    remote="fd02::1",
    second_remote="fd02::2",
    outside="2001:db8::9",
    router="2001:db8:ffff::1",
    service="fd96::10",
    second_service="fd96::20",
    hairpin="fd6b:7062:7066::1",
)


@dataclass(frozen=True)
class Talk:
    """A connection from `src`, which opens it, to `dst`. ICMP: an echo; the ports are its id."""

    net: Net
    proto: str
    src: End
    dst: End

    def to(self, addr: str, port: int = 8080) -> Talk:
        """The same connection, where its far end is another: behind a Service."""
        return replace(self, dst=End(addr, port))

    def seen_as(self, addr: str | None = None, port: int | None = None) -> Talk:
        """The same connection, where its client looks different."""
        return replace(self, src=End(addr or self.src.addr, port or self.src.port))

    @property
    def back(self) -> Talk:
        """The other direction: what `dst` says."""
        return replace(self, src=self.dst, dst=self.src)

    def opening(self) -> Packet:
        """What a client says first."""
        if self.proto == "TCP":
            return self.tcp("S")
        if self.proto == "SCTP":
            return self._sctp(SCTPChunkInit(init_tag=1))
        return self.data(b"question")

    def answer(self) -> Packet:
        """What comes back first."""
        if self.proto == "TCP":
            return self.back.tcp("SA", seq=SERVER_SEQ, ack=CLIENT_SEQ + 1)
        if self.proto == "SCTP":
            return self.back._sctp(InitAck(init_tag=2))
        if self.proto == "ICMP":
            return self.back._echo(b"question", reply=True)
        return self.back.data(b"answer")

    def more(self) -> Packet:
        """What a client says next."""
        if self.proto == "TCP":
            return self.tcp("PA", b"GET /", seq=CLIENT_SEQ + 1, ack=SERVER_SEQ + 1)
        if self.proto == "SCTP":
            return self._sctp(SCTPChunkCookieEcho(cookie=b"cook"))
        return self.data(b"another question")

    def tcp(self, flags: str, data: bytes = b"", **fields: Any) -> Packet:
        """Make a TCP segment; fields are those of the TCP header."""
        header = TCP(
            sport=self.src.port,
            dport=self.dst.port,
            flags=flags,
            **{"seq": CLIENT_SEQ, **fields},
        )
        return self.ip() / header / Raw(data)

    def data(self, data: bytes, **fields: Any) -> Packet:
        """Make a datagram, or an echo request; fields are those of the UDP header."""
        if self.proto == "ICMP":
            return self._echo(data, reply=False)
        return self.ip() / UDP(sport=self.src.port, dport=self.dst.port, **fields) / Raw(data)

    def ip(self, **fields: Any) -> Packet:
        """Make the network header."""
        return self.net.ip(self.src.addr, self.dst.addr, **fields)

    def sctp_abort(self) -> Packet:
        """End an association at once."""
        return self._sctp(SCTPChunkAbort())

    def _sctp(self, chunk: Packet) -> Packet:
        return self.ip() / SCTP(sport=self.src.port, dport=self.dst.port, tag=9) / chunk

    def _echo(self, data: bytes, reply: bool) -> Packet:
        number = self.dst.port if reply else self.src.port
        if self.net.version == 4:
            return self.ip() / ICMP(type=0 if reply else 8, id=number, seq=1) / Raw(data)
        kind = ICMPv6EchoReply if reply else ICMPv6EchoRequest
        return self.ip() / kind(id=number, seq=1, data=data)


# ---- ICMP errors --------------------------------------------------------------------------


def quote(packet: Packet, transport: int = 8) -> bytes:
    """The start of a packet as an error quotes it: headers and so much of what follows."""
    header = 20 if isinstance(packet, IP) else 40
    return bytes(packet)[: header + transport]


def port_unreachable(net: Net, src: str, dst: str, quoted: bytes, **fields: Any) -> Packet:
    """RFC 792, RFC 4443: nobody listens there."""
    if net.version == 4:
        return net.ip(src, dst, **fields) / ICMP(type=3, code=3) / Raw(quoted)
    return net.ip(src, dst, **fields) / ICMPv6DestUnreach(code=4) / Raw(quoted)


def too_big(net: Net, src: str, dst: str, quoted: bytes) -> Packet:
    """RFC 1191, RFC 8201: a router whose next link takes 1400 bytes at most."""
    if net.version == 4:
        return net.ip(src, dst) / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(quoted)
    return net.ip(src, dst) / ICMPv6PacketTooBig(mtu=1400) / Raw(quoted)


def refused_by_reset(talk: Talk, ack: int, **fields: Any) -> Packet:
    """The reset that answers a segment without ACK: RFC 9293, 3.5.2."""
    return _no_fragments(talk.back.tcp("RA", seq=0, ack=ack, window=0, **fields))


def reset_at(talk: Talk, seq: int) -> Packet:
    """The reset that answers a segment with ACK."""
    return _no_fragments(talk.back.tcp("R", seq=seq, ack=0, window=0))


def refused_by_icmp(talk: Talk, packet: Packet) -> Packet:
    """The port unreachable that a Service without endpoints answers."""
    fields = {"tos": 0xC0, "id": 0} if talk.net.version == 4 else {}
    return port_unreachable(talk.net, talk.dst.addr, talk.src.addr, quote(packet), **fields)


def _no_fragments(packet: Packet) -> Packet:
    if isinstance(packet, IP):
        packet.flags = "DF"
    return packet
