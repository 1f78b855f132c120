"""The API server is away for ten minutes, while everything changes: nobody who lives is cut off.

Ten minutes are not waited for: what stands for them is how much changed meanwhile, 12,000 changes
(20 a second), and that the history of the watch was thrown away.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.daemon import SOON_SEC, Cluster
from tests.cluster.faults import Fault, Kind
from tests.cluster.guard import Guard
from tests.cluster.resources import by_name
from tests.cluster.scratch import is_there
from tests.lab.agent import until
from tests.lab.sockets import Connection, Download, ask_tcp, digest, pattern
from tests.lab.world import IPV4, IPV6

CHANGES = 12_000
SERVICES = 300
LOOK_SEC = 0.5
LONGEST_PAUSE_SEC = 60.0
"""Who failed often asks again after half a minute."""


Way = Callable[[ApiServer], Fault | None]
Maps = dict[str, dict[bytes, bytes]]


def refuses(server: ApiServer) -> None:
    server.refuse()
    server.drop_open()


def drops(server: ApiServer) -> Fault:
    return _with_fault(server, Kind.DROP)


def stalls(server: ApiServer) -> Fault:
    server.stall_open()
    return _with_fault(server, Kind.STALL)


def fails(server: ApiServer) -> Fault:
    return _with_fault(server, Kind.STATUS, code=500)


def is_busy(server: ApiServer) -> Fault:
    return _with_fault(server, Kind.STATUS, code=429, retry_after_sec=1)


def _with_fault(server: ApiServer, kind: Kind, **more: Any) -> Fault:
    """Every request meets it, and whoever was refused may ask again."""
    fault = server.faults.add(kind, times=None, **more)
    server.refuse()
    server.accept()
    return fault


def comes_back(server: ApiServer) -> None:
    server.faults.clear()
    server.resume_open()
    server.refuse()
    server.accept()


def churn(server: ApiServer, changes: int) -> None:
    """Services come and go, endpoints are replaced, and nobody remembers the history."""
    choice = random.Random(changes)
    store = server.store
    for _ in range(changes):
        number = choice.randrange(SERVICES)
        name, what = f"churn-{number}", choice.randrange(10)
        address = f"10.97.{number >> 8}.{number & 255}"
        if what == 0 and is_there(store, "services", name):
            store.remove(by_name("services"), ("default", name))
        elif what < 3:
            store.put(make.service(name, address))
        else:
            net, last = choice.randrange(256), choice.randrange(1, 255)
            store.put(make.slice_((f"10.1.{net}.{last}",), of=name))
    store.compact()


def settled(cluster: Cluster) -> Maps:
    """The maps, once what was heard before the outage is written."""
    while True:
        found = cluster.entries()
        time.sleep(0.3)
        if cluster.entries() == found:
            return found


@pytest.mark.parametrize(
    ("ways", "killed"),
    [
        ((stalls,), False),
        ((refuses, drops, fails, is_busy), False),
        ((refuses, fails, drops, is_busy), True),
    ],
    ids=["half-open", "all others", "killed meanwhile"],
)
def test_no_live_backend_goes_and_the_end_is_what_the_api_says(
    resting: Cluster, ways: tuple[Way, ...], killed: bool
) -> None:
    server = resting.server
    churn(server, SERVICES)
    resting.start()
    with resting.service("web", 20, resting.a, resting.b) as web:
        address = web.addresses[IPV4]
        with (
            Connection(resting.client, web.addresses[IPV6], 80) as kept,
            Download(resting.client, address, 80) as download,
            Guard(resting, web, resting.b) as guard,
        ):
            assert kept.who().server
            fault: Fault | None = None
            before: Maps = {}
            for number, goes in enumerate(ways):
                before_it, fault = fault, goes(server)
                if before_it:
                    before_it.lift()
                if number == 0:
                    before = settled(resting)
                if number == 1 and killed:
                    resting.stop(signal.SIGKILL)
                    resting.kpbpf.launch()
                churn(server, CHANGES // len(ways))
                web.put(resting.b)
                stays(resting, before, address)
                assert download.grows(), download.fault
            comes_back(server)
            resting.converges(LONGEST_PAUSE_SEC)
            assert web.backends() == {resting.b.addresses[IPV4]}
            assert download.grows(), download.fault
            assert kept.take(pattern(300_000)) == digest(pattern(300_000))
            guard.check()
        assert {ask_tcp(resting.client, address, 80).server for _ in range(10)} == {"pod-b"}


def stays(cluster: Cluster, before: Maps, address: str) -> None:
    """Nothing in the maps changes for a while, and the Service answers."""
    end = time.monotonic() + LOOK_SEC
    while time.monotonic() < end:
        assert cluster.entries() == before
        assert ask_tcp(cluster.client, address, 80).server in ("pod-a", "pod-b")


def test_a_short_break_costs_no_second_reading(cluster: Cluster) -> None:
    with cluster.service("web", 21, cluster.a) as web:
        server = cluster.server
        server.requests.clear()
        refuses(server)
        web.put(cluster.b)
        comes_back(server)
        cluster.converges(LONGEST_PAUSE_SEC)
        asked = [one for one in server.requests if one.resource == "endpointslices"]
        assert not [one for one in asked if "sendInitialEvents" in one.query or one.verb == "list"]
    until(lambda: len(server.open_requests("", "watch")) == 5, "all are watched again", SOON_SEC)
