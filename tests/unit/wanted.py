"""Builders of WantedServices, and what the maps mean once they are written."""

from __future__ import annotations

from collections.abc import Iterable

from kpbpf.address import from_text
from maps import config
from maps.abi import Backend, BackendKey, FrontendKey, MemberFlag
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
) -> WantedService:
    """Service `name` at 10.96.0.<vip>:80 with backends 10.1.0.<n>:8080."""
    vips = (vip,) if isinstance(vip, int) else tuple(vip)
    cluster, here = sorted(backends), sorted(local)
    members = {n: int(IN_SET) for n in cluster} | {n: int(MemberFlag.SERVING) for n in serving}
    keep = proto == UDP or affinity_sec
    return WantedService(
        name=name,
        proto=proto,
        frontends=tuple(FrontendKey(ip("10.96.0", n), 80, proto).pack() for n in vips),
        flags=0,
        affinity_sec=affinity_sec,
        backends=b"".join(Backend(ip("10.1.0", n), 8080).pack() for n in (*cluster, *here)),
        count=len(cluster),
        local_count=len(here),
        members=tuple((ip("10.1.0", n), 8080, members[n]) for n in sorted(members) if keep),
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
    return seen


def synced(*wanted: WantedService) -> FakeTables:
    """Tables that a from-scratch run has filled."""
    tables = fake_tables()
    assert not ServiceSync(tables).apply(wanted).failed
    return tables


def udp_epoch(tables: FakeTables) -> int:
    """How often UDP flows were told to be judged again."""
    return config.read(tables).udp_epoch
