"""What the daemon last knew, as a file: written by the daemon, read by `kpbpf status`.

Also tells whether a daemon lives, without disturbing it or one that is just starting.
"""

import json
from typing import Any, NamedTuple

from kpbpf.home import Home, is_locked


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
    api: str = ""
    """URL of the API server; "" where there is none."""
    reflectors: list[dict[str, Any]] = []  # noqa: RUF012 (never changed in place)
    """How reading each resource of the API goes: kube.reflector.ReflectorStats, as a dict each."""
    pods: list[dict[str, Any]] = []  # noqa: RUF012 (never changed in place)
    """The node's pods by the API, attached or not: controllers.pods.PodStatus, as a dict each."""


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
    """Return the pid of the daemon that lives, 0 when none does.

    It is the daemon's own idea of its pid: one in a container has another here.
    """
    if not is_locked(home.daemon_file):
        return 0
    return int(home.daemon_file.read_text().strip() or 0)
