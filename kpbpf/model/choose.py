"""Which endpoints answer which traffic: one pure function (SEMANTICS A9, A13 to A15).

Two independent answers: the cluster set, for traffic that may go anywhere, and the local
set, for traffic that must stay on this node. Each prefers ready endpoints, and falls back
to those that are terminating but still serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kpbpf.model.endpoint import READY, SERVING, TERMINATING, Endpoint

#: An endpoint and the port it answers on.
Target = tuple[Endpoint, int]

_LAST_RESORT = SERVING | TERMINATING


class Choice(NamedTuple):
    """The chosen targets, in the order given. Never two with the same address and port."""

    cluster: list[Target]
    local: list[Target]


def choose(targets: Sequence[Target], node: str, zone: str) -> Choice:
    """Choose from all endpoints of one Service port, seen from `node` in `zone` ("": no label)."""
    unique = distinct(targets)
    ready = [target for target in unique if target[0].conditions & READY]
    cluster = _near(ready, node, zone) if ready else _last_resort(unique)
    here = [target for target in unique if target[0].node == node]
    local = [target for target in here if target[0].conditions & READY] or _last_resort(here)
    return Choice(cluster, local)


def distinct(targets: Sequence[Target]) -> Sequence[Target]:
    """One target per address and port; of two, one that is not terminating (A9).

    A pod's address is used again while the old pod's slice still says "terminating".
    """
    if len({(endpoint.addr, port) for endpoint, port in targets}) == len(targets):
        return targets
    seen: dict[tuple[bytes, int], Target] = {}
    for target in targets:
        endpoint, port = target
        before = seen.setdefault((endpoint.addr, port), target)
        if before is not target and _rank(endpoint) > _rank(before[0]):
            seen[endpoint.addr, port] = target
    return list(seen.values())


def _rank(endpoint: Endpoint) -> tuple[bool, int]:
    """Not terminating comes first; among equals, the one in the better condition."""
    return not endpoint.conditions & TERMINATING, endpoint.conditions & (READY | SERVING)


def _last_resort(targets: Sequence[Target]) -> list[Target]:
    return [target for target in targets if target[0].conditions & _LAST_RESORT == _LAST_RESORT]


def _near(ready: Sequence[Target], node: str, zone: str) -> list[Target]:
    """The ready targets that their hints give to this node, else to this zone, else all (A15).

    Hints count only when every ready endpoint has them: half of them says nothing about
    how the load is meant to be spread.
    """
    if all(target[0].for_nodes for target in ready):
        here = [target for target in ready if node in target[0].for_nodes]
        if here:
            return here
    if zone and all(target[0].for_zones for target in ready):
        here = [target for target in ready if zone in target[0].for_zones]
        if here:
            return here
    return list(ready)
