"""Which manifest files of some directories changed: inotify, and a slow look as a safety net.

A file counts as changed when a writer has closed it, when a name came or went, or when a
symbolic link leads elsewhere (a mounted ConfigMap swaps its ..data). A file that somebody
is still writing is left alone. Tells paths; never reads what they hold. Not recursive.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kpbpf import log
from kpbpf.kube import inotify
from kpbpf.kube.inotify import Change, Inotify

SUFFIXES = (".yaml", ".yml", ".json")

_LOG = log.get(__name__)
_CAME_OR_WENT = inotify.MOVED_FROM | inotify.MOVED_TO | inotify.DELETE
_DONE = _CAME_OR_WENT | inotify.CLOSE_WRITE
_ITSELF = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.IGNORED
#: A writer that has been silent for so long has gone without our noticing.
_WRITER_GONE_SEC = 30.0
#: How often a missing directory is looked for, and all are looked at without inotify.
_IMPATIENT_SEC = 1.0
#: How long a stop may go unnoticed.
_STOP_SEC = 0.2

_Signature = tuple[int, int, int, int]


def is_manifest(name: str) -> bool:
    """Whether a file of this name is read: YAML or JSON, and not hidden."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


class Directories:
    """Some directories under watch, from construction on until closed.

    `watch` runs in a thread of its own; `changed` in the thread that reads the files.
    """

    def __init__(self, directories: Sequence[Path], rescan_sec: float = 10.0) -> None:
        self._directories = tuple(directories)
        self._rescan_sec = rescan_sec
        self._inotify = _inotify_or_none()
        self._watched: dict[Path, tuple[int, int]] = {}
        self._signatures: dict[Path, _Signature] = {}
        self._writing: dict[Path, float] = {}
        self._blind: set[Path] = set()
        self._guard = threading.Lock()
        self._pending: list[Change] = []
        self._rescan_due = True
        self.missing: list[Path] = []
        self._rewatch()

    def close(self) -> None:
        """Stop watching; call it after the thread in `watch` has ended."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def order(self, path: Path) -> tuple[int, str]:
        """Sorts files: by directory as given, then by name."""
        return self._directories.index(path.parent), path.name

    def unread(self) -> list[Path]:
        """Manifests that are there and were never told: being written, or links to nothing."""
        return sorted({*self._writing, *self._blind} - self._signatures.keys(), key=self.order)

    def watch(self, notify: Callable[[], None], stop: threading.Event) -> None:
        """Call `notify` whenever `changed` may have something to tell, until `stop` is set."""
        last_rescan = time.monotonic()
        while not stop.is_set():
            if self._wait(stop):
                self._collect()
                notify()
            if time.monotonic() >= last_rescan + self._patience():
                last_rescan = time.monotonic()
                self.look_again()
                notify()

    def look_again(self) -> None:
        """Have the next `changed` look at every file, whatever inotify says."""
        with self._guard:
            self._rescan_due = True

    def changed(self) -> list[Path]:
        """Manifests that changed, came or went since the last call; all of them the first time."""
        self._collect()
        with self._guard:
            pending, self._pending = self._pending, []
            rescan, self._rescan_due = self._rescan_due, False
        found: set[Path] = set()
        for change in pending:
            path = self._finished(change)
            if path is not None:
                found.add(path)
            rescan |= self._needs_rescan(change)
        if rescan:
            self._rewatch()
            found |= self._rescan()
        for path in found:
            self._remember(path)
        return sorted(found, key=self.order)

    # ---- inotify ----------------------------------------------------------------------

    def _wait(self, stop: threading.Event) -> bool:
        if self._inotify is not None:
            return self._inotify.wait(_STOP_SEC)
        stop.wait(_IMPATIENT_SEC)
        return False

    def _patience(self) -> float:
        """Seconds between two looks at every file."""
        if self._inotify is None or self.missing:
            return min(_IMPATIENT_SEC, self._rescan_sec)
        return self._rescan_sec

    def _collect(self) -> None:
        with self._guard:
            if self._inotify is not None:
                self._pending += self._inotify.read()

    def _finished(self, change: Change) -> Path | None:
        """The manifest that the change leaves ready to be read (or gone)."""
        if change.directory is None or not is_manifest(change.name):
            return None
        path = change.directory / change.name
        if change.mask & _DONE or (change.mask & inotify.CREATE and _is_complete(path)):
            self._writing.pop(path, None)
            return path
        self._writing[path] = time.monotonic()
        return None

    def _needs_rescan(self, change: Change) -> bool:
        """Whether the change can touch files it does not name."""
        if change.directory is None or change.mask & _ITSELF:
            return True
        moved = change.mask & (_CAME_OR_WENT | inotify.CREATE)
        return bool(moved) and not is_manifest(change.name)

    def _rewatch(self) -> None:
        """Watch what is there now under the names given; they may be other directories."""
        self.missing = []
        for directory in self._directories:
            try:
                found = directory.stat()
                if self._watched.get(directory) != (found.st_dev, found.st_ino):
                    if self._inotify is not None:
                        self._inotify.watch(directory)
                    self._watched[directory] = (found.st_dev, found.st_ino)
            except OSError:
                self._watched.pop(directory, None)
                self.missing.append(directory)

    # ---- looking ----------------------------------------------------------------------

    def _rescan(self) -> set[Path]:
        """Manifests whose signature changed, and those that are gone from a directory we can read.

        The files of a directory that is missing stay as they are.
        """
        self._forget_writers()
        self._blind.clear()
        found: set[Path] = set()
        for directory in self._directories:
            try:
                present = set(_manifests(directory))
            except OSError:
                if directory not in self.missing:
                    self.missing.append(directory)
                continue
            known = {path for path in self._signatures if path.parent == directory}
            found |= known - present
            found |= {path for path in present if self._differs(path)}
        return found

    def _differs(self, path: Path) -> bool:
        signature = _signature(path)
        if signature is None:
            self._blind.add(path)
        return path not in self._writing and signature != self._signatures.get(path)

    def _remember(self, path: Path) -> None:
        signature = _signature(path)
        if signature is None:
            self._signatures.pop(path, None)
        else:
            self._signatures[path] = signature

    def _forget_writers(self) -> None:
        limit = time.monotonic() - _WRITER_GONE_SEC
        for path in [path for path, since in self._writing.items() if since < limit]:
            del self._writing[path]


def _inotify_or_none() -> Inotify | None:
    try:
        return Inotify()
    except OSError as error:
        _LOG.warning(
            "no inotify (%s): manifests are looked at every second; raise "
            "fs.inotify.max_user_instances",
            error.strerror,
        )
        return None


def _manifests(directory: Path) -> Iterator[Path]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_manifest(entry.name):
                yield directory / entry.name


def _signature(path: Path) -> _Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def _is_complete(path: Path) -> bool:
    """Whether a new name has all it will have: links of either kind, and what is no file."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_nlink > 1
