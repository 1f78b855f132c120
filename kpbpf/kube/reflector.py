"""One resource of the API server, kept in step: read all, then watch, and begin again on a break.

Reads all by a watch that begins with every object (KEP-3157, watch-list), or page by page where
the server does not know that. What comes is parsed at once (intake.py) and its text is dropped.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from kpbpf import log
from kpbpf.errors import Retry
from kpbpf.kube import refusals
from kpbpf.kube.backoff import Backoff
from kpbpf.kube.fields import BadObject, shown
from kpbpf.kube.held import Held
from kpbpf.kube.intake import Intake, Resource, version_of
from kpbpf.kube.refusals import (
    ApiDown,
    ApiError,
    ApiGone,
    ApiInvalid,
    ApiMissing,
    ApiSilent,
    ApiUnreachable,
    Garbled,
)
from kpbpf.kube.session import Reply, Session
from kpbpf.kube.stream import BadLine, value_of, values

PAGE = 500

WATCH_SEC = (300, 600)
"""A watch ends after a time between these, so that nodes do not come back all at once."""


class Patience(NamedTuple):
    """How many seconds nothing may come before a request is taken for broken; and one more."""

    watch: float = 90.0
    """Servers send a bookmark each minute or so; one that sends none costs a request each 90 s."""
    begin: float = 10.0
    """In a watch that begins with every object, until they all are here. Servers that do not know
    of it, and do not say so, send the objects and then wait in silence."""
    page: float = 60.0
    hole: float = 30.0
    """How long a watch is followed that began with something unreadable, before all is read again;
    twice as long each time it was for nothing."""


BROKEN_BEGINS = 3
"""After so many such watches in a row that broke, pages are read."""

GLANCE_SEC = 0.25
"""How often somebody who waits looks whether the server is back."""

AFTER_MISSING_SEC = 300.0
"""A server without an optional resource is asked again after so long: it may be upgraded."""

AFTER_BUG_SEC = 30.0
"""A thread that died of a bug is begun again after so long."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"

_LOG = log.get(__name__)


class ReflectorStats(NamedTuple):
    """How a reflector is doing."""

    resource: str
    synced: bool
    objects: int
    lists: int
    """How often everything was read."""
    watches: int
    failures: int
    last_heard: float
    """When something last came from the server, in seconds of the Unix epoch; 0.0: never."""


