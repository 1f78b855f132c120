"""NodePorts by uplinks of kinds that not every kernel has: VLAN, bond, ipip, sit, WireGuard.

A client outside reaches a pod of node-1 by each of them, and by the usual one a backend that is
reached through each of them. Answers say who answered, and whom it saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab.fleet import CLUSTER_IP, NODE_PORT, Fleet, MakeFleet
from tests.lab.manifests import USUAL_PORTS, Ports
from tests.lab.nodes import Nodes
from tests.lab.on_older_kernel.links import UPLINKS, Uplink, add_uplinks, far_end
from tests.lab.on_older_kernel.test_sctp import SCTP, converse, sctp_server
from tests.lab.sockets import ASK, Connection, digest, pattern, serve
from tests.lab.world import IPV4

KINDS = (CLUSTER_IP, NODE_PORT)
SOME = 200_000


def _more_uplinks(nodes: Nodes, stack: ExitStack) -> None:
    add_uplinks(nodes)
    for uplink in UPLINKS.values():
        for protocol in USUAL_PORTS.protocols:
            stack.enter_context(serve(far_end(nodes, uplink), USUAL_PORTS.target, protocol))


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> Iterator[Fleet]:
    """One daemon, on node-1, which has all these uplinks besides its usual one."""
    with make_fleet(daemons=(1,), shape=_more_uplinks) as made:
        yield made


@pytest.fixture(params=list(UPLINKS.values()), ids=list(UPLINKS))
def uplink(request: pytest.FixtureRequest) -> Uplink:
    """Each kind in turn."""
    found: Uplink = request.param
    return found


def test_programs_sit_at_every_uplink(fleet: Fleet) -> None:
    shown = fleet.kpbpfs[1].ask("status")
    for uplink in UPLINKS.values():
        for device in uplink.devices.values():
            assert device in shown


def test_pod_here_is_reached_by_it_and_sees_the_client(
    fleet: Fleet, uplink: Uplink, family: int, protocol: str
) -> None:
    outside = fleet.nodes.outside
    with fleet.service("a1", kinds=KINDS) as service:
        answer = ASK[protocol](outside, uplink.node[family], service.ports.node_port)
    assert (answer.server, answer.client) == ("a1", outside.addresses[family])


def test_backend_behind_it_is_reached_and_sees_the_node(
    fleet: Fleet, uplink: Uplink, family: int, protocol: str
) -> None:
    far, node = far_end(fleet.nodes, uplink), fleet.place("node-1")
    with fleet.service(kinds=KINDS) as service:
        service.put(far)
        target = (node.addresses[family], service.ports.node_port)
        answer = ASK[protocol](fleet.nodes.outside, *target)
    assert (answer.server, answer.client) == (far.name, uplink.node[family])


def test_much_data_goes_both_ways(fleet: Fleet, uplink: Uplink, family: int) -> None:
    far, outside = far_end(fleet.nodes, uplink), fleet.nodes.outside
    with fleet.service(kinds=KINDS) as service:
        for backend, address in (
            (fleet.place("a1"), uplink.node[family]),
            (far, fleet.place("node-1").addresses[family]),
        ):
            service.put(backend)
            with Connection(outside, address, service.ports.node_port) as connection:
                assert connection.give(SOME) == pattern(SOME)
            with Connection(outside, address, service.ports.node_port) as connection:
                assert connection.take(pattern(SOME)) == digest(pattern(SOME))


def test_sctp_association_through_a_node_port(fleet: Fleet, family: int) -> None:
    ports = Ports(SCTP.port, SCTP.target, ("SCTP",))
    outside, node = fleet.nodes.outside, fleet.place("node-1")
    with fleet.service(ports=ports, kinds=KINDS) as service:
        for name in ("a1", "a2"):
            backend = fleet.place(name)
            service.put(backend)
            with sctp_server(backend, family):
                target = (node.addresses[family], service.ports.node_port)
                answers = converse(outside, family, *target)
            client = outside if name == "a1" else node
            seen = f"{name} {client.addresses[family]}"
            assert answers == [f"{seen} one", f"{seen} two"]


def test_tunnel_of_ipv4_is_one_without_ethernet_header(fleet: Fleet) -> None:
    shown = fleet.place("node-1").run("ip", "-o", "link", "show", UPLINKS["tunnel"].devices[IPV4])
    assert "link/ipip" in shown
