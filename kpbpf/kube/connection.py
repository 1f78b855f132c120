"""The sockets below the kubernetes package's client: kept alive, and within reach of a cut.

A thread that waits in a read cannot be asked to stop; its socket can be shut down.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, poolmanager
from urllib3.connection import HTTPConnection, HTTPSConnection

KEEPALIVE_SEC = 30
"""A peer that is gone without a word is noticed after about twice as long."""

_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SEC),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SEC // 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, KEEPALIVE_SEC * 1000),
)


class Connections:
    """Which socket each thread's request is on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: dict[int, socket.socket] = {}
        self._classes = self._pool_classes()

    def through(self, pool: Any) -> Any:
        """The pool manager, whose connections are known here from now on.

        One for SOCKS proxies has connections of its own kind, and is left alone.
        """
        if pool.pool_classes_by_scheme is poolmanager.pool_classes_by_scheme:
            pool.pool_classes_by_scheme = self._classes
        return pool

    def wait_at_most(self, seconds: float) -> None:
        """Bound each silence on this thread's socket."""
        found = self._sockets.get(threading.get_ident())
        if found is not None:
            found.settimeout(seconds)

    def forget(self) -> None:
        """This thread's request is over."""
        with self._lock:
            self._sockets.pop(threading.get_ident(), None)

    def cut(self, thread: int) -> None:
        """Shut down the socket that a thread waits on, if any."""
        with self._lock:
            found = self._sockets.get(thread)
            if found is not None:
                # Not SSLSocket's own, which would take the TLS state from below the reader.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(found, socket.SHUT_RDWR)

    def cut_all(self) -> None:
        """Shut down every socket that is waited on."""
        for thread in list(self._sockets):
            self.cut(thread)

    # ---- inside -------------------------------------------------------------------------

    def _note(self, found: object) -> None:
        if isinstance(found, socket.socket):  # not TLS within TLS, which some proxies need
            with self._lock:
                self._sockets[threading.get_ident()] = found

    def _pool_classes(self) -> dict[str, type[HTTPConnectionPool]]:
        note = self._note

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                _keep_alive(self.sock)

            def request(self, *args: Any, **kwargs: Any) -> None:
                super().request(*args, **kwargs)
                note(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                _keep_alive(self.sock)

            def request(self, *args: Any, **kwargs: Any) -> None:
                super().request(*args, **kwargs)
                note(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        return {"http": PlainPool, "https": SecurePool}


def _keep_alive(found: object) -> None:
    if isinstance(found, socket.socket):
        for level, option, value in _OPTIONS:
            found.setsockopt(level, option, value)
