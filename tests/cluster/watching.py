"""Watches: what was before, what happens, bookmarks, and how a watch ends.

One thread serves one watch. Events come in the order of their versions and never twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.cluster import failures
from tests.cluster.behaviour import Behaviour
from tests.cluster.failures import Failure, invalid_options
from tests.cluster.listing import NOT_OLDER, Scope, read_number, read_version, wait_for
from tests.cluster.resources import Raw
from tests.cluster.store import Change, Store, Stored, dump
from tests.cluster.wire import Answer

HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
INITIAL_END = "k8s.io/initial-events-end"
_BATCH = 256
_LOOK_SEC = 0.5


class Options(NamedTuple):
    """What a watch asks for."""

    version: int
    bookmarks: bool
    initial: bool
    """Begin with an ADDED event for each object that is there."""
    marked: bool
    """Say with a bookmark when those are all."""
    until: float
    """The end, in seconds of time.monotonic()."""


def read_options(query: dict[str, str], behaviour: Behaviour) -> Options:
    """The options of a watch; Failure 400 or 422 for what may not be."""
    send, match = query.get("sendInitialEvents"), query.get("resourceVersionMatch", "")
    _validate(send, match, behaviour)
    version = read_version(query)
    length = read_number(query, "timeoutSeconds") or behaviour.watch_timeout_sec
    bookmarks = _is_true(query.get("allowWatchBookmarks"))
    initial = version == 0 if send is None else _is_true(send)
    marked = initial and send is not None and bookmarks
    return Options(version, bookmarks, initial, marked, time.monotonic() + length)


def serve(
    store: Store, scope: Scope, options: Options, behaviour: Behaviour, answer: Answer
) -> None:
    """Send a watch until it ends. What is wrong with its version is an ERROR event, as a rule."""
    if options.initial:
        try:
            wait_for(store, options.version, behaviour)
        except Failure as failure:
            _refuse(failure, behaviour, answer)
            return
    with store.changed:
        table = store.table(scope.resource)
        shown = store.version
        if options.initial or (options.version == 0):
            position = table.first + len(table.changes)
            present = list(table.objects.values()) if options.initial else []
        elif options.version < table.oldest:
            _refuse(failures.expired(options.version, table.oldest), behaviour, answer)
            return
        else:
            position, present = table.position(options.version), []
    answer.begin(200, HEADERS)
    _send(answer, _initial(scope, present))
    if options.marked:
        answer.write(_bookmark(scope, shown, {INITIAL_END: "true"}))
    _follow(store, scope, options, behaviour, answer, position)
    answer.end()


def error_event(failure: Failure) -> bytes:
    """The line of an ERROR event."""
    return b'{"type":"ERROR","object":' + dump(failure.status) + b"}\n"


def _follow(
    store: Store,
    scope: Scope,
    options: Options,
    behaviour: Behaviour,
    answer: Answer,
    position: int,
) -> None:
    """Send what happens behind `position`, until the time is over or the client gone."""
    table = store.table(scope.resource)
    bookmark_at = time.monotonic() + behaviour.bookmark_sec
    while (now := time.monotonic()) < options.until:
        answer.check()
        if options.bookmarks and now >= bookmark_at:
            due, bookmark_at = True, now + behaviour.bookmark_sec
        else:
            due = False
        with store.changed:
            if position == table.first + len(table.changes) and not due:
                soonest = min(options.until, bookmark_at) if options.bookmarks else options.until
                store.changed.wait(max(0.0, min(_LOOK_SEC, soonest - now)))
            version, oldest = store.version, table.oldest
            lost = position < table.first
            changes = table.changes[max(0, position - table.first) :]
        if lost:
            answer.write(error_event(failures.expired(oldest - 1, oldest)))
            return
        position += len(changes)
        _send(answer, _events(scope, changes))
        if due:
            answer.write(_bookmark(scope, version))


def _refuse(failure: Failure, behaviour: Behaviour, answer: Answer) -> None:
    if behaviour.gone_as_status:
        raise failure
    answer.begin(200, HEADERS)
    answer.write(error_event(failure))
    answer.end()


def _send(answer: Answer, lines: Iterable[bytes]) -> None:
    """Send lines, many at a time."""
    batch: list[bytes] = []
    for line in lines:
        batch.append(line)
        if len(batch) == _BATCH:
            answer.write(b"".join(batch))
            batch.clear()
    answer.write(b"".join(batch))


def _initial(scope: Scope, present: list[Stored]) -> Iterator[bytes]:
    for stored in present:
        if scope.holds(stored):
            yield b'{"type":"ADDED","object":' + stored.object(scope.resource) + b"}\n"


def _events(scope: Scope, changes: list[Change]) -> Iterator[bytes]:
    """The changes as the scope sees them: an object that leaves it is DELETED."""
    for version, old, new in changes:
        before, after = scope.holds(old), scope.holds(new)
        if after and new is not None:
            kind = b"MODIFIED" if before else b"ADDED"
            yield b'{"type":"%b","object":%b}\n' % (kind, new.object(scope.resource))
        elif before and old is not None:
            yield b'{"type":"DELETED","object":%b}\n' % old.object(scope.resource, version)


def _bookmark(scope: Scope, version: int, annotations: dict[str, str] | None = None) -> bytes:
    metadata: Raw = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    resource = scope.resource
    raw = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return b'{"type":"BOOKMARK","object":' + dump(raw | resource.zero) + b"}\n"


def _validate(send: str | None, match: str, behaviour: Behaviour) -> None:
    causes = []
    field = "resourceVersionMatch"
    if send is not None and match != NOT_OLDER:
        text = f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER}"
        causes.append((field, text))
    if send is not None and not behaviour.watch_list:
        text = (
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        )
        causes.append(("sendInitialEvents", text))
    if send is None and match:
        text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        causes.append((field, text))
    if causes:
        raise invalid_options(*causes)


def _is_true(text: str | None) -> bool:
    return text is not None and text.lower() in ("", "1", "true")
