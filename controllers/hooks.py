"""The programs of this kpbpf on the interfaces of this node: of pods, and uplinks.

As `controllers.endpoints` and `controllers.uplinks` ask, who never see each other's. A thin step
down to `kpbpf.datapath`; holds nothing but which programs are today's.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from controllers.endpoints import Force
from kpbpf.datapath import attach
from kpbpf.datapath.attach import POD, WIRE, WIRE_L3, Place
from kpbpf.datapath.attached import Attached
from kpbpf.home import Home
from maps import bpf

_SIOCGIFNAME = 0x8910
_SIOCGIFHWADDR = 0x8927
_IFREQ = struct.Struct("=16si")


class _Hooks:
    """What both kinds have in common: the pinned `programs`, by name; none to detach only.

    `followed`: the caller hands on what the kernel tells of filters, by `touch`; without,
    every filter is asked for in every round.
    """

    _places: tuple[Place, ...]

    def __init__(self, home: Home, programs: Mapping[str, Path], followed: bool = False) -> None:
        self._home = home
        self._programs = programs
        names = [name for place in self._places for name in place]
        self._ids = {name: _program_id(programs[name]) for name in names if name in programs}
        self._attached = Attached(home, followed, names)

    def _attach(self, ifindex: int, place: Place) -> None:
        self._attached.touch((ifindex,))
        attach.attach(self._home, ifindex, self._programs, place)

    def detach(self, ifindex: int) -> None:
        """Have no program of this kind there; an interface that is gone is no error."""
        self._attached.touch((ifindex,))
        attach.detach(self._home, ifindex, self._places)

    def _force(self, programs: Mapping[str, int], place: Place) -> Force:
        """How far these programs of an interface, by name, are those of a place."""
        if programs.keys() != set(place) or not all(programs.values()):
            return Force.REMOVED
        today = all(programs[name] == self._ids.get(name) for name in place)
        return Force.TODAY if today else Force.OTHER

    def touch(self, ifindexes: Iterable[int] | None) -> None:
        """Filters of these interfaces changed; None: perhaps of any."""
        self._attached.touch(ifindexes)

    def close(self) -> None:
        """Let go of what is kept open; all stays attached."""
        self._attached.close()


class KernelHooks(_Hooks):
    """The programs of pods, as `controllers.endpoints.Hooks`."""

    _places = (POD,)

    def attach(self, ifindex: int) -> None:
        """Have today's programs on an interface; what runs there already is swapped in place."""
        self._attach(ifindex, POD)

    def attached(self) -> dict[int, Force]:
        """Interfaces that have, or should have, programs of pods: which are in force."""
        look = self._attached.look()
        return {ifindex: self._force(programs, POD) for ifindex, programs in look.items()}


class WireHooks(_Hooks):
    """The programs of uplinks, as `controllers.uplinks.Hooks`."""

    _places = (WIRE, WIRE_L3)

    def attach(self, ifindex: int, ethernet: bool) -> None:
        """The same, by whether its packets have an Ethernet header."""
        self._attach(ifindex, WIRE if ethernet else WIRE_L3)

    def attached(self) -> dict[int, tuple[bool, Force]]:
        """Interfaces that have, or should have, programs of uplinks: for Ethernet, and force."""
        found = {}
        for ifindex, programs in self._attached.look().items():
            ethernet = not programs.keys() & set(WIRE_L3)
            found[ifindex] = ethernet, self._force(programs, WIRE if ethernet else WIRE_L3)
        return found


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
