"""The programs of this kpbpf on the interfaces of this node, as `controllers.endpoints` asks.

A thin step down to `kpbpf.datapath`; holds nothing but which programs are today's.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from controllers.endpoints import Force
from kpbpf.datapath import attach
from kpbpf.datapath.attached import Attached
from kpbpf.home import Home
from maps import bpf

_SIOCGIFNAME = 0x8910
_SIOCGIFHWADDR = 0x8927
_IFREQ = struct.Struct("=16si")


class KernelHooks:
    """Attaches the pinned `programs`, by name; none are needed to detach.

    `followed`: the caller hands on what the kernel tells of filters, by `touch`; without,
    every filter is asked for in every round.
    """

    def __init__(self, home: Home, programs: Mapping[str, Path], followed: bool = False) -> None:
        self._home = home
        self._programs = programs
        self._ids = {name: _program_id(pin) for name, pin in programs.items()}
        self._attached = Attached(home, followed)

    def attach(self, ifindex: int) -> None:
        """Have today's programs on an interface; what runs there already is swapped in place."""
        self._attached.touch((ifindex,))
        attach.attach(self._home, ifindex, self._programs)

    def detach(self, ifindex: int) -> None:
        """Have no program of ours there; an interface that is gone is no error."""
        self._attached.touch((ifindex,))
        attach.detach(self._home, ifindex)

    def attached(self) -> dict[int, Force]:
        """Interfaces that have, or should have, programs of ours: which are in force."""
        return {
            ifindex: self._force(programs) for ifindex, programs in self._attached.look().items()
        }

    def _force(self, programs: Mapping[str, int]) -> Force:
        if programs == self._ids:
            return Force.TODAY
        whole = programs.keys() == self._ids.keys() and all(programs.values())
        return Force.OTHER if whole else Force.REMOVED

    def touch(self, ifindexes: Iterable[int] | None) -> None:
        """Filters of these interfaces changed; None: perhaps of any."""
        self._attached.touch(ifindexes)

    def close(self) -> None:
        """Let go of what is kept open; all stays attached."""
        self._attached.close()


class Macs:
    """The MAC addresses of interfaces, asked by one socket: a few µs each."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def of(self, ifindex: int) -> bytes | None:
        """Tell the MAC address of an interface in this network namespace; None: it is gone."""
        try:
            named = fcntl.ioctl(self._socket, _SIOCGIFNAME, _IFREQ.pack(b"", ifindex) + bytes(20))
            return fcntl.ioctl(self._socket, _SIOCGIFHWADDR, named[:16] + bytes(24))[18:24]
        except OSError:
            return None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _program_id(pin: Path) -> int:
    fd = bpf.obj_get(pin)
    try:
        return bpf.prog_info(fd).id
    finally:
        os.close(fd)
