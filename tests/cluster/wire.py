"""HTTP/1.1 on one connection: reading a request, writing an answer, and faults in its bytes.

What the answer is, is decided elsewhere. Errors of the socket are OSError; `Cut` ends a
connection that a fault broke off.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.cluster.faults import Fault, Kind

_REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    410: "Gone",
    415: "Unsupported Media Type",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_SMALL_BYTES = 2048
_LOOK_SEC = 0.05
_STUCK_SEC = 0.2


_INSERTING = (Kind.GARBAGE, Kind.ERROR_EVENT)


class Cut(Exception):
    """The connection was broken off on purpose."""


class Ended(Exception):
    """The answer was ended before its time, but in good order; the connection goes on."""


class Request(NamedTuple):
    """One request. Headers' names are in lower case; of a repeated key of the query the first."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


def read_request(stream: BinaryIO) -> Request | None:
    """The next request of a connection; None at its end. ValueError for what is no HTTP."""
    line = stream.readline(65536)
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = {}
    while (line := stream.readline(65536)).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _read_chunks(stream)
    else:
        body = stream.read(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = dict(reversed(parse_qsl(parts.query, keep_blank_values=True)))
    return Request(method, unquote(parts.path), query, headers, body)


def _read_chunks(stream: BinaryIO) -> bytes:
    body = b""
    while size := int(stream.readline(100).split(b";")[0], 16):
        body += stream.read(size)
        stream.readline(100)
    stream.readline(100)
    return body


class Answer:
    """The answer to one request, on its way out; the fault that the request met acts here.

    `write` may be called any number of times between `begin` and `end`. Only the thread that
    serves the connection writes; `drop` and `stall` may be called from any other.
    """

    def __init__(
        self,
        sock: socket.socket,
        fault: Fault | None,
        closing: threading.Event,
        started: Callable[[int], None] = lambda _code: None,
    ) -> None:
        self._sock = sock
        self._fault = fault
        self._closing = closing
        self._stalled = threading.Event()
        self._dropped = threading.Event()
        self._sending = False
        self._started = started
        """Told the code just before the first byte goes out."""
        self.sent_bytes = 0
        """Of the body, before any chunking."""

    # ---- from the thread that serves ------------------------------------------------

    def begin(self, code: int, headers: dict[str, str]) -> None:
        """Send the head of a chunked answer."""
        self._early()
        self._started(code)
        self._send(_head(code, headers | {"Transfer-Encoding": "chunked"}))
        if self._fault and self._fault.kind in _INSERTING and self._fault.after_bytes <= 0:
            self._insert(b"", self._fault)

    def whole(self, code: int, headers: dict[str, str], body: bytes) -> None:
        """Send an answer that is known in whole: small ones with their length, as in Go."""
        if len(body) > _SMALL_BYTES or self._fault:
            self.begin(code, headers)
            self.write(body)
            self.end()
            return
        self._started(code)
        self.sent_bytes = len(body)
        self._send(_head(code, headers | {"Content-Length": str(len(body))}) + body)

    def write(self, data: bytes) -> None:
        """Send a part of the body, as one chunk."""
        if not data:
            return
        if self._stalled.is_set():
            self._wait(None)
        fault = self._fault
        if fault and fault.kind in _INSERTING:
            at = data.find(b"\n", max(0, fault.after_bytes - self.sent_bytes - 1)) + 1
            if at:
                self._insert(data[:at], fault)
                data = data[at:]
        self._chunk(data)
        self.sent_bytes += len(data)

    def end(self) -> None:
        """Send the last chunk: the body is whole."""
        fault = self._fault
        if fault and fault.kind in (Kind.DROP, Kind.CLOSE, Kind.STALL):
            self._break(fault)
        if self._stalled.is_set():
            self._wait(None)
        self._send(b"0\r\n\r\n")

    def gone(self) -> bool:
        """Has the client left, or is it to be dropped?"""
        # Nobody pipelines behind a watch: what can be read is the end, or TLS saying so.
        return self._dropped.is_set() or self._left()

    def _left(self) -> bool:
        waiting = select.poll()
        waiting.register(self._sock, select.POLLIN)
        return bool(waiting.poll(0))

    def check(self) -> None:
        """Cut when there is no reason to go on."""
        if self._closing.is_set() or self.gone():
            raise Cut

    # ---- from any thread --------------------------------------------------------------

    def drop(self) -> None:
        """Reset the connection, as soon as its own thread looks."""
        with contextlib.suppress(OSError):  # It may have ended this moment.
            reset_at_close(self._sock)
        self._dropped.set()

    def wake(self) -> None:
        """Free a thread that is stuck in sending to a client that does not read."""
        until = time.monotonic() + _STUCK_SEC
        while self._sending and time.monotonic() < until:
            time.sleep(_STUCK_SEC / 20)
        if self._sending:
            # The client would see an orderly end if this came before a RST could.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Send nothing more, until `resume`."""
        self._stalled.set()

    def resume(self) -> None:
        """Take `stall` back."""
        self._stalled.clear()

    # ---- faults -----------------------------------------------------------------------

    def _chunk(self, data: bytes) -> None:
        if not data:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data)
        if self._fault is None:
            self._send(framed)
        else:
            self._send_faulty(framed, len(framed) - len(data) - 2, self._fault)

    def _insert(self, before: bytes, fault: Fault) -> None:
        """Send `before` and the fault's line; after an ERROR event there is nothing more."""
        self._fault = None
        self._chunk(before + fault.line + b"\n")
        if fault.kind is Kind.ERROR_EVENT:
            self.end()
            raise Ended

    def _early(self) -> None:
        """Faults that come before the head of the answer."""
        fault = self._fault
        if fault and fault.after_bytes < 0 and fault.kind in (Kind.DROP, Kind.CLOSE, Kind.STALL):
            self._break(fault)

    def _send_faulty(self, framed: bytes, begin: int, fault: Fault) -> None:
        """Send a chunk whose body starts at `begin`, as far as the fault lets it."""
        left = max(fault.after_bytes, 0) - self.sent_bytes
        if left >= len(framed) - begin - 2:
            self._send(framed)
            return
        good = begin + left if left > 0 else 0
        if fault.kind in (Kind.DROP, Kind.CLOSE, Kind.STALL):
            self._send(framed[:good])
            self._break(fault)
            self._send(framed[good:])
        elif fault.kind is Kind.SLOW:
            self._send(framed[:good])
            self._trickle(framed[good:], fault)
        else:
            self._send(framed)

    def _trickle(self, data: bytes, fault: Fault) -> None:
        step = max(1, fault.bytes_per_sec // 20)
        for begin in range(0, len(data), step):
            self._send(data[begin : begin + step])
            if not fault.lifted.wait(step / fault.bytes_per_sec) and self._closing.is_set():
                raise Cut

    def _break(self, fault: Fault) -> None:
        if fault.kind is Kind.STALL:
            self._wait(fault)
            self._fault = None
            return
        if fault.kind is Kind.DROP:
            reset_at_close(self._sock)
        raise Cut

    def _wait(self, fault: Fault | None) -> None:
        """Wait until the stall ends; Cut when client or server goes first."""
        while self._stalled.is_set() if fault is None else not fault.lifted.is_set():
            self.check()
            time.sleep(_LOOK_SEC)

    def _send(self, data: bytes) -> None:
        self._sending = True
        try:
            # In this order: whoever drops after this look sees that we are sending, and wakes us.
            if self._dropped.is_set():
                raise Cut
            self._sock.sendall(data)
        finally:
            self._sending = False


def reset_at_close(sock: socket.socket) -> None:
    """Make the coming close() of a socket a RST, whatever is still on its way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _head(code: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {code} {_REASONS.get(code, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
