"""How the daemon is: what /healthz, /livez and /readyz answer (SEMANTICS A53).

Holds what it is told, and judges it by the clock; reads and writes nothing else. The two clocks
are given, so tests need not wait.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from kpbpf.model.objects import Node
from kpbpf.web import JSON, Answer, Request, text

FAMILIES = ("IPv4", "IPv6")

Part = Literal["sources", "programs", "maps"]
"""What must have been done once before a node is ready: everything read, loaded, written."""

NOSNIFF = (("X-Content-Type-Options", "nosniff"),)
"""What kube-proxy adds to such answers, so that no browser takes them for something else."""


class Health:
    """The health of one daemon.

    Something is *queued* when a source has news, *taken* when the loop begins to write it, and
    done when it is *written*. Healthy is who has nothing waiting for `2 * sync_period_sec`; while
    not everything was read, that is nobody's fault, and nothing counts as waiting (kube-proxy
    queues nothing before its informers have synced). `needs_node`: without a Node object of its
    own, this node is not to get traffic from outside. `queued` and the answers are for any thread.
    """

    def __init__(
        self,
        sync_period_sec: float,
        needs_node: bool,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.late_sec = 2 * sync_period_sec
        self.healthz_codes: Counter[int] = Counter({200: 0, 503: 0})
        """How often each was answered."""
        self.livez_codes: Counter[int] = Counter({200: 0, 503: 0})
        self._needs_node = needs_node
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._node: Node | None = None
        self._awaited: dict[Part, Sequence[str]] = {
            "sources": ("the first reading",),
            "programs": ("the loader",),
            "maps": ("the first writing",),
        }
        # All by `clock`; None: nothing, or not yet.
        self._all_read: float | None = None
        self._queued: float | None = None
        self._taken: float | None = None
        self._pending: float | None = None
        self._last_updated = wall()

    # ---- what it is told ------------------------------------------------------------------

    def queued(self) -> None:
        """Take note that a source has news; from any thread."""
        with self._lock:
            if self._queued is None:
                self._queued = self._clock()

    def taken(self) -> None:
        """Take note that the loop takes up what was queued; what fails stays taken."""
        with self._lock:
            self._taken = _earliest(self._taken, self._queued)
            self._queued = None

    def written(self, oldest_pending: float = 0.0) -> None:
        """Take note that what was taken is in the maps, but for what waits since `oldest_pending`.

        That is ServicesController.status().oldest_pending, by the same clock; 0.0: nothing waits.
        """
        with self._lock:
            self._taken = None
            self._pending = oldest_pending or None
            if self._pending is None:
                self._awaited["maps"] = ()
                self._last_updated = self._wall()

    def awaits(self, part: Part, names: Sequence[str] = ()) -> None:
        """Take note of what must still come before the part is done; nothing: it is."""
        with self._lock:
            self._awaited[part] = tuple(names)
            if part == "sources" and not names and self._all_read is None:
                self._all_read = self._clock()

    def node(self, node: Node | None) -> None:
        """Take note of this node's own object; None: there is none."""
        with self._lock:
            self._node = node

    # ---- what it answers ------------------------------------------------------------------

    def healthy(self) -> bool:
        """Tell whether what changes is written in time, whatever the node is about to do."""
        with self._lock:
            return self._healthy()

    def waiting(self) -> bool:
        """Tell whether something is to be written."""
        with self._lock:
            return _earliest(self._queued, self._taken, self._pending) is not None

    def healthz(self, _: Request | None = None) -> Answer:
        """Whether load balancers should send traffic to this node."""
        with self._lock:
            eligible = self._eligible()
            return self._answer(self.healthz_codes, eligible, {"nodeEligible": eligible})

    def livez(self, _: Request | None = None) -> Answer:
        """Whether the daemon should go on living; a node that is drained is no reason to die."""
        with self._lock:
            return self._answer(self.livez_codes, True, {})

    def readyz(self, request: Request | None = None) -> Answer:
        """Whether everything was read, loaded and written once; ?verbose names the parts done."""
        with self._lock:
            parts = dict(self._awaited)
        verbose = request is not None and "verbose" in request.query
        ready = not any(parts.values())
        lines = [
            f"{part}: awaited: {', '.join(names)}" if names else f"{part}: ok"
            for part, names in parts.items()
            if names or verbose
        ]
        return text(200 if ready else 503, "\n".join([*lines, "ok" if ready else "not ready"]))

    # ---- inside: the caller holds the lock -----------------------------------------------

    def _answer(self, codes: Counter[int], eligible: bool, more: dict[str, bool]) -> Answer:
        """Answer in kube-proxy's form: the same keys in the same order, times as Go has them."""
        healthy = self._healthy()
        code = 200 if healthy and eligible else 503
        codes[code] += 1
        now, updated = _time(self._wall()), _time(self._last_updated)
        body: dict[str, Any] = {
            # Of a healthy one it is always recent: probes of old releases looked at its age.
            "lastUpdated": now if code == 200 else updated,
            "currentTime": now,
            **more,
            "healthy": healthy,
            # One sync of ours writes both families.
            "status": {one: {"lastUpdated": updated, "healthy": healthy} for one in FAMILIES},
        }
        return Answer(code, json.dumps(body, separators=(",", ":")).encode(), JSON, NOSNIFF)

    def _healthy(self) -> bool:
        if self._all_read is None:
            return True
        first = self._all_read if self._awaited["maps"] else None
        waiting = _earliest(self._queued, self._taken, self._pending, first)
        return waiting is None or self._clock() - max(waiting, self._all_read) < self.late_sec

    def _eligible(self) -> bool:
        if self._node is None:
            return self._all_read is None or not self._needs_node
        return not self._node.deleting and not self._node.leaving


def _earliest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _time(seconds: float) -> str:
    """Write a time as Go puts it into JSON: RFC 3339, the fraction without trailing zeros."""
    at = datetime.fromtimestamp(seconds, UTC)
    fraction = f".{at.microsecond:06}".rstrip("0").rstrip(".")
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}Z"
