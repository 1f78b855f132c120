"""A Service, its EndpointSlices and this node to the entries of the Service maps.

Pure, and one Service at a time: who wins an address that two Services claim is decided in
controllers. Where a Service is reached stands in `frontends`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kpbpf.compile.frontends import (
    FamilyPort,
    Fault,
    family_ports,
    faults_of,
    frontends_of,
    port_name,
    ranges_of,
    service_of,
)
from kpbpf.model.choose import Choice, Target, choose, distinct
from kpbpf.model.endpoint import SERVING, Endpoint, EndpointSlice
from kpbpf.model.objects import Node
from kpbpf.model.service import UDP, Service
from maps.abi import Backend, BackendFlag, MemberFlag
from maps.layout import htons
from maps.wanted import MemberOf, RangeOf, WantedService

__all__ = [
    "Compiled",
    "FamilyPort",
    "Fault",
    "compile_service",
    "family_ports",
    "frontends_of",
    "port_name",
    "service_of",
]

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
_MEMBER_HERE = int(MemberFlag.HERE)
_BACKEND_HERE = int(BackendFlag.HERE)


class Compiled(NamedTuple):
    """What a Service wants, and what of it cannot be honoured.

    `names` are those of all its ports, also where there is no room for their endpoints.
    `elsewhere_only`: some port has endpoints, and none of them is on this node (A20, A21).
    """

    names: tuple[str, ...]
    wanted: list[WantedService]
    faults: list[Fault]
    elsewhere_only: bool = False


def compile_service(service: Service, slices: Iterable[EndpointSlice], node: Node) -> Compiled:
    """What the maps should hold for a Service whose slices are given, seen from `node`."""
    ports = list(family_ports(service))
    answering = _answering(slices)
    wanted: list[WantedService] = []
    faults = faults_of(service)
    room = MAX_BACKENDS
    elsewhere_only = False
    ranges = {item.family: ranges_of(service, item.family, node) for item in ports}
    for item in ports:
        parts = answering.get((item.family, item.port.name, item.port.proto), ())
        # Also those that are not chosen: looking at them takes time that other Services wait for.
        room -= sum([len(endpoints) for endpoints, _ in parts])
        if room < 0:
            expected = f"at most {MAX_BACKENDS:,} endpoints over all ports"
            faults.append(Fault(f"spec.ports[{item.position}]", expected, "more"))
            break
        targets = [(endpoint, number) for endpoints, number in parts for endpoint in endpoints]
        choice = choose(targets, node.name, node.zone)
        room -= len(choice.local)
        wanted.append(_wanted(service, item, targets, choice, node.name, ranges[item.family]))
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


def _wanted(
    service: Service,
    item: FamilyPort,
    targets: list[Target],
    choice: Choice,
    node: str,
    ranges: tuple[RangeOf, ...],
) -> WantedService:
    members: tuple[MemberOf, ...] = ()
    if item.port.proto == UDP:
        members = _members(choice, distinct(targets), node)
    elif service.affinity_sec:
        members = _members(choice, (), node)
    return WantedService(
        name=item.name,
        proto=item.port.proto,
        frontends=item.frontends,
        affinity_sec=service.affinity_sec,
        backends=_packed(choice.cluster, node) + _packed(choice.local, node),
        count=len(choice.cluster),
        local_count=len(choice.local),
        members=members,
        ranges=ranges,
    )


def _packed(targets: list[Target], node: str) -> bytes:
    """Packed Backends, in order of address and port: so their bytes are ordered too."""
    pack = Backend.STRUCT.pack
    return b"".join(
        sorted(
            [
                pack(endpoint.addr, htons(port), _BACKEND_HERE if endpoint.node == node else 0)
                for endpoint, port in targets
            ]
        )
    )


def _members(choice: Choice, others: Iterable[Target], node: str) -> tuple[MemberOf, ...]:
    """Endpoints of either set, and those that merely serve: their UDP flows stay (A43)."""
    flags: dict[tuple[bytes, int], int] = {}
    for targets, what in ((others, _SERVING), (choice.cluster, _CLUSTER), (choice.local, _LOCAL)):
        for endpoint, port in targets:
            if endpoint.conditions & SERVING or what != _SERVING:
                here = _MEMBER_HERE if endpoint.node == node else 0
                before = flags.get((endpoint.addr, port), 0)
                flags[endpoint.addr, port] = before | what | here
    return tuple((addr, port, flags[addr, port]) for addr, port in sorted(flags))
