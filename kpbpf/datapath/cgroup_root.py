"""The root of the cgroup2 hierarchy: where it is mounted, or a mount of our own.

A program at the root sees the sockets of every process of the machine. The hierarchy exists once,
whoever mounts it, and is the same on pure cgroup2 and on hybrid machines; only the root directory
has no cgroup.events, however deep in containers one looks from. Attaches nothing.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kpbpf.errors import NoCgroup

CHOSEN = "KPBPF_CGROUP"
"""Environment: a cgroup2 directory to use in the place of the root."""

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # Linux 5.2, the same on every architecture
_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6
_CLONE_NEWCGROUP = 0x02000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Cgroup(NamedTuple):
    """A directory of cgroup2, open."""

    path: str
    """For people; a mount of our own is in nobody's sight, and has words for a path."""
    fd: int

    @property
    def id(self) -> int:
        """Its number in the kernel."""
        return os.fstat(self.fd).st_ino


@contextmanager
def opened() -> Iterator[Cgroup]:
    """Open the root for the length of the block, mounted for that where nobody has; or NoCgroup."""
    path = _chosen() or _mounted()
    found = Cgroup(str(path), _directory(path)) if path else _own_mount()
    try:
        yield found
    finally:
        os.close(found.fd)


def _directory(path: str | Path, where: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=where)


def _chosen() -> Path | None:
    text = os.environ.get(CHOSEN)
    if text and not Path(text, "cgroup.controllers").is_file():
        raise NoCgroup(f"{CHOSEN} is {text}, which is no cgroup2 directory")
    return Path(text) if text else None


def _mounted() -> Path | None:
    """Find a mount of the root: where this process sees one, or else where process 1 does."""
    for mounts, top in (("/proc/self/mountinfo", "/"), ("/proc/1/mountinfo", "/proc/1/root")):
        try:
            lines = Path(mounts).read_text().splitlines()
            points = [Path(top, point) for point in map(_mount_point, lines) if point]
            found = next((point for point in points if _is_root(point)), None)
        except OSError:
            continue  # another's, in a container or under a guard: not for us to see
        if found:
            return found
    return None


def _mount_point(line: str) -> str:
    """Take the mount point, relative to the root directory, if this is a cgroup2 mount."""
    mount, _, kind = line.partition(" - ")
    if kind.partition(" ")[0] != "cgroup2":
        return ""
    point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split(" ")[4])
    return point.lstrip("/")


def _is_root(directory: Path) -> bool:
    names = ("cgroup.controllers", "cgroup.events")
    return [(directory / name).is_file() for name in names] == [True, False]


# ---- a mount of our own ---------------------------------------------------------------------


def _own_mount() -> Cgroup:
    """Mount the hierarchy where nobody sees it; it is gone when the last descriptor is closed.

    A mount from the first cgroup namespace sets the hierarchy's options anew, which is why this
    comes only after every other way: where nobody has mounted it, there are none to lose.
    """
    problems = []
    for enter in (None, "/proc/1/ns/cgroup"):
        try:
            with _cgroup_namespace(enter):
                fd = _mount()
        except OSError as error:
            problems.append(f"in {enter or 'its own namespace'}: {error.strerror}")
            continue
        if not _exists("cgroup.events", fd):
            return Cgroup("a mount of our own", fd)
        os.close(fd)
        problems.append("this process is in a cgroup namespace that holds only a part of it")
    tried = ", then ".join(problems)
    raise NoCgroup(f"cgroup2 is mounted nowhere in sight, and mounting it failed: {tried}")


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def _mount() -> int:
    """Return the root directory of a fresh mount that is at no place."""
    configured = _call(_FSOPEN, b"cgroup2", _CLOEXEC)
    try:
        _call(_FSCONFIG, configured, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call(_FSMOUNT, configured, _CLOEXEC, 0)
    finally:
        os.close(configured)
    try:
        return _directory(".", mount)
    finally:
        os.close(mount)


def _call(number: int, *arguments: int | bytes | None) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@contextmanager
def _cgroup_namespace(path: str | None) -> Iterator[None]:
    """Let the calling thread be in another cgroup namespace; None: in its own."""
    if path is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWCGROUP) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
