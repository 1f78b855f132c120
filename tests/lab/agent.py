"""kpbpf on the node of a World: the daemon and the command line, as real processes.

Each World has its own pins and run directory, so that worlds do not see each other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from kpbpf.address import from_text, to_text
from kpbpf.home import Home
from maps import config
from maps.abi import BackendKey, FrontendKey
from maps.table import Tables, open_tables
from tests.lab.manifests import NODE_NAME
from tests.lab.world import Place

ROOT = Path(__file__).parents[2]
START_SEC = 90  # the compiler takes some ten seconds, the first time
PATIENCE = float(os.environ.get("KPT_PATIENCE", "1"))  # more on an emulated machine
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}

Backends = set[tuple[str, int]]


class Host(Protocol):
    """What kpbpf runs on: a World, or one of the Nodes of nodes.py."""

    node: Place
    pins: Path


class Kpbpf:
    """The daemon's life and the answers of the command line.

    `directory` gets the manifests, the run directory and the log. Close it before the World goes.
    The daemon ends with the process that started it, unless `outlives` is set. A package that
    lies in `root`, such as an edited copy of bpf_src, is taken before the installed one.
    """

    outlives = False
    root = ROOT
    node_name = NODE_NAME

    def __init__(self, world: Host, directory: Path, **environment: str) -> None:
        self.world = world
        self.manifests = directory / "manifests"
        self.home = Home(world.pins, directory / "run")
        self.log_file = directory / "daemon.log"
        self.environment = {
            **os.environ,
            "KPBPF_PINS": str(self.home.pins),
            "KPBPF_RUN": str(self.home.run),
            **environment,
        }
        self.daemon: subprocess.Popen[bytes] | None = None
        self.manifests.mkdir(parents=True, exist_ok=True)

    # ---- processes --------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """Return the argv that runs kpbpf in the node's namespace."""
        node = f"--net={self.world.node.netns}"
        return ["nsenter", node, "--", sys.executable, "-m", "kpbpf", *arguments]

    def cli(self, *arguments: str, timeout_sec: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code."""
        return subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            cwd=self.root,
            env=self.environment,
            timeout=timeout_sec * PATIENCE,
        )

    def ask(self, *arguments: str) -> str:
        """Run a command that must succeed and return what it prints."""
        done = self.cli(*arguments)
        if done.returncode:
            raise AssertionError(
                f"kpbpf {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a listing command and return its rows."""
        rows: list[dict[str, Any]] = json.loads(self.ask(*arguments, "-o", "json"))
        return rows

    def start(self, *options: str, **environment: str) -> None:
        """Start the daemon and wait until it has applied what its sources say."""
        self.launch(*options, **environment)
        until(self.is_ready, "the daemon is ready", START_SEC)

    def sources(self) -> list[str]:
        """Return the daemon's arguments that say who it is and where Services come from."""
        return ["--manifests", str(self.manifests), "--node", self.node_name]

    def launch(self, *options: str, **environment: str) -> None:
        """Start the daemon, and wait for nothing."""
        command = self.command("run", *self.sources(), *options)
        argv = command if self.outlives else ["setpriv", "--pdeathsig", "TERM", *command]
        with self.log_file.open("ab") as log:
            self.daemon = subprocess.Popen(
                argv,
                cwd=self.root,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self.outlives,
            )

    def is_ready(self) -> bool:
        """Whether this daemon has applied what its sources say; fails when it has ended."""
        assert self.daemon is not None
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon ended: {self.log_tail()}")
        try:
            status = json.loads(self.home.status_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return bool(status.get("pid") == self.daemon.pid and status.get("synced"))

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send the daemon a signal, SIGTERM or SIGKILL, and return its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(how)
        code = self.daemon.wait(timeout=10)
        self.daemon = None
        return code

    def close(self) -> None:
        """End the daemon if it runs, by force if need be."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of the daemon's log."""
        text = self.log_file.read_text() if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    # ---- pods and Services --------------------------------------------------------------------

    def attach(self, pod: Place) -> None:
        """`kpbpf ep add` for a pod."""
        self.ask("ep", "add", "--ifname=eth0", f"--netns={pod.netns}")

    def tables(self) -> Tables:
        """Open the pinned maps; a context manager."""
        return open_tables(self.home)

    def backends(self, address: str, port: int, protocol: str) -> Backends | None:
        """What the maps name as backends of a Service's address now; None: no such Service."""
        key = FrontendKey(from_text(address), port, PROTOCOLS[protocol])
        with self.tables() as tables:
            frontend = tables.frontends.get(key)
            if frontend is None:
                return None
            keys = [BackendKey(frontend.base, slot) for slot in range(frontend.count)]
            found = [tables.backends.get(key) for key in keys]
        return {(to_text(backend.addr), backend.port) for backend in found if backend}

    def udp_epoch(self) -> int:
        """The epoch under which UDP flows are judged now; raised when a UDP backend left."""
        with self.tables() as tables:
            return config.read(tables).udp_epoch

    def entries(self, *names: str) -> dict[str, dict[bytes, bytes]]:
        """Every entry of these maps, packed, by name of the map."""
        with self.tables() as tables:
            return {name: dict(tables.by_name[name].items_raw()) for name in names}


def until(condition: Callable[[], bool], what: str, timeout_sec: float = 5) -> float:
    """Wait until the condition holds; return how many seconds that took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_sec * PATIENCE:
            raise AssertionError(f"not within {timeout_sec} s: {what}")
        time.sleep(0.002)
    return time.monotonic() - start
