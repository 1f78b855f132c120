"""HTTP at very many ports with one thread: what load balancers probe of a node, Service by Service.

Speaks as Go's net/http does, since that is what probes were written against: answers any method
and path, keeps a connection for the next request. What is answered is not known here, and nothing
large or slow is answered here: kpbpf/web.py does that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from kpbpf import log
from kpbpf.errors import Retry
from kpbpf.web import Answer

CONNECTIONS = 256
"""Open at once, at all ports together; a further one takes the place of the longest silent."""

SILENCE_SEC = 30.0
"""A connection that says nothing for so long ends."""

REQUEST_BYTES = 16 * 1024
BACKLOG = 128

FILES = 65536
"""Open files that are asked for, where the node's limit allows: each port is one for an address."""

HIGH = 1024
"""Listening sockets get numbers from here on: some libraries wait by select(2), which knows only
those below."""

ANY = "0.0.0.0"
"""All addresses of the node, of both families; Go's word for it."""

_LOG = log.get(__name__)
_WAKE = 0


class CannotListen(Retry):
    """A port is taken, or an address is none of this node's. The text is Go's."""


class _Listening(NamedTuple):
    name: str
    sock: socket.socket
    make: Callable[[], Answer]


class _Client:
    """A connection: what it has said, and what it will be answered."""

    def __init__(self, sock: socket.socket, came: _Listening) -> None:
        self.sock = sock
        self.came = came
        self.heard = b""
        self.leaving = False
        """It was answered for the last time; what it still says is read and forgotten."""
        self.since = time.monotonic()


class Ports:
    """Ports by name, each with its answer. `open` and `close` are for one thread.

    `make` is called in the thread of the ports, and must not wait.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._open: dict[str, list[_Listening]] = {}
        self._listening: dict[int, _Listening] = {}
        # By number, the longest silent first.
        self._clients: dict[int, _Client] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread: threading.Thread | None = None
        self._stopping = False

    def open(self, name: str, hosts: Sequence[str], port: int, make: Callable[[], Answer]) -> None:
        """Answer at this port of all these addresses, or CannotListen and at none of them."""
        self._run()
        with ExitStack() as undo:
            socks = [undo.enter_context(_listen(host, port)) for host in hosts]
            undo.pop_all()
        made = [_Listening(name, sock, make) for sock in socks]
        with self._lock:
            self._open[name] = made
            for one in made:
                self._listening[one.sock.fileno()] = one
                self._epoll.register(one.sock, select.EPOLLIN)

    def close(self, name: str) -> None:
        """Answer there no more; the port is free when this returns."""
        with self._lock:
            closed = self._open.pop(name, [])
            for one in closed:
                del self._listening[one.sock.fileno()]
                one.sock.close()
            for client in [one for one in self._clients.values() if one.came.name == name]:
                self._end(client)

    def stop(self) -> None:
        """Close everything, and wait until the thread is gone."""
        for name in list(self._open):
            self.close(name)
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread:
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    # ---- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        """Have the thread, from the first port on: most nodes never need it."""
        if self._thread is None:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if soft < FILES and soft != resource.RLIM_INFINITY:
                wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            self._thread = threading.Thread(target=self._serve, name=self._name)
            self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:
            ready = self._epoll.poll(SILENCE_SEC / 10 if self._clients else -1)
            with self._lock:
                crowded = [self._look(fd) for fd, _ in ready]
                self._end_silent()
            if any(crowded):
                time.sleep(0.05)  # whoever wants in still wants in

    def _look(self, fd: int) -> bool:
        """Take up what happened at one socket; whether it could not be for want of files."""
        listening, client = self._listening.get(fd), self._clients.get(fd)
        if listening:
            return self._accept(listening)
        if client:
            self._hear(client)
        return False

    def _accept(self, listening: _Listening) -> bool:
        try:
            sock, _ = listening.sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and self._clients:
                self._end(next(iter(self._clients.values())))
            return error.errno != errno.EAGAIN
        sock.setblocking(False)
        self._clients[sock.fileno()] = _Client(sock, listening)
        self._epoll.register(sock, select.EPOLLIN)
        if len(self._clients) > CONNECTIONS:
            self._end(next(iter(self._clients.values())))
        return False

    def _hear(self, client: _Client) -> None:
        try:
            said = client.sock.recv(REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._end(client)
            return
        client.since = time.monotonic()
        self._clients[client.sock.fileno()] = self._clients.pop(client.sock.fileno())
        if client.leaving:
            return
        client.heard += said
        answers, client.heard, client.leaving = _respond(client.heard, client.came.make)
        with suppress(OSError):  # it does not read: it will get no more
            if answers and client.sock.send(answers) < len(answers):
                client.leaving = True
        if client.leaving:
            # Not closed yet: that would reset the answer while the client still sends.
            with suppress(OSError):
                client.sock.shutdown(socket.SHUT_WR)

    def _end_silent(self) -> None:
        last = time.monotonic() - SILENCE_SEC
        while self._clients and (first := next(iter(self._clients.values()))).since < last:
            self._end(first)

    def _end(self, client: _Client) -> None:
        del self._clients[client.sock.fileno()]
        client.sock.close()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Of ANY: one for both families, or for IPv4 where there is no IPv6."""
    both = host == ANY and _has_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            made.bind(("::" if both else host, port))
            made.listen(BACKLOG)
            listening = socket.socket(fileno=_lifted(made))
    except OSError as error:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        why = (error.strerror or str(error)).lower()
        raise CannotListen(f"listen tcp {place}: bind: {why}") from None
    listening.setblocking(False)
    return listening


def _lifted(sock: socket.socket) -> int:
    """The same socket by a number from HIGH on, where the limit of open files allows that."""
    try:
        return fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, HIGH)
    except OSError:
        return sock.detach()


def _has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return os.path.exists("/proc/net/if_inet6")  # noqa: PTH110 (nothing else is done with it)


# ---- HTTP ---------------------------------------------------------------------------------------


def _respond(heard: bytes, make: Callable[[], Answer]) -> tuple[bytes, bytes, bool]:
    """Answers to all requests in `heard`, what is left of it, and whether these were the last."""
    answers = b""
    while True:
        head, end, rest = heard.partition(b"\r\n\r\n")
        if not end:
            if len(heard) > REQUEST_BYTES:
                return answers + _BAD, b"", True
            return answers, heard, False
        heard = rest
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[0] or not words[2].startswith("HTTP/1."):
            return answers + _BAD, b"", True
        said = {name.strip().lower(): value.strip().lower() for name, value in map(_field, lines)}
        old, closing = words[2] == "HTTP/1.0", said.get("connection", "")
        # Bodies are not read: the connection ends behind the answer.
        body = said.get("content-length", "0") != "0" or "transfer-encoding" in said
        last = old or body or closing == "close"
        answers += _message(make(), words[2], head=words[0] == "HEAD", last=last)
        if last:
            return answers, b"", True


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value


_BAD = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\n\r\n400 Bad Request"
)


def _message(answer: Answer, version: str, head: bool, last: bool) -> bytes:
    """An answer as Go writes it: its own fields by name, then Date, Content-Length, Connection."""
    fields = sorted([("Content-Type", answer.content_type), *answer.headers])
    fields += [("Date", formatdate(usegmt=True)), ("Content-Length", str(len(answer.body)))]
    if last:
        fields.append(("Connection", "close"))
    lines = [f"{version} {answer.code} {HTTPStatus(answer.code).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields]
    text = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return text if head else text + answer.body
