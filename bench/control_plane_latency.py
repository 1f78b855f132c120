"""From a change at the API server to the entry in a map: how long each one takes.

The server stamps each change with CLOCK_MONOTONIC before it has it; here stands the clock's other
end: who looks into the pinned maps, and, for comparison, who only reads the server's stream.
"""

from __future__ import annotations

import threading
import time
from itertools import islice
from typing import Any, NamedTuple

from kpbpf import address
from kpbpf.kube.session import Session
from kpbpf.kube.stream import values
from kpbpf.settings.settings import Api
from maps import abi
from maps.table import Tables
from tests.cluster.process import ServerProcess
from tests.cluster.workload import SERVICE_PORT, TARGET_PORT, Planned, Shape, planned

LOOK_SEC = 0.0005
"""How often the maps are looked at: what is told may be so much too long."""

AHEAD = 4
"""So many changes are looked for at once; more would only take time from the others."""

GIVE_UP_SEC = 30.0
_PROTOCOLS = {"TCP": 6, "UDP": 17}
_SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


class Rate(NamedTuple):
    """Changes a second, for so many seconds; each seed makes other changes."""

    per_sec: float
    seconds: float
    seed: int


class _Expected(NamedTuple):
    """A change as the maps will show it: any of these backends in the frontend's set."""

    frontend: bytes
    backends: frozenset[bytes]


def to_map(server: ServerProcess, shape: Shape, tables: Tables, rate: Rate) -> list[float]:
    """Milliseconds from each change to its entry in the maps, in order of size."""
    expected = _expected(shape, rate)
    before = [tables.frontends.get_raw(one.frontend) for one in expected]
    order(server, rate)
    found = _look(tables, expected, before, time.monotonic() + rate.seconds + GIVE_UP_SEC)
    steps = finish(server)
    if len(steps) != len(expected):
        raise RuntimeError(f"{len(expected)} changes were asked for, {len(steps)} made")
    return sorted((at - step["at"]) * 1e3 for at, step in zip(found, steps, strict=True))


def to_reader(server: ServerProcess, rate: Rate) -> list[float]:
    """The same to somebody who does nothing but read the server's stream."""
    session = Session.open(Api(kubeconfig=server.kubeconfig))
    query = {"watch": "1", "resourceVersion": str(server.ask("/version")), "timeoutSeconds": "600"}
    count = round(rate.per_sec * rate.seconds)
    with session.get(_SLICES, query) as reply:
        threading.Timer(0.1, order, (server, rate)).start()
        found = {}
        for value in islice(values(reply.read), count):
            found[int(value["object"]["metadata"]["resourceVersion"])] = time.monotonic()
    session.close()
    return sorted((found[step["version"]] - step["at"]) * 1e3 for step in finish(server))


def order(server: ServerProcess, rate: Rate) -> None:
    """Have the server begin to change endpoints."""
    server.order("/churn", rate=rate.per_sec, seconds=rate.seconds, seed=rate.seed)


def finish(server: ServerProcess) -> list[dict[str, Any]]:
    """The changes that were made, when all are."""
    while True:
        told = server.ask("/churn")
        if not told["running"]:
            fields = ("at", "version")
            return [dict(zip(fields, step[:2], strict=True)) for step in told["steps"]]
        time.sleep(0.2)


def missing(shape: Shape, tables: Tables, rate: Rate) -> int:
    """How many changes are not in the maps."""
    return sum(not _is_there(tables, one) for one in _expected(shape, rate))


# ---- looking ------------------------------------------------------------------------------


def _look(
    tables: Tables, expected: list[_Expected], before: list[bytes | None], deadline: float
) -> list[float]:
    """When each change was first seen; they come in order, or together."""
    found = [0.0] * len(expected)
    first = 0
    while first < len(expected):
        seen = False
        for index in range(first, min(first + AHEAD, len(expected))):
            if not found[index] and _came(tables, expected[index], before[index]):
                found[index], seen = time.monotonic(), True
        while first < len(expected) and found[first]:
            first += 1
        if not seen:
            if time.monotonic() > deadline:
                raise RuntimeError(f"change {first} of {len(expected)} never came to the maps")
            time.sleep(LOOK_SEC)
    return found


def _came(tables: Tables, one: _Expected, before: bytes | None) -> bool:
    """One lookup as long as nothing happened; sets are read only when their frontend turned."""
    return tables.frontends.get_raw(one.frontend) != before and _is_there(tables, one)


def _is_there(tables: Tables, one: _Expected) -> bool:
    value = tables.frontends.get_raw(one.frontend)
    if value is None:
        return False
    frontend = abi.Frontend.unpack(value)
    slots = (abi.BackendKey(frontend.base, slot).pack() for slot in range(frontend.count))
    found = (tables.backends.get_raw(slot) for slot in slots)
    return any(backend is not None and _place(backend) in one.backends for backend in found)


def _place(backend: bytes) -> bytes:
    """A packed Backend without what is said of it beside its address and port."""
    return abi.Backend.unpack(backend)._replace(flags=0).pack()


def _expected(shape: Shape, rate: Rate) -> list[_Expected]:
    """The changes of a rate; what a later one of the same Service brings in proves both."""
    plan = list(islice(planned(shape, rate.seed), round(rate.per_sec * rate.seconds)))
    backends: dict[int, set[bytes]] = {}
    found: list[_Expected] = []
    for step in reversed(plan):
        after = backends.setdefault(step.number, set())
        after.add(abi.Backend(address.from_text(step.came), TARGET_PORT, 0).pack())
        found.append(_Expected(_frontend(shape, step), frozenset(after)))
    return found[::-1]


def _frontend(shape: Shape, step: Planned) -> bytes:
    ip = address.from_text(shape.cluster_ip(step.number))
    return abi.FrontendKey(ip, SERVICE_PORT, _PROTOCOLS[shape.protocol(step.number)]).pack()
