"""Things that happen to a cluster and its API server, for Hypothesis to put in any order.

Each act names what happens, and three numbers that say to whom and how. What is expected of the
daemon is in the tests. The Service default/rock is never touched: it must never be harmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.faults import Kind
from tests.cluster.resources import Raw, by_name
from tests.cluster.scratch import HEADLESS, OTHER_PROXY, is_there
from tests.lab.manifests import NODE_NAME

RESOURCES = ("services", "endpointslices", "nodes")
SERVICES = 6
ROCK = "10.96.1.1:80/TCP default/rock/IPv4: 10.1.9.1:8080 10.1.9.2:8080"


class Act(NamedTuple):
    """What happens; what the numbers mean is each act's own business."""

    what: str
    whom: int
    how: int
    more: int

    def __repr__(self) -> str:
        return f"Act({self.what!r}, {self.whom}, {self.how}, {self.more})"


def begin(server: ApiServer) -> None:
    """What is there at the beginning."""
    server.store.bulk(
        [
            make.node(NODE_NAME, zone="zone-1"),
            make.service("rock", "10.96.1.1"),
            make.slice_(("10.1.9.1", "10.1.9.2"), of="rock"),
            *(_service(Act("", number, 0, 0)) for number in range(3)),
            *(_slice(Act("", number, 3, 0)) for number in range(3)),
        ]
    )


def end(server: ApiServer) -> None:
    """The server is in good order again."""
    server.faults.clear()
    server.resume_open()
    server.refuse()
    server.accept()


def happen(server: ApiServer, act: Act) -> None:
    """Let it happen."""
    _ACTS[act.what](server, act)


# ---- objects -------------------------------------------------------------------------------


def _service(act: Act) -> Raw:
    """One of several forms; some claim an address that another Service has."""
    number, how = act.whom, act.how
    address = f"10.96.0.{1 + (act.more if how == 5 else number)}"
    ipv6 = f"fd96::{1 + number:x}"
    more: Raw = {}
    ports: list[Raw | int] = [80]
    if how == 1:
        ports = [make.port(80), make.port(53, "dns", "UDP")]
    elif how == 2:
        more = {"sessionAffinity": "ClientIP"}
    elif how == 3:
        more = {"internalTrafficPolicy": "Local"}
    elif how == 4:
        address = "None"
    ips = [address] if how == 4 else [address, ipv6]
    return make.service(f"web-{number}", ips, ports, **more)


def _slice(act: Act) -> Raw:
    """`how` endpoints, the first of them on the own node; of either family."""
    number, how, more = act.whom, act.how, act.more
    net = f"fd01:{number:x}::{1 + more:x}:" if number % 3 == 2 else f"10.1.{number}."
    endpoints = [
        make.endpoint(
            f"{net}{1 + more + each}",
            NODE_NAME if each == 0 else "node-b",
            ready=(each + more) % 5 != 4,
            terminating=(each + more) % 5 == 4,
            zones=("zone-1" if each % 2 else "zone-2",) if more % 4 == 3 else (),
        )
        for each in range(how)
    ]
    ports: list[Raw | int] = [8080, make.port(5353, "dns", "UDP")] if more % 2 else [8080]
    family = "IPv6" if number % 3 == 2 else "IPv4"
    return make.slice_(endpoints, f"web-{number}", f"web-{number}-{more % 2}", ports, family)


def _put_service(server: ApiServer, act: Act) -> None:
    server.store.put(_service(act))


def _put_slice(server: ApiServer, act: Act) -> None:
    server.store.put(_slice(act))


def _delete_service(server: ApiServer, act: Act) -> None:
    _remove(server, "services", f"web-{act.whom}")


def _delete_slice(server: ApiServer, act: Act) -> None:
    _remove(server, "endpointslices", f"web-{act.whom}-{act.more % 2}")


def _remove(server: ApiServer, kind: str, name: str) -> None:
    if is_there(server.store, kind, name):
        server.store.remove(by_name(kind), ("default", name))


def _relabel(kind: str, label: str) -> Callable[[ApiServer, Act], None]:
    """Add a label that makes the object invisible, or take it away again."""

    def relabel(server: ApiServer, act: Act) -> None:
        name = f"web-{act.whom}" + (f"-{act.more % 2}" if kind == "endpointslices" else "")

        def edit(raw: Raw) -> Raw:
            labels = raw["metadata"].setdefault("labels", {})
            if labels.pop(label, None) is None:
                labels[label] = ""
            return raw

        if is_there(server.store, kind, name):
            server.store.change(by_name(kind), ("default", name), edit)

    return relabel


