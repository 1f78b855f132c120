"""Services and EndpointSlices that changed to the Service maps.

Keeps the model, recompiles the Services that a change touches, and hands the difference to
maps.sync. Packets, programs and interfaces are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

from controllers.claims import Claims
from kpbpf import log
from kpbpf.address import to_text
from kpbpf.compile.services import Fault, compile_service, family_ports
from kpbpf.errors import Problem, Retry
from kpbpf.kube.source import Unread
from kpbpf.model.endpoint import EndpointSlice
from kpbpf.model.objects import Key, Node
from kpbpf.model.service import PROTOCOLS, Service
from maps.abi import FrontendKey
from maps.sync import HOUSEKEEPING, Report, ServiceSync
from maps.table import Tables
from maps.wanted import WantedService

_LOG = log.get(__name__)
#: Of many names, those that a message lists.
_SHOWN = 3
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


class Status(NamedTuple):
    """Counts for `kpbpf status` and metrics; `pending`: what is not written yet.

    `held` tells of Service ports that must stay as they are, and why; empty if there are none.
    """

    services: int
    slices: int
    ports: int
    pending: int
    held: str = ""


class ServicesController:
    """The Service maps of this node.

    Tell every change to `changed`, then call `reconcile`, which writes; the first time only
    after every source has been read in whole, for it takes away what it was not told of.
    `writer_lock` is Home.writer_lock; `where` says for a problem where an object stands; `unread`
    names what holds objects that cannot be read. Until that was nothing for once, the Services
    that a process before this one served lose nothing: what seems to be gone may be in there.
    From then on the source keeps the last good state of whatever becomes unreadable.
    All calls come from one thread.
    """

    def __init__(
        self,
        tables: Tables,
        node_name: str,
        writer_lock: Callable[[], AbstractContextManager[None]] = nullcontext,
        where: Callable[[Key], str] = str,
        unread: Callable[[], Unread] = Unread,
    ) -> None:
        self._sync = ServiceSync(tables)
        self._writer_lock = writer_lock
        self._where = where
        self._unread = unread
        self._whole = False
        self._held = ""
        self._node = Node(node_name)
        self._services: dict[str, Service] = {}
        self._slices: dict[str, tuple[EndpointSlice, ...]] = {}
        self._service_of: dict[Key, str] = {}
        self._ports: dict[str, tuple[str, ...]] = {}
        self._claims = Claims()
        self._dirty: dict[str, None] = {}
        self._leaving: set[str] = set()
        self._faults: dict[str, list[Fault]] = {}
        self._told = log.Told(_LOG)
        self._unswept = False
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
        touched = self._claims.change(path, _frontends(before), _frontends(service))
        for other in (path, *sorted(touched)):
            self._dirty[other] = None
        if service is None:
            self._services.pop(path, None)
        else:
            self._services[path] = service

    def _slice_changed(self, key: Key, slice_: EndpointSlice | None) -> None:
        before = self._service_of.pop(key, None)
        if before is not None:
            others = tuple(old for old in self._slices[before] if old.name != key.name)
            self._dirty[before] = None
            if others:
                self._slices[before] = others
            else:
                del self._slices[before]
        if slice_ is not None and slice_.service:
            path = f"{slice_.namespace}/{slice_.service}"
            self._service_of[key] = path
            self._slices[path] = (*self._slices.get(path, ()), slice_)
            self._dirty[path] = None

    def _node_changed(self, node: Node) -> None:
        """A new zone may mean other endpoints for every Service (A18)."""
        if node.zone != self._node.zone:
            self._dirty.update(dict.fromkeys(self._services))
        self._node = node

    # ---- writing ----------------------------------------------------------------------------

    def reconcile(self) -> Report:
        """Write what changed. What fails or is held stays pending: call again."""
        # Once is enough: it is never asked again.
        self._whole = self._whole or self._unread() == Unread()
        dirty = list(self._dirty)
        for path in dirty:
            self._settle_ports(path)
        with self._writer_lock():
            if self._first:
                self._sync.load()
                served = {name for names in self._ports.values() for name in names}
                self._leaving |= self._sync.names() - served
            report = self._sync.apply(self._wanted(dirty), self._leaving, self._whole)
        self._first = False
        undone = report.failed.keys() | report.held
        self._leaving &= undone
        self._unswept = HOUSEKEEPING in report.failed
        self._dirty = {
            path: None for path in dirty if not undone.isdisjoint(self._ports.get(path, ()))
        }
        self._told.tell(self.problems())
        self._tell_held(report.held)
        done = len(dirty) - len(self._dirty)
        if done:
            _LOG.info("%d Services looked at, %d entries written", done, report.writes)
        return report

    def work(self) -> None:
        """`reconcile` for the loop: Retry when something could not be written."""
        failed = self.reconcile().failed
        if failed:
            name, error = next(iter(failed.items()))
            raise Retry(f"{len(failed)} Service ports not written; {name}: {error}")

    def _settle_ports(self, path: str) -> None:
        """Which ports the Service has now, and which of those it had are to go."""
        service = self._services.get(path)
        before = self._ports.pop(path, ())
        now = tuple(item.name for item in family_ports(service)) if service else ()
        if now:
            self._ports[path] = now
        self._leaving |= set(before)
        self._leaving -= set(now)

    def _wanted(self, paths: list[str]) -> Iterator[WantedService]:
        """Compile one Service after the other, without what other Services hold."""
        for path in paths:
            service = self._services.get(path)
            self._faults.pop(path, None)
            if service is None:
                continue
            compiled = compile_service(service, self._slices.get(path, ()), self._node)
            if compiled.faults:
                self._faults[path] = compiled.faults
            for wanted in compiled.wanted:
                held = tuple(key for key in wanted.frontends if self._claims.holds(path, key))
                yield wanted if held == wanted.frontends else replace(wanted, frontends=held)

    # ---- what is wrong ----------------------------------------------------------------------

    def problems(self) -> list[Problem]:
        """What in the Services cannot be honoured now, sorted by Service."""
        found = [
            self._problem(path, *fault)
            for path in sorted(self._faults)
            for fault in self._faults[path]
        ]
        for path, packed, holder in self._claims.lost():
            key = FrontendKey.unpack(packed)
            got = f"{to_text(key.addr)} port {key.port}/{_PROTOCOL_NAMES[key.proto]}"
            expected = f"an address and port that Service {holder} does not have"
            found.append(self._problem(path, "spec.clusterIP", expected, got))
        return found

    def status(self) -> Status:
        """How much there is."""
        return Status(
            services=len(self._services),
            slices=len(self._service_of),
            ports=sum(map(len, self._ports.values())),
            pending=len(self._dirty) + len(self._leaving) + self._unswept,
            held=self._held,
        )

    def _problem(self, path: str, field: str, expected: str, got: str) -> Problem:
        key = Key("Service", *path.split("/"))
        return Problem(self._where(key), str(key), field, expected, got)

    def _tell_held(self, names: set[str]) -> None:
        """Log which Service ports are held by what, whenever that is another answer."""
        told, self._held = self._held, ""
        if names:
            places = _some(self._unread().places)
            self._held = (
                f"left as before this start until all of {places} can be read: "
                f"{_some(sorted(names))}"
            )
        if self._held and self._held != told:
            _LOG.warning("Services %s", self._held)
        elif told and not self._held:
            _LOG.info("all was read: no Service is left as before this start")


def _some(things: Sequence[object]) -> str:
    """The first few by name, and how many more there are."""
    shown = ", ".join(map(str, things[:_SHOWN]))
    return shown if len(things) <= _SHOWN else f"{shown} and {len(things) - _SHOWN} more"


def _frontends(service: Service | None) -> list[bytes]:
    """Every frontend that a Service claims."""
    if service is None:
        return []
    return [frontend for item in family_ports(service) for frontend in item.frontends]
