"""The API server double: it tells the truth about list and watch, and faults on order.

As a context manager inside a test's process, or as a process of its own:
`python -m tests.cluster.apiserver --help` (process.py). The parts: objects are in store.py,
lists in listing.py, watches in watching.py, single objects in objects.py, orders for faults in
faults.py, bytes on the wire in wire.py, users and rights in identity.py and rbac.py.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Self

from tests.cluster.authority import Authority, Pair
from tests.cluster.behaviour import Behaviour
from tests.cluster.faults import Faults
from tests.cluster.identity import Tokens, certified_user
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.listener import Listen, Listener
from tests.cluster.rbac import Rbac
from tests.cluster.resources import Raw
from tests.cluster.served import Logged, Served
from tests.cluster.store import HISTORY, Store
from tests.cluster.wire import Answer, Cut, read_request


class ApiServer:
    """One server, from `with` to its end. Its attributes may be used from any thread.

    `rbac` are raw ClusterRoles and so on: without, every user may do all. `tls` off is plain HTTP.
    `listen` makes the listening socket where it must be in another network namespace.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = True,
        rbac: Iterable[Raw] | None = None,
        behaviour: Behaviour | None = None,
        history: int = HISTORY,
        listen: Listen | None = None,
    ) -> None:
        self.store: Store = Store(history)
        self.faults: Faults = Faults()
        self.behaviour = behaviour or Behaviour()
        self.tokens = Tokens()
        self.rbac = Rbac(rbac) if rbac is not None else None
        self.requests: list[Logged] = []
        """Every request, in the order in which their answers began."""
        self.authority: Authority | None = None
        self.closing = threading.Event()
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self.directory = Path()
        """Certificates and whatever tests put there; exists from `with` to its end."""
        self._lock = threading.Lock()
        self._answers: dict[Answer, Served] = {}
        self.listener = Listener(host, self._serve, port, lambda: self._context, listen)

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="kpbpf-apiserver-"))
        try:
            if self._tls:
                self.authority = Authority(self.directory)
                self.renew_certificate()
            self.listener.open()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.listener.close()
        self.faults.clear()
        with self.store.changed:
            self.store.changed.notify_all()
        self.listener.end_connections()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- how to reach it --------------------------------------------------------------

    @property
    def url(self) -> str:
        """The server's URL, without a slash at its end."""
        host = f"[{self.listener.host}]" if ":" in self.listener.host else self.listener.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.listener.port}"

    @property
    def ca(self) -> Path | None:
        """The file of the CA's certificate; None without TLS."""
        return self.authority.ca.certificate if self.authority else None

    def kubeconfig(
        self,
        path: Path,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        client: Pair | None = None,
    ) -> Path:
        """Write a kubeconfig for this server to `path`; returns it."""
        return write_kubeconfig(
            path, self.url, ca=self.ca, token=token, token_file=token_file, client=client
        )

    def renew_certificate(self, authority: Authority | None = None) -> None:
        """A new certificate for new connections; of another authority where one is given."""
        self.authority = authority or self.authority
        if self.authority:
            self._context = self.authority.context(self.authority.server(self.listener.host))

    # ---- faults of connections -----------------------------------------------------------

    def refuse(self) -> None:
        """Close the listening socket: connecting is refused until `accept`."""
        self.listener.close()

    def accept(self) -> None:
        """Listen again, at the same port."""
        self.listener.open()

    def drop_open(self, resource: str = "", verb: str = "") -> int:
        """Reset the connections that answer such requests now; how many."""
        found = self._each_open(resource, verb, Answer.drop)
        for answer in found:
            answer.wake()
        return len(found)

    def stall_open(self, resource: str = "", verb: str = "") -> int:
        """Answers that are open now send nothing more: the connection is half-open."""
        return len(self._each_open(resource, verb, Answer.stall))

    def resume_open(self) -> int:
        """Stalled answers go on, with all that came meanwhile."""
        return len(self._each_open("", "", Answer.resume))

    def open_requests(self, resource: str = "", verb: str = "") -> list[Served]:
        """The requests that are being answered now."""
        with self._lock:
            return [one for one in self._answers.values() if one.is_for(resource, verb)]

    def _each_open(self, resource: str, verb: str, act: Callable[[Answer], None]) -> list[Answer]:
        with self._lock:
            found = [a for a, served in self._answers.items() if served.is_for(resource, verb)]
        for answer in found:
            act(answer)
        with self.store.changed:
            self.store.changed.notify_all()
        return found

    # ---- one connection ---------------------------------------------------------------

    def _serve(self, sock: socket.socket, stream: BinaryIO) -> None:
        certified = certified_user(sock)
        while not self.closing.is_set() and (request := read_request(stream)):
            served = Served(self, request, certified)
            answer = Answer(sock, served.wire_fault, self.closing, served.log)
            with self._lock:
                self._answers[answer] = served
            try:
                served.answer(answer)
            except Cut:
                return
            finally:
                with self._lock:
                    del self._answers[answer]
                served.end()
            if request.headers.get("connection", "").lower() == "close":
                return


if __name__ == "__main__":
    from tests.cluster.process import main

    sys.exit(main())
