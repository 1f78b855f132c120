"""Tests of requests to an API server: refusals, several servers, rate."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from kpbpf.kube import refusals
from kpbpf.kube.refusals import (
    ApiBusy,
    ApiDown,
    ApiError,
    ApiExists,
    ApiFailing,
    ApiGone,
    ApiInvalid,
    ApiMissing,
    ApiRefused,
    ApiSilent,
    Garbled,
)
from kpbpf.kube.session import Session
from kpbpf.settings.settings import Api
from tests.unit.asking import PATH, ask, fine, free_port
from tests.unit.scripted import Exchange, Scripted

# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, ApiInvalid, "answers GET /api/v1/services with 400: no"),
        (403, ApiRefused, "does not let us list and watch /api/v1/services .403: no.: see deploy"),
        (404, ApiMissing, "404"),
        (410, ApiGone, "410"),
        (422, ApiInvalid, "422"),
        (429, ApiBusy, "429"),
        (500, ApiFailing, "500"),
        (503, ApiFailing, "503"),
        (302, ApiFailing, "302"),
        (409, ApiExists, "409"),
        (418, ApiInvalid, "418"),
    ],
)
def test_a_refusal_names_server_resource_and_reason(
    status: int, kind: type[ApiError], words: str
) -> None:
    with Scripted(lambda exchange: exchange.refuse(status)) as server:
        session = server.session()
        with pytest.raises(kind, match=words) as raised:
            ask(session)
        assert server.url in str(raised.value)
        assert "\n" not in str(raised.value)
        session.close()
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("-5", 0.0), ("soon", 0.0), ("1e9", 300.0), ("nan", 0.0)],
)
def test_retry_after_is_read(header: str, seconds: float) -> None:
    with Scripted(lambda exchange: exchange.refuse(429, Retry_After=header)) as server:
        session = server.session()
        with pytest.raises(ApiBusy) as raised:
            ask(session)
        assert raised.value.retry_after_sec == seconds
        session.close()


def test_an_error_event_is_as_good_as_a_status() -> None:
    found = refusals.of_status("s", PATH, {"code": 410, "message": "too old"})
    assert isinstance(found, ApiGone)
    busy = refusals.of_status("s", PATH, {"code": 429, "details": {"retryAfterSeconds": 3}})
    assert (type(busy), busy.retry_after_sec) == (ApiBusy, 3.0)
    assert isinstance(refusals.of_status("s", PATH, {"code": "x"}), ApiFailing)


def test_a_refusals_body_may_be_anything() -> None:
    bodies = [b"", b"<html>", b"\xff\xfe", b"[" * 60_000, b'{"message": 5}', b"x" * 1_000_000]
    for body in bodies:
        with Scripted(lambda exchange, body=body: exchange.json(body, 500)) as server:  # type: ignore[misc]
            session = server.session()
            with pytest.raises(ApiFailing) as raised:
                ask(session)
            assert len(str(raised.value)) < 400
            session.close()


def test_a_server_that_cannot_be_reached_is_named(account: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    session = Session.open(Api(None, (url,)), account)
    with pytest.raises(ApiDown, match=f"{url} cannot be reached: Connection refused; is it up"):
        ask(session)
    session.close()


def test_a_server_that_is_away_is_told_of_once_and_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    session = Session.open(Api(None, (f"http://127.0.0.1:{port}",)))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            with pytest.raises(ApiDown):
                ask(session)
        with Scripted(fine, port):
            ask(session)
            ask(session)
    said = [record.getMessage() for record in caplog.records if record.name == "kube.session"]
    assert len(said) == 2
    assert "cannot be reached" in said[0]
    assert said[1] == f"http://127.0.0.1:{port} answers"
    session.close()


def test_in_a_pod_an_unreachable_server_may_be_the_service_that_kpbpf_makes(
    account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(free_port()))
    session = Session.open(Api(None), account)
    with pytest.raises(ApiDown) as raised:
        ask(session)
    said = str(raised.value)
    assert "https://127.0.0.1:" in said
    assert "before kpbpf itself has made that Service" in said
    assert "--master" in said
    assert "KUBERNETES_SERVICE_HOST" in said
    session.close()


def test_a_silent_server_is_given_up() -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.query:
            exchange.begin()
        exchange.hold()

    with Scripted(answer) as server:
        session = server.session()
        with pytest.raises(ApiSilent, match="does not answer in time"):
            session.get(PATH, {}, read_timeout_sec=0.1)
        with session.get(PATH, {"a": "b"}, read_timeout_sec=0.1) as reply, pytest.raises(ApiSilent):
            reply.read()
        session.close()


def test_a_body_without_an_end_is_not_kept() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin()
        for _ in range(100):
            exchange.raw(b"x" * 100_000)
        exchange.end()

    with Scripted(answer) as server:
        session = server.session()
        with session.get(PATH, {}) as reply, pytest.raises(Garbled, match="more than 1,000,000"):
            reply.body(1_000_000)
        session.close()


# ---- several servers ----------------------------------------------------------------------------


def test_the_next_server_is_asked_when_one_is_away_and_stays_in_use() -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with Scripted(fine) as server:
        session = Session.open(Api(None, (away, server.url)))
        assert session.server == away
        ask(session)
        assert session.server == server.url
        ask(session)
        assert len(server.seen) == 2
        session.close()


def test_the_next_server_is_asked_when_one_fails_and_the_first_one_after_the_last() -> None:
    sick = [True]

    def first(exchange: Exchange) -> None:
        if sick[0]:
            exchange.refuse(503)
        else:
            fine(exchange)

    with Scripted(first) as one, Scripted(fine) as two:
        session = one.session(two.url)
        ask(session)
        assert session.server == two.url
        sick[0] = False
    with Scripted(first) as one:
        session = Session.open(Api(None, (two.url, one.url)))
        ask(session)
        assert session.server == one.url
        session.close()


def test_a_refusal_is_not_asked_of_every_server() -> None:
    with Scripted(lambda exchange: exchange.refuse(403)) as one, Scripted(fine) as two:
        session = one.session(two.url)
        with pytest.raises(ApiRefused):
            ask(session)
        assert not two.seen
        session.close()


def test_when_no_server_answers_the_error_names_one() -> None:
    ports = [free_port(), free_port()]
    session = Session.open(Api(None, tuple(f"http://127.0.0.1:{port}" for port in ports)))
    with pytest.raises(ApiDown, match=f"127.0.0.1:{ports[1]} cannot be reached"):
        ask(session)
    session.close()


# ---- rate and end -------------------------------------------------------------------------------


def test_requests_are_limited_and_follow_ups_are_not() -> None:
    with Scripted(fine) as server:
        session = Session.open(Api(None, (server.url,), qps=10.0, burst=2))
        started = time.monotonic()
        for _ in range(5):
            ask(session)
        assert time.monotonic() - started >= 0.29
        started = time.monotonic()
        for _ in range(10):
            session.get(PATH, {}, follow_up=True).close()
        assert time.monotonic() - started < 0.29
        session.close()


def test_after_the_end_nothing_is_asked() -> None:
    with Scripted(fine) as server:
        session = server.session()
        session.close()
        with pytest.raises(ApiDown, match="kpbpf stops"):
            ask(session)
        assert not server.seen


def test_connections_are_used_again() -> None:
    ports: set[object] = set()

    def answer(exchange: Exchange) -> None:
        ports.add(exchange.client)
        fine(exchange)

    with Scripted(answer) as server:
        session = server.session()
        for _ in range(5):
            ask(session)
        session.close()
    assert len(ports) == 1
