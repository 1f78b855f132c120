"""Real sockets in the places of world.py: servers that say who they are, clients that check it.

A TCP server answers lines: `who` with its own name and the client it sees, `give N` with N bytes
of the pattern, `take N` with the digest of the N bytes that follow, `stream` with the pattern
without end. A UDP server sends each datagram back behind a line with the same names.
Clients only return what was really received; they raise OSError where the kernel does.
"""

from __future__ import annotations

import hashlib
import socket
import socketserver
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, Self, cast

from tests.lab.world import ADDRESS_FAMILY, FAMILIES, Place

STREAM_CHUNK = 32 * 1024
STREAM_PAUSE_SEC = 0.001
LOAD_PAUSE_SEC = 0.001
RECEIVE_BUFFER = 16 * 1024 * 1024  # so that no packet is lost for want of a reader
SO_RCVBUFFORCE = 33
SEEN_MAX = 1000


class Answer(NamedTuple):
    """Who answered, and the client's address and port as the answering side saw them."""

    server: str
    client: str
    client_port: int
    payload: bytes = b""


Seen = deque[Answer]
"""What servers have received, the latest last: also what they could not answer."""


def pattern(size: int, start: int = 0) -> bytes:
    """Bytes in which each eight differ from all others: `size` of them, from `start` on."""
    first, skip = divmod(start, 8)
    numbers = array("Q", range(first, first + size // 8 + 2))
    return numbers.tobytes()[skip : skip + size]


def digest(payload: bytes) -> str:
    """What a server says about a payload that it took."""
    return hashlib.sha256(payload).hexdigest()


# ---- servers -------------------------------------------------------------------------------


class _TcpHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            for line in self.rfile:
                self.obey(line.decode().split())
        except OSError:
            return  # the client went away in the middle

    def obey(self, words: list[str]) -> None:
        match words:
            case ["who"]:
                self.wfile.write(_greeting(self.server, self.client_address))
            case ["give", size]:
                self.wfile.write(pattern(int(size)))
            case ["take", size]:
                self.wfile.write(f"{digest(self.rfile.read(int(size)))}\n".encode())
            case ["stream"]:
                self.stream()

    def stream(self) -> None:
        server = cast("_TcpServer", self.server)
        sent = 0
        while not server.stopping:
            self.wfile.write(pattern(STREAM_CHUNK, sent))
            sent += STREAM_CHUNK
            time.sleep(STREAM_PAUSE_SEC)


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        payload, sock = self.request
        host, port = self.client_address[:2]
        server = cast("_UdpServer", self.server)
        server.seen.append(Answer(server.name, host, port, payload))
        sock.sendto(_greeting(self.server, self.client_address) + payload, self.client_address)


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    name = ""
    stopping = False

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        self.open_requests.append(cast("socket.socket", request))
        super().process_request(request, client_address)

    def server_activate(self) -> None:
        self.open_requests: list[socket.socket] = []
        super().server_activate()

    def server_close(self) -> None:
        """Close the listening socket and wake every handler out of its read."""
        self.stopping = True
        for request in self.open_requests:
            with suppress(OSError):  # most are closed long since
                request.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _UdpServer(socketserver.UDPServer):
    max_packet_size = 65535
    name = ""
    seen: Seen

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        super().server_bind()


def _greeting(server: socketserver.BaseServer, client: tuple[str, int]) -> bytes:
    name = cast("_TcpServer | _UdpServer", server).name
    return f"{name} {client[0]} {client[1]}\n".encode()


@contextmanager
def serve(place: Place, port: int, protocol: str = "TCP", name: str = "") -> Iterator[Seen]:
    """Run a server on every address of the place; it is called like the place, or `name`.

    Hands out what UDP servers have seen, as long as it is looked at.
    """
    seen = Seen(maxlen=SEEN_MAX)
    with ExitStack() as stack:
        for family in FAMILIES:
            server = _bind(place, family, port, protocol)
            server.name = name or place.name
            if isinstance(server, _UdpServer):
                server.seen = seen
            stack.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield seen


def _bind(place: Place, family: int, port: int, protocol: str) -> _TcpServer | _UdpServer:
    kind = _TcpServer if protocol == "TCP" else _UdpServer
    handler = _TcpHandler if protocol == "TCP" else _UdpHandler
    of_family = type(kind.__name__, (kind,), {"address_family": ADDRESS_FAMILY[family]})
    with place.inside():
        return cast("_TcpServer | _UdpServer", of_family((place.addresses[family], port), handler))


# ---- clients -------------------------------------------------------------------------------


def family_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


class Connection:
    """A TCP connection from a place; a context manager."""

    def __init__(self, place: Place, address: str, port: int, timeout_sec: float = 5) -> None:
        self.sock = place.socket(family_of(address), socket.SOCK_STREAM)
        self.sock.settimeout(timeout_sec)
        try:
            self.sock.connect((address, port))
        except OSError:
            self.sock.close()
            raise
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def who(self) -> Answer:
        """Ask the other end who it is."""
        self.sock.sendall(b"who\n")
        return _answer(self.file.readline())

    def give(self, size: int) -> bytes:
        """Ask for `size` bytes of the pattern."""
        self.sock.sendall(f"give {size}\n".encode())
        return self.file.read(size)

    def take(self, payload: bytes) -> str:
        """Hand a payload over; return the digest that the other end made of it."""
        self.sock.sendall(f"take {len(payload)}\n".encode() + payload)
        return self.file.readline().decode().strip()


def ask_tcp(place: Place, address: str, port: int) -> Answer:
    """Open a connection, ask who is there, close."""
    with Connection(place, address, port) as connection:
        return connection.who()


class Datagrams:
    """A connected UDP socket in a place; a context manager. ICMP errors are raised as OSError."""

    def __init__(self, place: Place, address: str, port: int, timeout_sec: float = 2) -> None:
        self.sock = place.socket(family_of(address), socket.SOCK_DGRAM)
        self.sock.settimeout(timeout_sec)
        try:
            self.sock.connect((address, port))
        except OSError:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, payload: bytes = b"hello") -> Answer:
        """Send a datagram and wait for its answer."""
        self.sock.send(payload)
        greeting, _, echoed = self.sock.recv(65535).partition(b"\n")
        return _answer(greeting)._replace(payload=echoed)


def ask_udp(place: Place, address: str, port: int, payload: bytes = b"hello") -> Answer:
    """Send one datagram from a fresh port and wait for its answer."""
    with Datagrams(place, address, port) as datagrams:
        answer = datagrams.ask(payload)
    assert answer.payload == payload
    return answer


ASK = {"TCP": ask_tcp, "UDP": ask_udp}


def _answer(line: bytes) -> Answer:
    if not line:
        raise ConnectionError("the other end closed the connection without an answer")
    server, client, port = line.decode().split()
    return Answer(server, client, int(port))


def ping(place: Place, address: str, size: int = 56, timeout_sec: float = 2) -> bool:
    """One ICMP echo; True when the same payload came back."""
    family = family_of(address)
    proto, request = (socket.IPPROTO_ICMPV6, 128) if family == 6 else (socket.IPPROTO_ICMP, 8)
    payload = pattern(size)
    with place.socket(family, socket.SOCK_DGRAM, proto) as sock:
        sock.settimeout(timeout_sec)
        sock.connect((address, 0))
        sock.send(bytes([request, 0, 0, 0, 0, 0, 0, 1]) + payload)
        try:
            return sock.recv(65535)[8:] == payload
        except TimeoutError:
            return False


class Download:
    """An endless download in a thread of its own, each byte compared with the pattern.

    `received` grows; `fault` is empty while every byte was the right one.
    """

    def __init__(self, place: Place, address: str, port: int) -> None:
        self.received = 0
        self.fault = ""
        self._connection = Connection(place, address, port)
        self._thread = threading.Thread(target=self._read)
        self._stopping = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        self._connection.__exit__()

    def grows(self, size: int = 1024 * 1024, timeout_sec: float = 5) -> bool:
        """Wait until `size` more bytes have come; False when they do not."""
        goal = self.received + size
        deadline = time.monotonic() + timeout_sec
        while self.received < goal and not self.fault and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.received >= goal

    def _read(self) -> None:
        sock = self._connection.sock
        sock.sendall(b"stream\n")
        try:
            while not self._stopping:
                chunk = sock.recv(STREAM_CHUNK)
                if chunk != pattern(len(chunk), self.received) or not chunk:
                    self.fault = f"wrong bytes after {self.received}"
                    return
                self.received += len(chunk)
        except OSError as error:
            self.fault = f"{error} after {self.received} bytes"


class Load:
    """Numbered datagrams sent without a pause worth naming; `lost` says which had no answer."""

    def __init__(self, place: Place, address: str, port: int) -> None:
        self.sent = 0
        self._answered: set[int] = set()
        self._datagrams = Datagrams(place, address, port, timeout_sec=0.5)
        sock = self._datagrams.sock
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._threads = [threading.Thread(target=run) for run in (self._send, self._receive)]
        self._stopping = False

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        self._datagrams.__exit__()

    @property
    def lost(self) -> list[int]:
        """Numbers of the datagrams without an answer, once the load has ended."""
        return sorted(set(range(self.sent)) - self._answered)

    def _send(self) -> None:
        while not self._stopping:
            self._datagrams.sock.send(f"{self.sent}".encode())
            self.sent += 1
            time.sleep(LOAD_PAUSE_SEC)

    def _receive(self) -> None:
        sock = self._datagrams.sock
        while True:
            try:
                answer = sock.recv(2048)
            except TimeoutError:
                if self._stopping:
                    return
                continue
            self._answered.add(int(answer.rpartition(b"\n")[2]))
