"""The control plane of a daemon within a test's process: source and controller on maps in memory.

What the daemon's loop does is done by `work`, when the test says so. The maps outlive a restart,
as pinned ones do. Delays are short; nothing else differs.
"""

from __future__ import annotations

import time
from functools import partial

from controllers.services import ServicesController
from kpbpf.kube.backoff import Backoff
from kpbpf.kube.cluster import ClusterSource
from kpbpf.kube.reflector import Patience
from kpbpf.kube.session import Session
from kpbpf.settings.settings import Api
from maps.fake import FakeTables, fake_tables
from tests.cluster.apiserver import ApiServer
from tests.cluster.scratch import compiled
from tests.lab.manifests import NODE_NAME
from tests.unit.reading import member_lines, service_lines
from tests.unit.wanted import dump

HASTY = Patience(watch=0.3, begin=0.3, page=0.3, hole=0.1)
DEADLINE_SEC = 20.0

_soon = partial(Backoff, first_sec=0.01, last_sec=0.04, healthy_sec=5.0)


class Inside:
    """One node. `restart` ends its daemon as a kill would and starts another."""

    def __init__(self, server: ApiServer, patience: Patience = HASTY) -> None:
        self.server = server
        self.tables: FakeTables = fake_tables()
        self._patience = patience
        self.source: ClusterSource
        self.services: ServicesController
        self.synced = False
        self._start()

    def _start(self) -> None:
        self._session = Session.open(Api(None, (self.server.url,), qps=0.0))
        self.source = ClusterSource(self._session, NODE_NAME, _soon, self._patience)
        self.services = ServicesController(
            self.tables, NODE_NAME, where=self.source.where, unread=self.source.unread
        )
        self.synced = False
        self.source.start(lambda: None)

    def restart(self) -> None:
        """Another daemon, on the maps that this one leaves."""
        self.close()
        self._start()

    def close(self) -> None:
        """End all threads."""
        self.source.close()
        self._session.close()

    def work(self) -> None:
        """Take what is new, and write what follows; nothing before all was read once."""
        for change in self.source.refresh():
            self.services.changed(change.key, change.model)
        if self.source.awaited():
            return
        self.services.work()
        self.synced = True

    def lines(self) -> list[str]:
        """The maps in words."""
        return [*service_lines(self.tables), *member_lines(self.tables)]

    def converges(self) -> None:
        """Work until the maps are what they should be; fails with the difference."""
        deadline = time.monotonic() + DEADLINE_SEC
        wanted = dump(compiled(self.server.store, NODE_NAME))
        while True:
            self.work()
            if self.synced and dump(self.tables) == wanted:
                return
            if time.monotonic() > deadline:
                should = compiled(self.server.store, NODE_NAME)
                assert self.lines() == [*service_lines(should), *member_lines(should)]
                raise AssertionError(f"synced: {self.synced}, awaited: {self.source.awaited()}")
            time.sleep(0.005)
