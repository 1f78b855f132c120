"""This node's side of a daemon: its programs, pods, uplinks, sockets and connections.

Puts controllers to work in the daemon's two loops, and hands them what changed; decides nothing.
Services are not its concern, but for when they have been written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from controllers import flows
from controllers.following import Following
from controllers.hooks import KernelHooks, WireHooks
from controllers.loop import Loop
from controllers.observed import Observed
from controllers.pods import PodsController
from controllers.sockets import Sockets
from controllers.uplinks import Uplinks
from kpbpf import log
from kpbpf.address import Address
from kpbpf.datapath import kernel, programs
from kpbpf.home import Home
from kpbpf.kube.source import Change
from kpbpf.model.event import Event
from kpbpf.model.objects import Key, ServiceRange
from kpbpf.settings import NodePortAddresses, Settings
from maps import show
from maps.abi import AddressFlag
from maps.table import Tables

SWEEP_SEC = 5.0
MEASURE_SEC = 15.0
SOCKET_SWEEP_SEC = 30.0

OLD_LAYOUT_SEC = 600.0
"""After an upgrade to another layout of maps, the connections of before have so long to end."""

SOCKETS_SEC = 2.0
"""Socket programs that somebody took off are back after so long."""

_LOG = log.get(__name__)


class Datapath:
    """What programs are attached where, and what they must know of this node.

    Make it in the thread, and so in the network namespace, in which `start` and the main loop
    run. `tell` is for Events, `seen` the notes of whoever keeps account.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        tables: Tables,
        tell: Callable[[Event], None],
        seen: Observed,
    ) -> None:
        self._home = home
        self._settings = settings
        self._tables = tables
        self._seen = seen
        self._pins = self._load()
        self.uplinks = Uplinks(
            home, tables, WireHooks(home, self._pins, True), settings, settings.node, tell
        )
        self._sockets = Sockets(home, tables)
        self._following = Following(
            home,
            tables,
            KernelHooks(home, self._pins, followed=True),
            settings.node,
            tell,
            settings.pod_interface_prefixes,
            self.uplinks,
        )
        self._ranges: dict[Key, ServiceRange] = {}

    @property
    def pods(self) -> PodsController:
        """The pods of this node."""
        return self._following.pods

    def _load(self) -> dict[str, Path]:
        """Have the programs of this version pinned, compiled if they are new."""
        started, before = time.monotonic(), {one.hash for one in programs.present(self._home)}
        pins = programs.ensure_programs(self._home)
        (version,) = {pin.parent.name for pin in pins.values()}
        self._seen.program_loads += version not in before
        _LOG.info("programs %s ready in %.2f s", version, time.monotonic() - started)
        return pins

    # ---- life -----------------------------------------------------------------------------

    def start(self, loop: Loop, house: Loop) -> None:
        """Put right what is there now, and go on so: `loop` writes, `house` may take its time."""
        self._following.start(loop)
        self._keep_sockets()
        programs.remove_stale(self._home)
        house.add("old layouts", self._remove_old_layouts, OLD_LAYOUT_SEC)
        house.every(SWEEP_SEC, "flow sweep", self._sweep)
        house.every(MEASURE_SEC, "map usage", self._measure)
        house.every(SOCKETS_SEC, "socket programs", self._keep_sockets)
        house.every(SOCKET_SWEEP_SEC, "socket sweep", self._sweep_sockets)

    def close(self) -> None:
        """Listen no more; all stays as it is. Call it after the loops have ended."""
        self._following.close()

    # ---- what changed ---------------------------------------------------------------------

    def changed(self, changes: Iterable[Change], pods_read: bool) -> None:
        """Take note of objects' new states; `pods_read`: all Pods of this node are known."""
        for change in changes:
            if change.key.kind == "Pod" and self._settings.follow_pods:
                self.pods.changed(change.key, change.model)
            elif isinstance(change.model, ServiceRange):
                self._ranges[change.key] = change.model
            else:
                self._ranges.pop(change.key, None)
                self.uplinks.changed(change.key, change.model)
        if pods_read and self._settings.follow_pods:
            self.pods.synced()

    def written(self) -> None:
        """Take note that what the sources say of Services is in the maps.

        Only now may an address that no Service has be taken for one that no Service has.
        """
        self.uplinks.synced()
        blocks = {block for one in self._ranges.values() for block in one.blocks}
        self.uplinks.service_ranges(tuple(sorted(blocks)))
        self._sockets.work()

    def wake(self) -> None:
        """Have what changed be taken up."""
        self._following.wake()

    # ---- what is asked --------------------------------------------------------------------

    def node_port_addresses(self) -> list[Address] | None:
        """Where NodePorts are served; None: at all of the node's addresses (A32)."""
        if self._settings.node_port_addresses == NodePortAddresses():
            return None
        entries = self._tables.addresses.items()
        return [key.addr for key, entry in entries if entry.flags & AddressFlag.NODE_PORT]

    # ---- housekeeping ---------------------------------------------------------------------

    def _sweep(self) -> None:
        counted = bool(self._settings.service_metrics)
        self._seen.take_sweep(flows.sweep(self._tables, kernel.now_ns(), counted))

    def _measure(self) -> None:
        seen, most = self._seen, self._settings.service_metrics
        seen.maps = show.map_usage(self._tables)
        seen.own_services = flows.first_services(self._tables, most) if most else {}

    def _remove_old_layouts(self) -> None:
        with self._home.writer_lock():
            if programs.remove_other_layouts(self._home):
                _LOG.info("programs of another layout of maps are taken off")

    def _keep_sockets(self) -> None:
        self._sockets.keep(self._pins, self._settings.socket_lb)

    def _sweep_sockets(self) -> None:
        self._sockets.sweep()
