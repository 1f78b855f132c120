"""What there is to say about Services beside their entries: what is wrong, held, or out of reach.

Keeps it by Service path (namespace/name), and logs what is new. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from controllers.claims import Claims
from controllers.view import View
from kpbpf import log
from kpbpf.address import to_text
from kpbpf.compile.services import Compiled, Fault, service_of
from kpbpf.errors import Problem
from kpbpf.model.event import Event
from kpbpf.model.objects import Key
from kpbpf.model.service import PROTOCOLS, Service
from maps.abi import FrontendKey

_LOG = log.get(__name__)
#: Of many names, those that a message lists.
_SHOWN = 3
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


class _Wrong(NamedTuple):
    """What is wrong in a Service: a Problem but for where the object stands."""

    path: str
    field: str
    expected: str
    got: str


class _Taken(NamedTuple):
    """What a Service asks for, in a field of it, and another one holds."""

    path: str
    field: str
    holder: str
    what: str

    def wrong(self) -> _Wrong:
        """The same as something that is wrong."""
        expected = f"an address and port that Service {self.holder} does not have"
        return _Wrong(self.path, self.field, expected, self.what)


class Findings:
    """What was found about the Services.

    `where` says where an object stands, `service_at` what the Service of a path is, and `tell` is
    for what its owner should know: that another one has the address which it asks for.

    `held_text` says which Service ports stay as an earlier process left them, and why; "" when
    there are none.
    """

    def __init__(
        self,
        claims: Claims,
        view: View,
        where: Callable[[Key], str],
        service_at: Callable[[str], Service | None],
        tell: Callable[[Event], None],
    ) -> None:
        self._claims = claims
        self._view = view
        self._where = where
        self._service_at = service_at
        self._tell_event = tell
        self._conflicts: set[tuple[str, str, str]] = set()
        self._faults: dict[str, list[Fault]] = {}
        self._no_local_internal: set[str] = set()
        self._no_local_external: set[str] = set()
        self._told = log.Told(_LOG)
        self._wrong: list[_Wrong] = []
        self._taken: list[_Taken] = []
        self._wrong_of = (0, 0)
        self._told_of = (0, 0)
        self._fault_changes = 0
        self._came: list[str] = []
        self._went: list[str] = []
        self._held: dict[str, set[str]] = {}
        self._held_names = ""
        self.held_text = ""

    # ---- noting -----------------------------------------------------------------------------

    def note(self, path: str, service: Service | None, compiled: Compiled | None) -> None:
        """The Service is this now (None: gone), and compiles to that."""
        before, faults = self._faults.pop(path, None), compiled.faults if compiled else []
        if faults:
            self._faults[path] = faults
        if faults != (before or []):
            self._fault_changes += 1
        self._no_local_internal.discard(path)
        self._no_local_external.discard(path)
        if service is not None and compiled is not None and compiled.elsewhere_only:
            if service.internal_local:
                self._no_local_internal.add(path)
            if service.external_local and service.external:
                self._no_local_external.add(path)

    def came(self, path: str) -> None:
        """The Service has ports to serve, and had none before."""
        self._came.append(path)

    def went(self, path: str) -> None:
        """The Service has no port to serve any more."""
        self._went.append(path)

    def hold(self, tried: Iterable[str], held: Iterable[str]) -> None:
        """The ports `held` are held now; of the Services that were tried, no others."""
        changed = False
        for path in tried:
            changed |= self._held.pop(path, None) is not None
        for name in held:
            names = self._held.setdefault(service_of(name), set())
            changed |= name not in names
            names.add(name)
        if changed:
            self._held_names = _some(sorted(set[str]().union(*self._held.values())))

    def held(self, path: str) -> list[str]:
        """The ports of a Service that are held."""
        return sorted(self._held.get(path, ()))

    # ---- telling ----------------------------------------------------------------------------

    @property
    def no_local(self) -> tuple[int, int]:
        """Services that have endpoints, but for their traffic policy none: inside, outside."""
        return len(self._no_local_internal), len(self._no_local_external)

    def problems(self) -> list[Problem]:
        """What in the Services cannot be honoured now, sorted by Service."""
        self._look()
        return [self._problem(*wrong) for wrong in self._wrong]

    def _look(self) -> None:
        """Have `_wrong` and `_taken` as they are now."""
        state = self._fault_changes, self._claims.contests
        if state != self._wrong_of:
            self._taken = list(self._from_claims())
            self._wrong = [*self._from_faults(), *(taken.wrong() for taken in self._taken)]
            self._wrong_of = state

    def _from_faults(self) -> Iterator[_Wrong]:
        for path in sorted(self._faults):
            for fault in self._faults[path]:
                yield _Wrong(path, *fault)

    def _from_claims(self) -> Iterator[_Taken]:
        """What two Services contend for: of thousands of ports it is said once."""
        lost: dict[tuple[str, str, str], list[bytes]] = {}
        for path, packed, holder in self._claims.lost():
            field = self._field(path, packed)
            if field:
                lost.setdefault((path, field, holder), []).append(packed)
        for (path, field, holder), frontends in lost.items():
            key = FrontendKey.unpack(frontends[0])
            what = f"{to_text(key.addr)} port {key.port}/{_PROTOCOL_NAMES[key.proto]}"
            if len(frontends) > 1:
                what += f" and {len(frontends) - 1:,} more"
            yield _Taken(path, field, holder, what)

    def _field(self, path: str, packed: bytes) -> str:
        """Where in a Service a frontend is asked for; "" for what is only there to be refused."""
        key = FrontendKey.unpack(packed)
        service = self._service_at(path)
        if not key.port or service is None:
            return ""
        if key.addr in service.cluster_ips:
            return "spec.clusterIP"
        if key.addr in service.external_ips:
            return "spec.externalIPs"
        if key.addr in service.load_balancer_ips:
            return "status.loadBalancer.ingress"
        return "spec.ports[].nodePort"

    def tell(self) -> None:
        """Log what is new since the last time."""
        for what, paths in (("serving", self._came), ("no longer serving", self._went)):
            if paths:
                _LOG.info("%s %s", what, _some(paths))
                paths.clear()
        # There may be thousands of problems, and hundreds of changes a second.
        state = self._fault_changes, self._claims.contests
        if state != self._told_of:
            self._told.tell(self.problems())
            self._told_of = state
            self._tell_owners()
        self._tell_held()

    def _tell_owners(self) -> None:
        """An Event for each Service whose address another one has: one, as long as it is so."""
        now = {taken[:3]: taken for taken in self._taken}
        for conflict in sorted(now.keys() - self._conflicts):
            path, _, holder = conflict
            service = self._service_at(path)
            self._tell_event(
                Event(
                    Key("Service", *path.split("/")),
                    "AddressConflict",
                    "ServeAddress",
                    f"{now[conflict].what}: Service {holder} is served there, and this one is not",
                    warning=True,
                    uid=service.uid if service else "",
                )
            )
        self._conflicts = set(now)

    def _tell_held(self) -> None:
        told, self.held_text = self.held_text, ""
        if self._held:
            missing = _some(self._view.missing())
            self.held_text = (
                f"left as before this start until all of {missing} can be read: {self._held_names}"
            )
        if self.held_text and self.held_text != told:
            _LOG.warning("Services %s", self.held_text)
        elif told and not self.held_text:
            _LOG.info("all was read: no Service is left as before this start")

    def _problem(self, path: str, field: str, expected: str, got: str) -> Problem:
        key = Key("Service", *path.split("/"))
        return Problem(self._where(key), str(key), field, expected, got)


def _some(things: Sequence[object]) -> str:
    """The first few by name, and how many more there are."""
    shown = ", ".join(map(str, things[:_SHOWN]))
    return shown if len(things) <= _SHOWN else f"{shown} and {len(things) - _SHOWN:,} more"
