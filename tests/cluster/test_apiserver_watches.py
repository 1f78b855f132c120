"""Watches of the API server double: what comes, in which order, and how they end."""

from __future__ import annotations

import threading
import time

import pytest

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.plain import PODS, SERVICES, SLICES, WATCH_LIST, Plain
from tests.cluster.watching import INITIAL_END


def test_a_watch_shows_what_happens_after_its_version(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("old"))
    version = server.store.put(make.service("older"))
    server.store.put(make.service("a"))
    with plain.watch(SERVICES, resourceVersion=version) as stream:
        server.store.put(make.service("a", ip="10.96.0.11"))
        server.store.delete(make.service("a"))
        server.store.put(make.service("b"))
        events = [stream.next() for _ in range(4)]
    shown = [(e["type"], e["object"]["metadata"]["name"]) for e in events]
    assert shown == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b")]
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events]
    assert versions == [version + 1, version + 2, version + 3, version + 4]
    assert events[2]["object"]["spec"]["clusterIP"] == "10.96.0.11"
    assert all(
        (e["object"]["kind"], e["object"]["apiVersion"]) == ("Service", "v1") for e in events
    )


@pytest.mark.parametrize("query", [{}, {"resourceVersion": ""}, {"resourceVersion": "0"}])
def test_a_watch_without_a_version_begins_with_what_is_there(
    server: ApiServer, plain: Plain, query: dict[str, str]
) -> None:
    server.store.bulk([make.service("a"), make.service("b")])
    with plain.watch(SERVICES, **query) as stream:
        assert sorted(stream.take(2)) == [("ADDED", "a"), ("ADDED", "b")]
        server.store.put(make.service("c"))
        assert stream.take(1) == [("ADDED", "c")]


def test_a_watch_list_marks_the_end_of_what_was_there(server: ApiServer, plain: Plain) -> None:
    version = server.store.bulk([make.service("a"), make.service("b")])
    with plain.watch(SERVICES, **WATCH_LIST) as stream:
        assert sorted(stream.take(2)) == [("ADDED", "a"), ("ADDED", "b")]
        mark = stream.next()
        server.store.put(make.service("c"))
        assert stream.take(1) == [("ADDED", "c")]
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["kind"] == "Service"
    assert mark["object"]["metadata"]["annotations"] == {INITIAL_END: "true"}
    assert mark["object"]["metadata"]["resourceVersion"] == str(version)


def test_a_watch_list_of_nothing_is_only_the_mark(plain: Plain) -> None:
    with plain.watch(SLICES, **WATCH_LIST) as stream:
        event = stream.next()
    assert event["object"]["metadata"]["annotations"] == {INITIAL_END: "true"}
    assert event["object"]["kind"] == "EndpointSlice"


def test_a_watch_list_without_bookmarks_has_no_mark(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("a"))
    query = WATCH_LIST | {"allowWatchBookmarks": "false", "timeoutSeconds": "1"}
    with plain.watch(SERVICES, **query) as stream:
        assert [event["type"] for event in stream.rest()] == ["ADDED"]


def test_a_watch_can_ask_for_no_initial_events(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("a"))
    with plain.watch(SERVICES, **WATCH_LIST | {"sendInitialEvents": "false"}) as stream:
        server.store.put(make.service("b"))
        assert stream.take(1) == [("ADDED", "b")]


def test_an_older_server_refuses_the_watch_list(server: ApiServer, plain: Plain) -> None:
    server.behaviour.watch_list = False
    answer = plain.get(SERVICES, **WATCH_LIST)
    assert (answer.code, answer.raw["reason"]) == (422, "Invalid")
    assert (
        "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        in answer.raw["message"]
    )
    (cause,) = answer.raw["details"]["causes"]
    assert (cause["field"], cause["reason"]) == ("sendInitialEvents", "FieldValueForbidden")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"resourceVersionMatch": "NotOlderThan"}, "unless sendInitialEvents is provided"),
        ({"sendInitialEvents": "true"}, "requires setting resourceVersionMatch"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    plain: Plain, query: dict[str, str], told: str
) -> None:
    answer = plain.get(SERVICES, watch="1", **query)
    assert (answer.code, answer.raw["kind"]) == (422, "Status")
    assert told in answer.raw["message"]


