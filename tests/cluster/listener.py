"""A listening socket with a thread for each connection; can be closed and opened again.

What is said on a connection is the `serve` function's.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import BinaryIO, cast

Serve = Callable[[socket.socket, BinaryIO], None]
Listen = Callable[[str, int], socket.socket]
_HANDSHAKE_SEC = 10.0


def listen_at(host: str, port: int) -> socket.socket:
    """A listening socket, in the network namespace of the calling thread; port 0 is any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


class Listener:
    """Listens from `open` to `close`, always at the same port; `serve` runs in threads."""

    def __init__(
        self,
        host: str,
        serve: Serve,
        port: int = 0,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        listen: Listen | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._serve = serve
        self._tls = tls
        self._listen = listen or listen_at
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}

    def open(self) -> None:
        """Accept connections, in a thread."""
        listening = self._listen(self.host, self.port)
        self.port = listening.getsockname()[1]
        self._socket = listening
        threading.Thread(
            target=self._accept, args=(listening,), daemon=True, name="apiserver-accept"
        ).start()

    def close(self) -> None:
        """Refuse further connections; those that are open stay."""
        listening, self._socket = self._socket, None
        if listening is not None:
            # Wakes the thread that waits in accept(), which close() alone does not.
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def end_connections(self) -> None:
        """End those that are open, and wait for their threads."""
        with self._lock:
            open_now = dict(self._connections)
        for sock in open_now:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in open_now.values():
            thread.join(10)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._connection, args=(sock,), daemon=True, name="apiserver-connection"
            )
            thread.start()

    def _connection(self, plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = plain
        with self._lock:
            self._connections[plain] = threading.current_thread()
        try:
            if context := self._tls():
                plain.settimeout(_HANDSHAKE_SEC)
                sock = context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=True)
                sock.settimeout(None)
                with self._lock:
                    self._connections[sock] = self._connections.pop(plain)
            with sock, cast("BinaryIO", sock.makefile("rb")) as stream:
                self._serve(sock, stream)
        except (OSError, ValueError):
            pass  # The client left, or did not speak TLS or HTTP.
        finally:
            plain.close()
            with self._lock:
                self._connections.pop(plain, None)
                self._connections.pop(sock, None)
