"""Programs on interfaces: put on, swapped without losing a packet, taken off, listed.

Chooses between tcx and clsact, keeps the order that is safe for traffic, and holds the writer
lock. Everything about an attachment is in the kernel and in pins: nothing is remembered here.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from kpbpf.datapath import clsact, tcx
from kpbpf.errors import NotFound, Usage
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION

Mechanism = Literal["tcx", "clsact"]

Place = tuple[str, str]
"""The programs of one kind of interface. Put on in this order, taken off in the other: no packet
goes out to a Service whose reply would not be restored."""

POD: Place = ("to_pod", "from_pod")
"""Host-side interface of a pod."""

WIRE: Place = ("to_wire", "from_wire")
"""Uplink."""

WIRE_L3: Place = ("to_wire_l3", "from_wire_l3")
"""Uplink whose packets have no Ethernet header."""

PLACES = (POD, WIRE, WIRE_L3)


class Way(Protocol):
    """What both mechanisms can do; `links` is where they keep what they need to remember."""

    def put(self, links: Path, ifindex: int, program: str, fd: int) -> bool:
        """Have an interface run a program; True when nothing of ours was at its hook before.

        One of ours for another kind of place gives way to it in the same atomic step.
        """

    def remove(self, links: Path, ifindex: int, program: str) -> bool:
        """Take a program of ours off; False when there was none."""

    def found(self, links: Path) -> Iterator[tuple[int, str, int]]:
        """Yield (ifindex, program, program id), id 0 if it is gone since."""


_MECHANISMS: dict[str, Way] = {"tcx": tcx, "clsact": clsact}


class Attachment(NamedTuple):
    """One program at one hook of one interface."""

    ifindex: int
    program: str
    mechanism: str
    program_id: int
    """0 when somebody else took it off, or its interface is gone."""
    exists: bool
    """Whether there is an interface with this index in the network namespace."""


def mechanism() -> Mechanism:
    """Choose how to attach: KPBPF_ATTACH, else tcx where the kernel has it."""
    chosen = os.environ.get("KPBPF_ATTACH") or "auto"
    if chosen == "tcx" or (chosen == "auto" and tcx.works()):
        return "tcx"
    if chosen in ("clsact", "auto"):
        return "clsact"
    raise Usage(f"KPBPF_ATTACH is {chosen!r}, expected tcx, clsact or auto")


def attach(home: Home, ifindex: int, programs: Mapping[str, Path], place: Place = POD) -> None:
    """Have an interface run the pinned programs of a place, ahead of others' at their hooks.

    Whatever of ours runs there already, also as another kind of place, is swapped in one atomic
    step. All or, when it fails, none where nothing was before. LinkGone when the interface is
    gone; ForeignProgram when the place under clsact is taken.
    """
    links = home.links_dir(ABI_VERSION)
    way = mechanism()
    fresh: dict[str, bool] = {}
    with home.writer_lock():
        try:
            for program in place:
                fresh[program] = _put(way, links, ifindex, program, programs[program])
        except BaseException:
            for program in (name for name, new in fresh.items() if new):
                _MECHANISMS[way].remove(links, ifindex, program)
            raise
        for name, other in _MECHANISMS.items():
            for program in _programs(PLACES):
                if name != way or program not in place:
                    other.remove(links, ifindex, program)


def _put(way: str, links: Path, ifindex: int, program: str, pin: Path) -> bool:
    fd = _open(pin)
    try:
        return _MECHANISMS[way].put(links, ifindex, program, fd)
    finally:
        os.close(fd)


def _open(pin: Path) -> int:
    try:
        return bpf.obj_get(pin)
    except FileNotFoundError:
        raise NotFound(f"there is no program {pin}") from None


def replace(home: Home, programs: Mapping[str, Path]) -> int:
    """Swap the programs of every attachment that runs another one; return how many were."""
    wanted = {program: _id(pin) for program, pin in programs.items()}
    links = home.links_dir(ABI_VERSION)
    swapped = 0
    with home.writer_lock():
        for one in attachments(home):
            if one.program_id and one.program_id != wanted.get(one.program, one.program_id):
                _put(one.mechanism, links, one.ifindex, one.program, programs[one.program])
                swapped += 1
    return swapped


def _id(pin: Path) -> int:
    fd = _open(pin)
    try:
        return bpf.prog_info(fd).id
    finally:
        os.close(fd)


def detach(home: Home, ifindex: int, places: Iterable[Place] = PLACES) -> bool:
    """Take what is ours off an interface, present or gone; False when there was nothing.

    Only what belongs to these places: it may have become another since.
    """
    links = home.links_dir(ABI_VERSION)
    removed = False
    with home.writer_lock():
        for program in reversed(_programs(places)):
            for way in _MECHANISMS.values():
                removed |= way.remove(links, ifindex, program)
    return removed


def _programs(places: Iterable[Place]) -> list[str]:
    return [program for place in places for program in place]


def attachments(home: Home) -> list[Attachment]:
    """List what we attached and what became of it, by interface."""
    links = home.links_dir(ABI_VERSION)
    indexes = {index for index, _ in socket.if_nameindex()}
    return sorted(
        Attachment(ifindex, program, name, program_id, ifindex in indexes)
        for name, way in _MECHANISMS.items()
        for ifindex, program, program_id in way.found(links)
    )
