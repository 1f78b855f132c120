"""The pods and uplinks of this node at work: controllers, the kernel's news, and a loop.

Holds the wiring and the rhythm, no decisions: those are in `pods`, `endpoints` and `uplinks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from controllers.endpoints import Endpoints
from controllers.hooks import KernelHooks, Macs
from controllers.loop import Loop
from controllers.pods import PodsController, Tell
from controllers.uplinks import Uplinks
from kpbpf.datapath.locate import Locator
from kpbpf.datapath.monitor import ADDRESSES, EVERYTHING, FILTERS, NEIGHBOURS, Monitor
from kpbpf.home import Home
from maps.table import Tables

RECONCILE_SEC = 0.8
"""How often interfaces and attachments are looked at: put right within a second."""

RECONCILE_LONGEST_SEC = 5.0
"""The same on a node with so many pods that a look takes too long."""

FILTERS_DELAY_SEC = 0.1
"""News of filters comes in rows, most of it of what we did ourselves."""

NETWORK_DELAY_SEC = 0.05
"""News of interfaces, addresses and routes, too."""

PODS, ENDPOINTS, UPLINKS, WIRE = "pods", "endpoints", "uplinks", "programs of uplinks"
"""What the work is called in the loop."""


class Following:
    """Keeps endpoints and uplinks of this node right, by the API and by the kernel's news.

    Make it where `hooks` are at hand, made with `followed=True`; tell `pods` of every change of a
    Pod, `uplinks` of the Node's, and call `wake`; call `synced` of both once all was read. `start`
    first puts right what is there, in the calling thread. Everything else runs in the loop.
    """

    def __init__(
        self,
        home: Home,
        tables: Tables,
        hooks: KernelHooks,
        node_name: str,
        tell: Tell,
        prefixes: Sequence[str] = (),
        uplinks: Uplinks | None = None,
    ) -> None:
        self._hooks = hooks
        self._locator = Locator(prefixes)
        self._macs = Macs()
        self._monitor = Monitor(self._heard)
        endpoints = Endpoints(home, tables, hooks)
        self.pods = PodsController(endpoints, self._locator.locate, tell, node_name)
        self.uplinks = uplinks
        self._loop: Loop | None = None

    def start(self, loop: Loop) -> Self:
        """Put right what is there now, and go on so in the loop."""
        self._loop = loop
        self.reconcile()
        self._monitor.start()
        loop.every(RECONCILE_SEC, ENDPOINTS, self.reconcile, RECONCILE_LONGEST_SEC)
        loop.every(RECONCILE_SEC, WIRE, self.reconcile_uplinks, RECONCILE_LONGEST_SEC)
        self.wake()
        return self

    def wake(self) -> None:
        """There is something to do for pods or uplinks; from any thread."""
        if self._loop is not None:
            self._loop.add(PODS, self.work)
            self._loop.add(UPLINKS, self.work_on_uplinks)

    def work(self) -> None:
        """Find and attach what is due, and come back when more is."""
        self._take_news()
        again_sec = self.pods.work()
        if again_sec is not None and self._loop is not None:
            self._loop.add(PODS, self.work, again_sec)

    def work_on_uplinks(self) -> None:
        """Find and attach uplinks, where something changed, and come back when more is due."""
        self._take_news()
        again_sec = self.uplinks.work() if self.uplinks else None
        if again_sec is not None and self._loop is not None:
            self._loop.add(UPLINKS, self.work_on_uplinks, again_sec)

    def reconcile(self) -> None:
        """Put right interfaces that vanished and programs that were removed."""
        self._take_news()
        self.pods.reconcile(self._macs.of)
        if self.pods.unsettled:
            self.wake()

    def reconcile_uplinks(self) -> None:
        """The same for uplinks."""
        self._take_news()
        if self.uplinks:
            self.uplinks.reconcile()

    def close(self) -> None:
        """Listen no more; call it after the loop has ended."""
        self._monitor.close()
        self._locator.close()
        self._macs.close()
        self._hooks.close()
        if self.uplinks:
            self.uplinks.close()

    def _take_news(self) -> None:
        news = self._monitor.take()
        self._hooks.touch(None if news.everything else news.filters | news.links)
        if news.links or news.everything:
            self._locator.forget()
        self.pods.heard(news)
        if self.uplinks:
            self.uplinks.heard(news)

    def _heard(self, reasons: frozenset[str]) -> None:
        """In the monitor's thread."""
        if self._loop is None:
            return
        if reasons & {FILTERS, EVERYTHING}:
            self._loop.add(ENDPOINTS, self.reconcile, FILTERS_DELAY_SEC)
            self._loop.add(WIRE, self.reconcile_uplinks, FILTERS_DELAY_SEC)
        if reasons - {FILTERS, ADDRESSES}:
            self._loop.add(PODS, self.work)
        if reasons - {FILTERS, NEIGHBOURS}:
            self._loop.add(UPLINKS, self.work_on_uplinks, NETWORK_DELAY_SEC)
