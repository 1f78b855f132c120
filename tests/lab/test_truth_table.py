"""SEMANTICS A.4: which endpoints answer, and which client they see, for every kind of client.

The tables are kube-proxy's (TestInternalExternalMasquerade): 30 flows in 4 configurations. A cell
says which set answers, `all` endpoints or those `local` to node-1, and what an endpoint on
another node sees: the client's `own` address, or that of node-1 (`masq`). The last column is
where kpbpf is better on purpose: what an endpoint on node-1 itself sees, where kube-proxy shows
it the node's address in every cell with `masq`. To a process of the node, `own` is the node's.

Where the endpoint elsewhere sees the client's own address although the client is outside, its
answer does not come back by node-1 and the client has no use for it (so with kube-proxy, too):
there, what counts is what the endpoint saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from tests.lab.agent import until
from tests.lab.fleet import BALANCER, CLUSTER_IP, NODE_PORT, Fleet, FleetService
from tests.lab.sockets import ASK, Answer, Datagrams
from tests.lab.wires import loose
from tests.lab.world import IPV4, Place

#                          policies Cluster   eTP=Local    iTP=Local    on this node
DEFAULT = """
pod     -> ClusterIP       all own            all own      local own    own
pod     -> NodePort        all masq           all own      all masq     own
pod     -> LoadBalancer    all masq           all own      all masq     own
node    -> ClusterIP       all masq           all masq     local masq   own
node    -> NodePort        all masq           all masq     all masq     own
node    -> LoadBalancer    all masq           all masq     all masq     own
node    -> localhost       all masq           all masq     all masq     own
outside -> ClusterIP       all masq           all masq     local masq   own
outside -> NodePort        all masq           local own    all masq     own
outside -> LoadBalancer    all masq           local own    all masq     own
"""
NO_DETECTOR = """
pod     -> ClusterIP       all own            all own      local own    own
pod     -> NodePort        all masq           local own    all masq     own
pod     -> LoadBalancer    all masq           local own    all masq     own
node    -> ClusterIP       all own            all own      local own    own
node    -> NodePort        all masq           all masq     all masq     own
node    -> LoadBalancer    all masq           all masq     all masq     own
node    -> localhost       all masq           all masq     all masq     own
outside -> ClusterIP       all own            all own      local own    own
outside -> NodePort        all masq           local own    all masq     own
outside -> LoadBalancer    all masq           local own    all masq     own
"""
MASQUERADE_ALL = """
pod     -> ClusterIP       all masq           all masq     local masq   own
pod     -> NodePort        all masq           all own      all masq     own
pod     -> LoadBalancer    all masq           all own      all masq     own
node    -> ClusterIP       all masq           all masq     local masq   own
node    -> NodePort        all masq           all masq     all masq     own
node    -> LoadBalancer    all masq           all masq     all masq     own
node    -> localhost       all masq           all masq     all masq     own
outside -> ClusterIP       all masq           all masq     local masq   own
outside -> NodePort        all masq           local own    all masq     own
outside -> LoadBalancer    all masq           local own    all masq     own
"""
BOTH = """
pod     -> ClusterIP       all masq           all masq     local masq   own
pod     -> NodePort        all masq           local own    all masq     own
pod     -> LoadBalancer    all masq           local own    all masq     own
node    -> ClusterIP       all masq           all masq     local masq   own
node    -> NodePort        all masq           all masq     all masq     own
node    -> LoadBalancer    all masq           all masq     all masq     own
node    -> localhost       all masq           all masq     all masq     own
outside -> ClusterIP       all masq           all masq     local masq   own
outside -> NodePort        all masq           local own    all masq     own
outside -> LoadBalancer    all masq           local own    all masq     own
"""

_NO_DETECTOR = "--detect-local-mode=ClusterCIDR"  # with no --cluster-cidr
CONFIGURATIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "default": ((), DEFAULT),
    "no-detector": ((_NO_DETECTOR,), NO_DETECTOR),
    "masquerade-all": (("--masquerade-all",), MASQUERADE_ALL),
    "both": ((_NO_DETECTOR, "--masquerade-all"), BOTH),
}
POLICIES: dict[str, dict[str, Any]] = {
    "Cluster": {},
    "eTP=Local": {"externalTrafficPolicy": "Local"},
    "iTP=Local": {"internalTrafficPolicy": "Local"},
}
HERE, ELSEWHERE = "a1", "a2"
ENOUGH = 24
"""Draws after which one of two endpoints was left out by chance once in eight million times."""
LOCAL_DRAWS = 8

Seen = dict[str, set[str]]
"""By endpoint: as whom it saw its clients, `own` or `node` or an address."""


class Cell(NamedTuple):
    """What a flow is expected to do."""

    endpoints: str
    elsewhere: str
    here: str


def read_table(text: str) -> dict[tuple[str, str, str], Cell]:
    """By client, frontend and policy."""
    cells = {}
    for line in text.strip().splitlines():
        client, _, frontend, *words = line.split()
        for policy, at in zip(POLICIES, (0, 2, 4), strict=True):
            cells[client, frontend, policy] = Cell(words[at], words[at + 1], words[6])
    return cells


FLOWS = list(read_table(DEFAULT))


class Configured(NamedTuple):
    """A Fleet of one configuration, a Service of each policy, and what is expected."""

    fleet: Fleet
    services: Mapping[str, FleetService]
    cells: Mapping[tuple[str, str, str], Cell]


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def configured(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Configured]:
    options, table = CONFIGURATIONS[request.param]
    with ExitStack() as stack:
        stack.enter_context(fleet.configured(*options))
        stack.enter_context(loose(fleet.nodes.router))  # which sees the client's address leave
        services = {
            policy: stack.enter_context(fleet.service(HERE, ELSEWHERE, **spec))
            for policy, spec in POLICIES.items()
        }
        yield Configured(fleet, services, read_table(table))


@pytest.mark.parametrize("flow", FLOWS, ids="-".join)
def test_each_flow_reaches_the_endpoints_and_is_seen_as_the_table_says(
    configured: Configured, flow: tuple[str, str, str], family: int, protocol: str
) -> None:
    client, frontend, policy = flow
    if frontend == "localhost" and family != IPV4:
        return  # NodePorts are never served at ::1 (A33)
    fleet, cell = configured.fleet, configured.cells[flow]
    node = fleet.place("node-1")
    place = {"pod": fleet.place("client"), "node": node, "outside": fleet.place("outside")}[client]
    service = configured.services[policy]
    if frontend == "localhost":
        target = ("127.0.0.1", service.ports.node_port)
    else:
        target = service.at(frontend, family, node)
    expected: Seen = {HERE: {word(cell.here, client)}}
    if cell.endpoints == "all":
        expected[ELSEWHERE] = {word(cell.elsewhere, client)}
    one_way = client == "outside" and cell.elsewhere == "own" and ELSEWHERE in expected
    if one_way and protocol == "TCP":
        return  # the answer never comes, so that there is no connection
    seen: Seen = {}
    for draw in range(ENOUGH):
        answer = send_and_look(fleet, place, *target) if one_way else ASK[protocol](place, *target)
        seen.setdefault(answer.server, set()).add(
            name_of(answer.client, place, node, fleet, family)
        )
        if seen == expected and (len(expected) > 1 or draw >= LOCAL_DRAWS):
            break
    assert seen == expected


def word(seen: str, client: str) -> str:
    """As whom an endpoint sees this client."""
    return "node" if seen == "masq" or client == "node" else "own"


def name_of(address: str, place: Place, node: Place, fleet: Fleet, family: int) -> str:
    """What a table calls this address."""
    if address in (node.addresses[family], fleet.nodes.nodes[1].second[family]):
        return "node"
    return "own" if address == place.addresses[family] else address


def send_and_look(fleet: Fleet, place: Place, address: str, port: int) -> Answer:
    """Send a datagram that may not be answered; return what the endpoint saw of it."""
    found: list[Answer] = []
    with Datagrams(place, address, port) as datagrams:
        payload = f"{datagrams.sock.getsockname()}".encode()
        datagrams.sock.send(payload)

        def arrived() -> bool:
            for name in (HERE, ELSEWHERE):
                found.extend(one for one in list(fleet.seen[name]) if one.payload == payload)
            return bool(found)

        until(arrived, f"a datagram to {address}:{port} arrives", 2)
    return found[-1]


def test_the_tables_have_thirty_flows_each() -> None:
    for _, table in CONFIGURATIONS.values():
        assert list(read_table(table)) == FLOWS
    assert len(FLOWS) == 30
    assert {frontend for _, frontend, _ in FLOWS} == {CLUSTER_IP, NODE_PORT, BALANCER, "localhost"}
