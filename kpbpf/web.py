"""The daemon's HTTP servers: for health checks and scrapes, and for nothing larger.

The standard library's http.server, made fit for an open port: it never asks DNS (which may be
served by a Service that is not there yet), and clients that are slow or silent are bounded in
number and in time. What is answered is not known here.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from kpbpf import log
from kpbpf.errors import Retry
from kpbpf.settings import Address

CONNECTIONS = 256
"""Open at once, each with a thread; a further one takes the place of the oldest."""

SILENCE_SEC = 5.0
"""The longest silence of a client that has not asked yet."""

CONNECTION_SEC = 30.0
"""The longest life of a connection."""

LOOK_SEC = 0.25
"""How often a server looks whether it shall stop, or somebody has been here for too long."""

LINGER_SEC = 1.0
"""After the answer, for the client to hang up."""

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

_LOG = log.get(__name__)


class CannotListen(Retry):
    """The address is taken, or is not one of this machine's."""


class Request(NamedTuple):
    """What was asked. `path` is decoded; names of headers are in lower case."""

    method: str
    """GET or HEAD; the server leaves the body out for HEAD."""
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """What is answered; Content-Length and the like are the server's business."""

    code: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


Make = Callable[[Request], Answer]


def text(code: int, lines: str) -> Answer:
    """Answer in plain text."""
    return Answer(code, f"{lines}\n".encode())


def routes(table: Mapping[str, Make]) -> Make:
    """Answer by path; any other path is answered by a list of these."""
    paths = "".join(f"\n  {path}" for path in sorted(table))

    def answer(request: Request) -> Answer:
        make = table.get(request.path)
        return make(request) if make else text(404, f"nothing is here; there is:{paths}")

    return answer


class Server:
    """A running server. `make` is called in threads of the server, several at a time."""

    @classmethod
    def start(cls, address: Address, make: Make, name: str) -> Self:
        """Listen and answer; CannotListen when that is not possible. Port 0: any free one."""
        host = address.host or "0.0.0.0"
        try:
            socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
            return cls(_Http(host, address.port, make, name), name)
        except OSError as error:
            place = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
            why = error.strerror or "not an IP address"  # a name would be asked of DNS
            raise CannotListen(f"{name} cannot listen on {place}: {why}") from None

    def __init__(self, http: _Http, name: str) -> None:
        self.port: int = http.server_address[1]
        self._http = http
        self._thread = threading.Thread(target=http.serve_forever, args=(LOOK_SEC,), name=name)
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody, and wait until the threads are gone."""
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up(0)
        self._http.server_close()


class _Http(ThreadingMixIn, TCPServer):
    """A listener, and the connections that it took."""

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, host: str, port: int, make: Make, name: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.make = make
        self._name = name
        self._lock = threading.Lock()
        self._opened: dict[socket.socket, float] = {}
        self._told: set[str] = set()
        super().__init__((host, port), _Connection)

    def server_bind(self) -> None:
        """Listen in both families on `::`."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread; of too many, the oldest ends."""
        with self._lock:
            self._opened[request] = time.monotonic()
        self.hang_up(CONNECTIONS)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Close it, and know it no more."""
        with self._lock:
            self._opened.pop(request, None)
            super().close_request(request)

    def service_actions(self) -> None:
        """End connections that have lived too long; called each LOOK_SEC."""
        with self._lock:
            born = time.monotonic() - CONNECTION_SEC
            for one in [one for one, opened in self._opened.items() if opened < born]:
                _end(one)

    def hang_up(self, left: int) -> None:
        """End the oldest connections but for so many; their threads notice, and close them."""
        with self._lock:
            for one in list(self._opened)[: max(0, len(self._opened) - left)]:
                _end(one)
                del self._opened[one]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what our own code could not do, once: probes ask every few seconds."""
        error = sys.exception()
        if isinstance(error, OSError) or len(self._told) > CONNECTIONS:
            return  # a client that went away is nobody's fault
        if repr(error) not in self._told:
            self._told.add(repr(error))
            _LOG.error("%s: cannot answer: %r", self._name, error, exc_info=error)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _Connection(BaseHTTPRequestHandler):
    """One client, who may ask once."""

    server: _Http
    timeout = SILENCE_SEC
    protocol_version = default_request_version = "HTTP/1.1"
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = TEXT

    def version_string(self) -> str:
        """Say who answers, and not with which Python."""
        return "kpbpf"

    def log_message(self, *_: object) -> None:
        """Log no requests."""

    def do_GET(self) -> None:
        """Answer."""
        try:
            asked = urlsplit(self.path)
            query = parse_qs(asked.query, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            self.send_error(400)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(asked.path) or "/", query, headers)
        answer = text(500, "this went wrong; the log tells what")
        try:
            answer = self.server.make(request)
        finally:
            self._send(answer)

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self) -> None:
        refusal = text(405, "there is only something to GET here")
        self._send(refusal._replace(headers=(("Allow", "GET, HEAD"),)))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _send(self, answer: Answer) -> None:
        self.close_connection = True
        self.connection.settimeout(CONNECTION_SEC)
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def finish(self) -> None:
        """Let the client hang up first: closing on what it still sends would reset the answer."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SEC)
            until = time.monotonic() + LINGER_SEC
            while self.connection.recv(65536) and time.monotonic() < until:
                pass