def _move_node(server: ApiServer, act: Act) -> None:
    server.store.put(make.node(NODE_NAME, zone=f"zone-{act.how}"))


def _bad_object(server: ApiServer, act: Act) -> None:
    """An object that cannot be read, under a name that no good one ever has."""
    metadata = {"name": f"bad-{act.whom}", "namespace": "default", "labels": {}}
    raw = {"kind": "Service", "apiVersion": "v1", "metadata": metadata}
    spec: object = ([], {"ports": 1}, {"clusterIP": "10.96.0.1", "ports": [{"port": "x"}]})[
        act.how % 3
    ]
    server.store.put_raw(by_name("services"), ("default", f"bad-{act.whom}"), raw | {"spec": spec})


# ---- the server ----------------------------------------------------------------------------


def _pause(_: ApiServer, act: Act) -> None:
    time.sleep(act.how / 200)


def _drop(server: ApiServer, act: Act) -> None:
    server.drop_open(RESOURCES[act.whom % 3])


def _stall(server: ApiServer, act: Act) -> None:
    server.stall_open(RESOURCES[act.whom % 3])


def _resume(server: ApiServer, _: Act) -> None:
    server.resume_open()


def _away(server: ApiServer, _: Act) -> None:
    server.refuse()
    server.drop_open()


def _back(server: ApiServer, _: Act) -> None:
    server.refuse()
    server.accept()


def _compact(server: ApiServer, _: Act) -> None:
    server.store.compact()


def _while_away(forgets: bool) -> Callable[[ApiServer, Act], None]:
    """Things happen while the server is away; it may not remember them when it is back."""

    def happens(server: ApiServer, act: Act) -> None:
        _away(server, act)
        for number in range(act.how):
            one = Act("", (act.whom + number) % SERVICES, act.how, act.more)
            (_delete_service, _delete_slice, _put_slice, _put_service)[(number + act.more) % 4](
                server, one
            )
        if forgets:
            server.store.compact()
        _back(server, act)

    return happens


def _bookmarks(server: ApiServer, act: Act) -> None:
    server.behaviour.bookmark_sec = 0.02 if act.how % 2 else 60.0
    server.drop_open(RESOURCES[act.whom % 3], "watch")


def _fault(kind: Kind, **more: Any) -> Callable[[ApiServer, Act], None]:
    """A fault for the next request of a resource, which a drop brings about."""

    def order(server: ApiServer, act: Act) -> None:
        resource = RESOURCES[act.whom % 3]
        server.faults.add(kind, resource, times=1 + act.how % 2, **more)
        server.drop_open(resource)

    return order


_ACTS: dict[str, Callable[[ApiServer, Act], None]] = {
    "put service": _put_service,
    "put slice": _put_slice,
    "delete service": _delete_service,
    "delete slice": _delete_slice,
    "hide service": _relabel("services", OTHER_PROXY),
    "hide slice": _relabel("endpointslices", HEADLESS),
    "move node": _move_node,
    "bad object": _bad_object,
    "pause": _pause,
    "drop": _drop,
    "stall": _stall,
    "resume": _resume,
    "away": _away,
    "back": _back,
    "compact": _compact,
    "while away": _while_away(forgets=False),
    "forgotten": _while_away(forgets=True),
    "bookmarks": _bookmarks,
    "gone": _fault(Kind.STATUS, code=410),
    "gone in the stream": _fault(Kind.ERROR_EVENT, code=410),
    "busy": _fault(Kind.STATUS, code=429, retry_after_sec=0),
    "broken": _fault(Kind.STATUS, code=500),
    "cut": _fault(Kind.CLOSE, after_bytes=900),
    "garbage": _fault(Kind.GARBAGE, after_bytes=300),
}

_OFTEN = ("put service", "put slice") * 8 + ("delete service", "delete slice", "pause") * 2


def acts(*more: str) -> st.SearchStrategy[list[Act]]:
    """Lists of acts; `more` are words that the test itself knows what to do with."""
    words = st.sampled_from([*_OFTEN, *_ACTS, *more])
    numbers = st.integers(0, SERVICES - 1)
    # Of short ones there would be too many: what is interesting takes a few things in a row.
    act = st.builds(Act, words, numbers, numbers, numbers)
    return st.lists(act, min_size=10, max_size=40)
