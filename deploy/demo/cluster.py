"""What runs in the demo, and how all of it ends: API server, daemon, servers of the pods.

The API server is the one of tests/cluster, a process of its own on the remote side of the World;
the daemon reaches it over the router. What is shown with them is steps.py's.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kpbpf.status import daemon_pid
from tests.lab.agent import ROOT, Kpbpf, until
from tests.lab.manifests import NODE_NAME
from tests.lab.sockets import serve
from tests.lab.world import IPV4, Place, World, remove

PREFIX = "kpbpf-demo"
DIRECTORY = Path("/run", PREFIX)
MANIFESTS = Path(__file__).parent / "manifests"
RBAC = ROOT / "deploy" / "base" / "rbac.yaml"
API_PORT = 6443
_TOKEN = "demo"
_DAEMON, _API, _SERVERS = (DIRECTORY / f"{one}.pid" for one in ("daemon", "apiserver", "servers"))
_TOLD, _API_LOG = DIRECTORY / "apiserver.json", DIRECTORY / "apiserver.log"
_START_SEC, _END_SEC = 20.0, 5.0


class Page(NamedTuple):
    """An answer by HTTP."""

    code: int
    text: str


def ask(place: Place, port: int, path: str, body: Any = None) -> Page:
    """Ask a server at 127.0.0.1 of a place, with GET, or POST where there is a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = place.socket(IPV4, socket.SOCK_STREAM)
    try:
        connection.sock.connect(("127.0.0.1", port))
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        return Page(answer.status, answer.read().decode())
    finally:
        connection.close()


class DemoKpbpf(Kpbpf):
    """kpbpf that is told by the API server whose kubeconfig this is."""

    kubeconfig = ""

    def sources(self) -> list[str]:
        """Return the arguments for that."""
        return ["--kubeconfig", self.kubeconfig, "--node", NODE_NAME]

    def launch(self, *options: str, **environment: str) -> None:
        """Start the daemon, and note it."""
        super().launch(*options, **environment)
        assert self.daemon is not None
        record(_DAEMON, self.daemon.pid)


class DemoApi:
    """The API server. Ends with the process that started it, unless that one said `outlives`.

    Once it runs it can be ordered from any process.
    """

    def __init__(self, world: World) -> None:
        self._place = world.remote

    def start(self, objects: Iterable[Path], outlives: bool) -> list[str]:
        """Start it with the objects of these files, wait until it is ready; returns its argv."""
        argv = [sys.executable, "-m", "tests.cluster.apiserver"]
        argv += ["--host", self._place.addresses[IPV4], "--port", str(API_PORT)]
        argv += ["--rbac", str(RBAC), "--token", _TOKEN]
        argv += [f"--objects={path}" for path in objects]
        attached = [] if outlives else ["--attached"]
        with _TOLD.open("wb") as told, _API_LOG.open("ab") as log, self._place.inside():
            process = subprocess.Popen(
                [*argv, *attached],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(DIRECTORY)},  # its files go with the demo's
                stdin=subprocess.DEVNULL if outlives else subprocess.PIPE,
                stdout=told,
                stderr=log,
                start_new_session=outlives,
            )
        record(_API, process.pid)

        def is_ready() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the API server ended: {_API_LOG.read_text()[-2000:]}")
            return _TOLD.read_text().endswith("\n")

        until(is_ready, "the API server is ready", _START_SEC)
        return argv

    @property
    def told(self) -> dict[str, Any]:
        """What it said when it was ready: url, control, kubeconfig ..."""
        found: dict[str, Any] = json.loads(_TOLD.read_text())
        return found

    def order(self, path: str, body: Any = None) -> Any:
        """Ask its second door (tests/cluster/control.py); POST where there is a body."""
        port = int(self.told["control"].rpartition(":")[2])
        page = ask(self._place, port, path, body)
        assert page.code == 200, page.text
        return json.loads(page.text)

    def apply(self, path: Path) -> int:
        """Put the objects of a file, as `kubectl apply` does; how many."""
        objects = [raw for raw in yaml.safe_load_all(path.read_text()) if raw]
        self.order("/put", objects)
        return len(objects)

    def objects(self, resource: str) -> list[dict[str, Any]]:
        """All objects of a resource, as they are now."""
        found: list[dict[str, Any]] = self.order(f"/snapshot?resource={resource}")
        return found

    def events(self, reason: str) -> list[dict[str, Any]]:
        """The Events with that reason that have arrived."""
        found = self.objects("events.events.k8s.io")
        return [raw for raw in found if raw["reason"] == reason]


def serve_in_child(world: World, outlives: bool) -> None:
    """Run the servers of the pods and the remote side in a process of their own."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        record(_SERVERS, pid)
        return
    try:  # whatever happens, nothing of the demo itself is to run in the child
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        stop = {signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, stop)
        with ExitStack() as stack:
            for place in (world.pods["web-1"], world.pods["web-2"], world.remote):
                stack.enter_context(serve(place, 8080))
            while outlives or os.getppid() == parent:
                if signal.sigtimedwait(stop, 1):
                    break
    finally:
        os._exit(0)


def take_down() -> None:
    """End the demo's processes, whoever started them; remove its namespaces, pins and files."""
    pid = daemon_pid(Kpbpf(World(PREFIX), DIRECTORY).home)  # it may have been started by hand
    if pid:
        end(pid, born(pid))
    for path in (_DAEMON, _API, _SERVERS):
        if path.exists():
            number, _, since = path.read_text().partition(" ")
            end(int(number), since)
    remove(PREFIX)
    shutil.rmtree(DIRECTORY, ignore_errors=True)


# ---- processes that may have been started by another run -----------------------------------


def record(path: Path, pid: int) -> None:
    """Note a process in a file, for whoever takes the demo down."""
    draft = path.with_suffix(".draft")
    draft.write_text(f"{pid} {born(pid)}")
    draft.rename(path)


def born(pid: int) -> str:
    """When a process began, in the kernel's ticks, so that no other is taken for it; "": gone."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def end(pid: int, since: str) -> None:
    """End the process of that pid and that time of birth, by force if need be."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _END_SEC
        if since and born(pid) == since:
            os.kill(pid, how)
        while since and born(pid) == since:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
