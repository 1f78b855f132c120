"""A Service, its EndpointSlices and this node to the entries of the Service maps.

Pure, and one Service at a time: who wins an address that two Services claim is decided in
controllers. Only ClusterIPs are frontends so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpbpf.address import is_ipv4
from kpbpf.model.choose import Choice, Target, choose, distinct
from kpbpf.model.endpoint import SERVING, EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import SCTP, UDP, Service, ServicePort
from maps.abi import Backend, FrontendFlag, FrontendKey, MemberFlag, Name
from maps.wanted import MemberOf, WantedService

#: Of the 1,048,576 that the backends map holds: one Service must not starve the others.
MAX_BACKENDS = 65536

# Plain numbers: operations on IntFlag cost more than all the rest of a member.
_CLUSTER = int(MemberFlag.CLUSTER | MemberFlag.SERVING)
_LOCAL = int(MemberFlag.LOCAL | MemberFlag.SERVING)
_SERVING = int(MemberFlag.SERVING)
_LOCAL_ONLY = int(FrontendFlag.LOCAL_ONLY)


class Fault(NamedTuple):
    """Something in a Service that cannot be honoured: field, what would do, what is there."""

    field: str
    expected: str
    got: str


class Compiled(NamedTuple):
    """What a Service wants, and what of it cannot be honoured."""

    wanted: list[WantedService]
    faults: list[Fault]


class FamilyPort(NamedTuple):
    """One Service port in one family: what has an id and a name in the maps."""

    name: str
    family: str
    position: int
    port: ServicePort
    frontends: tuple[bytes, ...]


def family_ports(service: Service) -> Iterator[FamilyPort]:
    """The ports of a Service with the addresses they want to be reached at."""
    if not service.served:
        return
    for addr in service.cluster_ips:
        family = "IPv4" if is_ipv4(addr) else "IPv6"
        for position, port in enumerate(service.ports):
            frontend = FrontendKey(addr, port.port, port.proto).pack()
            name = port_name(service.namespace, service.name, port.name, family)
            yield FamilyPort(name, family, position, port, (frontend,))


def port_name(namespace: str, service: str, port: str, family: str) -> str:
    """namespace/service:port/IPv4, as people see it; the longest ones end in a digest."""
    name = f"{namespace}/{service}:{port}/{family}" if port else f"{namespace}/{service}/{family}"
    if len(name) <= Name.SIZE:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: Name.SIZE - 19]}~{digest}/{family}"


def compile_service(service: Service, slices: Iterable[EndpointSlice], node: Node) -> Compiled:
    """What the maps should hold for a Service whose slices are given, seen from `node`."""
    slices = list(slices)
    wanted: list[WantedService] = []
    faults: list[Fault] = []
    room = MAX_BACKENDS
    for item in family_ports(service):
        targets = list(_targets(slices, item))
        if item.port.proto == SCTP:
            targets = _same_port(targets, item, faults)
        choice = choose(targets, node.name, node.zone)
        room -= len(choice.cluster) + len(choice.local)
        if room < 0:
            expected = f"at most {MAX_BACKENDS:,} endpoints over all ports"
            faults.append(Fault(f"spec.ports[{item.position}]", expected, "more"))
            break
        wanted.append(_wanted(service, item, targets, choice))
    return Compiled(wanted, faults)


def _targets(slices: Iterable[EndpointSlice], item: FamilyPort) -> Iterator[Target]:
    """All endpoints of the port, whatever their condition; tied by the port's name (A6)."""
    for slice_ in slices:
        if slice_.family != item.family:
            continue
        for port in slice_.ports:
            if port.name == item.port.name and port.proto == item.port.proto:
                for endpoint in slice_.endpoints:
                    yield endpoint, port.port


def _same_port(targets: list[Target], item: FamilyPort, faults: list[Fault]) -> list[Target]:
    """The targets that SCTP can reach: its checksum covers ports, which stay as they are."""
    fit = [target for target in targets if target[1] == item.port.port]
    if len(fit) < len(targets):
        other = next(target[1] for target in targets if target[1] != item.port.port)
        expected = "the endpoints' own port: SCTP ports are not rewritten"
        got = f"{item.port.port}, while endpoints answer on {other}"
        faults.append(Fault(f"spec.ports[{item.position}].port", expected, got))
    return fit


def _wanted(
    service: Service, item: FamilyPort, targets: list[Target], choice: Choice
) -> WantedService:
    cluster = sorted((endpoint.addr, port) for endpoint, port in choice.cluster)
    local = sorted((endpoint.addr, port) for endpoint, port in choice.local)
    members: tuple[MemberOf, ...] = ()
    if item.port.proto == UDP:
        members = _members(cluster, local, distinct(targets))
    elif service.affinity_sec:
        members = _members(cluster, local, ())
    return WantedService(
        name=item.name,
        proto=item.port.proto,
        frontends=item.frontends,
        flags=_LOCAL_ONLY if service.internal_local else 0,
        affinity_sec=service.affinity_sec,
        backends=b"".join([Backend(addr, port).pack() for addr, port in cluster + local]),
        count=len(cluster),
        local_count=len(local),
        members=members,
    )


def _members(
    cluster: list[tuple[bytes, int]], local: list[tuple[bytes, int]], others: Iterable[Target]
) -> tuple[MemberOf, ...]:
    """Endpoints of either set, and those that merely serve: their UDP flows stay (A43)."""
    flags = {
        (endpoint.addr, port): _SERVING
        for endpoint, port in others
        if endpoint.conditions & SERVING
    }
    for place in cluster:
        flags[place] = _CLUSTER
    for place in local:
        flags[place] = flags.get(place, 0) | _LOCAL
    return tuple((addr, port, flags[addr, port]) for addr, port in sorted(flags))
