"""Are a frame's checksums right? Plain arithmetic, apart from the code under test.

RFC 1071 for all but SCTP, which has a CRC32c (RFC 9260, appendix A).
"""

from __future__ import annotations

import struct

SCTP = 132
EXTENSIONS = (0, 43, 51, 60)
AH, FRAGMENT = 51, 44
CHECK_OFFSET = {6: 16, 17: 6, 58: 2, 1: 2}


def ones_complement_sum(data: bytes) -> int:
    """Add up 16-bit words, the carry added again; 0xffff when a checksum among them is right."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def wrong_checksums(frame: bytes) -> list[str]:
    """Name every checksum of a well-formed IP frame that is wrong. Fragments have only IP's."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    packet = frame[14:]
    if kind == 0x0800:
        header = (packet[0] & 15) * 4
        total, place = struct.unpack_from("!H2xH", packet, 2)
        wrong = ["IP"] if ones_complement_sum(packet[:header]) != 0xFFFF else []
        if place & 0x3FFF:
            return wrong
        return wrong + _transport(packet[12:20], packet[9], packet[header : total or None])
    if kind == 0x86DD:
        proto, at = packet[6], 40
        while proto in EXTENSIONS:
            size = (packet[at + 1] + 2) * 4 if proto == AH else (packet[at + 1] + 1) * 8
            proto, at = packet[at], at + size
        if proto == FRAGMENT:
            if struct.unpack_from("!H", packet, at + 2)[0] & 0xFFF9:
                return []
            proto, at = packet[at], at + 8
        (length,) = struct.unpack_from("!H", packet, 4)
        return _transport(packet[8:40], proto, packet[at : 40 + length if length else None])
    return []


def _transport(addresses: bytes, proto: int, data: bytes) -> list[str]:
    if proto == SCTP:
        return [] if _sctp_is_right(data) else ["SCTP"]
    at = CHECK_OFFSET.get(proto)
    if at is None:
        return []
    if proto == 17 and len(addresses) == 8 and data[at : at + 2] == b"\0\0":
        return []
    pseudo = b"" if proto == 1 else addresses + struct.pack("!II", len(data), proto)
    right = ones_complement_sum(pseudo + data) == 0xFFFF
    return [] if right else [f"protocol {proto}"]


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


CRC32C = _crc32c_table()


def _sctp_is_right(data: bytes) -> bool:
    """Whether the CRC is right, or 0: that means none yet (offload), or none at all (RFC 9653)."""
    if len(data) < 12 or data[8:12] == bytes(4):
        return True
    crc = 0xFFFFFFFF
    for byte in data[:8] + bytes(4) + data[12:]:
        crc = crc >> 8 ^ CRC32C[(crc ^ byte) & 0xFF]
    return data[8:12] == (crc ^ 0xFFFFFFFF).to_bytes(4, "little")
