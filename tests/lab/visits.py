"""What tests of a Fleet do again and again: knock at the doors of a Service, and tell what they
expect. A client is the name of a place of the Fleet, a target an address and a port.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable

import pytest

from tests.lab.agent import Kpbpf, until
from tests.lab.fleet import EVERY_KIND, Fleet, FleetService
from tests.lab.manifests import USUAL_PORTS
from tests.lab.sockets import ASK, Answer, Connection, Datagrams, ask_udp, digest, pattern
from tests.lab.test_reach import AT_ONCE_SEC
from tests.lab.world import Place

CLIENTS = ("client", "node-1", "outside")
SILENCE_SEC = 0.25
MOST_DRAWS = 60
"""Of two endpoints, one is left out by chance so often in a row once in 10^18 times."""


def expect_refusal(place: Place, address: str, port: int, protocol: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        ASK[protocol](place, address, port)
    assert time.monotonic() - start < AT_ONCE_SEC


def expect_silence(place: Place, address: str, port: int, protocol: str) -> None:
    """No answer: neither of the Service nor of anything in between."""
    with pytest.raises(TimeoutError):
        ASK_SHORTLY[protocol](place, address, port)


def ask_tcp_shortly(place: Place, address: str, port: int) -> Answer:
    with Connection(place, address, port, timeout_sec=SILENCE_SEC) as connection:
        return connection.who()


def ask_udp_shortly(place: Place, address: str, port: int) -> Answer:
    with Datagrams(place, address, port, timeout_sec=SILENCE_SEC) as datagrams:
        return datagrams.ask()


ASK_SHORTLY = {"TCP": ask_tcp_shortly, "UDP": ask_udp_shortly}


def expect(
    names: set[str], fleet: Fleet, client: str, target: tuple[str, int], protocol: str = "TCP"
) -> None:
    """All of these answer this client sooner or later, and nobody else does."""
    place, found = fleet.place(client), set[str]()
    for draw in range(MOST_DRAWS):
        found.add(ASK[protocol](place, *target).server)
        if found >= names and draw >= 2 * len(names):
            break
    assert found == names, (client, target)


def wait_for(kpbpf: Kpbpf, target: tuple[str, int], protocol: str) -> None:
    until(lambda: kpbpf.backends(*target, protocol) is not None, f"{target} is served")


def wait_for_set(
    fleet: Fleet, service: FleetService, number: int, family: int, names: set[str]
) -> None:
    wanted = frozenset((one.addresses[family], USUAL_PORTS.target) for one in fleet.places(*names))
    until(lambda: service.sets(fleet.kpbpfs[number], family) == {wanted}, f"{number} has {names}")


def doors(
    fleet: Fleet, service: FleetService, family: int, kinds: Iterable[str] = EVERY_KIND
) -> list[tuple[str, int]]:
    """Addresses and ports of a Service, of these kinds; NodePorts are node-1's."""
    return [service.at(kind, family, fleet.place("node-1")) for kind in kinds]


def drops(fleet: Fleet, verdict: str, number: int = 1) -> bool:
    """Whether a node names this verdict among its drops."""
    return verdict in fleet.kpbpfs[number].ask("drop", "ls")


def expect_whole_payloads(
    fleet: Fleet, client: str, target: tuple[str, int], backend: str = "", size: int = 1_000_000
) -> None:
    """Bytes arrive in both directions as they were sent; so does a datagram of many fragments.

    They do with `backend`, unless that is left open.
    """
    payload, datagram = pattern(size), pattern(20_000)
    with Connection(fleet.place(client), *target) as connection:
        assert backend in (connection.who().server, "")
        assert connection.take(payload) == digest(payload), (client, target)
        assert connection.give(len(payload)) == payload, (client, target)
    try:
        answer = ask_udp(fleet.place(client), *target, datagram)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        answer = ask_udp(fleet.place(client), *target, datagram)  # the MTU has been learnt now
    assert backend in (answer.server, ""), (client, target)


def answer(
    fleet: Fleet, client: str, target: tuple[str, int], protocol: str = "TCP"
) -> tuple[str, str]:
    """Who answers this client, and which client it saw."""
    found: Answer = ASK[protocol](fleet.place(client), *target)
    return found.server, found.client


def own(fleet: Fleet, client: str, family: int) -> str:
    """A place's own address."""
    return fleet.place(client).addresses[family]
