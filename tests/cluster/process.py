"""The server as a process of its own: its command line, and how another process drives it."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from tests.cluster.apiserver import ApiServer
from tests.cluster.behaviour import Behaviour
from tests.cluster.control import PATHS, Control
from tests.cluster.rbac import User
from tests.cluster.workload import Shape

ROOT = Path(__file__).parents[2]
_ANSWER_SEC = 120
_END_SEC = 20
EPILOG = f"""\
The first line on standard output is a JSON object, written when all objects are there:
  {{"url": ..., "control": ..., "kubeconfig": ..., "ca": ..., "token": ..., "version": ...}}

Paths of the control port:
{PATHS}"""


class ServerProcess:
    """`python -m tests.cluster.apiserver` with these options, from `with` to its end."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self.told: dict[str, Any] = {}
        """What the process wrote when it was ready: url, control, kubeconfig ..."""
        self.ended: int | None = None
        """The exit code, once it has ended."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.cluster.apiserver", "--attached", *self._options]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the API server ended at once, with {self._process.wait()}")
        self.told = json.loads(line)
        return self

    def __exit__(self, *_: object) -> None:
        # The end of its standard input ends it, so it does not outlive a killed test either.
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(_END_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.ended = self._process.returncode
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig for it, in a directory that goes with it."""
        return Path(self.told["kubeconfig"])

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask the control port; urllib's HTTPError tells what was wrong."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.told["control"] + path, data, method=method)
        with urllib.request.urlopen(request, timeout=_ANSWER_SEC) as answer:
            return json.loads(answer.read())

    def order(self, path: str, **body: Any) -> Any:
        """POST to the control port."""
        return self.ask(path, "POST", body)


def main() -> int:
    """Serve until a signal, /stop, or (with --attached) the end of standard input."""
    options = _options()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    behaviour = Behaviour(watch_list=not options.no_watch_list, bookmark_sec=options.bookmark_sec)
    shape = Shape(options.services, options.endpoints, options.udp_percent, options.ipv6_percent)
    with ApiServer(
        host=options.host,
        port=options.port,
        tls=not options.no_tls,
        rbac=_documents(options.rbac) if options.rbac else None,
        behaviour=behaviour,
        history=options.history,
    ) as server:
        if options.token:
            server.tokens.set({options.token: User(options.user, ("system:authenticated",))})
        server.store.bulk(shape.objects())
        server.store.bulk(raw for raw in _documents(options.objects) if raw)
        control = Control(server, shape, options.control_port)
        control.stopped = stop
        control.listener.open()
        _tell(server, control, options.token)
        if options.attached:
            threading.Thread(target=_await_end, args=(stop,), daemon=True).start()
        stop.wait()
        control.listener.close()
    return 0


def _tell(server: ApiServer, control: Control, token: str | None) -> None:
    path = server.directory / "kubeconfig"
    told = {
        "url": server.url,
        "control": f"http://127.0.0.1:{control.listener.port}",
        "kubeconfig": str(server.kubeconfig(path, token=token)),
        "ca": str(server.ca or ""),
        "token": token or "",
        "version": server.store.version,
    }
    print(json.dumps(told), flush=True)


def _await_end(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _documents(paths: list[Path]) -> list[Any]:
    return [raw for path in paths for raw in yaml.safe_load_all(path.read_text())]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.apiserver",
        description="An API server that tells the truth about list and watch, for tests.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--services", type=int, default=0, help="Services to make; default: none")
    parser.add_argument("--endpoints", type=int, default=10, help="for each; default: 10")
    parser.add_argument("--udp-percent", type=int, default=5, help="Services on UDP; default: 5")
    parser.add_argument("--ipv6-percent", type=int, default=10, help="of Services; default: 10")
    parser.add_argument("--objects", type=Path, action="append", default=[], help="YAML to load")
    parser.add_argument("--rbac", type=Path, action="append", help="YAML of roles and bindings")
    parser.add_argument("--token", help="the one bearer token; default: nobody is asked")
    parser.add_argument(
        "--user", default="system:serviceaccount:kube-system:kpbpf", help="its user"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=0, help="default: any")
    parser.add_argument("--control-port", type=int, default=0, help="default: any")
    parser.add_argument("--no-tls", action="store_true", help="plain HTTP")
    parser.add_argument("--no-watch-list", action="store_true", help="as servers without it")
    parser.add_argument("--bookmark-sec", type=float, default=60.0, help="default: 60")
    parser.add_argument("--history", type=int, default=50_000, help="changes remembered")
    parser.add_argument("--attached", action="store_true", help="end when standard input does")
    return parser.parse_args()
