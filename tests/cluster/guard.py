"""Looks at a Service in the maps without a pause, and notes what should never be seen."""

from __future__ import annotations

import threading
from typing import Self

from kpbpf.address import from_text, to_text
from maps.abi import BackendKey, Frontend, FrontendKey
from maps.table import Tables
from tests.cluster.daemon import ApiService, Cluster
from tests.lab.agent import PROTOCOLS
from tests.lab.world import FAMILIES, Place

_LOOK_AGAIN_SEC = 0.001


class Guard:
    """For the length of the block, `places` must be among the backends of a Service.

    In both families and all protocols. `looks` says how often that was looked at, `seen` which
    backends there were besides.
    """

    def __init__(self, cluster: Cluster, service: ApiService, *places: Place) -> None:
        self._cluster = cluster
        self._frontends = [
            (FrontendKey(from_text(service.addresses[family]), service.ports.port, proto), family)
            for family in FAMILIES
            for name, proto in PROTOCOLS.items()
            if name in service.ports.protocols
        ]
        self._must = {family: {one.addresses[family] for one in places} for family in FAMILIES}
        self.looks = 0
        self.missed: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="guard")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def check(self) -> None:
        """Fail when something was missing, or nobody looked."""
        assert not self.missed, self.missed[:5]
        assert self.looks > 10

    def _look(self) -> None:
        with self._cluster.kpbpf.tables() as tables:
            while not self._stopping.wait(_LOOK_AGAIN_SEC):
                for key, family in self._frontends:
                    found = _backends(tables, key)
                    missing = self._must[family] - found
                    if missing:
                        self.missed.append(f"{key}: {sorted(missing)} not among {sorted(found)}")
                self.looks += 1


def _backends(tables: Tables, key: FrontendKey) -> set[str]:
    """Addresses of a frontend's backends as a packet would see them."""
    while True:
        before = tables.frontends.get(key)
        if before is None:
            return set()
        found = [tables.backends.get(BackendKey(before.base, slot)) for slot in _slots(before)]
        # Who read the old frontend finds its backends gone only when there is a new one.
        if tables.frontends.get(key) == before:
            return {to_text(backend.addr) for backend in found if backend}


def _slots(frontend: Frontend) -> range:
    return range(frontend.count)
