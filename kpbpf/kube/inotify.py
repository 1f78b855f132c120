"""inotify(7) through libc: which names in which directories changed.

Tells names only; never opens or reads what they name.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
from pathlib import Path
from typing import NamedTuple

# From <sys/inotify.h>.
MODIFY, CLOSE_WRITE, MOVED_FROM, MOVED_TO = 0x2, 0x8, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x100, 0x200, 0x400, 0x800
OVERFLOW, IGNORED = 0x4000, 0x8000
_WATCHED = MODIFY | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
_ONLY_DIRECTORY = 0x01000000

_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Change(NamedTuple):
    """A name in a watched directory ("" for the directory itself), and what happened to it.

    `directory` is None when the kernel lost track of events (OVERFLOW).
    """

    directory: Path | None
    name: str
    mask: int


class Inotify:
    """One inotify instance. Close it when done."""

    def __init__(self) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._directories: dict[int, Path] = {}

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def watch(self, directory: Path) -> None:
        """Begin to watch a directory; watching it twice is harmless. OSError when it is missing."""
        number = _checked(
            _libc.inotify_add_watch(self._fd, os.fsencode(directory), _WATCHED | _ONLY_DIRECTORY)
        )
        self._directories[number] = directory

    def wait(self, timeout_sec: float) -> bool:
        """Whether there is something to read, after at most `timeout_sec`."""
        return bool(select.select([self._fd], [], [], timeout_sec)[0])

    def read(self) -> list[Change]:
        """What changed since the last read; empty when nothing did."""
        changes: list[Change] = []
        while True:
            try:
                buffer = os.read(self._fd, 65536)
            except BlockingIOError:
                return changes
            offset = 0
            while offset < len(buffer):
                number, mask, _cookie, length = _HEADER.unpack_from(buffer, offset)
                offset += _HEADER.size
                name = os.fsdecode(buffer[offset : offset + length].rstrip(b"\0"))
                offset += length
                changes += self._change(number, mask, name)

    def _change(self, number: int, mask: int, name: str) -> list[Change]:
        if mask & OVERFLOW:
            return [Change(None, "", mask)]
        directory = self._directories.get(number)
        if mask & IGNORED:
            self._directories.pop(number, None)
        return [] if directory is None else [Change(directory, name, mask)]


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
