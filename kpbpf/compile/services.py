"""A Service, its EndpointSlices and this node to the entries of the Service maps.

Pure, and one Service at a time: who wins an address that two Services claim is decided in
controllers. Only ClusterIPs are frontends so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpbpf.address import Address, is_ipv4
from kpbpf.model.choose import Choice, Target, choose, distinct
from kpbpf.model.endpoint import SERVING, Endpoint, EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import SCTP, UDP, Service, ServicePort
from maps.abi import Backend, FrontendFlag, FrontendKey, MemberFlag, Name
from maps.layout import htons
from maps.wanted import MemberOf, WantedService

#: Of the 1,048,576 that the backends map holds: one Service must not starve the others.
MAX_BACKENDS = 65536

#: Of what is wrong in one Service, what is named.
MAX_FAULTS = 10

#: Endpoints, and the number they answer at, by family, port name and protocol.
_Answering = dict[tuple[str, str, int], list[tuple[tuple[Endpoint, ...], int]]]

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
    """What a Service wants, and what of it cannot be honoured.

    `names` are those of all its ports, also where there is no room for their endpoints.
    `elsewhere_only`: some port has endpoints, and none of them is on this node (A20, A21).
    """

    names: tuple[str, ...]
    wanted: list[WantedService]
    faults: list[Fault]
    elsewhere_only: bool = False


class FamilyPort(NamedTuple):
    """One Service port in one family: what has an id and a name in the maps."""

    name: str
    family: str
    position: int
    port: ServicePort
    frontends: tuple[bytes, ...]


def frontends_of(service: Service | None) -> set[bytes]:
    """Every frontend that a Service claims."""
    if service is None or not service.served:
        return set()
    return {_frontend(addr, port) for addr in service.cluster_ips for port in service.ports}


def family_ports(service: Service) -> Iterator[FamilyPort]:
    """The ports of a Service with the addresses they want to be reached at."""
    if not service.served:
        return
    for addr in service.cluster_ips:
        family = "IPv4" if is_ipv4(addr) else "IPv6"
        for position, port in enumerate(service.ports):
            name = port_name(service.namespace, service.name, port.name, family)
            yield FamilyPort(name, family, position, port, (_frontend(addr, port),))


def _frontend(addr: Address, port: ServicePort) -> bytes:
    """A packed FrontendKey."""
    return FrontendKey.STRUCT.pack(addr, htons(port.port), port.proto)


def port_name(namespace: str, service: str, port: str, family: str) -> str:
    """namespace/service:port/IPv4, as people see it; the longest ones end in a digest."""
    name = f"{namespace}/{service}:{port}/{family}" if port else f"{namespace}/{service}/{family}"
    if len(name) <= Name.SIZE:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: Name.SIZE - 19]}~{digest}/{family}"


def service_of(port: str) -> str:
    """namespace/name of the Service that a port of this name belongs to."""
    # Service and namespace take 127 of the 200 bytes: never cut, and without a colon or slash.
    namespace, _, rest = port.partition("/")
    return f"{namespace}/{rest.partition('/')[0].partition(':')[0]}"


def compile_service(service: Service, slices: Iterable[EndpointSlice], node: Node) -> Compiled:
    """What the maps should hold for a Service whose slices are given, seen from `node`."""
    ports = list(family_ports(service))
    answering = _answering(slices)
    wanted: list[WantedService] = []
    faults: list[Fault] = []
    room = MAX_BACKENDS
    elsewhere_only = False
    for item in ports:
        parts = answering.get((item.family, item.port.name, item.port.proto), ())
        # Also those that are not chosen: looking at them takes time that other Services wait for.
        room -= sum([len(endpoints) for endpoints, _ in parts])
        if room < 0:
            expected = f"at most {MAX_BACKENDS:,} endpoints over all ports"
            faults.append(Fault(f"spec.ports[{item.position}]", expected, "more"))
            break
        targets = [(endpoint, number) for endpoints, number in parts for endpoint in endpoints]
        if item.port.proto == SCTP:
            targets = _same_port(targets, item, faults)
        choice = choose(targets, node.name, node.zone)
        room -= len(choice.local)
        wanted.append(_wanted(service, item, targets, choice))
        elsewhere_only |= bool(choice.cluster) and not choice.local
    names = tuple([item.name for item in ports])
    return Compiled(names, wanted, _few(faults), elsewhere_only)


def _answering(slices: Iterable[EndpointSlice]) -> _Answering:
    """Which endpoints answer at which number; tied to a port by its name (A6)."""
    found: _Answering = {}
    for slice_ in slices:
        for port in slice_.ports:
            parts = found.setdefault((slice_.family, port.name, port.proto), [])
            parts.append((slice_.endpoints, port.port))
    return found


def _few(faults: list[Fault]) -> list[Fault]:
    """The first ones, and how many there are more."""
    if len(faults) <= MAX_FAULTS:
        return faults
    more = f"{len(faults) - MAX_FAULTS:,} more that cannot"
    return [*faults[:MAX_FAULTS], Fault("spec.ports", "ports that can be served", more)]


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
    members: tuple[MemberOf, ...] = ()
    if item.port.proto == UDP:
        members = _members(choice, distinct(targets))
    elif service.affinity_sec:
        members = _members(choice, ())
    return WantedService(
        name=item.name,
        proto=item.port.proto,
        frontends=item.frontends,
        flags=_LOCAL_ONLY if service.internal_local else 0,
        affinity_sec=service.affinity_sec,
        backends=_packed(choice.cluster) + _packed(choice.local),
        count=len(choice.cluster),
        local_count=len(choice.local),
        members=members,
    )


def _packed(targets: list[Target]) -> bytes:
    """Packed Backends, in order of address and port: so their bytes are ordered too."""
    pack = Backend.STRUCT.pack
    return b"".join(sorted([pack(endpoint.addr, htons(port)) for endpoint, port in targets]))


def _members(choice: Choice, others: Iterable[Target]) -> tuple[MemberOf, ...]:
    """Endpoints of either set, and those that merely serve: their UDP flows stay (A43)."""
    flags = {
        (endpoint.addr, port): _SERVING
        for endpoint, port in others
        if endpoint.conditions & SERVING
    }
    for endpoint, port in choice.cluster:
        flags[endpoint.addr, port] = _CLUSTER
    for endpoint, port in choice.local:
        flags[endpoint.addr, port] = flags.get((endpoint.addr, port), 0) | _LOCAL
    return tuple((addr, port, flags[addr, port]) for addr, port in sorted(flags))
