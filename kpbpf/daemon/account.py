"""What the daemon tells of itself: the status file, metrics, health, systemd, Events.

Gathers from controllers and sources when asked; decides nothing. Belongs to the main thread, but
for what `Observed` says of its fields.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from controllers import kubeproxy, observed
from controllers.health import Health
from controllers.kubeproxy import Timings
from controllers.observed import Observed
from controllers.pages import health_pages, metrics_pages
from controllers.services import ServicesController
from kpbpf import notify, status
from kpbpf.daemon.datapath import Datapath
from kpbpf.daemon.servers import HEALTH_REASON, METRICS_REASON, Servers, Wanted
from kpbpf.home import Home
from kpbpf.kube.cluster import ClusterSource
from kpbpf.kube.session import Session
from kpbpf.kube.source import Sources
from kpbpf.metrics import Family, Metrics
from kpbpf.model.objects import Node
from kpbpf.settings import Settings
from maps.table import Tables


class Account:
    """The notes of one daemon, and everybody who is told from them."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        tables: Tables,
        session: Session | None,
        cluster: ClusterSource | None,
    ) -> None:
        self._home = home
        self._settings = settings
        self._session = session
        self._cluster = cluster
        started = time.time()
        self.seen = Observed(started, status.own_version(), last_queued=started)
        if cluster:
            self.seen.reflectors = cluster.stats
        self.health = Health(settings.sync_period_sec, needs_node=settings.api is not None)
        self.metrics = Metrics(lambda: self._families(tables))
        self._timings = Timings(self.metrics)
        self.spoiled = ""
        """Why the configuration file cannot be used as it is now."""
        self._awaited: list[str] = []

    def start_servers(self, servers: Servers) -> None:
        """Have the two servers started, where they are wanted."""
        health, metrics = self._settings.health, self._settings.metrics
        if health:
            servers.want(Wanted("health server", health, health_pages(self.health), HEALTH_REASON))
        if metrics:
            pages = metrics_pages(self.metrics, self.health, self._settings.configuration)
            servers.want(Wanted("metrics server", metrics, pages, METRICS_REASON))

    def _families(self, tables: Tables) -> Iterator[Family]:
        """Everything but durations, as of now; read by whoever scrapes, in its thread."""
        yield from kubeproxy.families(self.seen, self.health, time.time())
        yield from observed.families(tables, self.seen)

    # ---- what happens ---------------------------------------------------------------------

    def queued(self) -> None:
        """Take note that a source has news; from any thread."""
        self.health.queued()
        self.seen.last_queued = time.time()

    def awaits(self, names: list[str]) -> None:
        """Take note of what has not been read yet; nothing: all was read once."""
        self._awaited = names
        self.health.awaits("sources", names)

    def node(self, node: Node | None) -> None:
        """Take note of this node's own object."""
        self.health.node(node)

    def taken(self) -> None:
        """Take note that what was queued is being taken up."""
        self.health.taken()

    def wrote(self, services: ServicesController, seconds: float) -> None:
        """Take note that everything there was to write is in the maps."""
        first, self.seen.synced = not self.seen.synced, True
        self.seen.last_sync = time.time()
        self._timings.synced(seconds, full=first)
        self._timings.programmed(services.programmed(), self.seen.last_sync)

    def written(self, services: ServicesController) -> None:
        """Take note that what was taken is in the maps, but for what the controller names."""
        self.health.written(services.status().oldest_pending)

    def loaded(self) -> None:
        """Take note that the programs are where they belong."""
        self.health.awaits("programs")

    # ---- who is told ------------------------------------------------------------------------

    def tell(
        self,
        sources: Sources,
        services: ServicesController,
        datapath: Datapath | None,
        failures: dict[str, int],
    ) -> None:
        """Bring notes and status file up to date, and say to systemd how we are."""
        seen = self.seen
        seen.services = services.status()
        found = datapath.pods.status() if datapath else ()
        if datapath:
            pods, uplinks = datapath.pods, datapath.uplinks
            seen.pods, seen.uplinks = found, uplinks.status()
            seen.reattachments = pods.restored + uplinks.restored
            seen.program_swaps = pods.swapped + uplinks.swapped
        seen.problems = [*sources.problems(), *services.problems()]
        seen.retried = failures
        failing = {name: _times(count) for name, count in failures.items()}
        failing |= {f"uplink {one.ifname}": one.why_not for one in seen.uplinks if one.why_not}
        if seen.services.held:
            failing["Services"] = seen.services.held
        if self.spoiled:
            failing["configuration"] = f"{self.spoiled}; the one before it stays in force"
        if self._awaited:
            failing["sources"] = f"not read yet: {', '.join(self._awaited)}"
        status.write(
            self._home,
            status.Status(
                pid=os.getpid(),
                version=seen.version,
                node=self._settings.node,
                manifests=[str(path) for path in self._settings.manifests],
                started=seen.started,
                written=time.time(),
                synced=seen.synced,
                last_sync=seen.last_sync,
                services=seen.services.services,
                pending=seen.services.pending,
                problems=[problem._asdict() for problem in seen.problems],
                failures=failing,
                pods=[pod._asdict() for pod in found],
                api=self._session.server if self._session else "",
                reflectors=[one._asdict() for one in self._cluster.stats()]
                if self._cluster
                else [],
            ),
        )
        notify.notify(sentence=self._sentence(failing))

    def _sentence(self, failing: dict[str, str]) -> str:
        if failing:
            return "; ".join(f"{what}: {why}" for what, why in sorted(failing.items()))
        return f"{self.seen.services.services} Services served"


def _times(count: int) -> str:
    return f"failed {count} time{'s' * (count > 1)} in a row, is being tried again"
