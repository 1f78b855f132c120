"""Routing netlink: asking the kernel about interfaces, addresses, routes and neighbours.

Sends requests and splits answers and notifications into fixed part and attributes; what they
mean is for `interfaces` and `monitor`. It is spoken here by hand because pods are asked about
one by one and often: a question costs about 20 µs so and 400 µs by pyroute2 0.9.7, which also
cannot ask for the addresses of another namespace (IFA_TARGET_NETNSID).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWQDISC, DELQDISC = 36, 37
NEWTFILTER, DELTFILTER = 44, 45

ROUTE, NEIGHBOUR = "=BBBBBBBBI", "=BxxxiHBB"
LINK, ADDRESS, TC = "=BxHiII", "=BBBBI", "=BxxxiIII"
"""struct rtmsg, ndmsg, ifinfomsg, ifaddrmsg, tcmsg."""

_SIZES = (16, 8, 12, 12, 12, 20, 20, 20)
"""Of the fixed part, by message kind: four kinds each, from NEWLINK on."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP_INTERRUPTED, _DUMP = 0x1, 0x4, 0x10, 0x300
CREATE, REPLACE = 0x400, 0x100

_SOL_NETLINK = 270
_STRICT_CHECK = 12
_TIMEOUT_SEC = 5.0
_ATTEMPTS = 3
_TYPE_MASK = 0x3FFF


class Message(NamedTuple):
    """One answer or notification; attributes by number, of several the last."""

    kind: int
    fixed: bytes
    attributes: dict[int, bytes]

    def number(self, attribute: int) -> int | None:
        """A 32-bit attribute, None where it is missing."""
        value = self.attributes.get(attribute)
        return int.from_bytes(value[:4], sys.byteorder) if value else None


class Netlink:
    """A socket in the network namespace of the thread that makes it; for one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        # Filters of a dump are looked at only when it is checked strictly.
        self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
        self._socket.settimeout(_TIMEOUT_SEC)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self,
        kind: int,
        fixed: bytes,
        attributes: Mapping[int, bytes],
        *,
        flags: int = 0,
        dump: bool = False,
    ) -> list[Message]:
        """Send a request and return what it yields; OSError with the kernel's number.

        A dump that changed while it was read is read again.
        """
        body = fixed + b"".join(_packed(number, value) for number, value in attributes.items())
        flags |= _REQUEST | (_DUMP if dump else _ACK)
        for _ in range(_ATTEMPTS):
            self._sequence += 1
            header = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
            self._socket.send(header + body)
            found = self._answer()
            if found is not None:
                return found
        raise OSError(errno.EAGAIN, "interfaces change faster than they can be listed")

    def _answer(self) -> list[Message] | None:
        """Read up to the end of the answer; None when a dump was interrupted."""
        found: list[Message] = []
        whole = True
        while True:
            for kind, flags, sequence, body in split(self._socket.recv(1 << 17)):
                if sequence != self._sequence:
                    continue  # the rest of an answer that was given up
                whole &= not flags & _DUMP_INTERRUPTED
                if kind in (_ERROR, _DONE):
                    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if number:
                        raise OSError(number, os.strerror(number))
                    return found if whole else None
                found.append(message(kind, body))


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (kind, flags, sequence, body) of every message in what was received."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def message(kind: int, body: bytes) -> Message:
    """Split a message's body into fixed part and attributes."""
    size = _SIZES[(kind - NEWLINK) // 4]
    return Message(kind, body[:size], attributes_in(body[size:]))


def attributes_in(data: bytes) -> dict[int, bytes]:
    """Split a row of attributes, such as a nested one's value."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[number & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _packed(number: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), number) + padded
