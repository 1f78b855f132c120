"""Which endpoints are chosen: those that end, hints, the network of a node, the client itself.

For pods, processes of the node, and clients outside. Numbers are those of SEMANTICS.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.lab.fleet import CLUSTER_IP, NODE_PORT, Fleet
from tests.lab.manifests import Endpoint
from tests.lab.sockets import ASK, ask_tcp
from tests.lab.test_reach import HAIRPIN
from tests.lab.visits import CLIENTS, doors, expect, wait_for_set


def test_endpoints_that_end_are_used_while_there_is_nothing_else(
    fleet: Fleet, family: int
) -> None:  # A13, A14
    ending = {name: Endpoint(fleet.place(name), False, True, True) for name in ("a1", "a2")}
    with fleet.service(*ending.values(), externalTrafficPolicy="Local") as service:
        target = service.at(NODE_PORT, family, fleet.place("node-1"))
        expect({"a1", "a2"}, fleet, "client", service.at(CLUSTER_IP, family))
        expect({"a1"}, fleet, "outside", target)
        service.put(ending["a1"], fleet.place("a2"))
        expect({"a2"}, fleet, "client", service.at(CLUSTER_IP, family))
        expect({"a1"}, fleet, "outside", target)


@pytest.mark.parametrize("which", ["forNodes", "forZones"])
def test_hints_keep_traffic_in_the_node_or_the_zone(fleet: Fleet, family: int, which: str) -> None:
    hints = {
        "a1": {"forNodes": [{"name": "node-1"}], "forZones": [{"name": "east"}]},
        "a2": {"forNodes": [{"name": "node-2"}], "forZones": [{"name": "east"}]},
        "a3": {"forNodes": [{"name": "node-3"}], "forZones": [{"name": "west"}]},
    }
    endpoints = [
        Endpoint(fleet.place(name), hints={which: hint[which]}) for name, hint in hints.items()
    ]
    expected = {
        "forNodes": {1: {"a1"}, 2: {"a2"}, 3: {"a3"}},
        "forZones": {1: {"a1", "a2"}, 2: {"a1", "a2"}, 3: {"a3"}},
    }[which]
    with fleet.service() as service:
        service.write(endpoints)
        for number, names in expected.items():
            wait_for_set(fleet, service, number, family, names)
            node = fleet.place(f"node-{number}")
            for target in (
                service.at(CLUSTER_IP, family),
                service.at(NODE_PORT, family, node),
            ):
                expect(names, fleet, f"node-{number}", target)
            outside = service.at(NODE_PORT, family, node)
            expect(names, fleet, "outside", outside)


def test_endpoints_on_the_network_of_a_node_here_and_elsewhere(
    fleet: Fleet, family: int, protocol: str
) -> None:
    node = fleet.nodes.nodes[1]
    own = {node.node.addresses[family], node.second[family]}
    with fleet.service("node-1", "node-2") as service:
        for client in CLIENTS:
            place = fleet.place(client)
            for target in doors(fleet, service, family):
                seen: dict[str, set[str]] = {}
                for _ in range(24):
                    answer = ASK[protocol](place, *target)
                    seen.setdefault(answer.server, set()).add(answer.client)
                    if len(seen) == 2:
                        break
                assert set(seen) == {"node-1", "node-2"}, (client, target)
                assert seen["node-1"] <= own | {place.addresses[family]}, (client, target)
                plain = client == "client" and target == service.at(CLUSTER_IP, family)
                assert seen["node-2"] <= ({place.addresses[family]} if plain else own)


def test_a_pod_reaches_itself_by_every_door(fleet: Fleet, family: int, protocol: str) -> None:
    with fleet.service("a1") as service:
        for target in doors(fleet, service, family):
            answer = ASK[protocol](fleet.place("a1"), *target)
            assert (answer.server, answer.client) == ("a1", HAIRPIN[family]), target


def test_a_pod_reaches_itself_by_the_node_port_of_another_node(
    fleet: Fleet, family: int, protocol: str
) -> None:
    with fleet.service("a1") as service:
        other = fleet.place("node-2")
        answer = ASK[protocol](fleet.place("a1"), *service.at(NODE_PORT, family, other))
        assert (answer.server, answer.client) == ("a1", other.addresses[family])


def test_affinity_is_one_for_all_doors_of_a_service(fleet: Fleet, family: int) -> None:  # A34
    with fleet.service("a1", "a2", "a3", "b2", sessionAffinity="ClientIP") as service:
        for client in ("client", "outside"):
            found = Counter[str]()
            for target in doors(fleet, service, family):
                found.update(ask_tcp(fleet.place(client), *target).server for _ in range(4))
            assert len(found) == 1, (client, found)