def test_a_watch_from_a_forgotten_version_is_gone(server: ApiServer, plain: Plain) -> None:
    version = server.store.put(make.service("a"))
    server.store.compact()
    with plain.watch(SERVICES, resourceVersion=version) as stream:
        assert stream.answer.status == 200
        (event,) = stream.rest()
    status = event["object"]
    assert event["type"] == "ERROR"
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    server.behaviour.gone_as_status = True
    answer = plain.get(SERVICES, watch="1", resourceVersion=version)
    assert (answer.code, answer.raw["code"], answer.raw["reason"]) == (410, 410, "Expired")


def test_a_watch_of_the_present_survives_a_compaction(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("a"))
    with plain.watch(SERVICES) as stream:
        stream.take(1)
        server.store.compact()
        server.store.put(make.service("b"))
        assert stream.take(1) == [("ADDED", "b")]


def test_a_watch_list_of_a_version_to_come_is_too_large(server: ApiServer, plain: Plain) -> None:
    version = server.store.put(make.service("a"))
    with plain.watch(SERVICES, **WATCH_LIST, resourceVersion=version + 9) as stream:
        (event,) = stream.rest()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 504)
    assert event["object"]["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_bookmarks_tell_how_far_the_store_is(server: ApiServer, plain: Plain) -> None:
    server.behaviour.bookmark_sec = 0.1
    version = server.store.put(make.service("a"))
    with plain.watch(SERVICES, resourceVersion=version, allowWatchBookmarks="true") as stream:
        other = server.store.put(make.node())
        while int((event := stream.next())["object"]["metadata"]["resourceVersion"]) < other:
            assert event["type"] == "BOOKMARK"
        assert event["type"] == "BOOKMARK"
        assert "annotations" not in event["object"]["metadata"]
    with plain.watch(SERVICES, resourceVersion=version, timeoutSeconds=1) as stream:
        assert stream.rest() == []


def test_no_event_follows_a_bookmark_that_covers_it(server: ApiServer, plain: Plain) -> None:
    server.behaviour.bookmark_sec = 0.0005
    version = server.store.put(make.service("s"))
    writer = threading.Thread(
        target=lambda: [server.store.put(make.service("s", ip=f"10.96.1.{n}")) for n in range(250)]
    )
    with plain.watch(SERVICES, resourceVersion=version, allowWatchBookmarks="true") as stream:
        writer.start()
        seen, told = 0, version
        while seen < 250:
            event = stream.next()
            now = int(event["object"]["metadata"]["resourceVersion"])
            if event["type"] == "BOOKMARK":
                assert now >= told
            else:
                assert now > told
                seen += 1
            told = now
    writer.join()


def test_a_watch_ends_cleanly_when_its_time_is_over(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("a"))
    begin = time.monotonic()
    with plain.watch(SERVICES, timeoutSeconds=1) as stream:
        assert len(stream.rest()) == 1
        assert stream.answer.isclosed()
    assert time.monotonic() - begin >= 1
    server.behaviour.watch_timeout_sec = 0.1
    with plain.watch(SERVICES) as stream:
        assert len(stream.rest()) == 1


def test_a_watch_is_chunked_json_one_event_a_line(server: ApiServer, plain: Plain) -> None:
    server.store.put(make.service("a"))
    with plain.watch(SERVICES, timeoutSeconds=1) as stream:
        assert stream.answer.headers["Transfer-Encoding"] == "chunked"
        assert stream.answer.headers["Content-Type"] == "application/json"
        assert stream.line().endswith(b"}}\n")


def test_what_ceases_to_match_is_deleted_and_what_begins_to_is_added(
    server: ApiServer, plain: Plain
) -> None:
    query = {"labelSelector": "!service.kubernetes.io/service-proxy-name"}
    foreign = {"service.kubernetes.io/service-proxy-name": "other"}
    server.store.put(make.service("a", labels=foreign))
    version = server.store.put(make.service("b"))
    with plain.watch(SERVICES, resourceVersion=version, **query) as stream:
        server.store.put(make.service("a", labels=foreign, ip="10.96.0.77"))
        server.store.put(make.service("a"))
        leaves = server.store.put(make.service("b", labels=foreign))
        server.store.delete(make.service("b"))
        server.store.put(make.service("c"))
        added, deleted, last = (stream.next() for _ in range(3))
    assert (added["type"], added["object"]["metadata"]["name"]) == ("ADDED", "a")
    assert (deleted["type"], deleted["object"]["metadata"]["name"]) == ("DELETED", "b")
    assert deleted["object"]["metadata"]["labels"] == {}, "as it was when it still matched"
    assert deleted["object"]["metadata"]["resourceVersion"] == str(leaves)
    assert (last["type"], last["object"]["metadata"]["name"]) == ("ADDED", "c")


def test_fields_select_in_watches_too(server: ApiServer, plain: Plain) -> None:
    version = server.store.put(make.pod("a", node="elsewhere"))
    own = "spec.nodeName=node-a"
    with plain.watch(PODS, fieldSelector=own, resourceVersion=version) as stream:
        server.store.put(make.pod("b", node="elsewhere"))
        server.store.put(make.pod("c", node="node-a"))
        server.store.put(make.pod("a", node="node-a"))
        server.store.put(make.pod("c", node="node-a", phase="Failed"))
        server.store.delete(make.pod("c"))
        assert stream.take(4) == [
            ("ADDED", "c"),
            ("ADDED", "a"),
            ("MODIFIED", "c"),
            ("DELETED", "c"),
        ]


def test_an_update_without_a_difference_is_no_event(server: ApiServer, plain: Plain) -> None:
    version = server.store.put(make.service("a"))
    assert server.store.put(make.service("a")) == version
    with plain.watch(SERVICES, resourceVersion=version, timeoutSeconds=1) as stream:
        assert stream.rest() == []


def test_an_object_keeps_its_uid_until_it_is_deleted(server: ApiServer, plain: Plain) -> None:
    with plain.watch(SERVICES) as stream:
        server.store.put(make.service("a"))
        server.store.put(make.service("a", ip="10.96.0.12"))
        server.store.delete(make.service("a"))
        server.store.put(make.service("a"))
        first, changed, deleted, again = (
            stream.next()["object"]["metadata"]["uid"] for _ in range(4)
        )
    assert first == changed == deleted != again


def test_many_watchers_see_the_same_in_the_same_order(server: ApiServer, plain: Plain) -> None:
    wanted = [f"s{number}" for number in range(300)]
    found: dict[int, list[str]] = {}

    def follow(number: int) -> None:
        with plain.watch(SERVICES, resourceVersion="1") as stream:
            found[number] = [name for _, name in stream.take(len(wanted))]

    watchers = [threading.Thread(target=follow, args=(number,)) for number in range(4)]
    for watcher in watchers:
        watcher.start()
    for name in wanted:
        server.store.put(make.service(name))
    for watcher in watchers:
        watcher.join()
    assert list(found.values()) == [wanted] * 4


def test_a_watcher_that_lags_behind_the_history_is_told_that_it_is_gone() -> None:
    with ApiServer(tls=False, history=10) as small, Plain(small).watch(SERVICES) as stream:
        deadline = time.monotonic() + 20
        while not small.open_requests(verb="watch") and time.monotonic() < deadline:
            time.sleep(0.01)
        # More than socket buffers hold, and more changes than are remembered.
        big = "x" * 200_000
        for number in range(400):
            small.store.put(make.service("a", ip=f"10.96.{number >> 8}.{number & 255}", note=big))
        events = stream.rest()
    assert events[-1]["type"] == "ERROR"
    assert events[-1]["object"]["code"] == 410
