"""Events to the API server, so that `kubectl describe` and people hear of what happened.

Telling never blocks and never fails: what cannot be posted is dropped. Repeats of one event
become a series, so a fault that lasts does not fill etcd. What is worth an event is not known here.
"""

from __future__ import annotations

import datetime
import math
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from cachetools import LRUCache

from kpbpf import log
from kpbpf.errors import Retry
from kpbpf.kube.backoff import Backoff, Rate
from kpbpf.kube.refusals import ApiBusy, ApiDown, ApiExists, ApiFailing, ApiMissing, ApiUnreachable
from kpbpf.kube.session import Session
from kpbpf.model.event import Event
from kpbpf.model.objects import Key

CONTROLLER = "kpbpf"

MAX_NOTE_BYTES = 1024
MAX_INSTANCE = 128
MAX_NAME = 253

MAX_WAITING = 256
MAX_SERIES = 1000

SERIES_SEC = 360.0
"""A repeat within so long after the last one belongs to the same series."""

SERIES_WRITE_SEC = 60.0
"""How often the count of one series is written, at most."""

EVENTS_PER_SEC, EVENT_BURST = 1.0, 25

ATTEMPTS = 4

REST_SEC = 30.0
"""After an event could not be posted, others are dropped for so long."""

_API = "/apis/events.k8s.io/v1"
_GROUPS = {
    "EndpointSlice": "discovery.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}

_LOG = log.get(__name__)


class _What(NamedTuple):
    """Events that are alike in this are one series."""

    regarding: Key
    reason: str
    action: str
    warning: bool


@dataclass(slots=True)
class _Series:
    """An event that was posted at `path`, and how often it has happened; times are Unix seconds."""

    path: str
    last: float
    count: int = 1
    written_count: int = 1
    written: float = 0.0


class Recorder:
    """Posts Events in a thread of its own; `tell` may be called from any thread.

    `reporting_instance` is the node's name.
    """

    def __init__(self, session: Session, reporting_instance: str) -> None:
        self._session = session
        self._instance = reporting_instance[:MAX_INSTANCE]
        self._rate = Rate(EVENTS_PER_SEC, EVENT_BURST)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Event, float]] = deque()
        self._series: LRUCache[_What, _Series] = LRUCache(MAX_SERIES)
        self._closing = threading.Event()
        self._rests_until = 0.0
        self._said = False
        self.dropped = 0
        """Events that nobody will ever see."""
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Post the event some time; dropped when too many wait."""
        with self._changed:
            if len(self._waiting) < MAX_WAITING and not self._closing.is_set():
                self._waiting.append((event, time.time()))
                self._changed.notify()
            else:
                self.dropped += 1

    def close(self, timeout_sec: float) -> None:
        """Post what waits, if it can be done in time, and end."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(timeout_sec)
        if self._thread.is_alive() and self._thread.ident is not None:
            self._rests_until = math.inf
            self._session.cut(self._thread.ident)
            self._thread.join(timeout_sec)

    # ---- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, SERIES_WRITE_SEC)
                found = self._waiting.popleft() if self._waiting else None
            if found is not None:
                self._take(*found)
            over = found is None and self._closing.is_set()
            self._write_counts(all_of_them=over)
            if over:
                return

    def _has_work(self) -> bool:
        return bool(self._waiting) or self._closing.is_set()

    def _take(self, event: Event, when: float) -> None:
        """Post an event, or count it where it is one of a series."""
        what = _What(event.regarding, event.reason, event.action, event.warning)
        series = self._series.get(what)
        if series is not None and when - series.last < SERIES_SEC:
            series.count, series.last = series.count + 1, when
            return
        raw = self._raw(event, when)
        path = f"{_API}/namespaces/{raw['metadata']['namespace']}/events"
        self._closing.wait(self._rate.reserve())
        if self._send("POST", path, raw, "application/json"):
            self._series[what] = _Series(f"{path}/{raw['metadata']['name']}", when)
        else:
            self.dropped += 1

    def _write_counts(self, all_of_them: bool) -> None:
        """Write how often events happened, where that has changed; forget series that ended."""
        now = time.time()
        for what, series in list(self._series.items()):
            grown = series.count > series.written_count
            if grown and (all_of_them or now - series.written >= SERIES_WRITE_SEC):
                last = {"count": series.count, "lastObservedTime": _micro_time(series.last)}
                kind = "application/merge-patch+json"
                series.written, series.written_count = now, series.count
                if not self._send("PATCH", series.path, {"series": last}, kind):
                    # Events live for an hour: it may be gone, and the next one makes a new one.
                    del self._series[what]
            elif not grown and now - series.last >= SERIES_SEC:
                del self._series[what]

    def _send(self, method: str, path: str, raw: Any, kind: str) -> bool:
        """Whether the server has taken it. What fails is tried again, not for long."""
        backoff = Backoff()
        for attempt in range(ATTEMPTS):
            if time.time() < self._rests_until:
                return False
            try:
                self._session.send(method, path, raw, kind)
            except (ApiDown, ApiFailing, ApiBusy) as error:
                if attempt + 1 == ATTEMPTS or self._closing.is_set():
                    return self._give_up(error)
                self._closing.wait(backoff.failed(0.0, error.retry_after_sec))
            except ApiMissing:
                return False
            except ApiExists:
                return True  # taken the last time, though we did not hear of it
            except Retry as error:
                return self._give_up(error)
            else:
                self._said = False
                return True
        return False

    def _give_up(self, error: Retry) -> bool:
        self._rests_until = max(self._rests_until, time.time() + REST_SEC)
        if not self._said and not isinstance(error, ApiUnreachable):  # which the session says
            self._said = True
            _LOG.warning("Events cannot be posted, and are dropped: %s", error)
        return False

    def _raw(self, event: Event, when: float) -> dict[str, Any]:
        """The Event as events.k8s.io/v1 has it."""
        about = event.regarding
        uid = event.uid or (about.name if about.kind == "Node" else "")
        regarding = {
            "apiVersion": _GROUPS.get(about.kind, "v1"),
            "kind": about.kind,
            "name": about.name,
            "namespace": about.namespace,
            "uid": uid,
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{about.name[: MAX_NAME - 17].rstrip('.-')}.{secrets.token_hex(8)}",
                "namespace": about.namespace or "default",
            },
            "eventTime": _micro_time(when),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": event.action,
            "reason": event.reason,
            "regarding": {name: value for name, value in regarding.items() if value},
            "note": event.note.encode(errors="replace")[:MAX_NOTE_BYTES].decode(errors="ignore"),
            "type": "Warning" if event.warning else "Normal",
        }


def _micro_time(seconds: float) -> str:
    """A time as MicroTime has it: microseconds, UTC."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
