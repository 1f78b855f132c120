"""Builders of WantedServices, and what the maps mean once they are written."""

from __future__ import annotations

from collections.abc import Iterable

from kpbpf.address import UNSPECIFIED4, from_text
from maps import config
from maps.abi import Backend, BackendKey, FrontendFlag, FrontendKey, MemberFlag
from maps.fake import FakeTables, fake_tables
from maps.sync import ServiceSync
from maps.wanted import WantedService

TCP, UDP = 6, 17
IN_SET = MemberFlag.CLUSTER | MemberFlag.SERVING

Dump = dict[str, object]


def service(
    name: str,
    vip: int | Iterable[int] = 1,
    backends: Iterable[int] = (),
    local: Iterable[int] = (),
    proto: int = TCP,
    affinity_sec: int = 0,
    serving: Iterable[int] = (),
    node_port: int = 0,
    ranges: Iterable[int] = (),
) -> WantedService:
    """Service `name` at 10.96.0.<vip>:80 with backends 10.1.0.<n>:8080.

    If there are `ranges`, only 192.0.2.<n> may come, except at the NodePort.
    """
    vips = (vip,) if isinstance(vip, int) else tuple(vip)
    cluster, here = sorted(backends), sorted(local)
    members = {n: int(IN_SET) for n in cluster} | {n: int(MemberFlag.SERVING) for n in serving}
    keep = proto == UDP or affinity_sec
    clients = [ip("192.0.2", n) for n in sorted(ranges)]
    flags = int(FrontendFlag.EXTERNAL | FrontendFlag.SOURCE_RANGES) if clients else 0
    return WantedService(
        name=name,
        proto=proto,
        frontends=tuple((FrontendKey(ip("10.96.0", n), 80, proto).pack(), flags) for n in vips)
        + tuple(
            (FrontendKey(UNSPECIFIED4, number, proto).pack(), int(FrontendFlag.EXTERNAL))
            for number in [node_port]
            if number
        ),
        affinity_sec=affinity_sec,
        backends=b"".join(Backend(ip("10.1.0", n), 8080, 0).pack() for n in (*cluster, *here)),
        count=len(cluster),
        local_count=len(here),
        members=tuple((ip("10.1.0", n), 8080, members[n]) for n in sorted(members) if keep),
        ranges=tuple((128, addr) for addr in clients),
    )


def ip(net: str, last: int) -> bytes:
    return from_text(f"{net}.{last}")


def dump(tables: FakeTables) -> Dump:
    """What the maps mean, without the numbers that a run is free to choose.

    Fails on a frontend whose backends are not all there, and on entries that nobody uses.
    """
    names = {key.id: name.text for key, name in tables.names.items()}
    backends = dict(tables.backends.items())
    seen: Dump = {}
    used: set[BackendKey] = set()
    for key, value in tables.frontends.items():
        keys = [BackendKey(value.base, slot) for slot in range(value.count + value.local_count)]
        used |= set(keys)
        chosen = tuple(backends[key] for key in keys)
        seen[str(key)] = (names[value.service], value._replace(service=0, base=0), chosen)
    assert set(backends) == used, "backends that no frontend uses"
    served = {value.service for _, value in tables.frontends.items()}
    assert set(names) == served, "names of nothing"
    for member, flags in tables.members.items():
        seen[str(member._replace(service=0)) + names[member.service]] = flags
    for clients, there in tables.ranges.items():
        seen[str(clients._replace(scope=0)) + names[clients.scope]] = there
    if any(span := config.node_ports(tables)):
        seen["NodePorts"] = span
    return seen


def synced(*wanted: WantedService) -> FakeTables:
    """Tables that a from-scratch run has filled."""
    tables = fake_tables()
    assert not ServiceSync(tables).apply(wanted).failed
    return tables


def udp_epoch(tables: FakeTables) -> int:
    """How often UDP flows were told to be judged again."""
    return config.read(tables).udp_epoch
