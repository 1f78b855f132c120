"""What is attached, asked again and again: the same answer as `attach.attachments`, for less.

A removed tcx program sends no message, so every link is asked each time; what costs is opening
its pin, so links are kept open. A removed filter does send one, so a filter is looked at again
when `touch` says so, and now and then for safety.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable, Mapping, Sequence

from kpbpf.datapath import clsact, tcx
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION

_SPARE_FILES = 512
"""Of the files that this process may open, those left for everything else."""


class Attached:
    """The programs of ours on interfaces of the calling thread's network namespace.

    With `followed`, somebody listens to the kernel and calls `touch`; without, filters are all
    read each time. A file descriptor is kept for each link, as far as the limit allows. Looks
    only for these `programs`: what belongs to another kind of place is not seen.
    """

    def __init__(
        self, home: Home, followed: bool = False, programs: Iterable[str] = tcx.ATTACH_TYPE
    ) -> None:
        self._links = home.links_dir(ABI_VERSION)
        self._followed = followed
        self._programs = frozenset(programs)
        self._kept: dict[str, tuple[int, int]] = {}
        """Pin's name to (inode, file descriptor)."""
        self._room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES
        self._filters: dict[str, int] = {}
        """clsact note's name to program id; the one looked at longest ago comes first."""

    def touch(self, ifindexes: Iterable[int] | None) -> None:
        """Filters of these interfaces may have changed; None: of any."""
        if ifindexes is None:
            self._filters.clear()
            return
        for ifindex in ifindexes:
            for program in self._programs:
                self._filters.pop(f"{ifindex}-{program}-clsact", None)

    def look(self) -> dict[int, dict[str, int]]:
        """Ids of our programs, by interface and name; 0: somebody took it off."""
        try:
            entries = [(entry.name, entry.inode()) for entry in os.scandir(self._links)]
        except FileNotFoundError:
            entries = []
        found: dict[int, dict[str, int]] = {}
        pins: dict[str, int] = {}
        notes = []
        for name, inode in entries:
            _, _, program = name.partition("-")
            if program in self._programs:
                pins[name] = inode
            elif program.removesuffix("-clsact") in self._programs:
                notes.append(name)
        for name, program_id in self._links_now(pins).items():
            ifindex, _, program = name.partition("-")
            found.setdefault(int(ifindex), {})[program] = program_id
        self._read_filters(notes)
        for name in notes:
            ifindex, program, _ = name.split("-")
            of_one = found.setdefault(int(ifindex), {})
            of_one[program] = self._filters[name] or of_one.get(program, 0)
        return found

    def close(self) -> None:
        """Close all links; they stay pinned."""
        self._let_go(list(self._kept))

    # ---- inside -------------------------------------------------------------------------

    def _links_now(self, pins: Mapping[str, int]) -> dict[str, int]:
        """Ids of the programs of pinned links, by the pins' names and inodes; 0: of none."""
        self._let_go([name for name, (inode, _) in self._kept.items() if pins.get(name) != inode])
        ids = dict.fromkeys(pins, 0)
        for name in pins.keys() - self._kept.keys():
            with contextlib.suppress(FileNotFoundError):  # taken off since
                fd = bpf.obj_get(self._links / name)
                self._kept[name] = (pins[name], fd)
                if len(self._kept) > self._room:
                    ids[name] = _program_of(bpf.link_info(fd))
                    self._let_go([name])
        infos = bpf.link_infos(fd for _, fd in self._kept.values())
        ids |= {name: _program_of(info) for name, info in zip(self._kept, infos, strict=True)}
        self._let_go([name for name in self._kept if not ids[name]])
        return ids

    def _let_go(self, names: Iterable[str]) -> None:
        for name in list(names):
            _, fd = self._kept.pop(name, (0, -1))
            if fd >= 0:
                os.close(fd)

    def _read_filters(self, notes: Sequence[str]) -> None:
        """Have an answer for each note: read what is not known, and the oldest one again."""
        wanted = set(notes) if self._followed else set()
        known = {name: id_ for name, id_ in self._filters.items() if name in wanted}
        if known:
            known.pop(next(iter(known)))
        asked = [name for name in sorted(notes) if name not in known]
        self._filters = known | clsact.programs_of(asked)


def _program_of(info: bpf.LinkInfo) -> int:
    """Its program's id; 0 when the link joins nothing any more."""
    return info.program_id if info.ifindex else 0
