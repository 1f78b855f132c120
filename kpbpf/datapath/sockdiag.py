"""The sockets of a network namespace, listed and ended: sock_diag(7) of the kernel.

Plain netlink messages over a socket, because a list may be a hundred thousand long. Layouts are
those of linux/inet_diag.h. What should be ended is decided elsewhere.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kpbpf.address import Address
from kpbpf.datapath.netns import in_netns
from kpbpf.errors import KpbpfError

TCP, UDP = 6, 17

ALL_STATES = 0xFFFFFFFF & ~(1 << 6 | 1 << 12)
"""But TIME_WAIT and requests that are not accepted yet: those are no process's sockets."""

CONNECTED = 1 << 1
"""TCP_ESTABLISHED; a UDP socket with a peer has this state as well."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_SO_NETNS_COOKIE = 71  # Linux 5.14
_HEADER = struct.Struct("=IHHII")
_REQUEST_HEAD = struct.Struct("=BBBxI")
_ID = struct.Struct("=2s2s16s16sIQ")
"""struct inet_diag_sockid: ports, addresses, interface, cookie."""
_ID_AT = _HEADER.size + 4
_RECEIVE_BYTES = 256 * 1024
_MAPPED = bytes(10) + b"\xff\xff"
_SILENCE_SEC = 5.0


class Socket(NamedTuple):
    """A socket, as the kernel lists it."""

    cookie: int
    peer: Address
    """All zero: connected to nobody. IPv4 as ::ffff:a.b.c.d."""
    peer_port: int
    family: int
    id: bytes
    """By which the kernel finds it again."""


class NoDestroy(KpbpfError):
    """This kernel cannot end a socket of another process: CONFIG_INET_DIAG_DESTROY is off."""


def sockets(protocol: int, states: int = ALL_STATES) -> Iterator[Socket]:
    """List the sockets of the calling thread's network namespace, of both families."""
    with _netlink() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST_HEAD.pack(family, protocol, 0, states) + bytes(_ID.size)
            netlink.send(_message(_SOCK_DIAG_BY_FAMILY, _DUMP, request))
            for message in _answers(netlink):
                yield _read(family, message[_ID_AT : _ID_AT + _ID.size])


def _read(family: int, id_: bytes) -> Socket:
    _, port, _, peer, _, cookie = _ID.unpack(id_)
    if family == socket.AF_INET:
        peer = _MAPPED + peer[:4]
    return Socket(cookie, peer, int.from_bytes(port, "big"), family, id_)


def destroy(protocol: int, doomed: Socket) -> bool:
    """End a socket: whoever uses it gets ECONNABORTED at once. False when it is gone already.

    In the calling thread's network namespace. NoDestroy where the kernel cannot.
    """
    head = _REQUEST_HEAD.pack(doomed.family, protocol, 0, ALL_STATES)
    with _netlink() as netlink:
        netlink.send(_message(_SOCK_DESTROY, _ACK, head + doomed.id))
        try:
            for _ in _answers(netlink):
                pass
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                raise NoDestroy("the kernel cannot end sockets of others") from None
            raise
    return True


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, 1, 0) + body


@contextmanager
def _netlink() -> Iterator[socket.socket]:
    """Open a netlink socket, with room for a kernel that answers faster than we read."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_SILENCE_SEC)
        netlink.bind((0, 0))
        yield netlink


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """Yield the messages that answer one request, up to its end; OSError when it was refused."""
    while True:
        data = netlink.recv(_RECEIVE_BYTES)
        at = 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return
            yield data[at : at + length]
            at += (length + 3) & ~3


# ---- network namespaces -------------------------------------------------------------------


def netns_cookie() -> int:
    """Ask for the number of the calling thread's network namespace, as programs see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        number: int = struct.unpack("=Q", made.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[
            0
        ]
    return number


def find_namespaces(wanted: set[int]) -> dict[int, Path]:
    """Find network namespaces of this machine by cookie; those out of reach are left out.

    Enters one after the other until all are found: names first, then those of processes.
    """
    found: dict[int, Path] = {}
    seen: set[int] = set()
    for path in _namespaces():
        if wanted <= found.keys():
            break
        with contextlib.suppress(OSError, KpbpfError):  # gone, or not for us to see
            inode = path.stat().st_ino
            if inode not in seen:
                seen.add(inode)
                with in_netns(path):
                    found[netns_cookie()] = path
    return {cookie: path for cookie, path in found.items() if cookie in wanted}


def _namespaces() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from Path("/run/netns").iterdir()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            yield process / "ns/net"
