"""Traffic that runs while something else is done: new connections in a loop, and long ones.

Each question is answered by a server that says who it is and which client it sees; what was not
answered is kept with the moment and the reason. Nothing is judged here.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple, Self

from tests.lab.sockets import Answer, Connection, Datagrams, ask_tcp
from tests.lab.world import Place

PAUSE_SEC = 0.02


class Route(NamedTuple):
    """Who asks, where, and by what: "pod-a 10.96.0.1:80/TCP"."""

    place: Place
    address: str
    port: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.place.name} {self.address}:{self.port}/{self.protocol}"


class _Loop(ABC):
    """A thread that does one thing again and again."""

    def __init__(self, name: str) -> None:
        self.answered = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_SEC):
            self.once()

    @abstractmethod
    def once(self) -> None:
        """What is done."""


class Asking(_Loop):
    """Opens a connection, or a socket for a datagram, asks, closes, and begins again.

    A datagram is sent twice where the first one has no answer: no network promises more.
    """

    def __init__(self, route: Route) -> None:
        super().__init__(f"asking {route}")
        self.route = route
        self.servers: Counter[str] = Counter()
        self.faults: list[str] = []

    def once(self) -> None:
        """Ask."""
        began = time.monotonic()
        try:
            self.servers[self._ask().server] += 1
            self.answered += 1
        except OSError as error:
            took = time.monotonic() - began
            self.faults.append(f"{time.strftime('%X')} {self.route}: {error!r} after {took:.1f} s")

    def _ask(self) -> Answer:
        place, address, port, protocol = self.route
        if protocol == "TCP":
            return ask_tcp(place, address, port)
        with Datagrams(place, address, port, timeout_sec=1) as datagrams:
            try:
                return datagrams.ask()
            except OSError:
                return datagrams.ask()


class Lasting(_Loop):
    """One connection, over which the other end is asked again and again who it is."""

    def __init__(self, route: Route) -> None:
        super().__init__(f"lasting {route}")
        self.route = route
        self.connection = Connection(route.place, route.address, route.port)
        self.first = self.connection.who()
        self.fault = ""

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.connection.__exit__()

    def once(self) -> None:
        """Ask; after a fault no more."""
        if self.fault:
            return
        try:
            answer = self.connection.who()
        except OSError as error:
            self.fault = f"{self.route} to {self.first.server}: {error!r} after {self.answered}"
            return
        self.answered += 1
        if answer != self.first:
            self.fault = f"{self.route}: {self.first} became {answer}"


class Traffic:
    """Everything at once: a loop for each of the routes, and long connections. A context manager.

    `lasting` connections are opened when the block begins, until each of `servers` has one.
    """

    def __init__(self, asked: Iterable[Route], lasting: Iterable[Route], servers: set[str]) -> None:
        self._lasting_routes = list(lasting)
        self._servers = servers
        self.asking = [Asking(route) for route in asked]
        self.lasting: list[Lasting] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for route in self._lasting_routes:
                for one in open_each(route, self._servers):
                    self.lasting.append(stack.enter_context(one))
            for asking in self.asking:
                stack.enter_context(asking)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def faults(self) -> list[str]:
        """What was not answered so far."""
        asked = [fault for asking in self.asking for fault in asking.faults]
        return [*asked, *(one.fault for one in self.lasting if one.fault)]

    def goes_on(self, rounds: int = 10, timeout_sec: float = 60) -> None:
        """Wait until each has been answered so often again, or has met a fault."""
        goals = {one: one.answered + rounds for one in (*self.asking, *self.lasting)}
        deadline = time.monotonic() + timeout_sec
        while not self.faults and time.monotonic() < deadline:
            if all(one.answered >= goal for one, goal in goals.items()):
                return
            time.sleep(0.05)
        assert not self.faults, "\n".join(self.faults)
        raise AssertionError(f"not {rounds} more answers each within {timeout_sec} s")


def open_each(route: Route, servers: set[str], attempts: int = 200) -> list[Lasting]:
    """Long connections to each of these servers; chance decides who answers."""
    found: dict[str, Lasting] = {}
    for _ in range(attempts):
        one = Lasting(route)
        if one.first.server in servers and one.first.server not in found:
            found[one.first.server] = one
        else:
            one.connection.__exit__()
        if found.keys() == servers:
            return list(found.values())
    for one in found.values():
        one.connection.__exit__()
    raise AssertionError(f"{route}: only {sorted(found)} answered in {attempts} attempts")
