"""The programs of this kpbpf on the interfaces of this node, as `controllers.endpoints` asks.

A thin step down to `kpbpf.datapath.attach`; holds nothing but which programs are today's.
"""

import fcntl
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from kpbpf.datapath import attach
from kpbpf.home import Home
from maps import bpf

_SIOCGIFHWADDR = 0x8927


class KernelHooks:
    """Attaches the pinned `programs`, by name; none are needed to detach."""

    def __init__(self, home: Home, programs: Mapping[str, Path]) -> None:
        self._home = home
        self._programs = programs
        self._ids = {name: _program_id(pin) for name, pin in programs.items()}

    def attach(self, ifindex: int) -> None:
        """Have today's programs on an interface; what runs there already is swapped in place."""
        attach.attach(self._home, ifindex, self._programs)

    def detach(self, ifindex: int) -> None:
        """Have no program of ours there; an interface that is gone is no error."""
        attach.detach(self._home, ifindex)

    def attached(self) -> dict[int, bool]:
        """Interfaces that have programs of ours: whether all, today's, and in force."""
        found: defaultdict[int, dict[str, int]] = defaultdict(dict)
        for one in attach.attachments(self._home):
            if one.program_id and one.exists:
                found[one.ifindex][one.program] = one.program_id
            else:
                found[one.ifindex].setdefault(one.program, 0)
        return {ifindex: programs == self._ids for ifindex, programs in found.items()}


def mac_of(ifindex: int) -> bytes | None:
    """Tell the MAC address of an interface in this network namespace; None when it is gone."""
    try:
        name = socket.if_indextoname(ifindex)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("256s", os.fsencode(name))
            return fcntl.ioctl(any_socket, _SIOCGIFHWADDR, request)[18:24]
    except OSError:
        return None


def _program_id(pin: Path) -> int:
    fd = bpf.obj_get(pin)
    try:
        return bpf.prog_info(fd).id
    finally:
        os.close(fd)
