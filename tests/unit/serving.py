"""Having the maps in memory hold Services, as people write addresses."""

from __future__ import annotations

from kpbpf.cli import options
from maps.abi import Backend, BackendFlag, FrontendFlag, FrontendKey
from maps.fake import FakeTables
from maps.sync import ServiceSync
from maps.wanted import FrontendOf, RangeOf, WantedService

EXTERNAL, EXTERNAL_LOCAL = int(FrontendFlag.EXTERNAL), int(FrontendFlag.EXTERNAL_LOCAL)
LOCAL_ONLY = int(FrontendFlag.LOCAL_ONLY)
SOURCE_RANGES = int(FrontendFlag.SOURCE_RANGES)
WHOLE_ADDRESS = int(FrontendFlag.WHOLE_ADDRESS)


def wanted(
    name: str,
    *frontends: str | tuple[str, int],
    backends: tuple[str, ...] = (),
    here: tuple[str, ...] = (),
    proto: int = 6,
    affinity_sec: int = 0,
    ranges: tuple[RangeOf, ...] = (),
) -> WantedService:
    """A Service port at these frontends, each with its flags; `here` are backends of this node."""
    cluster = sorted({*backends, *here})
    return WantedService(
        name=name,
        proto=proto,
        frontends=tuple(_frontend(frontend, proto) for frontend in frontends),
        affinity_sec=affinity_sec,
        backends=b"".join(_backend(one, here) for one in (*cluster, *sorted(here))),
        count=len(cluster),
        local_count=len(here),
        ranges=ranges,
    )


def write(tables: FakeTables, *services: WantedService) -> None:
    """Have the maps hold them, beside what is there."""
    sync = ServiceSync(tables)
    sync.load()
    assert not sync.apply(services).failed


def take_away(tables: FakeTables, name: str) -> None:
    """Have the maps hold a Service port no more."""
    sync = ServiceSync(tables)
    sync.load()
    assert not sync.apply([], [name]).failed


def serve(tables: FakeTables, name: str, frontend: str, *backends: str) -> None:
    """Have the maps hold a Service port with a ClusterIP and backends elsewhere."""
    write(tables, wanted(name, frontend, backends=backends))


def _frontend(frontend: str | tuple[str, int], proto: int) -> FrontendOf:
    place, flags = (frontend, 0) if isinstance(frontend, str) else frontend
    addr, port = options.ip_and_port(place)
    return FrontendKey(addr, port, proto).pack(), flags


def _backend(place: str, here: tuple[str, ...]) -> bytes:
    addr, port = options.ip_and_port(place)
    return Backend(addr, port, int(BackendFlag.HERE) if place in here else 0).pack()
