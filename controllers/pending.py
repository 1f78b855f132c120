"""Which Services are not in the maps as they should be: since when, and what led to it.

Pure bookkeeping by Service path (namespace/name); what is written, and how, is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container
from typing import NamedTuple

# What of a Service changed: bits.
_SERVICE, _ENDPOINTS = 1, 2

#: So many that failed are tried at once again, whenever anything is written; more after a while.
FEW = 100
AGAIN_SEC = 1.0

#: Trigger times that are kept of one Service while it waits, and of all until they are fetched.
MAX_WAITING_TRIGGERS = 100
MAX_TRIGGERS = 100_000


class Counts(NamedTuple):
    """Changes since the start, and the Services that wait because of one.

    `oldest` is the monotonic time of the first change that is not written, 0.0 when there is none.
    Services that are held, and those for which there is no room, do not count: no time cures that.
    """

    service_changes: int
    endpoint_changes: int
    service_changes_pending: int
    endpoint_changes_pending: int
    oldest: float


class Pending:
    """Services that changed and are not written yet.

    `started` is when this process began, in seconds of the Unix epoch: what was triggered before
    says nothing about how long we take. `clock` is monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, started: float = 0.0) -> None:
        self._clock = clock
        self._started = started
        self._service_changes = 0
        self._endpoint_changes = 0
        # By path, what of it changed: there are tens of thousands at the start.
        self._due: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._failing: dict[str, int] = {}
        self._again = 0.0
        self._since = 0.0
        self._failing_since: dict[str, float] = {}
        self._oldest_failure = 0.0
        self._triggers: dict[str, list[float]] = {}
        self._programmed: list[float] = []

    def __len__(self) -> int:
        """Services that wait, held ones included."""
        return len(self._due) + len(self._held) + len(self._failing)

    def __contains__(self, path: str) -> bool:
        """Whether a Service waits."""
        return path in self._due or path in self._held or path in self._failing

    # ---- what changed -----------------------------------------------------------------------

    def service_changed(self, path: str) -> None:
        """The Service itself is another one now."""
        self._service_changes += 1
        self._add(path, _SERVICE)

    def endpoints_changed(self, path: str) -> None:
        """A slice of the Service is another one now, or gone."""
        self._endpoint_changes += 1
        self._add(path, _ENDPOINTS)

    def touched(self, path: str) -> None:
        """Something else that the Service depends on is different."""
        self._add(path, 0)

    def triggered(self, path: str, when: float) -> None:
        """The last change of its endpoints is due to what happened then (Unix seconds)."""
        if when and when >= self._started:
            waiting = self._triggers.setdefault(path, [])
            if len(waiting) < MAX_WAITING_TRIGGERS:
                waiting.append(when)

    def slice_gone(self, path: str) -> None:
        """A slice that is gone does not say when that began: forget what was said before."""
        self._triggers.pop(path, None)

    def _add(self, path: str, what: int) -> None:
        if self._held or self._failing:
            what |= self._held.pop(path, 0) | self._failing.pop(path, 0)
        self._due[path] = self._due.get(path, 0) | what
        self._since = self._since or self._clock()

    # ---- what was done ----------------------------------------------------------------------

    def due(self) -> list[str]:
        """The Services to be written now.

        Many that failed (a map is full) wait for AGAIN_SEC: trying them holds up all the others.
        """
        if len(self._failing) <= FEW or self._clock() >= self._again:
            for path in list(self._failing):
                self.touched(path)
            self._again = self._clock() + AGAIN_SEC
        return list(self._due)

    def resume(self) -> None:
        """What was held may be written now."""
        for path in list(self._held):
            self.touched(path)

    def settle(
        self,
        failed: Collection[str],
        held: Collection[str],
        no_room: Collection[str],
        served: Container[str],
    ) -> None:
        """All that was due is written, but for what `failed` or is `held`, due or not.

        `failed` are all that did not work when they were tried last, `no_room` those of them that
        there was no room for. `served` are all that the maps serve.
        """
        due, self._due = self._due, {}
        self._failing = {path: due.get(path, self._failing.get(path, 0)) for path in failed}
        self._held.update((path, due.get(path, self._held.get(path, 0))) for path in held)
        self._held = {path: what for path, what in self._held.items() if path not in self._failing}
        waiting = self._failing | self._held
        for path in [path for path in self._triggers if path not in waiting]:
            if path in served and len(self._programmed) < MAX_TRIGGERS:
                self._programmed += self._triggers[path]
            del self._triggers[path]
        since = self._since or self._clock()
        before, self._failing_since = self._failing_since, {}
        for path in self._failing:
            self._failing_since[path] = before.get(path, since)
        ours = (when for path, when in self._failing_since.items() if path not in no_room)
        self._since, self._oldest_failure = 0.0, min(ours, default=0.0)

    # ---- numbers ----------------------------------------------------------------------------

    def programmed(self) -> list[float]:
        """Trigger times whose changes are in the maps by now; each is handed out once."""
        found, self._programmed = self._programmed, []
        return found

    def counts(self) -> Counts:
        """How much there was, and is."""
        waiting = [*self._due.values(), *self._held.values(), *self._failing.values()]
        return Counts(
            self._service_changes,
            self._endpoint_changes,
            sum(1 for what in waiting if what & _SERVICE),
            sum(1 for what in waiting if what & _ENDPOINTS),
            min(filter(None, (self._since, self._oldest_failure)), default=0.0),
        )
