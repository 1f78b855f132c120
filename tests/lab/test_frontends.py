"""Every door to a Service, for pods, processes of the node, and clients outside.

The doors of one Service: its ClusterIP, a NodePort, a load balancer's address, an external IP.
What each shows to which endpoint is test_truth_table.py; here is who is let in, and who not.
Numbers are those of SEMANTICS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from maps import config
from maps.abi import ConfigFlag
from tests.lab.agent import until
from tests.lab.fleet import (
    BALANCER,
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_KINDS,
    NODE_PORT,
    Fleet,
)
from tests.lab.manifests import USUAL_PORTS, Ports, service_cidr, write
from tests.lab.sockets import ASK, serve
from tests.lab.visits import (
    CLIENTS,
    doors,
    drops,
    expect,
    expect_refusal,
    expect_silence,
    expect_whole_payloads,
    wait_for,
)
from tests.lab.world import IPV4, IPV6, Place

NOBODY_LISTENS = Ports(target=9999)


# ---- the doors ------------------------------------------------------------------------------


def test_a_node_port_is_served_at_every_address_of_every_node(
    fleet: Fleet, family: int, protocol: str
) -> None:
    with fleet.service("a1", "a2") as service:
        for node in (fleet.nodes.nodes[number] for number in fleet.kpbpfs):
            for address in (node.node.addresses[family], node.second[family]):
                target = (address, service.ports.node_port)
                for client in CLIENTS:
                    expect({"a1", "a2"}, fleet, client, target, protocol)


def test_node_port_addresses_primary_leaves_out_the_second_address(
    fleet: Fleet, family: int
) -> None:
    options = ("--nodeport-addresses=primary", "--iptables-localhost-nodeports=false")
    with fleet.configured(*options), fleet.service("a1") as service:
        node, port = fleet.nodes.nodes[1], service.ports.node_port
        for client in CLIENTS:
            target = (node.node.addresses[family], port)
            expect({"a1"}, fleet, client, target)
            expect_refusal(fleet.place(client), node.second[family], port, "TCP")
        if family == IPV4:
            expect_refusal(node.node, "127.0.0.1", port, "TCP")


def test_no_node_port_at_the_ipv6_loopback(fleet: Fleet, protocol: str) -> None:
    with fleet.service("a1") as service:
        expect_refusal(fleet.place("node-1"), "::1", service.ports.node_port, protocol)


def test_ports_next_to_a_node_port_are_the_nodes_own(fleet: Fleet, family: int) -> None:
    node = fleet.place("node-1")
    with fleet.service("a1") as service, fleet.service("a2"):
        own = service.ports.node_port - 1
        with serve(node, own, name="own"):
            for client in CLIENTS:
                expect({"own"}, fleet, client, (node.addresses[family], own))
        expect_refusal(fleet.place("outside"), node.addresses[family], own, "TCP")


def test_a_load_balancer_that_is_a_proxy_is_left_to_it(fleet: Fleet, family: int) -> None:
    with fleet.service("a1", ip_mode="Proxy") as service:
        router = fleet.nodes.router
        balancer = Place("balancer", router.netns, service.balancer)
        router.links(*(f"address add {one} dev lo" for one in balancer.addresses.values()))
        with serve(balancer, service.port):
            target = (balancer.addresses[family], service.port)
            for client in CLIENTS:
                expect({"balancer"}, fleet, client, target)


def test_an_address_of_the_node_can_be_an_external_ip(
    fleet: Fleet, family: int, protocol: str
) -> None:
    node = fleet.nodes.nodes[1]
    addresses = list(node.node.addresses.values())
    with fleet.service("a1", "a2", kinds=(CLUSTER_IP,), externalIPs=addresses) as service:
        for client in CLIENTS:
            target = (node.node.addresses[family], service.port)
            wait_for(fleet.kpbpfs[1], target, protocol)
            expect({"a1", "a2"}, fleet, client, target, protocol)
            own = (node.node.addresses[family], USUAL_PORTS.target)
            expect({"node-1"}, fleet, client, own, protocol)


# ---- who is let in ----------------------------------------------------------------------------


def test_source_ranges_hold_at_the_load_balancer_only(
    fleet: Fleet, family: int, protocol: str
) -> None:
    ranges = [" 192.168.60.0/24", "fd60::/64 "]
    with fleet.service("a1", "a2", loadBalancerSourceRanges=ranges) as service:
        balancer = service.at(BALANCER, family)
        expect({"a1", "a2"}, fleet, "outside", balancer, protocol)
        expect_silence(fleet.place("stranger"), *balancer, protocol)
        until(lambda: drops(fleet, "source_range"), "the drop is told", 5)
        expect_silence(fleet.place("client"), *balancer, protocol)
        for target in doors(fleet, service, family, (CLUSTER_IP, NODE_PORT, EXTERNAL_IP)):
            for client in ("stranger", "client", "node-1"):
                expect({"a1", "a2"}, fleet, client, target, protocol)


def test_without_endpoints_every_door_refuses_at_once(
    fleet: Fleet, family: int, protocol: str
) -> None:  # A19
    local = {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}
    for spec in ({}, local, {"loadBalancerSourceRanges": ["203.0.113.0/24", "fd99::/64"]}):
        with fleet.service(**spec) as service:
            for target in doors(fleet, service, family):
                for client in CLIENTS:
                    expect_refusal(fleet.place(client), *target, protocol)


def test_internal_traffic_policy_local_without_an_endpoint_here_is_silence(
    fleet: Fleet, family: int, protocol: str
) -> None:  # A20
    with fleet.service("a2", "a3", internalTrafficPolicy="Local") as service:
        for client in CLIENTS:
            expect_silence(fleet.place(client), *service.at(CLUSTER_IP, family), protocol)
        until(lambda: drops(fleet, "no_local_backend"), "the drop is told", 5)
        for target in doors(fleet, service, family, EXTERNAL_KINDS):
            for client in CLIENTS:
                expect({"a2", "a3"}, fleet, client, target, protocol)


def test_external_traffic_policy_local_without_an_endpoint_here_is_silence_for_the_outside(
    fleet: Fleet, family: int, protocol: str
) -> None:  # A21
    with fleet.service("a2", "a3", externalTrafficPolicy="Local") as service:
        for target in doors(fleet, service, family, EXTERNAL_KINDS):
            expect_silence(fleet.place("outside"), *target, protocol)
            for client in ("client", "node-1"):
                expect({"a2", "a3"}, fleet, client, target, protocol)
        until(lambda: drops(fleet, "no_local_backend"), "the drop is told", 5)
        elsewhere = service.at(NODE_PORT, family, fleet.place("node-2"))
        expect({"a2"}, fleet, "outside", elsewhere, protocol)
        expect({"a2"}, fleet, "client", elsewhere, protocol)


def test_another_port_of_a_cluster_ip_is_refused_at_once(
    fleet: Fleet, family: int, protocol: str
) -> None:  # A22
    with fleet.service("a1") as service:
        for client in CLIENTS:
            expect_refusal(
                fleet.place(client), service.addresses[family], service.port + 1, protocol
            )
        until(lambda: drops(fleet, "unknown_port"), "the refusal is told", 5)


def test_a_cluster_ip_that_no_service_has_is_silence(fleet: Fleet, family: int) -> None:  # A22
    with fleet.service("a1") as service:
        unowned = {IPV4: "10.96.250.250", IPV6: "fd96::ffff"}[family]
        with service_ranges(fleet, "10.96.0.0/16", "fd96::/64"):
            until(lambda: knows_ranges(fleet), "the range is known", 10)
            for client in ("client", "outside"):
                expect_silence(fleet.place(client), unowned, service.port, "TCP")
                expect({"a1"}, fleet, client, service.at(CLUSTER_IP, family))
            until(lambda: drops(fleet, "unknown_service"), "the drop is told", 5)


def knows_ranges(fleet: Fleet) -> bool:
    with fleet.kpbpfs[1].tables() as tables:
        return bool(config.read(tables).flags & ConfigFlag.SERVICE_RANGES)


@contextmanager
def service_ranges(fleet: Fleet, *blocks: str) -> Iterator[None]:
    """Have a ServiceCIDR for the block."""
    path = fleet.kpbpfs[1].manifests / "ranges.yaml"
    write(path, service_cidr("kubernetes", *blocks))
    try:
        yield
    finally:
        path.unlink()


# ---- whole payloads and errors ----------------------------------------------------------------


def test_payloads_arrive_whole_by_every_door(fleet: Fleet, family: int) -> None:
    for backend in ("a1", "a2", "node-1"):
        with fleet.service(backend) as service:
            for client in CLIENTS:
                for target in doors(fleet, service, family, (CLUSTER_IP, NODE_PORT)):
                    expect_whole_payloads(fleet, client, target, backend)


def test_nobody_listens_there_is_told_to_every_client(
    fleet: Fleet, family: int, protocol: str
) -> None:
    for backend in ("a1", "a2"):
        with fleet.service(backend, ports=NOBODY_LISTENS) as service:
            for client in CLIENTS:
                for target in doors(fleet, service, family, (CLUSTER_IP, NODE_PORT)):
                    expect_refusal(fleet.place(client), *target, protocol)


def test_what_is_not_a_service_goes_as_before(fleet: Fleet, family: int, protocol: str) -> None:
    names = ("client", "a1", "a2", "node-1", "node-2", "outside")
    for client in fleet.places(*names):
        for server in fleet.places(*names):
            answer = ASK[protocol](client, server.addresses[family], USUAL_PORTS.target)
            assert (answer.server, answer.client) == (server.name, client.addresses[family])
