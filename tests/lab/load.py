"""Many short TCP connections a second, by processes of their own: a server and clients, by epoll.

A connection carries a number that no other has; the server sends it back behind its own name.
Run in a namespace of world.py as

    python -m tests.lab.load serve PORT NAME=NETNS ...    every address there; ends with its parent
    python -m tests.lab.load ask FILE RATE SECONDS ADDRESS,PORT ...

The server prints "ready" once it listens. The client goes round its targets, RATE connections a
second or as many as it can, and writes a line for each to FILE when it ends: see `Visit`.
Nothing is imported that Python does not bring along, apart from what enters namespaces.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

from kpbpf.datapath.netns import in_netns

MOST_OPEN = 200
GIVE_UP_SEC = 8.0
BACKLOG = 1024
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Visit(NamedTuple):
    """What became of one connection. Times are CLOCK_MONOTONIC, the same in all processes."""

    began: float
    ended: float
    target: int
    """Which of the client's targets, from 0."""
    server: str
    """Who answered; empty: nobody."""
    fault: str
    """Empty: connected, answered with its own number, and closed in order."""


def read_visits(path: Path) -> list[Visit]:
    """What a client has written."""
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return [Visit(float(a), float(b), int(c), server, fault) for a, b, c, server, fault in rows]


# ---- the server -----------------------------------------------------------------------------


def serve(port: int, places: dict[str, str]) -> None:
    """Answer in all of these namespaces, until killed."""
    poll = select.epoll()
    listening: dict[int, tuple[socket.socket, bytes]] = {}
    talking: dict[int, tuple[socket.socket, bytes]] = {}
    for name, netns in places.items():
        for family in FAMILIES:
            with in_netns(netns):
                sock = socket.socket(family, socket.SOCK_STREAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
            sock.listen(BACKLOG)
            sock.setblocking(False)
            listening[sock.fileno()] = (sock, name.encode())
            poll.register(sock.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd in listening:
                _accept(poll, *listening[fd], talking)
            else:
                _answer(talking, fd)


def _accept(
    poll: select.epoll,
    listener: socket.socket,
    name: bytes,
    talking: dict[int, tuple[socket.socket, bytes]],
) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        talking[sock.fileno()] = (sock, name)
        poll.register(sock.fileno(), select.EPOLLIN)


def _answer(talking: dict[int, tuple[socket.socket, bytes]], fd: int) -> None:
    sock, name = talking[fd]
    try:
        line = sock.recv(256)
        if line:
            sock.send(name + b" " + line)
            return
    except OSError:
        pass  # the client tells of it
    del talking[fd]
    sock.close()


# ---- the client -----------------------------------------------------------------------------


class Asker:
    """A client; see the module's head."""

    def __init__(self, targets: list[tuple[str, int]]) -> None:
        self.targets = targets
        self.visits: list[Visit] = []
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float, int, bytes]] = {}
        self._number = 0

    def run(self, rate: float, seconds: float) -> None:
        """Open connections at that rate for so long, and see each to its end."""
        start = time.monotonic()
        while (now := time.monotonic()) < start + seconds or self._open:
            due = int(min(now - start, seconds) * rate) - self._number
            if now < start + seconds:
                for _ in range(min(due, MOST_OPEN - len(self._open))):
                    self._begin()
            for fd, events in self._poll.poll(0.002):
                self._go_on(fd, events)
            if self._number % 64 == 0 or now >= start + seconds:
                self._give_up(time.monotonic() - GIVE_UP_SEC)

    def _begin(self) -> None:
        target = self._number % len(self.targets)
        nonce = b"%d-%d\n" % (os.getpid(), self._number)
        self._number += 1
        address, port = self.targets[target]
        sock = socket.socket(FAMILIES[":" in address], socket.SOCK_STREAM)
        sock.setblocking(False)
        fd, began = sock.fileno(), time.monotonic()
        self._open[fd] = (sock, began, target, nonce)
        try:
            sock.connect((address, port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(fd, "", f"connect: {error.strerror}")
            return
        self._poll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def _go_on(self, fd: int, events: int) -> None:
        if fd not in self._open:
            return
        sock, _, _, nonce = self._open[fd]
        try:
            if events & select.EPOLLIN:
                server, _, back = sock.recv(256).partition(b" ")
                self._end(fd, server.decode(), "" if back == nonce else f"came back: {back!r}")
            elif error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._end(fd, "", os.strerror(error))
            elif events & select.EPOLLOUT:
                sock.send(nonce)
        except OSError as error:
            self._end(fd, "", error.strerror or str(error))

    def _give_up(self, before: float) -> None:
        for fd in [fd for fd, (_, began, _, _) in self._open.items() if began < before]:
            self._end(fd, "", "no answer")

    def _end(self, fd: int, server: str, fault: str) -> None:
        sock, began, target, _ = self._open.pop(fd)
        if fault:
            fault += f", from port {sock.getsockname()[1]}"
        sock.close()
        self.visits.append(Visit(began, time.monotonic(), target, server, fault))

    def write(self, path: Path) -> None:
        """Leave word of every connection."""
        lines = (
            f"{v.began:.6f}\t{v.ended:.6f}\t{v.target}\t{v.server}\t{v.fault}\n"
            for v in self.visits
        )
        path.write_text("".join(lines))


def main(arguments: list[str]) -> None:
    """See the module's head."""
    match arguments:
        case ["serve", port, *places]:
            serve(int(port), dict(place.split("=", 1) for place in places))
        case ["ask", path, rate, seconds, *targets]:
            pairs = [target.rpartition(",") for target in targets]
            asker = Asker([(address, int(port)) for address, _, port in pairs])
            asker.run(float(rate), float(seconds))
            asker.write(Path(path))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
