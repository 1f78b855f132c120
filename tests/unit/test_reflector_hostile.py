"""Tests of objects, lines and lists that cannot be read: they harm nothing but themselves."""

from __future__ import annotations

import threading

import pytest

from kpbpf.kube.source import Unread
from tests import make
from tests.unit.following import following, key, wait_for
from tests.unit.scripted import Exchange, Scripted
from tests.unit.watches import (
    begins,
    bookmark,
    gone_by_status,
    in_turn,
    versioned,
    web,
)


def test_an_object_that_becomes_wrong_keeps_its_last_good_state_and_is_named() -> None:
    spoiled, mended, removed = threading.Event(), threading.Event(), threading.Event()
    wrong = web(8)
    wrong["spec"]["ports"][0]["port"] = 0

    def answer(exchange: Exchange) -> None:
        begins(exchange, 7, web(3), versioned(make.service("dns", ports=[]) | {"spec": 5}, 4))
        exchange.hold(spoiled)
        exchange.event("MODIFIED", wrong)
        exchange.hold(mended)
        exchange.event("MODIFIED", web(9, "10.96.0.9"))
        exchange.hold(removed)
        exchange.event("DELETED", versioned(make.service("dns") | {"spec": 5}, 10))
        exchange.hold()

    with Scripted(in_turn(answer)) as server, following(server.session()) as followed:
        followed.syncs()
        (problem,) = followed.held.problems()
        assert problem.where == "/api/v1/namespaces/default/services/dns"
        assert (problem.obj, problem.field) == ("Service default/dns", "spec")
        assert followed.held.unread() == Unread((), (key("dns"),))
        spoiled.set()
        wait_for(lambda: len(followed.held.problems()) == 2)
        assert followed.names() == ["web"]
        assert followed.held.unread().keys == (key("dns"),), "of web a good state is known"
        mended.set()
        wait_for(lambda: len(followed.held.problems()) == 1)
        removed.set()
        wait_for(lambda: not followed.held.problems())
        assert followed.told() == ["+web", "+web"]
        assert followed.held.unread() == Unread()


def test_a_line_that_cannot_be_read_lets_all_be_read_again() -> None:
    go_on = threading.Event()

    def first(exchange: Exchange) -> None:
        begins(exchange, 7, web(3))
        exchange.hold(go_on)
        exchange.raw(b'{"type":"MODIFIED","object":\n')
        exchange.hold()

    def again(exchange: Exchange) -> None:
        begins(exchange, 40, web(31, "10.96.0.31"))
        exchange.hold()

    with Scripted(in_turn(first, again)) as server, following(server.session()) as followed:
        followed.syncs()
        go_on.set()
        wait_for(lambda: followed.told() == ["+web", "+web"])
        wait_for(lambda: not followed.held.problems())


def test_with_an_unreadable_line_among_all_objects_nothing_is_taken_away() -> None:
    go_on = threading.Event()

    def first(exchange: Exchange) -> None:
        begins(exchange, 7, web(3), web(4, name="dns"))
        exchange.hold(go_on)
        exchange.end()

    def again(exchange: Exchange) -> None:
        exchange.begin()
        exchange.raw(b"[" * 100_000 + b"\n")
        exchange.event("ADDED", web(31, "10.96.0.31"))
        exchange.event("BOOKMARK", bookmark(40, end=True))
        exchange.end()

    def better(exchange: Exchange) -> None:
        begins(exchange, 50, web(31, "10.96.0.31"))
        exchange.hold()

    steps = in_turn(first, gone_by_status, again, better)
    with Scripted(steps) as server, following(server.session()) as followed:
        followed.syncs()
        go_on.set()
        wait_for(lambda: followed.told()[2:] == ["+web", "-dns"])
        assert len(server.seen) == 4
        assert not followed.held.problems()
        assert followed.held.unread() == Unread()


def test_a_list_that_cannot_be_read_is_asked_for_again_but_not_in_a_hurry() -> None:
    def answer(exchange: Exchange) -> None:
        if "sendInitialEvents" in exchange.query:
            exchange.refuse(422)
        else:
            exchange.json(b'{"items": [')

    with Scripted(answer) as server, following(server.session()) as followed:
        wait_for(lambda: followed.reflector.stats().failures >= 3)
        assert not followed.held.synced
        assert len(server.seen) < 60


HOSTILE: list[bytes] = [
    b"5\n",
    b"[]\n",
    b"null\n",
    b'{"type":{"a":1},"object":{}}\n',
    b'{"type":"ADDED"}\n',
    b'{"type":"ADDED","object":7}\n',
    b'{"type":"ADDED","object":{"kind":"Service","apiVersion":"v1","metadata":[]}}\n',
    b'{"type":"ADDED","object":{"kind":"Node","apiVersion":"v1","metadata":{"name":"n"}}}\n',
    b'{"type":"DELETED","object":{"kind":"Service"}}\n',
    b'{"type":"BOOKMARK","object":9}\n',
    b'{"type":"BOOKMARK","object":{"metadata":{"annotations":[]}}}\n',
    b'{"type":"ERROR","object":"no"}\n',
    b'{"type":"ERROR"}\n',
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line.decode().strip()[:40])
def test_a_hostile_event_does_not_end_the_watching(line: bytes) -> None:
    hurt: list[bool] = []

    def answer(exchange: Exchange) -> None:
        if exchange.query.get("resourceVersion"):
            exchange.begin()
        else:
            begins(exchange, 7, web(3))
        if not hurt:
            hurt.append(True)
            exchange.raw(line)
        exchange.event("ADDED", web(9, name="dns"))
        exchange.hold()

    with Scripted(answer) as server, following(server.session()) as followed:
        followed.waits_for("dns", "web")
        assert not followed.reflector.died
