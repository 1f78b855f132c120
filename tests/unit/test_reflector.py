"""Tests of reading all and watching, against answers that each test scripts."""

from __future__ import annotations

import threading
import time

import pytest

from kpbpf.kube.backoff import Backoff
from kpbpf.kube.held import Held
from kpbpf.kube.reflector import Reflector
from tests import make
from tests.unit.following import PATIENT, SERVICES, following, wait_for
from tests.unit.scripted import Exchange, Scripted
from tests.unit.watches import (
    Step,
    begins,
    bookmark,
    gone_by_event,
    gone_by_status,
    in_turn,
    listed,
    no_watch_list,
    page,
    web,
)

# ---- reading all --------------------------------------------------------------------------------


def test_a_watch_that_begins_with_every_object_is_asked_for_first() -> None:
    go_on = threading.Event()

    def answer(exchange: Exchange) -> None:
        begins(exchange, 7, web(3), web(4, "10.96.0.2", "dns"))
        exchange.hold(go_on)
        exchange.event("MODIFIED", web(8, "10.96.0.9"))
        exchange.hold()

    with Scripted(answer) as server, following(server.session()) as followed:
        followed.syncs()
        go_on.set()
        wait_for(lambda: followed.told()[2:] == ["+web"])
        assert followed.told() == ["+web", "+dns", "+web"]
    query = server.seen[0].query
    assert query["watch"] == "1"
    assert query["resourceVersionMatch"] == "NotOlderThan"
    assert query["allowWatchBookmarks"] == "true"
    assert 300 <= int(query["timeoutSeconds"]) <= 600
    assert "resourceVersion" not in query, "the newest state, not what some cache has"


def test_nothing_is_complete_before_the_bookmark_says_so() -> None:
    go_on = threading.Event()

    def answer(exchange: Exchange) -> None:
        exchange.begin()
        exchange.event("ADDED", web(3))
        exchange.hold(go_on)
        exchange.event("BOOKMARK", bookmark(7, end=True))
        exchange.hold()

    with Scripted(answer) as server, following(server.session()) as followed:
        followed.waits_for("web")
        assert not followed.held.synced
        go_on.set()
        followed.syncs()


@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_server_that_does_not_know_watch_list_is_read_page_by_page(status: int) -> None:
    steps = in_turn(
        lambda exchange: exchange.refuse(status),
        lambda exchange: exchange.json(page(5, web(3), more="next")),
        lambda exchange: exchange.json(page(5, web(4, name="dns"))),
    )
    with Scripted(steps) as server, following(server.session()) as followed:
        followed.syncs()
        wait_for(lambda: len(server.seen) == 4)
        assert followed.names() == ["dns", "web"]
    _, first, second, watch = (exchange.query for exchange in server.seen)
    assert (first["limit"], first.get("continue")) == ("500", None)
    assert (second["limit"], second["continue"]) == ("500", "next")
    assert watch["resourceVersion"] == "5"


@pytest.mark.parametrize("last", ["silence", "an ordinary bookmark", "the end"])
def test_a_server_that_does_not_bring_the_bookmark_is_read_page_by_page(last: str) -> None:
    def half(exchange: Exchange) -> None:
        exchange.begin()
        exchange.event("ADDED", web(3))
        if last == "an ordinary bookmark":
            exchange.event("BOOKMARK", bookmark(4))
        if last == "the end":
            exchange.end()
        else:
            exchange.hold()

    steps = in_turn(half, lambda exchange: listed(exchange, web(3)))
    silence = 0.2 if last == "silence" else 30.0
    with (
        Scripted(steps) as server,
        following(server.session(), patience=PATIENT._replace(begin=silence)) as followed,
    ):
        followed.syncs()
        wait_for(lambda: len(server.seen) == 3)
        assert server.seen[2].query["resourceVersion"] == "5"
        assert followed.told() == ["+web"], "what comes twice is told once"


def test_pages_that_expire_on_the_way_are_begun_again() -> None:
    steps = in_turn(
        no_watch_list,
        lambda exchange: exchange.json(page(5, web(3), more="next")),
        lambda exchange: exchange.refuse(410),
        lambda exchange: listed(exchange, web(3), web(6, name="dns"), version=9),
    )
    with Scripted(steps) as server, following(server.session()) as followed:
        followed.syncs()
        assert followed.told() == ["+web", "+dns"]
        wait_for(lambda: len(server.seen) == 5)
        assert "continue" not in server.seen[3].query
        assert server.seen[4].query["resourceVersion"] == "9"


def test_an_empty_list_is_complete() -> None:
    steps = in_turn(no_watch_list, lambda exchange: exchange.json(page(5) | {"items": None}))
    with Scripted(steps) as server, following(server.session()) as followed:
        followed.syncs()
        assert followed.names() == []


# ---- going on -----------------------------------------------------------------------------------


def test_a_dropped_watch_goes_on_at_the_last_version_it_saw() -> None:
    def first(exchange: Exchange) -> None:
        begins(exchange, 7, web(3))
        exchange.event("MODIFIED", web(8, "10.96.0.8"))
        exchange.event("BOOKMARK", bookmark(12))
        exchange.drop()

    def second(exchange: Exchange) -> None:
        exchange.begin()
        exchange.event("DELETED", web(13))
        exchange.end()

    with Scripted(in_turn(first, second)) as server, following(server.session()) as followed:
        followed.syncs()
        wait_for(lambda: len(server.seen) == 3)
        assert [one.query.get("resourceVersion") for one in server.seen] == [None, "12", "13"]
        assert followed.told() in (["+web", "+web", "-web"], ["+web", "-web"])


