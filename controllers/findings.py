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


class Findings:
    """What was found about the Services. `where` says where an object stands.

    `held_text` says which Service ports stay as an earlier process left them, and why; "" when
    there are none.
    """

    def __init__(self, claims: Claims, view: View, where: Callable[[Key], str]) -> None:
        self._claims = claims
        self._view = view
        self._where = where
        self._faults: dict[str, list[Fault]] = {}
        self._no_local_internal: set[str] = set()
        self._no_local_external: set[str] = set()
        self._told = log.Told(_LOG)
        self._wrong: list[_Wrong] = []
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

    # ---- telling ----------------------------------------------------------------------------

    @property
    def no_local(self) -> tuple[int, int]:
        """Services that have endpoints, but for their traffic policy none: inside, outside."""
        return len(self._no_local_internal), len(self._no_local_external)

    def problems(self) -> list[Problem]:
        """What in the Services cannot be honoured now, sorted by Service."""
        state = self._fault_changes, self._claims.contests
        if state != self._wrong_of:
            self._wrong, self._wrong_of = [*self._from_faults(), *self._from_claims()], state
        return [self._problem(*wrong) for wrong in self._wrong]

    def _from_faults(self) -> Iterator[_Wrong]:
        for path in sorted(self._faults):
            for fault in self._faults[path]:
                yield _Wrong(path, *fault)

    def _from_claims(self) -> Iterator[_Wrong]:
        """What two Services contend for: of thousands of ports it is said once."""
        lost: dict[tuple[str, str], list[bytes]] = {}
        for path, packed, holder in self._claims.lost():
            lost.setdefault((path, holder), []).append(packed)
        for (path, holder), frontends in lost.items():
            key = FrontendKey.unpack(frontends[0])
            got = f"{to_text(key.addr)} port {key.port}/{_PROTOCOL_NAMES[key.proto]}"
            if len(frontends) > 1:
                got += f" and {len(frontends) - 1:,} more"
            expected = f"an address and port that Service {holder} does not have"
            yield _Wrong(path, "spec.clusterIP", expected, got)

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
        self._tell_held()

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
