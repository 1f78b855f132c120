"""The rules that kube-proxy in iptables mode would have on a node, for Services of the lab.

Chains have kube-proxy's names and do what its do (SEMANTICS A13 to A37): choice by probability,
masquerade by a mark, short cuts of traffic policy Local, refusal without endpoints, and INVALID
packets dropped, which is what somebody who moves has to get along with. Load balancers, source
ranges and affinity are not written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.lab import iptables
from tests.lab.manifests import USUAL_PORTS, Ports
from tests.lab.world import FAMILIES, IPV4, Place

MARK = "0x4000/0x4000"
POD_CIDR = {4: "10.42.0.0/24", 6: "fd42::/64"}


class Served(NamedTuple):
    """A Service: its cluster IPs, its ports, who answers, and its traffic policies."""

    name: str
    addresses: dict[int, str]
    endpoints: tuple[Place, ...]
    ports: Ports = USUAL_PORTS
    external_local: bool = False


def tables(services: Iterable[Served], family: int) -> dict[str, list[str]]:
    """All rules of one family, by table."""
    nat = [
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        f"-A KUBE-POSTROUTING -m mark ! --mark {MARK} -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    ]
    filter_ = [
        "-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES",
        "-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES",
        "-A INPUT -m conntrack --ctstate NEW -j KUBE-SERVICES",
        "-A FORWARD -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        f"-A KUBE-FORWARD -m mark --mark {MARK} -j ACCEPT",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ]
    for service in services:
        for protocol in service.ports.protocols:
            if service.endpoints:
                nat += _port(service, protocol.lower(), family)
            else:
                filter_ += _refusals(service, protocol.lower(), family)
    # Of all jumps the last one: an address of the node may be a Service's, too.
    nat.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    return {"nat": nat, "filter": filter_}


def _port(service: Served, protocol: str, family: int) -> Iterator[str]:
    """A Service port: where it is entered, and the endpoints behind it."""
    svc = _chain("SVC", service, protocol)
    frontend = f"-d {_host(service.addresses[family], family)} -p {protocol} --dport"
    yield f"-A KUBE-SERVICES {frontend} {service.ports.port} -j {svc}"
    outsiders = f"! -s {POD_CIDR[family]} {frontend} {service.ports.port}"
    yield f"-A {svc} {outsiders} -j KUBE-MARK-MASQ"
    yield from _choice(svc, service, protocol, family, service.endpoints)
    for place in service.endpoints:
        sep = _chain("SEP", service, protocol, place)
        target = f"{place.addresses[family]}:{service.ports.target}"
        if family != IPV4:
            target = f"[{place.addresses[family]}]:{service.ports.target}"
        yield f"-A {sep} -s {_host(place.addresses[family], family)} -j KUBE-MARK-MASQ"
        yield f"-A {sep} -p {protocol} -j DNAT --to-destination {target}"
    if service.ports.node_port:
        yield from _node_port(service, protocol, family)


def _node_port(service: Served, protocol: str, family: int) -> Iterator[str]:
    """What is for clients outside: masqueraded, or with policy Local only what is here."""
    ext, svc = _chain("EXT", service, protocol), _chain("SVC", service, protocol)
    yield f"-A KUBE-NODEPORTS -p {protocol} --dport {service.ports.node_port} -j {ext}"
    if not service.external_local:
        yield f"-A {ext} -j KUBE-MARK-MASQ"
        yield f"-A {ext} -j {svc}"
        return
    yield f"-A {ext} -s {POD_CIDR[family]} -j {svc}"
    yield f"-A {ext} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"
    yield f"-A {ext} -m addrtype --src-type LOCAL -j {svc}"
    here = tuple(place for place in service.endpoints if place.host_ifname)
    if here:
        svl = _chain("SVL", service, protocol)
        yield f"-A {ext} -j {svl}"
        yield from _choice(svl, service, protocol, family, here)
    else:
        yield f"-A {ext} -j DROP"


def _choice(
    chain: str, service: Served, protocol: str, family: int, places: tuple[Place, ...]
) -> Iterator[str]:
    """One of these at random: the first of n with 1/n, the next of those left, the last always."""
    for index, place in enumerate(places):
        left = len(places) - index
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        yield f"-A {chain} {chance}-j {_chain('SEP', service, protocol, place)}"


def _refusals(service: Served, protocol: str, family: int) -> Iterator[str]:
    address = _host(service.addresses[family], family)
    at = f"-A KUBE-SERVICES -d {address} -p {protocol} --dport {service.ports.port}"
    yield f"{at} -j REJECT"
    if service.ports.node_port:
        local = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL"
        yield f"{local} -p {protocol} --dport {service.ports.node_port} -j REJECT"


def _host(address: str, family: int) -> str:
    return f"{address}/{32 if family == IPV4 else 128}"


def _chain(kind: str, service: Served, protocol: str, place: Place | None = None) -> str:
    """A name such as KUBE-SVC-0123456789ABCDEF; names of chains are short."""
    told = f"{service.name} {protocol} {place.name if place else ''}"
    return f"KUBE-{kind}-{hashlib.sha256(told.encode()).hexdigest()[:16].upper()}"


@contextmanager
def kube_proxy(place: Place, *services: Served, make: str = "legacy") -> Iterator[None]:
    """Rules for these Services at a place, for the length of the block."""
    write(place, *services, make=make)
    try:
        yield
    finally:
        remove(place, *services, make=make)


def write(place: Place, *services: Served, make: str = "legacy") -> None:
    """Write the rules, as a kube-proxy that starts does: at once, over its own."""
    for family in FAMILIES:
        iptables.put(place, family, tables(services, family), make)


def remove(place: Place, *services: Served, make: str = "legacy") -> None:
    """Take them off, as `kube-proxy --cleanup` does."""
    for family in FAMILIES:
        iptables.remove(place, family, tables(services, family), make)
