"""Answers of an API server to lists and watches, for tests that script them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kpbpf.kube.reflector import INITIAL_EVENTS_END
from tests import make
from tests.unit.scripted import Exchange

Raw = dict[str, Any]
Step = Callable[[Exchange], None]


def versioned(raw: Raw, version: int | str) -> Raw:
    """The object at a version."""
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(version)}}


def web(version: int, ip: str = "10.96.0.1", name: str = "web") -> Raw:
    return versioned(make.service(name, ip), version)


def bookmark(version: int, end: bool = False) -> Raw:
    notes = {"annotations": {INITIAL_EVENTS_END: "true"}} if end else {}
    metadata = {"resourceVersion": str(version), **notes}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata}


def page(version: int | str, *items: Raw, more: str = "") -> Raw:
    """A page of a list; its items do not say what they are."""
    bare = [{k: v for k, v in raw.items() if k not in ("kind", "apiVersion")} for raw in items]
    metadata = {"resourceVersion": str(version), "continue": more}
    return {"kind": "ServiceList", "apiVersion": "v1", "metadata": metadata, "items": bare}


def begins(exchange: Exchange, version: int, *raws: Raw) -> None:
    """The begin of a watch-list, up to its bookmark."""
    assert exchange.query["sendInitialEvents"] == "true"
    exchange.begin()
    for raw in raws:
        exchange.event("ADDED", raw)
    exchange.event("BOOKMARK", bookmark(version, end=True))


def in_turn(*steps: Step) -> Step:
    """Answers requests with one step after the other; after the last one, with silence."""
    left = list(steps)

    def answer(exchange: Exchange) -> None:
        if left:
            left.pop(0)(exchange)
        else:
            exchange.hold()

    return answer


def listed(exchange: Exchange, *raws: Raw, version: int = 5) -> None:
    """A whole list."""
    assert "watch" not in exchange.query
    exchange.json(page(version, *raws))


def no_watch_list(exchange: Exchange) -> None:
    assert "sendInitialEvents" in exchange.query
    exchange.refuse(422, "sendInitialEvents is forbidden")


def gone_by_status(exchange: Exchange) -> None:
    exchange.refuse(410)


def gone_by_event(exchange: Exchange) -> None:
    exchange.begin()
    exchange.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
    exchange.hold()
