"""Why an endpoint gets traffic or not: the choice of `choose`, in words for people.

Pure. What is chosen is decided there; here it is only said (SEMANTICS A9, A13 to A15).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kpbpf.address import is_ipv4
from kpbpf.model.choose import Choice, Target, choose, distinct
from kpbpf.model.endpoint import READY, SERVING, TERMINATING, Endpoint, EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import Service


class Explained(NamedTuple):
    """One endpoint of one Service port.

    `cluster` and `local`: whether it is in the set for traffic that may go anywhere, and in that
    for traffic that must stay on this node. `why_not` says why it is not in the first, or "".
    """

    endpoint: Endpoint
    port_name: str
    proto: int
    port: int
    cluster: bool
    local: bool
    why_not: str


def explain(service: Service, slices: Iterable[EndpointSlice], node: Node) -> list[Explained]:
    """Every endpoint of a Service's slices, as `node` sees it, by port, family and address."""
    groups: dict[tuple[str, int, str], list[Target]] = {}
    for slice_ in slices:
        for port in slice_.ports:
            targets = groups.setdefault((port.name, port.proto, slice_.family), [])
            targets += [(endpoint, port.port) for endpoint in slice_.endpoints]
    found = []
    for (name, proto, family), targets in sorted(groups.items()):
        lacking = _lacking(service, name, proto, family)
        choice = choose(targets, node.name, node.zone)
        kept = {id(target[0]) for target in distinct(targets)}
        for target in sorted(targets, key=lambda target: (target[0].addr, target[1])):
            endpoint, number = target
            cluster = not lacking and _among(choice.cluster, endpoint)
            local = not lacking and _among(choice.local, endpoint)
            why_not = lacking
            if not lacking and not cluster:
                why_not = _why_not(endpoint, id(endpoint) in kept, choice, node)
            found.append(Explained(endpoint, name, proto, number, cluster, local, why_not))
    return found


def _lacking(service: Service, name: str, proto: int, family: str) -> str:
    """What the Service would need to lead to a port of its slices (A6, A11); "" for nothing."""
    if family not in {"IPv4" if is_ipv4(addr) else "IPv6" for addr in service.cluster_ips}:
        return f"the Service has no {family} address"
    if (name, proto) not in {(port.name, port.proto) for port in service.ports}:
        return f"the Service has no port of this name ({name!r}) and protocol"
    return ""


def _among(chosen: Sequence[Target], endpoint: Endpoint) -> bool:
    # The very same object: another one may have its address (A9).
    return any(target[0] is endpoint for target in chosen)


def _why_not(endpoint: Endpoint, kept: bool, choice: Choice, node: Node) -> str:
    """Why an endpoint is not in the set for the whole cluster."""
    if not kept:
        return "another endpoint has this address and port, and is in a better state"
    if not endpoint.conditions & READY:
        if not endpoint.conditions & SERVING:
            return "not ready" + (
                "; it is terminating" if endpoint.conditions & TERMINATING else ""
            )
        if endpoint.conditions & TERMINATING:
            return "terminating: used only when no endpoint is ready"
        return "not ready"
    # A ready one is passed over for the sake of hints alone, and those of nodes go first (A15).
    if all(node.name in target[0].for_nodes for target in choice.cluster):
        return f"topology hints: others are meant for node {node.name}"
    zones = ", ".join(endpoint.for_zones)
    return f"topology hints: meant for zone {zones}, and this node is in {node.zone}"
