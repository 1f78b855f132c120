"""One packet as bytes, for `kpbpf trace`: build an Ethernet frame, and read one back.

TCP SYN, UDP, SCTP INIT and ICMP echo request, over IPv4 and IPv6, with right checksums, as a
pod's own kernel would send them. Reading names what came out, a refusal included. Knows no map
and no program; nothing here sends anything.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from kpbpf.address import MAPPED, Address, is_ipv4, to_text

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132

PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP}
"""What the command line calls them; `icmp` is ICMPv6 between IPv6 addresses."""

_IPV4, _IPV6 = 0x0800, 0x86DD
_TTL = 64
_NAMES = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPV6: "ICMPv6", SCTP: "SCTP"}
_TCP_FLAGS = ((0x02, "SYN"), (0x04, "RST"), (0x01, "FIN"), (0x10, "ACK"))
_SCTP_CHUNKS = {1: "INIT", 2: "INIT ACK", 6: "ABORT"}
_ICMP_KINDS = {
    (ICMP, 0, 0): "echo reply",
    (ICMP, 3, 3): "port unreachable",
    (ICMP, 8, 0): "echo request",
    (ICMPV6, 1, 4): "port unreachable",
    (ICMPV6, 128, 0): "echo request",
    (ICMPV6, 129, 0): "echo reply",
}


class Packet(NamedTuple):
    """What a packet says. ICMP echo: the identifier stands in both ports, as in flow keys."""

    src: Address
    dst: Address
    proto: int
    src_port: int = 0
    dst_port: int = 0
    ttl: int = _TTL
    kind: str = ""
    """In words, as far as there is something to say: "SYN", "port unreachable"; only read."""

    def __str__(self) -> str:
        """`TCP SYN 10.1.0.1:40000 -> 10.96.0.10:80, TTL 64`."""
        name = _NAMES.get(self.proto, f"protocol {self.proto}")
        words = [name, self.kind] if self.kind else [name]
        source, target = _end(self.src, self.src_port), _end(self.dst, self.dst_port)
        if self.proto in (ICMP, ICMPV6):
            source, target = to_text(self.src), to_text(self.dst)
        return f"{' '.join(words)} {source} -> {target}, TTL {self.ttl}"


def build(packet: Packet, src_mac: bytes, dst_mac: bytes) -> bytes:
    """Make the frame of a packet that opens a connection; both addresses of one family."""
    v4 = is_ipv4(packet.src)
    if v4 != is_ipv4(packet.dst):
        raise ValueError(f"{to_text(packet.src)} and {to_text(packet.dst)} are of two families")
    proto = ICMPV6 if packet.proto == ICMP and not v4 else packet.proto
    payload = _transport(packet, proto)
    header = _ipv4(packet, proto, len(payload)) if v4 else _ipv6(packet, proto, len(payload))
    return dst_mac + src_mac + struct.pack("!H", _IPV4 if v4 else _IPV6) + header + payload


def read(frame: bytes) -> Packet:
    """Read the frame of an IP packet without options or extension headers; else ValueError."""
    try:
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind == _IPV4:
            ttl, proto = struct.unpack_from("!BB", frame, 22)
            src, dst = MAPPED + frame[26:30], MAPPED + frame[30:34]
            transport = frame[14 + (frame[14] & 15) * 4 :]
        elif kind == _IPV6:
            proto, ttl = struct.unpack_from("!BB", frame, 20)
            src, dst, transport = frame[22:38], frame[38:54], frame[54:]
        else:
            raise ValueError(f"a frame of type 0x{kind:04x} is not an IP packet")
        return _with_transport(Packet(src, dst, proto, ttl=ttl), transport)
    except (struct.error, IndexError):
        raise ValueError(f"a frame of {len(frame)} bytes ends inside a header") from None


# ---- build --------------------------------------------------------------------------


def _transport(packet: Packet, proto: int) -> bytes:
    ports = struct.pack("!HH", packet.src_port, packet.dst_port)
    if proto == TCP:
        maximum_segment = b"\x02\x04\x05\xb4"
        syn = ports + struct.pack("!IIBBHHH", 1, 0, 6 << 4, 0x02, 64240, 0, 0) + maximum_segment
        return _checksummed(packet, proto, syn, 16)
    if proto == UDP:
        return _checksummed(packet, proto, ports + struct.pack("!HH", 8, 0), 6)
    if proto == SCTP:
        chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
        zeroed = ports + bytes(8) + chunk
        return ports + bytes(4) + struct.pack("<I", _crc32c(zeroed)) + chunk
    if proto == ICMP:
        echo = struct.pack("!BBHHH", 8, 0, 0, packet.src_port, 1)
        return echo[:2] + struct.pack("!H", _ones_complement(echo)) + echo[4:]
    if proto == ICMPV6:
        return _checksummed(packet, proto, struct.pack("!BBHHH", 128, 0, 0, packet.src_port, 1), 2)
    raise ValueError(f"no packet of protocol {proto} is known here")


def _checksummed(packet: Packet, proto: int, segment: bytes, at: int) -> bytes:
    """Put the checksum over pseudo header and segment into the two bytes at offset `at`."""
    strip = 12 if is_ipv4(packet.src) else 0
    pseudo = packet.src[strip:] + packet.dst[strip:] + struct.pack("!II", len(segment), proto)
    check = _ones_complement(pseudo + segment) or 0xFFFF  # RFC 768: 0 would mean "none"
    return segment[:at] + struct.pack("!H", check) + segment[at + 2 :]


def _ipv4(packet: Packet, proto: int, size: int) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 1, 0x4000, packet.ttl, proto, 0)
    header += packet.src[12:] + packet.dst[12:]
    return header[:10] + struct.pack("!H", _ones_complement(header)) + header[12:]


def _ipv6(packet: Packet, proto: int, size: int) -> bytes:
    return struct.pack("!IHBB", 6 << 28, size, proto, packet.ttl) + packet.src + packet.dst


def _ones_complement(data: bytes) -> int:
    """Internet checksum of RFC 1071."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc32c(data: bytes) -> int:
    """SCTP's checksum, RFC 9260 appendix A; bit by bit, because it is one small packet."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF


# ---- read ---------------------------------------------------------------------------


def _with_transport(packet: Packet, transport: bytes) -> Packet:
    reader = _READERS.get(packet.proto)
    if reader is None:
        return packet
    src_port, dst_port, kind = reader(packet.proto, transport)
    return packet._replace(src_port=src_port, dst_port=dst_port, kind=kind)


def _read_tcp(_proto: int, data: bytes) -> tuple[int, int, str]:
    src, dst, flags = struct.unpack_from("!HH9xB", data)
    return src, dst, " ".join(word for bit, word in _TCP_FLAGS if flags & bit)


def _read_udp(_proto: int, data: bytes) -> tuple[int, int, str]:
    src, dst = struct.unpack_from("!HH", data)
    return src, dst, ""


def _read_sctp(_proto: int, data: bytes) -> tuple[int, int, str]:
    src, dst, chunk = struct.unpack_from("!HH8xB", data)
    return src, dst, _SCTP_CHUNKS.get(chunk, f"chunk {chunk}")


def _read_icmp(proto: int, data: bytes) -> tuple[int, int, str]:
    kind, code, identifier = struct.unpack_from("!BBxxH", data)
    words = _ICMP_KINDS.get((proto, kind, code), f"type {kind} code {code}")
    if words.startswith("echo"):
        return identifier, identifier, words
    return 0, 0, words


_READERS: dict[int, Callable[[int, bytes], tuple[int, int, str]]] = {
    TCP: _read_tcp,
    UDP: _read_udp,
    SCTP: _read_sctp,
    ICMP: _read_icmp,
    ICMPV6: _read_icmp,
}


def _end(addr: Address, port: int) -> str:
    text = to_text(addr)
    return f"{text}:{port}" if is_ipv4(addr) else f"[{text}]:{port}"
