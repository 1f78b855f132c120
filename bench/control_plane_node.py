"""One node for bench.control_plane: its daemon as a process, pins of its own, what it used.

What is measured, and how it is shown, is not known here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from kpbpf.home import Home
from maps import bpf
from maps.table import Tables, open_tables

NODE = "node-0"
START_SEC = 120
"""A daemon that is not in sync after so long never will be."""

_SYNCED = re.compile(r"in sync after .*?([\d,]+) entries written")
_BPFFS = Path("/sys/fs/bpf")
_PREFIX = "kpbpf-bench-control-plane-"
_TICKS = os.sysconf("SC_CLK_TCK")
_ENV = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""An installed kpbpf is compiled: what is measured may keep compiled code too."""

_TABLES = ("names", "frontends", "backends", "members")


class Usage(NamedTuple):
    """What a process used since it began; children that have ended count."""

    cpu_sec: float
    queued_sec: float
    """What its threads that live waited for a CPU that others had: how busy the machine was."""
    peak_mb: float
    """The largest resident set, VmHWM; maps are the kernel's memory and no part of it."""
    wakes: int
    """How often its threads gave up the CPU to wait."""


class Daemon:
    """`kpbpf run` as a process, from `with` to its end; it ends with whoever made it."""

    def __init__(self, home: Home, kubeconfig: Path) -> None:
        self._command = command(home, kubeconfig)
        self._lines: list[str] = []
        self._in_sync = threading.Event()
        self.sync_sec = 0.0
        """From the start of the process to its first sync."""
        self.writes = 0
        """Map entries that the first sync wrote, by the daemon's own account."""

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        # Without an orderly end of ours (SIGKILL), the kernel ends it.
        attached = ["setpriv", "--pdeathsig", "TERM", *self._command]
        self._process = subprocess.Popen(attached, stderr=subprocess.PIPE, text=True, env=_ENV)
        self._reader = threading.Thread(target=self._read, name="daemon's log", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(START_SEC)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()

    def await_sync(self) -> Self:
        """Wait until it says that everything is in the maps; SystemExit if it never does."""
        self._in_sync.wait(START_SEC)
        if not self.sync_sec:
            sys.exit("".join(["the daemon did not come to a first sync; it said:\n", *self._lines]))
        return self

    def usage(self) -> Usage:
        """What it used until now."""
        place = Path("/proc", str(self._process.pid))
        # The name before it may hold anything but ends with the last parenthesis.
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        ticks = sum(map(int, fields[11:15]))
        tasks = list((place / "task").iterdir())
        return Usage(
            ticks / _TICKS,
            sum(int(_text(task / "schedstat").split()[1]) for task in tasks) / 1e9,
            _field(place / "status", "VmHWM") / 1000,
            sum(_field(task / "status", "voluntary_ctxt") for task in tasks),
        )

    def _read(self) -> None:
        assert self._process.stderr
        with self._process.stderr as stream:
            for line in stream:
                self._lines.append(line)
                found = _SYNCED.search(line)
                if found:
                    self.sync_sec = time.monotonic() - self._began
                    self.writes = int(found[1].replace(",", ""))
                    self._in_sync.set()
        self._in_sync.set()


def command(home: Home, kubeconfig: Path, *flags: str) -> list[str]:
    """The daemon's command line; it has no servers, so it needs no free ports."""
    places = ["--pins", str(home.pins), "--run-dir", str(home.run), "--node", NODE]
    servers = ["--healthz-bind-address", "", "--metrics-bind-address", ""]
    api = ["--kubeconfig", str(kubeconfig)]
    return [sys.executable, "-m", "kpbpf", "run", *api, *places, *servers, *flags]


@contextmanager
def node_home() -> Iterator[Home]:
    """Pins and a run directory of our own, removed at the end; those of killed runs go too."""
    for left in _BPFFS.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX)
        if not Path("/proc", pid).exists():
            remove(_home(pid))
    home = _home(str(os.getpid()))
    try:
        yield home
    finally:
        remove(home)


def _home(pid: str) -> Home:
    return Home(_BPFFS / f"{_PREFIX}{pid}", Path(tempfile.gettempdir(), f"{_PREFIX}{pid}"))


def remove(home: Home) -> None:
    """Make it a node that never knew kpbpf."""
    shutil.rmtree(home.pins, ignore_errors=True)
    shutil.rmtree(home.run, ignore_errors=True)


def prepare(home: Home, kubeconfig: Path) -> float:
    """Make maps and programs, as an init container does; seconds."""
    began = time.monotonic()
    init = command(home, kubeconfig, "--init-only")
    subprocess.run(init, check=True, stderr=subprocess.DEVNULL, env=_ENV)
    return time.monotonic() - began


def tables(home: Home) -> Tables:
    """The node's maps."""
    return open_tables(home)


def content(home: Home) -> list[dict[bytes, bytes]]:
    """All that the Service maps hold."""
    with tables(home) as opened:
        return [dict(opened.by_name[name].items_raw()) for name in _TABLES]


def make_read_only(home: Home) -> None:
    """From now on the kernel refuses every write to the Service maps, for good."""
    with tables(home) as opened:
        for name in _TABLES:
            bpf.freeze(opened.by_name[name].fd)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
        return "0 0 0"


def _field(path: Path, name: str) -> int:
    lines = (line for line in _text(path).splitlines() if line.startswith(name))
    return int(next(lines, "none 0").split()[1])
