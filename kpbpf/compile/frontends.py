"""Where a Service is reached: every address and port of it, and what holds there (SEMANTICS A.4).

Pure, and about the Service alone: endpoints are no concern here, and who wins an address that two
Services claim is decided in controllers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from kpbpf.address import UNSPECIFIED4, ZERO, Address, is_ipv4, lies_in
from kpbpf.model.objects import Block, Node
from kpbpf.model.service import Service, ServicePort
from maps.abi import FrontendFlag, FrontendKey, Name
from maps.layout import htons
from maps.wanted import FrontendOf, RangeOf

#: Of the 262,144 that the frontends map holds: one Service must not starve the others.
MAX_FRONTENDS = 32768

#: Of the 65,536 ranges that the map holds.
MAX_RANGES = 8192

# Plain numbers: operations on IntFlag cost more than all the rest of a frontend.
_LOCAL_ONLY = int(FrontendFlag.LOCAL_ONLY)
_EXTERNAL = int(FrontendFlag.EXTERNAL)
_EXTERNAL_LOCAL = int(FrontendFlag.EXTERNAL_LOCAL)
_SOURCE_RANGES = int(FrontendFlag.SOURCE_RANGES)
_WHOLE_ADDRESS = int(FrontendFlag.WHOLE_ADDRESS)
_pack = FrontendKey.STRUCT.pack


class Fault(NamedTuple):
    """Something in a Service that cannot be honoured: field, what would do, what is there."""

    field: str
    expected: str
    got: str


class FamilyPort(NamedTuple):
    """One Service port in one family: what has an id and a name in the maps."""

    name: str
    family: str
    position: int
    port: ServicePort
    frontends: tuple[FrontendOf, ...]


def frontends_of(service: Service | None) -> dict[bytes, int]:
    """Every frontend that a Service claims: its FrontendFlags by packed FrontendKey."""
    found: dict[bytes, int] = {}
    if service is not None and service.served:
        for cluster_ip in service.cluster_ips:
            for frontends in _by_port(service, cluster_ip):
                found.update(frontends)
    return found


def family_ports(service: Service) -> Iterator[FamilyPort]:
    """The ports of a Service with all the places they want to be reached at.

    The first port of a family also has what no port of the ClusterIP takes (A22). There is nothing
    in a family without a ClusterIP, whatever else has an address of it (A11).
    """
    if not service.served:
        return
    for cluster_ip in service.cluster_ips:
        family = "IPv4" if is_ipv4(cluster_ip) else "IPv6"
        for position, frontends in enumerate(_by_port(service, cluster_ip)):
            port = service.ports[position]
            name = port_name(service.namespace, service.name, port.name, family)
            yield FamilyPort(name, family, position, port, tuple(frontends))


def _by_port(service: Service, cluster_ip: Address) -> list[list[FrontendOf]]:
    """The frontends of each port in the family of a ClusterIP. Runs for every Service, twice."""
    places = _places(service, cluster_ip)
    found: list[list[FrontendOf]] = []
    node_ports: set[tuple[int, int]] = set()
    for port in service.ports:
        number, proto = htons(port.port), port.proto
        mine = [(_pack(addr, number, proto), flags) for addr, flags in places]
        if port.node_port and (port.node_port, proto) not in node_ports:
            node_ports.add((port.node_port, proto))
            unspecified = UNSPECIFIED4 if is_ipv4(cluster_ip) else ZERO
            key = _pack(unspecified, htons(port.node_port), proto)
            mine.append((key, _outside(service)))
        found.append(mine)
    if found:
        found[0].append((_pack(cluster_ip, 0, 0), _WHOLE_ADDRESS))
    return found


def _places(service: Service, cluster_ip: Address) -> list[tuple[Address, int]]:
    """The addresses at which each port is reached by its own number."""
    cluster = [(cluster_ip, _LOCAL_ONLY if service.internal_local else 0)]
    if not service.load_balancer_ips and not service.external_ips:
        return cluster
    ipv4, flags = is_ipv4(cluster_ip), _outside(service)
    ranges = _SOURCE_RANGES if source_blocks(service, ipv4) else 0
    outside = dict.fromkeys(service.load_balancer_ips, flags | ranges)
    for addr in service.external_ips:
        outside.setdefault(addr, flags)
    # The API does not forbid a Service's own ClusterIP here.
    outside.pop(cluster_ip, None)
    mine = [(addr, flags) for addr, flags in outside.items() if is_ipv4(addr) is ipv4]
    return cluster + mine[: _room(service)]


def _outside(service: Service) -> int:
    """Flags of what is reached from outside; a policy for that holds only where there is such."""
    local = service.external_local and service.external
    return _EXTERNAL | (_EXTERNAL_LOCAL if local else 0)


def _room(service: Service) -> int:
    """Addresses beside the ClusterIP that all ports of a Service may be reached at, per family."""
    return MAX_FRONTENDS // max(1, len(service.ports))


def _ranges_room(service: Service) -> int:
    """Ranges of a family that hold for all ports of a Service; who is in no other is kept out."""
    return MAX_RANGES // max(1, len(service.ports))


# ---- loadBalancerSourceRanges ------------------------------------------------------------


def source_blocks(service: Service, ipv4: bool) -> list[Block]:
    """Who may reach the load balancer's addresses of a family; empty: anybody (A30)."""
    found = [block for block in service.source_ranges if _is_ipv4_block(block) is ipv4]
    everything = 96 if ipv4 else 0
    return [] if any(block.prefix == everything for block in found) else found


