"""Where kpbpf keeps its things on a node, and the two locks that guard them.

Pins (maps, programs, links) live in a BPF file system and outlive every process. The run
directory holds what is for processes: locks, status, manifests made by hand. All doors, daemon
and command line alike, use the same `Home`, so several can live side by side in tests.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kpbpf.errors import AlreadyRunning, NotRoot

_FLOCK = struct.Struct("hhlli")
"""struct flock: type, whence, start, length (0: to the end), pid."""

_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)

_SOCKET_PATH_BYTES = 107
"""sun_path of unix(7), without the zero at its end."""

PINS = Path("/sys/fs/bpf/kpbpf")
RUN = Path("/run/kpbpf")


class Home(NamedTuple):
    """The two directories of one kpbpf."""

    pins: Path = PINS
    run: Path = RUN

    @classmethod
    def choose(cls, pins: str | Path | None = None, run: str | Path | None = None) -> "Home":
        """Take the command line's flags, else KPBPF_PINS and KPBPF_RUN, else the defaults."""
        return cls(
            Path(pins or os.environ.get("KPBPF_PINS") or PINS),
            Path(run or os.environ.get("KPBPF_RUN") or RUN),
        )

    def version_dir(self, version: int) -> Path:
        """Pins of one ABI version; those of another are never opened."""
        return self.pins / f"v{version}"

    def maps_dir(self, version: int) -> Path:
        """Pinned maps, one file each."""
        return self.version_dir(version) / "maps"

    def programs_dir(self, version: int) -> Path:
        """Pinned programs, one directory for each source hash."""
        return self.version_dir(version) / "progs"

    def links_dir(self, version: int) -> Path:
        """Pinned tcx links, `<ifindex>-<program>`."""
        return self.version_dir(version) / "links"

    @property
    def daemon_file(self) -> Path:
        """Locked by the daemon while it lives; holds its pid, as its own PID namespace has it."""
        return self.run / "daemon.lock"

    @property
    def status_file(self) -> Path:
        """What the daemon last knew, as JSON; replaced in whole."""
        return self.run / "status.json"

    @property
    def socket_file(self) -> Path:
        """Where a running daemon answers questions of the command line; for root only."""
        return self.run / "daemon.sock"

    @property
    def by_hand(self) -> Path:
        """Manifests that `kpbpf svc add` made."""
        return self.run / "by-hand"

    def ensure_run(self) -> None:
        """Make the run directory; NotRoot where that is not permitted."""
        try:
            self.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        except PermissionError:
            raise NotRoot(f"make {self.run}") from None

    @contextmanager
    def writer_lock(self) -> Iterator[None]:
        """Hold the right to write maps, programs and links, for the short time of a write.

        Waits for other processes and threads. A thread that holds it may take it again.
        """
        self.ensure_run()
        lock = _writer_lock(self.run / "writer.lock")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def daemon_lock(self) -> Iterator[None]:
        """Be the one daemon of this home until the end of the block; else AlreadyRunning."""
        self.ensure_run()
        fd = _open(self.daemon_file)
        try:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
            except BlockingIOError:
                pid = os.pread(fd, 20, 0).strip()
                raise AlreadyRunning(int(pid or b"0"), str(self.run)) from None
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            yield
        finally:
            os.close(fd)


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds a lock on a file, in whatever PID namespace, without taking it.

    Taking it, even for a moment, could stop a daemon that starts at that moment.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


@contextmanager
def socket_path(path: str) -> Iterator[str]:
    """Name a Unix socket to the kernel, which takes 107 bytes: a longer path by its directory."""
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


class _WriterLock:
    """A file lock between processes and threads; the thread that holds it may nest it."""

    def __init__(self, path: Path) -> None:
        import threading  # here, because commands that only read never come by

        self._path = path
        self._threads = threading.RLock()
        self._depth = 0
        self._fd = -1

    def acquire(self) -> None:
        self._threads.acquire()
        try:
            if self._depth == 0:
                self._fd = _open_locked(self._path)
            self._depth += 1
        except BaseException:
            self._threads.release()
            raise

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            os.close(self._fd)
        self._threads.release()


_locks: dict[Path, _WriterLock] = {}


def _writer_lock(path: Path) -> _WriterLock:
    """Return this process's one lock object for a file, so that nesting is seen."""
    return _locks.setdefault(path, _WriterLock(path))


def _open_locked(path: Path) -> int:
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        raise NotRoot(f"open {path}") from None