def test_an_event_without_a_version_leaves_the_version_as_it_was() -> None:
    def first(exchange: Exchange) -> None:
        begins(exchange, 7)
        exchange.event("ADDED", make.service("web"))
        exchange.end()

    with Scripted(in_turn(first)) as server, following(server.session()) as followed:
        followed.waits_for("web")
        wait_for(lambda: len(server.seen) == 2)
        assert server.seen[1].query["resourceVersion"] == "7"


@pytest.mark.parametrize("gone", [gone_by_status, gone_by_event])
def test_after_compaction_all_is_read_again_and_only_differences_are_told(gone: Step) -> None:
    go_on = threading.Event()

    def first(exchange: Exchange) -> None:
        begins(exchange, 7, web(1), web(2, name="old"), web(3, name="same"))
        exchange.hold(go_on)
        exchange.end()

    def again(exchange: Exchange) -> None:
        begins(exchange, 40, web(31, "10.96.0.31"), web(3, name="same"), web(32, name="new"))
        exchange.hold()

    with Scripted(in_turn(first, gone, again)) as server, following(server.session()) as followed:
        followed.syncs()
        go_on.set()
        followed.waits_for("new", "same", "web")
        assert sorted(followed.told()[:3]) == ["+old", "+same", "+web"]
        assert sorted(followed.told()[3:]) == ["+new", "+web", "-old"]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": "ok"},
        {**page(50), "kind": "PodList"},
        {**page(50), "metadata": {}},
        {**page(50), "items": "none"},
    ],
    ids=["nothing", "of a proxy", "other objects", "no version", "no list"],
)
def test_an_answer_that_is_no_list_takes_nothing_away(answer: make.Raw) -> None:
    go_on = threading.Event()

    def first(exchange: Exchange) -> None:
        listed(exchange, web(1), web(2, name="other"))

    def no_list(exchange: Exchange) -> None:
        exchange.json(answer)

    def at_last(exchange: Exchange) -> None:
        exchange.hold(go_on)
        listed(exchange, web(1), version=60)

    steps = in_turn(no_watch_list, first, gone_by_status, no_list, at_last)
    with Scripted(steps) as server, following(server.session()) as followed:
        followed.syncs()
        wait_for(lambda: len(server.seen) == 5)
        followed.waits_for("other", "web")
        assert sorted(followed.told()) == ["+other", "+web"]
        go_on.set()
        followed.waits_for("web")
        assert followed.told()[2:] == ["-other"]


def test_a_silent_watch_is_begun_again_where_it_was() -> None:
    def silent(exchange: Exchange) -> None:
        begins(exchange, 7, web(3))
        exchange.hold()

    with (
        Scripted(in_turn(silent)) as server,
        following(server.session(), patience=PATIENT._replace(watch=0.2)) as followed,
    ):
        followed.syncs()
        wait_for(lambda: len(server.seen) >= 2)
        assert server.seen[1].query["resourceVersion"] == "7"
        assert followed.told() == ["+web"]


def test_bookmarks_keep_a_watch_alive() -> None:
    def slow(exchange: Exchange) -> None:
        begins(exchange, 7)
        for version in range(8, 14):
            exchange.event("BOOKMARK", bookmark(version))
            time.sleep(0.1)
        exchange.event("ADDED", web(20))
        exchange.hold()

    with (
        Scripted(in_turn(slow)) as server,
        following(server.session(), patience=PATIENT._replace(watch=0.4)) as followed,
    ):
        followed.waits_for("web")
        assert len(server.seen) == 1


# ---- back-off and end ---------------------------------------------------------------------------


def test_a_server_that_closes_every_watch_at_once_sees_few_requests() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin()
        if "sendInitialEvents" in exchange.query:
            exchange.event("BOOKMARK", bookmark(7, end=True))
        exchange.end()

    with Scripted(answer) as server:
        session = server.session()
        reflector = Reflector(session, SERVICES, Held(lambda: None), Backoff(first_sec=0.2))
        reflector.start()
        time.sleep(2.0)
        reflector.stop()
        assert reflector.join(5.0)
        session.close()
    # 0.1 + 0.2 + 0.4 + 0.8 s at the least.
    assert 2 <= len(server.seen) <= 6


def test_retry_after_is_obeyed() -> None:
    moments: list[float] = []

    def answer(exchange: Exchange) -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            exchange.refuse(429, "too many requests", Retry_After="1")
        else:
            begins(exchange, 7, web(3))
            exchange.hold()

    with Scripted(answer) as server, following(server.session()) as followed:
        followed.syncs()
    assert moments[1] - moments[0] >= 1.0
    assert len(server.seen) == 2


@pytest.mark.parametrize("where", ["before the answer", "in the body"])
def test_the_end_comes_at_once_also_in_the_middle_of_a_read(where: str) -> None:
    def answer(exchange: Exchange) -> None:
        if where == "in the body":
            begins(exchange, 7)
        exchange.hold()

    with Scripted(answer) as server, following(server.session()) as followed:
        wait_for(lambda: server.seen)
        if where == "in the body":
            followed.syncs()
        followed.reflector.stop()
        assert followed.reflector.join(1.0)


def test_a_reflector_that_died_of_a_bug_is_known_and_asks_for_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kpbpf.kube.reflector.AFTER_BUG_SEC", 0.01)
    monkeypatch.setattr("threading.excepthook", lambda _args: None)
    woken = threading.Event()

    class Broken(Held):
        def put(self, *_args: object) -> None:
            raise ZeroDivisionError

    def answer(exchange: Exchange) -> None:
        begins(exchange, 7, web(3))

    with Scripted(answer) as server:
        session = server.session()
        reflector = Reflector(session, SERVICES, Broken(woken.set))
        reflector.start()
        assert woken.wait(20.0)
        wait_for(lambda: reflector.died)
        reflector.stop()
        assert not reflector.died, "it is to be at its end"
        session.close()
