"""Services and EndpointSlices that changed to the Service maps.

Keeps the model, recompiles the Services that a change touches, and hands the difference to
maps.sync. Packets, programs and interfaces are not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from controllers.claims import Claims
from controllers.findings import Findings
from controllers.known import Known
from controllers.pending import Pending
from controllers.view import View
from kpbpf import log
from kpbpf.compile.services import compile_service, frontends_of, service_of
from kpbpf.errors import MapFull, Problem, Retry
from kpbpf.kube.source import Unread
from kpbpf.model.endpoint import EndpointSlice
from kpbpf.model.event import Event
from kpbpf.model.objects import Key, Node
from kpbpf.model.service import Service
from maps.sync import HOUSEKEEPING, Report, ServiceSync
from maps.table import Tables
from maps.wanted import WantedService

_LOG = log.get(__name__)


class Status(NamedTuple):
    """Counts for `kpbpf status` and metrics.

    `pending`: Services not written yet. `held` tells of Service ports that must stay as they are,
    and why; empty if there are none. Changes are counted since the start; `oldest_pending` is the
    monotonic time of the first one that is not written and not held, 0.0 when there is none. The
    two after that: Services that have endpoints, but for their traffic policy Local none (A20,
    A21). `writes` are map entries written and deleted since the start.
    """

    services: int
    slices: int
    ports: int
    pending: int
    held: str = ""
    service_changes: int = 0
    endpoint_changes: int = 0
    service_changes_pending: int = 0
    endpoint_changes_pending: int = 0
    oldest_pending: float = 0.0
    no_local_internal: int = 0
    no_local_external: int = 0
    writes: int = 0


class ServicesController:
    """The Service maps of this node.

    Tell every change to `changed`, then call `reconcile`, which writes; the first time only
    after every source has been read in whole, for it takes away what it was not told of.
    `writer_lock` is Home.writer_lock; `where` says for a problem where an object stands; `unread`
    names what could not be read since the start. As long as that has places, the Services that a
    process before this one served lose nothing: what seems to be gone may be there. Then only the
    Services that it names. From then on the source keeps the last good state of whatever becomes
    unreadable. `clock` is monotonic, `started` when the process began (Unix seconds). `tell` is
    for what the owner of a Service should know.
    All calls come from one thread.
    """

    def __init__(
        self,
        tables: Tables,
        node_name: str,
        writer_lock: Callable[[], AbstractContextManager[None]] = nullcontext,
        where: Callable[[Key], str] = str,
        unread: Callable[[], Unread] = Unread,
        clock: Callable[[], float] = time.monotonic,
        started: float | None = None,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._sync = ServiceSync(tables)
        self._writer_lock = writer_lock
        self._view = View(unread)
        self._pending = Pending(clock, time.time() if started is None else started)
        self._node = Node(node_name)
        self._services: dict[str, Service] = {}
        self._slices: dict[Key, EndpointSlice] = {}
        self._slices_of: dict[str, tuple[EndpointSlice, ...]] = {}
        self._ports: dict[str, tuple[str, ...]] = {}
        self._claims = Claims(lambda path: self._services[path].created)
        self._port_count = 0
        self._leaving: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._writes = 0
        self._findings = Findings(self._claims, self._view, where, self._services.get, tell)
        self._first = True

    # ---- what changed -----------------------------------------------------------------------

    def changed(self, key: Key, model: object | None) -> None:
        """Take note of an object's new state (None: it is gone). Other kinds are no concern."""
        if key.kind == "Service":
            self._service_changed(key, model if isinstance(model, Service) else None)
        elif key.kind == "EndpointSlice":
            self._slice_changed(key, model if isinstance(model, EndpointSlice) else None)
        elif key == self._node.key:
            self._node_changed(model if isinstance(model, Node) else Node(key.name))

    def _service_changed(self, key: Key, service: Service | None) -> None:
        path = key.path
        before = self._services.get(path)
        claimed, claims = frontends_of(before), frontends_of(service)
        touched: set[str] = set()
        if before is not None and service is not None and before.created != service.created:
            # Another one of the same name: it stands behind those that were made meanwhile.
            touched, claimed = self._claims.change(path, claimed, {}), {}
        if service is not None:
            self._services[path] = service
        touched |= self._claims.change(path, claimed, claims)
        if service is None:
            self._services.pop(path, None)
        self._pending.service_changed(path)
        for other in sorted(touched):
            self._pending.touched(other)

    def _slice_changed(self, key: Key, slice_: EndpointSlice | None) -> None:
        before = self._slices.pop(key, None)
        left = ""
        if before is not None:
            left = before.service_path
            others = tuple(old for old in self._slices_of.pop(left) if old is not before)
            if others:
                self._slices_of[left] = others
            self._pending.endpoints_changed(left)
        if slice_ is not None and slice_.service:
            path = slice_.service_path
            self._slices[key] = slice_
            self._slices_of[path] = (*self._slices_of.get(path, ()), slice_)
            if path != left:
                self._pending.endpoints_changed(path)
            self._pending.triggered(path, slice_.triggered)
        elif left:
            self._pending.slice_gone(left)

    def _node_changed(self, node: Node) -> None:
        """A new zone may mean other endpoints (A18), a new address other source ranges (A30)."""
        zone = node.zone != self._node.zone
        addresses = node.addresses != self._node.addresses
        for path, service in self._services.items():
            if zone or (addresses and service.source_ranges):
                self._pending.touched(path)
        self._node = node

    # ---- writing ----------------------------------------------------------------------------

    def reconcile(self) -> Report:
        """Write what changed. What fails or is held stays pending: call again."""
        if self._view.grow():
            self._pending.resume()
        due = self._pending.due()
        with self._writer_lock():
            if self._first:
                self._sync.load()
            keeps = None if self._view.whole else self._view.hides
            report = self._sync.apply(self._wanted(due), self._gone(), keeps)
        self._first = False
        self._take_note(due, report)
        self._findings.tell()
        return report

    def work(self) -> None:
        """`reconcile` for the loop: Retry when something could not be written."""
        self.reconcile()
        if self._failed:
            name, error = next(iter(self._failed.items()))
            raise Retry(f"{len(self._failed):,} Service ports not written; {name}: {error}")

    def _wanted(self, paths: list[str]) -> Iterator[WantedService]:
        """Compile one Service after the other, without what other Services hold."""
        for path in paths:
            service = self._services.get(path)
            if service is None:
                self._findings.note(path, None, None)
                self._settle_ports(path, ())
                continue
            # By name: of two that contradict each other, a restart prefers the same one.
            slices = sorted(self._slices_of.get(path, ()), key=attrgetter("name"))
            compiled = compile_service(service, slices, self._node)
            self._findings.note(path, service, compiled)
            self._settle_ports(path, compiled.names)
            for wanted in compiled.wanted:
                held = self._claims.held(path, wanted.frontends)
                yield wanted if held == wanted.frontends else replace(wanted, frontends=held)

    def _settle_ports(self, path: str, now: tuple[str, ...]) -> None:
        """The Service has these ports now; others that it had are to go."""
        before = self._ports.pop(path, ())
        self._leaving.update(before)
        self._leaving.difference_update(now)
        self._port_count += len(now) - len(before)
        if now:
            self._ports[path] = now
        if now and not before:
            self._findings.came(path)
        elif before and not now:
            self._findings.went(path)

    def _gone(self) -> Iterator[str]:
        """What is to go; to be asked when everything wanted is known."""
        if self._first:
            served = {name for names in self._ports.values() for name in names}
            self._leaving |= self._sync.names() - served
        yield from self._leaving

    def _take_note(self, due: list[str], report: Report) -> None:
        """What of it is done."""
        tried = set(due)
        self._writes += report.writes
        self._leaving &= report.failed.keys() | report.held
        # Of many that fail not all are tried each time.
        self._failed.pop(HOUSEKEEPING, None)
        left = {name: why for name, why in self._failed.items() if service_of(name) not in tried}
        self._failed = left | report.failed
        self._findings.hold(tried, report.held)
        undone = {
            service_of(name): error for name, error in self._failed.items() if name != HOUSEKEEPING
        }
        no_room = {path for path, error in undone.items() if isinstance(error, MapFull)}
        held = {service_of(name) for name in report.held}
        self._pending.settle(undone.keys(), held, no_room, self._ports)
        if report.writes:
            _LOG.debug("%d Services looked at, %d entries written", len(due), report.writes)

    # ---- how it is --------------------------------------------------------------------------

    def problems(self) -> list[Problem]:
        """What in the Services cannot be honoured now, sorted by Service."""
        return self._findings.problems()

    def status(self) -> Status:
        """How much there is."""
        counts = self._pending.counts()
        no_local_internal, no_local_external = self._findings.no_local
        return Status(
            services=len(self._services),
            slices=len(self._slices),
            ports=self._port_count,
            pending=len(self._pending) + (HOUSEKEEPING in self._failed),
            held=self._findings.held_text,
            service_changes=counts.service_changes,
            endpoint_changes=counts.endpoint_changes,
            service_changes_pending=counts.service_changes_pending,
            endpoint_changes_pending=counts.endpoint_changes_pending,
            oldest_pending=counts.oldest,
            no_local_internal=no_local_internal,
            no_local_external=no_local_external,
            writes=self._writes,
        )

    def models(self) -> list[Service]:
        """Every Service that a source names, in no order."""
        return list(self._services.values())

    def known(self, path: str) -> Known | None:
        """All about one Service, for people who ask; None when no source names it."""
        service = self._services.get(path)
        if service is None:
            return None
        return Known(
            service,
            tuple(sorted(self._slices_of.get(path, ()), key=attrgetter("name"))),
            self._node,
            lost=[(key, holder) for loser, key, holder in self._claims.lost() if loser == path],
            waiting=path in self._pending,
            failed={
                name: str(error) for name, error in self._failed.items() if service_of(name) == path
            },
            held=self._findings.held(path),
        )

    def programmed(self) -> list[float]:
        """When what led to the changes that are in the maps by now happened (Unix seconds).

        Of EndpointSlices that say so, and not before this process; each is handed out once.
        """
        return self._pending.programmed()
