"""IP addresses of both families as 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).

That is what every map key holds. Text is read and written only at the edges: manifests, the
command line, tables for people. MAC addresses are 6 bytes.
"""

# The C half of socket: importing the other one takes every command line 5 ms longer.
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

Address = bytes

MAPPED = bytes(10) + b"\xff\xff"
"""The first 12 bytes of every IPv4 address."""

ZERO: Address = bytes(16)

UNSPECIFIED4: Address = MAPPED + bytes(4)
"""0.0.0.0, as ZERO is ::."""


def from_text(text: str) -> Address:
    """Read "10.0.0.1" or "fd00::1"; ValueError on anything else, leading zeros included."""
    try:
        if ":" in text:
            return inet_pton(AF_INET6, text)
        return MAPPED + inet_pton(AF_INET, text)
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None


def from_text_sloppy(text: str) -> Address:
    """Read as kube-proxy does (SEMANTICS A10): "172.30.0.041" ends in 41, not in octal 33."""
    if ":" in text:
        return from_text(text)
    parts = text.split(".")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError(f"{text!r} is not an IP address")
    return from_text(".".join(part.lstrip("0") or "0" for part in parts))


def block_from_text(text: str) -> tuple[Address, int]:
    """Read "10.0.0.0/8" or "fd00::/64" as base, host bits cleared, and prefix length of 128."""
    host, slash, length = text.partition("/")
    base = from_text_sloppy(host)
    prefix = int(length) + (0 if ":" in host else 96)
    if not slash or prefix > 128:
        raise ValueError(f"{text!r} is not a block of addresses")
    cleared = int.from_bytes(base, "big") >> (128 - prefix) << (128 - prefix)
    return cleared.to_bytes(16, "big"), prefix


def lies_in(address: Address, base: Address, prefix: int) -> bool:
    """Whether an address lies in a block as `block_from_text` gives it."""
    difference = int.from_bytes(address, "big") ^ int.from_bytes(base, "big")
    return difference >> (128 - prefix) == 0


def to_text(address: Address) -> str:
    """Write an address as RFC 5952 asks, IPv4 in dotted decimal."""
    if address[:12] == MAPPED:
        return inet_ntop(AF_INET, address[12:])
    return inet_ntop(AF_INET6, address)


def is_ipv4(address: Address) -> bool:
    """Tell the family."""
    return address[:12] == MAPPED


def mac_text(mac: bytes) -> str:
    """Write 6 bytes as "02:00:00:00:00:01"."""
    return mac.hex(":")


def mac_bytes(text: str) -> bytes:
    """Read "02:00:00:00:00:01"; ValueError on anything else."""
    parts = text.split(":")
    if len(parts) != 6 or not all(len(part) == 2 for part in parts):
        raise ValueError(f"{text!r} is not a MAC address")
    return bytes.fromhex("".join(parts))


def with_port(address: Address, port: int) -> str:
    """Write "10.0.0.1:80" or "[fd00::1]:80"."""
    text = to_text(address)
    return f"{text}:{port}" if is_ipv4(address) else f"[{text}]:{port}"
