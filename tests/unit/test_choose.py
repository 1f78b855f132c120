"""Which endpoints answer: one case a line, kube-proxy's cases in our words (A9, A13 to A15)."""

from __future__ import annotations

import pytest

from kpbpf.address import from_text, to_text
from kpbpf.model.choose import Target, choose
from kpbpf.model.endpoint import READY, SERVING, TERMINATING, Endpoint

UP = READY | SERVING
ENDING = SERVING | TERMINATING
NODE, ZONE = "node-a", "zone-a"


def at(last: int, conditions: int = UP, node: str = "", zones: str = "", nodes: str = "") -> Target:
    """Endpoint 10.0.0.<last>; `zones` and `nodes` are hints, separated by blanks."""
    addr = from_text(f"10.0.0.{last}")
    return Endpoint(addr, node, conditions, tuple(zones.split()), tuple(nodes.split())), 80


def here(last: int, conditions: int = UP, zones: str = "", nodes: str = "") -> Target:
    return at(last, conditions, NODE, zones, nodes)


def there(last: int, conditions: int = UP, zones: str = "", nodes: str = "") -> Target:
    return at(last, conditions, "node-b", zones, nodes)


# name: endpoints, last bytes of the cluster set, last bytes of the local set
CASES: dict[str, tuple[list[Target], list[int], list[int]]] = {
    "no endpoints": ([], [], []),
    "ready ones answer, those here also locally": ([here(1), there(2)], [1, 2], [1]),
    "an endpoint without a node is remote": ([at(1)], [1], []),
    "one that is not ready does not answer": ([here(1, 0), there(2)], [2], []),
    "ready does not need serving": ([here(1, READY)], [1], [1]),
    "all not ready: nothing": ([here(1, 0), there(2, 0)], [], []),
    "serving without ready or terminating is not enough": ([here(1, SERVING)], [], []),
    "terminating but serving: only when nothing is ready": ([here(1, ENDING)], [1], [1]),
    "a ready one anywhere keeps terminating ones out of the cluster set": (
        [here(1, ENDING), there(2)],
        [2],
        [1],
    ),
    "a ready one here keeps terminating ones out of the local set": (
        [here(1, ENDING), here(2), there(3, ENDING)],
        [2],
        [2],
    ),
    "terminating and no longer serving: never": ([here(1, TERMINATING)], [], []),
    "the last resort takes them from the whole cluster": (
        [here(1, ENDING), there(2, ENDING), there(3, TERMINATING)],
        [1, 2],
        [1],
    ),
    "zone hints keep to the zone": (
        [there(1, zones="zone-a"), there(2, zones="zone-b")],
        [1],
        [],
    ),
    "a hint may name several zones": (
        [there(1, zones="zone-b zone-a"), there(2, zones="zone-b zone-c")],
        [1],
        [],
    ),
    "one ready endpoint without a hint: hints say nothing": (
        [there(1, zones="zone-a"), there(2)],
        [1, 2],
        [],
    ),
    "an endpoint that is not ready needs no hint": (
        [there(1, zones="zone-a"), there(2, zones="zone-b"), there(3, 0)],
        [1],
        [],
    ),
    "no hint for this zone: hints say nothing": (
        [there(1, zones="zone-b"), there(2, zones="zone-c")],
        [1, 2],
        [],
    ),
    "the zone's endpoint is not ready: hints of the others say nothing": (
        [there(1, 0, zones="zone-a"), there(2, zones="zone-b")],
        [2],
        [],
    ),
    "node hints come before zone hints": (
        [
            here(1, zones="zone-a", nodes="node-a"),
            there(2, zones="zone-a", nodes="node-b"),
        ],
        [1],
        [1],
    ),
    "no hint for this node: the zone's count": (
        [
            there(1, zones="zone-a", nodes="node-b"),
            there(2, zones="zone-b", nodes="node-c"),
        ],
        [1],
        [],
    ),
    "node hints on some only: the zone's count": (
        [there(1, zones="zone-b", nodes="node-a"), there(2, zones="zone-a")],
        [2],
        [],
    ),
    "node hints alone": ([there(1, nodes="node-a"), there(2, nodes="node-b")], [1], []),
    "hints do not touch the local set": (
        [here(1, zones="zone-b"), there(2, zones="zone-a")],
        [2],
        [1],
    ),
    "the last resort knows no zones": (
        [there(1, ENDING, zones="zone-b"), there(2, ENDING, zones="zone-a")],
        [1, 2],
        [],
    ),
    "the same address twice answers once": ([there(1), there(1)], [1], []),
    "an address used again: the copy that is not terminating counts": (
        [here(1, ENDING), there(1)],
        [1],
        [],
    ),
    "the same, the other way round": ([there(1), here(1, ENDING)], [1], []),
    "of two that live, the ready one counts": ([here(1, 0), there(1)], [1], []),
}


@pytest.mark.parametrize("name", CASES)
def test_endpoints_chosen(name: str) -> None:
    endpoints, cluster, local = CASES[name]
    choice = choose(endpoints, NODE, ZONE)
    assert (last_bytes(choice.cluster), last_bytes(choice.local)) == (cluster, local)


def test_a_node_without_a_zone_label_ignores_zone_hints() -> None:
    endpoints = [there(1, zones="zone-a"), there(2, zones="zone-b")]
    assert last_bytes(choose(endpoints, NODE, "").cluster) == [1, 2]


def test_one_address_on_two_ports_is_two_backends() -> None:
    endpoint, _ = at(1)
    assert choose([(endpoint, 80), (endpoint, 81)], NODE, ZONE).cluster == [
        (endpoint, 80),
        (endpoint, 81),
    ]


def last_bytes(targets: list[Target]) -> list[int]:
    return [int(to_text(endpoint.addr).rpartition(".")[2]) for endpoint, _ in targets]
