"""A node with two uplinks: ways that part, move and narrow, and addresses that come and go.

rp_filter is as strict as it gets, so that a packet which leaves by the wrong uplink does not
arrive. Other ways are in test_ways.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from kpbpf.address import from_text
from maps.abi import AddressKey
from tests.lab.agent import until
from tests.lab.fleet import (
    BALANCER,
    CLUSTER_IP,
    NODE_PORT,
    Fleet,
    FleetService,
    MakeFleet,
)
from tests.lab.nodes import Nodes
from tests.lab.sockets import Connection
from tests.lab.visits import CLIENTS, answer, expect, expect_whole_payloads, own
from tests.lab.wires import add_second_uplink, loose, second_addresses
from tests.lab.world import FAMILIES, IPV4, IPV6, Place

NARROW_MTU = 1400
NEW = {IPV4: "192.168.71.77", IPV6: "fd71::77"}
FOLLOWED_SEC = 10
"""A change of the node's interfaces is followed within this time."""


@pytest.fixture(scope="module")
def two_uplinks(make_fleet: MakeFleet) -> Iterator[Fleet]:
    def shape(nodes: Nodes, _: ExitStack) -> None:
        add_second_uplink(nodes)

    with make_fleet(daemons=(1, 2), shape=shape) as fleet:
        yield fleet


def by_second(fleet: Fleet, service: FleetService, family: int) -> tuple[str, int]:
    """The NodePort at the address of node-1's second uplink."""
    return second_addresses(fleet.nodes.nodes[1])[family], service.ports.node_port


def test_an_answer_leaves_by_the_uplink_whose_address_was_asked(
    two_uplinks: Fleet, family: int, protocol: str
) -> None:
    fleet = two_uplinks
    node = own(fleet, "node-1", family)
    for backend, seen in (("a1", own(fleet, "outside", family)), ("a2", node)):
        with fleet.service(backend) as service:
            for target in (
                by_second(fleet, service, family),
                service.at(NODE_PORT, family, fleet.place("node-1")),
                service.at(BALANCER, family),
            ):
                assert answer(fleet, "outside", target, protocol) == (backend, seen), target
            expect_whole_payloads(fleet, "outside", by_second(fleet, service, family), backend)


def test_two_uplinks_are_shown_with_what_they_are(two_uplinks: Fleet) -> None:
    with two_uplinks.kpbpfs[1].tables() as tables:
        assert {ifindex for ifindex, _ in tables.devices.items()} >= {100, 101}


@contextmanager
def routes(place: Place, *lines: str) -> Iterator[None]:
    """Have these routes in a place for the block."""
    place.links(*(f"route add {line}" for line in lines))
    try:
        yield
    finally:
        place.links(*(f"route del {line}" for line in lines))


def test_the_way_back_may_be_another_one(two_uplinks: Fleet, family: int, protocol: str) -> None:
    fleet, router = two_uplinks, two_uplinks.nodes.router
    bits = {IPV4: 32, IPV6: 128}[family]
    second = second_addresses(fleet.nodes.nodes[1])[family]
    with fleet.service("a1", "a2") as service, loose(router):
        balancer = service.at(BALANCER, family)
        # In by the second uplink, out by the first; replies to the masquerade by the second.
        ways = [f"{one}/{bits} via {second}" for one in (balancer[0], own(fleet, "node-1", family))]
        with routes(router, *ways):
            for client in ("outside", "client"):  # the node's own would fail its rp_filter
                expect({"a1", "a2"}, fleet, client, balancer, protocol)
            expect_whole_payloads(fleet, "outside", balancer)


def test_the_default_route_may_move_to_the_other_uplink(two_uplinks: Fleet, family: int) -> None:
    fleet, node = two_uplinks, two_uplinks.nodes.nodes[1]
    second, word = second_addresses(node)[family], {IPV4: "-4", IPV6: "-6"}[family]
    gateway = second.rpartition("." if family == IPV4 else "::")[0]
    gateway += ".254" if family == IPV4 else "::fe"
    replace = ("ip", word, "route", "replace", "default", "via")
    with fleet.service("a2") as service, ExitStack() as stack:
        for place in (fleet.nodes.router, node.node):
            stack.enter_context(loose(place))
        target = service.at(NODE_PORT, family, node.node)
        doors = {"outside": target, "client": target, "node-1": service.at(CLUSTER_IP, family)}
        held = [
            stack.enter_context(Connection(fleet.place(client), *door))
            for client, door in doors.items()
        ]
        before = [connection.who() for connection in held]
        node.node.run(*replace, gateway, "dev", "uplink2")
        try:
            for client, door in doors.items():
                assert answer(fleet, client, door) == ("a2", second), client
            assert [connection.who() for connection in held] == before
        finally:
            node.node.run(*replace, node.gateway[family], "dev", "uplink")
        for client, door in doors.items():
            assert answer(fleet, client, door) == ("a2", node.node.addresses[family])
        assert [connection.who() for connection in held] == before


