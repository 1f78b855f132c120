"""Tests of telling Events: what is posted, what becomes a series, and what is dropped."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kpbpf.kube.events import MAX_NOTE_BYTES, Recorder
from kpbpf.model.event import Event
from kpbpf.model.objects import Key
from tests.unit.following import wait_for
from tests.unit.scripted import Exchange, Scripted

STARTING = Event(Key("Node", "", "n1"), "Starting", "StartKubeProxy", "kpbpf starts")
FAILED = Event(
    Key("Service", "shop", "web"), "FailedToStart", "Listen", "port 80 is taken", True, "a-uid"
)


def taken(exchange: Exchange) -> None:
    exchange.json(exchange.body, 201)


@contextmanager
def recording(server: Scripted, instance: str = "n1") -> Iterator[Recorder]:
    session = server.session()
    recorder = Recorder(session, instance)
    try:
        yield recorder
    finally:
        recorder.close(5.0)
        session.close()


def test_an_event_about_a_node_is_posted_to_default() -> None:
    with Scripted(taken) as server, recording(server) as recorder:
        recorder.tell(STARTING)
        wait_for(lambda: server.seen)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
    assert seen.body["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
    assert seen.body["reportingController"] == "kpbpf"
    assert seen.body["reportingInstance"] == "n1"
    assert (seen.body["type"], seen.body["note"]) == ("Normal", "kpbpf starts")
    assert (seen.body["reason"], seen.body["action"]) == ("Starting", "StartKubeProxy")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", seen.body["eventTime"])
    assert seen.body["metadata"]["name"].startswith("n1.")


def test_an_event_about_a_service_is_posted_beside_it() -> None:
    with Scripted(taken) as server, recording(server) as recorder:
        recorder.tell(FAILED)
        wait_for(lambda: server.seen)
    (seen,) = server.seen
    assert seen.path == "/apis/events.k8s.io/v1/namespaces/shop/events"
    assert seen.body["type"] == "Warning"
    assert seen.body["regarding"]["uid"] == "a-uid"
    assert seen.body["metadata"]["namespace"] == "shop"


def test_repeats_become_one_series() -> None:
    with Scripted(taken) as server, recording(server) as recorder:
        for _ in range(5):
            recorder.tell(FAILED)
        recorder.tell(STARTING)
        wait_for(lambda: len(server.seen) >= 3)
    posts = [one for one in server.seen if one.method == "POST"]
    patches = [one for one in server.seen if one.method == "PATCH"]
    assert len(posts) == 2
    name = posts[0].body["metadata"]["name"]
    assert {one.path for one in patches} == {f"{posts[0].path}/{name}"}
    assert patches[-1].body["series"]["count"] == 5, "written at the end at the latest"
    assert len(patches) <= 2, "not one for each repeat"
    assert patches[0].headers["Content-Type"] == "application/merge-patch+json"


def test_a_long_note_is_cut_between_letters() -> None:
    with Scripted(taken) as server, recording(server) as recorder:
        recorder.tell(STARTING._replace(note="ä" * 2000))
        wait_for(lambda: server.seen)
    note = server.seen[0].body["note"]
    assert note == "ä" * (MAX_NOTE_BYTES // 2)


def test_long_names_stay_within_what_the_server_takes() -> None:
    name = "a" * 252 + "b"
    with Scripted(taken) as server, recording(server, "n" * 300) as recorder:
        recorder.tell(STARTING._replace(regarding=Key("Pod", "shop", name)))
        wait_for(lambda: server.seen)
    body = server.seen[0].body
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["reportingInstance"]) == 128
    assert body["regarding"]["name"] == name


def test_who_may_not_post_is_told_once_and_asked_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def forbidden(exchange: Exchange) -> None:
        exchange.refuse(403, "events is forbidden")

    with (
        caplog.at_level(logging.INFO),
        Scripted(forbidden) as server,
        recording(server) as recorder,
    ):
        for number in range(20):
            recorder.tell(FAILED._replace(reason=f"Reason{number}"))
        wait_for(lambda: server.seen)
        recorder.close(5.0)
        assert len(server.seen) == 1
    (said,) = (record for record in caplog.records if "event" in record.name)
    assert "see deploy's ClusterRole" in said.getMessage()


def test_an_event_survives_a_server_that_is_away_for_a_moment() -> None:
    tries: list[int] = []

    def answer(exchange: Exchange) -> None:
        tries.append(1)
        if len(tries) < 3:
            exchange.refuse(503)
        else:
            taken(exchange)

    with Scripted(answer) as server, recording(server) as recorder:
        recorder.tell(STARTING)
        wait_for(lambda: len(tries) == 3)


def test_a_series_whose_event_is_gone_begins_anew() -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.method == "PATCH":
            exchange.refuse(404)
        else:
            taken(exchange)

    def methods() -> list[str]:
        return [one.method for one in server.seen]

    with Scripted(answer) as server, recording(server) as recorder:
        recorder.tell(FAILED)
        recorder.tell(FAILED)
        wait_for(lambda: methods() == ["POST", "PATCH"])
        recorder.tell(FAILED)
        wait_for(lambda: methods() == ["POST", "PATCH", "POST"])


def test_telling_never_blocks_and_the_end_comes_in_time() -> None:
    def hang(exchange: Exchange) -> None:
        exchange.hold()

    with Scripted(hang) as server:
        session = server.session()
        recorder = Recorder(session, "n1")
        started = time.monotonic()
        for number in range(5000):
            recorder.tell(FAILED._replace(reason=f"Reason{number}"))
        assert time.monotonic() - started < 5.0
        wait_for(lambda: server.seen)
        recorder.close(0.2)
        session.close()
        assert "events" not in {one.name for one in threading.enumerate()}