class Reflector:
    """Keeps `held` in step with one resource, in a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        session: Session,
        resource: Resource,
        held: Held,
        backoff: Backoff | None = None,
        patience: Patience = Patience(),  # noqa: B008 (a constant)
    ) -> None:
        self.resource = resource
        self.held = held
        self._session = session
        self._intake = Intake(resource, held)
        self._backoff = backoff or Backoff()
        self._patience = patience
        self._stopping = threading.Event()
        self._forget = False
        self._after: Reflector | None = None
        # Who waits for a name server cannot be cut off; the process need not wait for that.
        self._thread = threading.Thread(target=self._run, name=f"read {resource.name}", daemon=True)
        self._version = ""
        """Where a watch goes on; "" when everything has to be read first."""
        self._watch_list = True
        self._broken_begins = 0
        self._doubt_sec = patience.hole
        self._reply: Reply | None = None
        self._said: type[Retry] | None = None
        self._lists = self._watches = self._failures = 0
        self._last_heard = 0.0

    def start(self, after: Reflector | None = None) -> None:
        """Begin; of two that keep the same `held`, the later one waits for the earlier's end."""
        self._after = after
        self._thread.start()

    def stop(self, forget: bool = False) -> None:
        """Ask for the end; `join` waits for it. With `forget`, nothing is held from then on."""
        self._forget = forget
        self._stopping.set()
        self._cut()

    def join(self, timeout_sec: float) -> bool:
        """Wait for the end, after `stop`; whether it came in time."""
        deadline = time.monotonic() + timeout_sec
        while self._thread.is_alive() and time.monotonic() < deadline:
            # It may have begun a request between the look at the flag and the cut.
            self._thread.join(0.05)
            self._cut()
        return not self._thread.is_alive()

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._stopping.is_set()

    @property
    def died(self) -> bool:
        """Whether it ended without having been asked to: a bug of ours."""
        started = self._thread.ident is not None
        return started and not self._thread.is_alive() and not self._stopping.is_set()

    def stats(self) -> ReflectorStats:
        """How it is doing. Any thread."""
        return ReflectorStats(
            self.resource.name,
            self.held.synced,
            len(self.held),
            self._lists,
            self._watches,
            self._failures,
            self._last_heard,
        )

    # ---- the loop -----------------------------------------------------------------------

    def _run(self) -> None:
        if self._after is not None:
            self._after.join(float("inf"))
            self._after = None
        try:
            while not self._stopping.is_set():
                self._rest(self._attempt())
        finally:
            if self._forget:
                self.held.complete(())
            elif not self._stopping.wait(AFTER_BUG_SEC):
                self.held.wake()

    def _rest(self, seconds: float) -> None:
        """Wait; but not on when a server that was away has answered another one's request."""
        end, returns = time.monotonic() + seconds, self._session.returns
        while (left := end - time.monotonic()) > 0 and self._session.returns == returns:
            if self._stopping.wait(min(left, GLANCE_SEC)):
                return

    def _cut(self) -> None:
        if self._thread.ident is not None:
            self._session.cut(self._thread.ident)

    def _attempt(self) -> float:
        """Read all, or watch until the stream ends; seconds to wait before the next attempt."""
        try:
            if self._read():
                return 0.0
        except ApiGone as gone:
            self._version = ""
            return self._failed(gone)
        except Retry as error:
            return self._failed(error)
        finally:
            self._close()
        return self._backoff.ended(self._worked())

    def _read(self) -> bool:
        """Whether the next thing to do should be done at once."""
        if self._version:
            self._follow(self._open(self._patience.watch, resourceVersion=self._version))
            return False
        if self._watch_list and self._broken_begins < BROKEN_BEGINS:
            self._watch_from_begin()
            return not self._watch_list
        self._read_pages()
        return True

    def _close(self) -> None:
        if self._reply is not None:
            self._reply.close()

    def _worked(self) -> float:
        """Seconds since the server let us watch; 0.0 when it did not."""
        return time.monotonic() - self._reply.opened if self._reply else 0.0

    def _failed(self, error: Retry) -> float:
        """Count it, say it once; seconds to wait."""
        if self._stopping.is_set():
            return 0.0
        self._failures += 1
        if self.resource.optional and isinstance(error, ApiMissing) and not self._lists:
            return self._go_without()
        after = error.retry_after_sec if isinstance(error, ApiError) else 0.0
        delay = self._backoff.failed(self._worked(), after)
        # A watch that breaks after minutes is daily business: it goes on where it was.
        daily = isinstance(error, ApiDown) and self._version and self._backoff.failures == 1
        known = isinstance(error, ApiUnreachable)  # the session has said so
        if type(error) is not self._said and not daily and not known:
            self._said = type(error)
            _LOG.warning("%s: %s; trying again", self.resource.name, error)
        return delay

    def _go_without(self) -> float:
        """The server is an older one: that is all there is to read; seconds to wait."""
        if self._said is not ApiMissing:
            self._said = ApiMissing
            _LOG.info("%s: %s does not have them", self.resource.name, self._session.server)
        self._last_heard = time.time()
        self.held.read_once()
        return AFTER_MISSING_SEC * (1.0 + random.random() / 10)

    def _heard(self) -> None:
        self._last_heard = time.time()
        if self._said is not None:
            self._said = None
            _LOG.info("%s: %s answers again", self.resource.name, self._session.server)

    # ---- reading all ----------------------------------------------------------------------

    def _watch_from_begin(self) -> None:
        """A watch that begins with every object; where that does not work, pages from now on."""
        began = time.monotonic()
        events: Iterator[Any] = iter(())
        bookmark = None
        try:
            events = self._open(
                self._patience.begin,
                resourceVersionMatch="NotOlderThan",
                sendInitialEvents="true",
            )
            self._broken_begins += 1
            self._intake.begin()
            bookmark = next(filter(None, map(self._event, events)), None)
        except (ApiInvalid, ApiSilent) as error:
            _LOG.debug("%s: %s", self.resource.name, error)
        finally:
            # Initial events come in no order: there is no going on within them.
            self._version = ""
        if not _is_end(bookmark):
            self._watch_list = False
            _LOG.info("%s: watch-list does not work here, pages are read", self.resource.name)
            return
        self._broken_begins = 0
        self._version = version_of(bookmark)
        self._read_all(began)
        silence = self._patience.watch
        self._session.wait_at_most(silence if self._intake.whole else min(silence, self._doubt_sec))
        self._follow(events)

    def _read_pages(self) -> None:
        """Every object, page by page."""
        began = time.monotonic()
        self._reply = None
        self._intake.begin()
        more, version = "", ""
        while not self._stopping.is_set():
            query = {"limit": str(PAGE)} | ({"continue": more} if more else {})
            page = self._page(self.resource.query(**query), follow_up=bool(more))
            self._heard()
            for raw in page.get("items") or ():
                if isinstance(raw, dict):
                    # The items of a list do not say what they are: the list does.
                    raw.setdefault("apiVersion", self.resource.api_version)
                    raw.setdefault("kind", self.resource.kind)
                self._intake.take(raw)
            version = version_of(page)
            more = page["metadata"].get("continue")
            if not isinstance(more, str) or not more:
                break
        else:
            return
        self._version, self._broken_begins = version, 0
        self._read_all(began)

    def _page(self, query: dict[str, str], follow_up: bool) -> dict[str, Any]:
        path = self.resource.path
        with self._session.get(path, query, self._patience.page, follow_up) as reply:
            page = value_of(reply.body())
        if isinstance(page, BadLine):
            raise Garbled(f"{path}: expected a list as JSON, got {page.reason}")
        # What is not in a list is gone: no other answer, such as a proxy's, may pass for one.
        kind = f"{self.resource.kind}List"
        is_list = isinstance(page, dict) and page.get("kind") == kind and version_of(page)
        if not is_list or not isinstance(page.get("items") or [], list):
            raise Garbled(f"{path}: expected a {kind} with its resourceVersion, got {shown(page)}")
        return cast("dict[str, Any]", page)

    def _read_all(self, began: float) -> None:
        self._lists += 1
        self._intake.complete()
        if self._intake.whole:
            self._doubt_sec = self._patience.hole
        _LOG.info(
            "%s: %d read in %.2f s",
            self.resource.name,
            len(self.held),
            time.monotonic() - began,
        )

    # ---- watching -------------------------------------------------------------------------

    def _open(self, silence_sec: float, **query: str) -> Iterator[Any]:
        """Begin a watch: its events as they come."""
        watch_sec = str(random.randint(*WATCH_SEC))
        query |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": watch_sec}
        path = self.resource.path
        self._reply = None
        self._reply = self._session.get(path, self.resource.query(**query), silence_sec)
        self._watches += 1
        return values(self._reply.read)

    def _follow(self, events: Iterator[Any]) -> None:
        """Take up events until the stream ends, or all has to be read again."""
        try:
            for value in events:
                self._event(value)
                if not self._intake.whole and self._worked() > self._doubt_sec:
                    self._doubt_sec = min(2 * self._doubt_sec, WATCH_SEC[1])
                    return
        finally:
            if not self._intake.whole:
                self._version = ""

    def _event(self, value: Any) -> Any:
        """Take up one event; the object of a bookmark."""
        what = value.get("type") if isinstance(value, dict) else None
        raw = value["object"] if what and "object" in value else None
        if what in ("ADDED", "MODIFIED"):
            self._intake.take(raw)
        elif what == "DELETED":
            self._intake.drop(raw)
        elif what == "ERROR":
            status = raw if isinstance(raw, dict) else {}
            raise refusals.of_status(self._session.server, self.resource.path, status)
        elif what != "BOOKMARK":
            self._missed(value)
        self._version = version_of(raw) or self._version
        self._heard()
        return raw if what == "BOOKMARK" else None

    def _missed(self, value: Any) -> None:
        """An event that cannot be read is one that was missed: everything has to be read again."""
        got = value.reason if isinstance(value, BadLine) else shown(value)
        self._intake.hole(BadObject("", "an event of a watch in each line", got))
        if not self._intake.reading_all:
            raise Garbled(f"{self.resource.path}: expected an event in each line, got {got}")


def _is_end(bookmark: Any) -> bool:
    """Whether a bookmark says that all initial objects have come."""
    metadata = bookmark.get("metadata") if isinstance(bookmark, dict) else None
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and annotations.get(INITIAL_EVENTS_END) == "true"
