"""Other ways between nodes: a tunnel, an uplink without Ethernet header, the stack.

nodes.py has the plain ways, test_two_uplinks.py what happens between two of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab.fleet import BALANCER, CLUSTER_IP, NODE_PORT, Fleet, MakeFleet
from tests.lab.nodes import Nodes
from tests.lab.test_reach import HAIRPIN
from tests.lab.visits import (
    CLIENTS,
    answer,
    expect,
    expect_refusal,
    expect_whole_payloads,
    own,
)
from tests.lab.wires import TUNNEL, add_tunnels, tun_uplink, tunnel_addresses


@pytest.fixture(scope="module")
def tunnels(make_fleet: MakeFleet) -> Iterator[Fleet]:
    def shape(nodes: Nodes, _: ExitStack) -> None:
        add_tunnels(nodes)

    with make_fleet(daemons=(1, 2), shape=shape) as fleet:
        yield fleet


def test_endpoints_behind_a_tunnel_see_whom_they_should(
    tunnels: Fleet, family: int, protocol: str
) -> None:
    fleet = tunnels
    client, outside = own(fleet, "client", family), own(fleet, "outside", family)
    own_end = tunnel_addresses(fleet.nodes.nodes[1])[family]
    with fleet.service("a2") as far, fleet.service("a1") as near:
        node_port = far.at(NODE_PORT, family, fleet.place("node-1"))
        cluster_ip = far.at(CLUSTER_IP, family)
        assert answer(fleet, "client", cluster_ip, protocol) == ("a2", client)
        assert answer(fleet, "node-1", cluster_ip, protocol) == ("a2", own_end)
        for name in CLIENTS:
            assert answer(fleet, name, node_port, protocol) == ("a2", own_end), name
        here = near.at(NODE_PORT, family, fleet.place("node-1"))
        assert answer(fleet, "outside", here, protocol) == ("a1", outside)


def test_what_is_larger_than_a_tunnel_takes_arrives_all_the_same(
    tunnels: Fleet, family: int
) -> None:
    fleet = tunnels
    before = carried(fleet)
    with fleet.service("a2") as service:
        for client in CLIENTS:
            for kind in (CLUSTER_IP, NODE_PORT):
                target = service.at(kind, family, fleet.place("node-1"))
                expect_whole_payloads(fleet, client, target, "a2")
    assert carried(fleet) - before > 6_000_000, "it went through the tunnel"


def carried(fleet: Fleet) -> int:
    """Bytes that node-1 has sent into its tunnel."""
    shown = fleet.place("node-1").run("ip", "-j", "-s", "link", "show", "dev", TUNNEL)
    sent: int = json.loads(shown)[0]["stats64"]["tx"]["bytes"]
    return sent


@pytest.fixture(scope="module")
def behind_tun(make_fleet: MakeFleet) -> Iterator[Fleet]:
    def shape(nodes: Nodes, stack: ExitStack) -> None:
        stack.enter_context(tun_uplink(nodes, nodes.nodes[1]))

    with make_fleet(daemons=(1, 2), shape=shape) as fleet:
        yield fleet


def test_an_uplink_without_ethernet_header_serves_as_any_other(
    behind_tun: Fleet, family: int, protocol: str
) -> None:
    fleet = behind_tun
    node, outside = own(fleet, "node-1", family), own(fleet, "outside", family)
    client = own(fleet, "client", family)
    with fleet.service("a2") as far, fleet.service("a1") as near, fleet.service() as nobody:
        for kind in (NODE_PORT, BALANCER):
            at = (kind, family, fleet.place("node-1"))
            for name in CLIENTS:
                assert answer(fleet, name, far.at(*at), protocol) == ("a2", node), (name, kind)
                expect_refusal(fleet.place(name), *nobody.at(*at), protocol)
            assert answer(fleet, "outside", near.at(*at), protocol) == ("a1", outside)
        assert answer(fleet, "client", far.at(CLUSTER_IP, family), protocol) == ("a2", client)


def test_payloads_arrive_whole_without_ethernet_header(behind_tun: Fleet, family: int) -> None:
    fleet = behind_tun
    for backend in ("a1", "a2", "node-1"):
        with fleet.service(backend) as service:
            for client in CLIENTS:
                target = service.at(NODE_PORT, family, fleet.place("node-1"))
                expect_whole_payloads(fleet, client, target, backend, 300_000)


# ---- without the fast path --------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_path(fleet: Fleet) -> Iterator[Fleet]:
    with fleet.configured("--no-local-fast-path"):
        yield fleet


def test_without_the_local_fast_path_all_is_as_with_it(
    slow_path: Fleet, family: int, protocol: str
) -> None:
    fleet = slow_path
    node = own(fleet, "node-1", family)
    with fleet.service("a1", "a2") as service, fleet.service("a1") as near:
        for client in CLIENTS:
            for kind in (CLUSTER_IP, NODE_PORT, BALANCER):
                target = service.at(kind, family, fleet.place("node-1"))
                expect({"a1", "a2"}, fleet, client, target, protocol)
                at_home = near.at(kind, family, fleet.place("node-1"))
                assert answer(fleet, client, at_home, protocol) == (
                    "a1",
                    node if client == "node-1" else own(fleet, client, family),
                )
                hairpin = answer(fleet, "a1", at_home, protocol)
                assert hairpin == ("a1", HAIRPIN[family])
            if protocol == "TCP":
                expect_whole_payloads(fleet, client, near.at(CLUSTER_IP, family), "a1")
