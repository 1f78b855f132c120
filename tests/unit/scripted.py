"""A small HTTP server for tests: each request is answered by a function of the test.

It does not know what an API server is; tests/cluster has one that tells the truth.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kpbpf.kube.session import Session
from kpbpf.settings.settings import Api


class Exchange:
    """One request, and the means to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, closing: threading.Event) -> None:
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.client = handler.client_address
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.headers = dict(handler.headers)
        length = int(handler.headers.get("Content-Length") or 0)
        self.body: Any = json.loads(handler.rfile.read(length)) if length else None
        self._handler = handler
        self._closing = closing

    def json(self, value: Any, status: int = 200, **headers: str) -> None:
        """Answer with a whole body."""
        body = json.dumps(value).encode() if not isinstance(value, bytes) else value
        self._handler.send_response(status)
        for name, text in headers.items():
            self._handler.send_header(name.replace("_", "-"), text)
        self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def refuse(self, status: int, message: str = "no", **headers: str) -> None:
        """Answer with a Status object."""
        self.json({"kind": "Status", "code": status, "message": message}, status, **headers)

    def begin(self) -> None:
        """Begin a body of unknown length."""
        self._handler.send_response(200)
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()

    def raw(self, data: bytes) -> None:
        """Send some of the body."""
        self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self._handler.wfile.flush()

    def event(self, kind: str, raw: Any) -> None:
        """Send an event of a watch."""
        self.raw(json.dumps({"type": kind, "object": raw}).encode() + b"\n")

    def end(self) -> None:
        """End the body in good order."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Break the connection."""
        self._handler.close_connection = True
        self._handler.connection.shutdown(socket.SHUT_RDWR)

    def hold(self, until: threading.Event | None = None) -> None:
        """Say nothing, until the event or the end of the test."""
        while not self._closing.wait(0.01) and not (until and until.is_set()):
            pass


class Scripted:
    """The server, from `with` to its end; `seen` are the requests, in order."""

    def __init__(self, answer: Callable[[Exchange], None], port: int = 0) -> None:
        self.seen: list[Exchange] = []
        self._closing = threading.Event()
        closing, seen = self._closing, self.seen

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def do_GET(self) -> None:
                exchange = Exchange(self, closing)
                seen.append(exchange)
                try:
                    answer(exchange)
                except OSError:
                    self.close_connection = True

            do_POST = do_PATCH = do_GET  # noqa: N815

            def log_message(self, *_args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def session(self, *others: str, qps: float = 0.0) -> Session:
        """A session with this server, and others behind it; without a limit by default."""
        return Session.open(Api(None, (self.url, *others), qps=qps))

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