def _is_ipv4_block(block: Block) -> bool:
    return block.prefix >= 96 and is_ipv4(block.base)


def ranges_of(service: Service, family: str, node: Node) -> tuple[RangeOf, ...]:
    """What kp_ranges holds for each port of a Service in one family, sorted.

    A load balancer may be an address of this very node, which then is the source of what the node
    sends there. So where the node may send, such a source may too (A30).
    """
    if not service.source_ranges or not service.load_balancer_ips:
        return ()
    ipv4 = family == "IPv4"
    found = {(block.prefix, block.base) for block in source_blocks(service, ipv4)}
    of_node = [addr for addr in node.addresses if is_ipv4(addr) is ipv4]
    if any(lies_in(addr, base, prefix) for addr in of_node for prefix, base in found):
        own = [addr for addr in service.load_balancer_ips if is_ipv4(addr) is ipv4]
        found |= {(128, addr) for addr in own}
    return tuple(sorted(found)[: _ranges_room(service)])


# ---- what cannot be honoured -------------------------------------------------------------


def faults_of(service: Service) -> list[Fault]:
    """What of the places named in a Service's spec is not, or cannot be, served."""
    if not service.served or not service.cluster_ips:
        return []
    found: list[Fault] = []
    if service.external_ips or service.load_balancer_ips:
        found += _address_faults(service)
    if len(service.ports) > 1 and service.external:
        found += _node_port_faults(service)
    return found


def _address_faults(service: Service) -> Iterator[Fault]:
    families = {is_ipv4(addr) for addr in service.cluster_ips}
    if len(families) == 1:
        (ipv4,) = families
        foreign = [addr for addr in service.external_ips if is_ipv4(addr) is not ipv4]
        if foreign:
            expected = f"addresses of {'IPv4' if ipv4 else 'IPv6'}, the only family of the Service"
            yield Fault("spec.externalIPs", expected, f"{len(foreign):,} of the other one")
    outside = {*service.external_ips, *service.load_balancer_ips}
    count = max(sum(is_ipv4(addr) is ipv4 for addr in outside) for ipv4 in families)
    if count > _room(service):
        expected = (
            f"at most {_room(service):,} addresses of a family for {len(service.ports):,} ports"
        )
        yield Fault("spec.externalIPs", expected, f"{count:,}")
    if service.load_balancer_ips:
        ranges = max(len({*source_blocks(service, ipv4)}) for ipv4 in families)
        if ranges > _ranges_room(service):
            room = f"{_ranges_room(service):,} ranges of a family for {len(service.ports):,} ports"
            yield Fault("spec.loadBalancerSourceRanges", f"at most {room}", f"{ranges:,}")


def _node_port_faults(service: Service) -> Iterator[Fault]:
    seen: set[tuple[int, int]] = set()
    for position, port in enumerate(service.ports):
        if port.node_port and (port.node_port, port.proto) in seen:
            expected = "a port and protocol that no other port has"
            yield Fault(f"spec.ports[{position}].nodePort", expected, str(port.node_port))
        seen.add((port.node_port, port.proto))


# ---- names --------------------------------------------------------------------------------


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
