"""Telling that programs which somebody had removed are back: in the log, and as Events.

Something that removes them again and again is told of with pauses, and many pods at once are
told of in one Event on the Node; nothing is decided here about programs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from controllers import origin
from controllers.endpoint import Pod as Endpoint
from kpbpf import log
from kpbpf.model.event import Event
from kpbpf.model.objects import Key

_LOG = log.get(__name__)

SHOWN = 5
"""Of many pods at a time, those that have a line or an Event of their own."""

TIMES = 3
PAUSE_SEC = 600.0
"""One interface is told of so often; then there is a pause."""

REASON, ACTION = "ProgramsRestored", "RestorePrograms"

Tell = Callable[[Event], None]


class _Count(NamedTuple):
    since: float
    times: int


class Restored:
    """Tells of endpoints that have their programs again; `regarding` finds a pod's key and uid."""

    def __init__(
        self,
        tell: Tell,
        node_name: str,
        regarding: Callable[[str], tuple[Key, str] | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._node = Key("Node", "", node_name)
        self._regarding = regarding
        self._clock = clock
        self._counts: dict[int, _Count] = {}

    def tell(self, endpoints: Sequence[Endpoint]) -> None:
        """Say it of those endpoints that are not in a pause."""
        if not endpoints:
            return
        now = self._clock()
        self._counts = {
            ifindex: count
            for ifindex, count in self._counts.items()
            if now - count.since < PAUSE_SEC
        }
        heard = [endpoint for endpoint in endpoints if self._counted(endpoint.ifindex, now)]
        for endpoint in heard[:SHOWN]:
            self._tell_of(endpoint)
        more = len(heard) - SHOWN
        if more > 0:
            note = f"kpbpf's programs were removed from {more} more pods' interfaces, and put back"
            _LOG.warning("%s", note)
            self._tell(Event(self._node, REASON, ACTION, note, True, self._node.name))

    def _counted(self, ifindex: int, now: float) -> bool:
        """Count one more time; False once it was told often enough for now."""
        count = self._counts.get(ifindex, _Count(now, 0))
        self._counts[ifindex] = count._replace(times=count.times + 1)
        return count.times < TIMES

    def _tell_of(self, endpoint: Endpoint) -> None:
        again = self._counts[endpoint.ifindex].times == TIMES
        pause = f"; told again in {PAUSE_SEC / 60:.0f} minutes if it goes on" if again else ""
        _LOG.warning(
            "%s: programs had been removed from interface %d and are back%s",
            endpoint,
            endpoint.ifindex,
            pause,
        )
        key, uid = self._regarding(origin.of(endpoint.name).pod) or (self._node, self._node.name)
        note = (
            f"kpbpf's programs had been removed from interface {endpoint.ifindex}, which is the "
            "pod's, by something else on the node; they are back"
        )
        if key == self._node:
            note = f"{note} ({endpoint})"
        self._tell(Event(key, REASON, ACTION, note, True, uid))
