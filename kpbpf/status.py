"""What the daemon last knew, as a file: written by the daemon, read by `kpbpf status`.

Also tells whether a daemon lives, without disturbing it or one that is just starting.
"""

import json
from pathlib import Path
from typing import NamedTuple

from kpbpf.home import Home


class Status(NamedTuple):
    """The daemon's own account. Times are seconds of the system's clock (time.time)."""

    pid: int
    version: str
    node: str
    manifests: list[str]
    started: float
    written: float
    synced: bool
    """Whether every source was read once, and the maps hold what it says."""
    last_sync: float
    services: int
    pending: int
    """Services that are not written yet; `failures` tells why."""
    problems: list[dict[str, str]]
    """Of objects: where, obj, field, expected, got, as in errors.Problem."""
    failures: dict[str, str]
    """What could not be done and is being tried again, or waits for something: of what, why."""


def own_version() -> str:
    """Version of the installed package; "unknown" where it runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("kpbpf")
    except PackageNotFoundError:
        return "unknown"


def write(home: Home, status: Status) -> None:
    """Replace the file in whole."""
    draft = home.status_file.with_suffix(".draft")
    draft.write_text(json.dumps(status._asdict(), indent=2, ensure_ascii=False) + "\n")
    draft.replace(home.status_file)


def read(home: Home) -> Status | None:
    """Read the file; None where there is none, or one of another version of kpbpf."""
    try:
        return Status(**json.loads(home.status_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def daemon_pid(home: Home) -> int:
    """Return the pid that holds the daemon's lock, 0 when none does.

    Read from /proc/locks: trying to take the lock, even for a moment, could stop a daemon that
    starts at that moment.
    """
    path = home.run / "daemon.lock"
    try:
        pid, inode = path.read_text().strip(), path.stat().st_ino
        held = Path("/proc/locks").read_text()
    except OSError:
        return 0
    for line in held.splitlines():
        fields = line.split()
        # The device is left out: /proc/locks and stat() differ about it on overlay file systems.
        if fields[1] == "FLOCK" and fields[4] == pid and fields[5].endswith(f":{inode}"):
            return int(pid)
    return 0
