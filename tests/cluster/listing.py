"""Lists: the whole, pages of one moment, and which version they may be of.

The facts are of the Kubernetes API concepts ("Resource versions", "Retrieving large results
sets in chunks"). Watches are in watching.py.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests.cluster import failures, selectors
from tests.cluster.behaviour import Behaviour
from tests.cluster.failures import bad_request, invalid_options
from tests.cluster.resources import Resource
from tests.cluster.selectors import Selector
from tests.cluster.store import Name, Store, Stored, dump

EXACT, NOT_OLDER = "Exact", "NotOlderThan"
_BATCH = 256
_INCONSISTENT = -1


class Scope(NamedTuple):
    """What a list or watch is about."""

    resource: Resource
    namespace: str
    """"": all namespaces."""
    selector: Selector

    def holds(self, stored: Stored | None) -> bool:
        """Is this an object that the request asks for?"""
        return (
            stored is not None
            and (not self.namespace or stored.name[0] == self.namespace)
            and (not self.selector or self.selector.matches(stored.labels, stored.fields))
        )


def read_scope(resource: Resource, namespace: str, query: dict[str, str]) -> Scope:
    """The scope of a request; Failure 400 for selectors that cannot be."""
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    return Scope(resource, namespace, selectors.read(labels, fields, resource))


def read_list(
    store: Store, scope: Scope, query: dict[str, str], behaviour: Behaviour
) -> Iterator[bytes]:
    """The body of a list, in parts. Failures are raised before the first part is asked for."""
    _validate(query)
    limit = read_number(query, "limit")
    asked, match = read_version(query), query.get("resourceVersionMatch", "")
    if token := query.get("continue", ""):
        if asked > 0:
            raise bad_request("specifying resource version is not allowed when using continue")
        return _page(store, scope, limit, *_read_token(token))
    if asked == 0 and query.get("resourceVersion") == "0" and not behaviour.page_limit_at_zero:
        limit = 0
    if match == EXACT or (asked and limit and not match):
        wait_for(store, asked, behaviour)
        return _page(store, scope, limit, asked, None)
    wait_for(store, asked, behaviour)
    return _page(store, scope, limit, 0, None)


def read_version(query: dict[str, str]) -> int:
    """The version that a request states; 0 for none and for "0"."""
    return read_number(query, "resourceVersion")


def read_number(query: dict[str, str], name: str) -> int:
    """A number of a query, 0 when it is not there; Failure 400 when it is none."""
    text = query.get(name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise bad_request(f'Invalid value: "{text}": {name} must be a number of at least 0')
    return int(text or "0")


def wait_for(store: Store, version: int, behaviour: Behaviour) -> None:
    """Wait until the store is as new as `version`; Failure 504 when it does not become so."""
    until = time.monotonic() + behaviour.fresh_wait_sec
    with store.changed:
        while store.version < version:
            left = until - time.monotonic()
            if left <= 0 or not store.changed.wait(left):
                raise failures.too_large(version, store.version)


def _validate(query: dict[str, str]) -> None:
    match, stated = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
    field = "resourceVersionMatch"
    if query.get("sendInitialEvents"):
        text = "sendInitialEvents is forbidden for list"
        raise invalid_options(("sendInitialEvents", text))
    if not match:
        return
    if not stated:
        text = "resourceVersionMatch is forbidden unless resourceVersion is provided"
        raise invalid_options((field, text))
    if query.get("continue"):
        raise invalid_options(
            (field, "resourceVersionMatch is forbidden when continue is provided")
        )
    if match not in (EXACT, NOT_OLDER):
        cause = ("FieldValueNotSupported", field, f'Unsupported value: "{match}"')
        raise failures.invalid("ListOptions", "meta.k8s.io", "", cause)
    if match == EXACT and stated == "0":
        text = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        raise invalid_options((field, text))


def _page(
    store: Store, scope: Scope, limit: int, version: int, after: Name | None
) -> Iterator[bytes]:
    """The objects behind `after`, as of `version` (0 or less: now), at most `limit` of them."""
    with store.changed:
        shown = version if version > 0 else store.version
        try:
            stored = store.at(scope.resource, shown)
        except failures.Failure:
            if after is None:
                raise
            raise failures.expired_page(_token(_INCONSISTENT, after)) from None
    begin = _behind(stored, after) if after else 0
    found, behind = _take(stored, begin, scope, limit)
    metadata: dict[str, str | int] = {"resourceVersion": str(shown)}
    if behind:
        metadata["continue"] = _token(shown, found[-1].name)
        if not scope.selector:
            metadata["remainingItemCount"] = behind
    return _parts(scope.resource, metadata, found)


def _take(stored: list[Stored], begin: int, scope: Scope, limit: int) -> tuple[list[Stored], int]:
    """Up to `limit` (0: all) objects of the scope, and how many keys are behind the last.

    With a selector those need not match: a last page can be empty, as with the real server.
    """
    if scope.namespace:
        stored = [one for one in stored[begin:] if one.name[0] == scope.namespace]
        begin = 0
    if not scope.selector:
        end = begin + limit if limit else len(stored)
        return stored[begin:end], max(0, len(stored) - end)
    found: list[Stored] = []
    for index in range(begin, len(stored)):
        if scope.holds(stored[index]):
            found.append(stored[index])
            if len(found) == limit:
                return found, len(stored) - index - 1
    return found, 0


def _parts(
    resource: Resource, metadata: dict[str, str | int], found: list[Stored]
) -> Iterator[bytes]:
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
    yield dump(head | {"metadata": metadata})[:-1] + b',"items":['
    for begin in range(0, len(found), _BATCH):
        joined = b",".join([one.item() for one in found[begin : begin + _BATCH]])
        yield b"," + joined if begin else joined
    yield b"]}\n"


def _behind(stored: list[Stored], after: Name) -> int:
    low, high = 0, len(stored)
    while low < high:
        middle = (low + high) // 2
        if stored[middle].name <= after:
            low = middle + 1
        else:
            high = middle
    return low


def _token(version: int, after: Name) -> str:
    start = "/".join(part for part in after if part) + "\0"
    raw = {"v": "meta.k8s.io/v1", "rv": version, "start": start}
    return base64.urlsafe_b64encode(dump(raw)).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, Name]:
    try:
        raw = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        version, start = int(raw["rv"]), str(raw["start"])
    except (binascii.Error, ValueError, TypeError, KeyError):
        raise bad_request(f"continue key is not valid: {token}") from None
    namespace, _, name = start.rstrip("\0").rpartition("/")
    return version, (namespace, name)