# ---- addresses that come and go ---------------------------------------------------------------


def sooner_or_later(fleet: Fleet, target: tuple[str, int], expected: tuple[str, set[str]]) -> None:
    """The client outside is answered so within FOLLOWED_SEC."""

    def answered() -> bool:
        try:
            server, client = answer(fleet, "outside", target)
        except OSError:
            return False
        return server == expected[0] and client in expected[1]

    until(answered, f"{target} is answered by {expected}", FOLLOWED_SEC)


def test_node_ports_follow_the_nodes_addresses(two_uplinks: Fleet, family: int) -> None:
    fleet, node = two_uplinks, two_uplinks.nodes.nodes[1]
    length = {IPV4: 24, IPV6: 64}[family]
    seen = {own(fleet, "outside", family)}
    with fleet.service("a1") as service:
        target = (NEW[family], service.ports.node_port)
        node.node.links(f"address add {NEW[family]}/{length} dev uplink")
        try:
            sooner_or_later(fleet, target, ("a1", seen))
        finally:
            node.node.links(f"address del {NEW[family]}/{length} dev uplink")
        until(lambda: not knows(fleet, NEW[family]), "the address is forgotten", FOLLOWED_SEC)


def knows(fleet: Fleet, address: str) -> bool:
    """Whether node-1 takes this address for its own."""
    with fleet.kpbpfs[1].tables() as tables:
        return tables.addresses.get(AddressKey(from_text(address))) is not None


def test_a_node_may_get_another_address_in_place_of_its_first(two_uplinks: Fleet) -> None:
    fleet, node, router = two_uplinks, two_uplinks.nodes.nodes[1], two_uplinks.nodes.router
    place, first = node.node, node.node.addresses
    place.sysctl(ipv4__conf__uplink__promote_secondaries=1)
    with fleet.service("a2") as service, fleet.service("a1") as bystander, ExitStack() as stack:
        held = [
            stack.enter_context(
                Connection(fleet.place(client), *bystander.at(BALANCER, family), timeout_sec=15)
            )
            for client in ("client", "outside")
            for family in FAMILIES
        ]
        for connection in held:
            assert connection.who().server == "a1"
        place.links(
            f"address add {NEW[IPV4]}/24 dev uplink",
            f"address add {NEW[IPV6]}/64 dev uplink nodad",
            f"address del {first[IPV4]}/24 dev uplink",
            f"address del {first[IPV6]}/64 dev uplink",
        )
        try:
            router.links(*fleet.nodes.ways_to_node_1(NEW), *pod_routes(node.pod_cidr, NEW))
            fleet.write_nodes(node_1=NEW)
            for family in FAMILIES:
                seen = {NEW[family], node.second[family]}
                target = (NEW[family], service.ports.node_port)
                sooner_or_later(fleet, target, ("a2", seen))
                assert answer(fleet, "client", target)[0] == "a2"
                assert answer(fleet, "node-1", service.at(CLUSTER_IP, family))[0] == "a2"
            for connection in held:
                assert connection.who().server == "a1", "it has nothing to do with that address"
        finally:
            place.links("address flush dev uplink")
            fleet.nodes.address_uplink(node)
            router.links(*fleet.nodes.ways_to_node_1(first), *pod_routes(node.pod_cidr, first))
            fleet.write_nodes()
        for family in FAMILIES:
            target = (first[family], service.ports.node_port)
            sooner_or_later(fleet, target, ("a2", {first[family], node.second[family]}))


def pod_routes(blocks: dict[int, str], addresses: dict[int, str]) -> list[str]:
    return [f"route replace {blocks[family]} via {addresses[family]}" for family in FAMILIES]


# ---- a smaller MTU on one leg -----------------------------------------------------------------


def test_a_smaller_mtu_on_the_way_to_the_backend_is_learnt_by_the_client(
    two_uplinks: Fleet, family: int
) -> None:
    fleet, router = two_uplinks, two_uplinks.nodes.router
    far = fleet.nodes.nodes[2]
    way = f"{own(fleet, 'a2', family)} via {far.node.addresses[family]} mtu lock {NARROW_MTU}"
    node = fleet.place("node-1")
    with fleet.service("a2") as service, routes(router, way):
        for client in CLIENTS:
            for target in (service.at(NODE_PORT, family, node), service.at(CLUSTER_IP, family)):
                expect_whole_payloads(fleet, client, target, "a2")
        learnt = fleet.place("outside").run("ip", "route", "get", node.addresses[family])
        assert f"mtu {NARROW_MTU}" in learnt
    for client in CLIENTS:
        for word in ("-4", "-6"):
            fleet.place(client).run("ip", word, "route", "flush", "cache")
