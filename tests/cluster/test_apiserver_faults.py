"""Faults of the API server double: each does to a plain client what it says."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable

import pytest

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.faults import Kind
from tests.cluster.plain import SERVICES, SLICES, WATCH_LIST, Plain

SHORT_SEC = 0.5


@pytest.fixture(autouse=True)
def _objects(server: ApiServer) -> None:
    server.store.bulk(make.service(f"s{number:03}") for number in range(100))


def test_a_dropped_request_is_reset_before_its_answer(server: ApiServer, plain: Plain) -> None:
    server.faults.add("drop", "services", "list")
    with pytest.raises(ConnectionResetError):
        plain.get(SERVICES)
    assert (server.requests[-1].code, server.requests[-1].fault) == (0, "drop")
    assert plain.get(SERVICES).code == 200


def test_a_fault_meets_its_resource_and_verb_so_often(server: ApiServer, plain: Plain) -> None:
    fault = server.faults.add("status", "services", "list", times=2, code=500)
    assert plain.get(SLICES).code == 200
    assert plain.get("/api/v1/namespaces/default/services/s001").code == 200
    assert [plain.get(SERVICES).code for _ in range(3)] == [500, 500, 200]
    assert fault.hits == 2


def test_a_fault_without_a_number_lasts_until_it_is_lifted(server: ApiServer, plain: Plain) -> None:
    fault = server.faults.add(Kind.STATUS, times=None, code=503)
    assert {plain.get(path).code for path in (SERVICES, SLICES, "/readyz")} == {503}
    fault.lift()
    assert plain.get(SERVICES).code == 200


def test_a_body_is_cut_after_so_many_bytes(server: ApiServer, plain: Plain) -> None:
    server.faults.add("close", "services", after_bytes=1000)
    with pytest.raises(http.client.IncompleteRead) as cut:
        plain.get(SERVICES)
    assert plain.get(SERVICES).body.startswith(cut.value.partial)
    assert len(cut.value.partial) <= 1000
    server.faults.add("drop", "services", after_bytes=1000)
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        plain.get(SERVICES)


def test_a_watch_is_cut_in_the_middle_of_a_line(server: ApiServer, plain: Plain) -> None:
    server.faults.add("close", "services", "watch", after_bytes=1000)
    connection = plain.connect()
    with contextlib.closing(connection):
        connection.request("GET", SERVICES + "?watch=1")
        body = connection.getresponse()
        got = body.read1(100_000)
        while len(got) < 1000:
            got += body.read1(100_000)
        with pytest.raises(http.client.IncompleteRead):
            body.read1(100_000)
    assert len(got) == 1000
    *whole, last = got.split(b"\n")
    assert all(json.loads(line)["type"] == "ADDED" for line in whole)
    with pytest.raises(ValueError, match=r"line 1 column"):
        json.loads(last)


def test_a_stalled_answer_has_its_head_and_nothing_more_until_it_is_lifted(
    server: ApiServer, plain: Plain
) -> None:
    fault = server.faults.add("stall", "services", "list", after_bytes=0)
    with contextlib.closing(plain.connect()) as connection:
        connection.request("GET", SERVICES)
        answer = connection.getresponse()
        assert answer.status == 200
        assert silent(connection)
        fault.lift()
        assert len(json.loads(answer.read())["items"]) == 100


def test_a_stall_in_the_middle(server: ApiServer, plain: Plain) -> None:
    fault = server.faults.add("stall", "services", "watch", after_bytes=5000)
    with contextlib.closing(plain.connect()) as connection:
        connection.request("GET", SERVICES + "?watch=1&timeoutSeconds=1")
        answer = connection.getresponse()
        got = b""
        while len(got) < 5000:
            got += answer.read1(100_000)
        assert len(got) == 5000
        assert silent(connection)
        fault.lift()
        got += answer.read()
    assert len([json.loads(line) for line in got.splitlines()]) == 100


def test_a_stall_before_the_head(server: ApiServer, plain: Plain) -> None:
    server.faults.add("stall", "services")
    with contextlib.closing(plain.connect()) as connection:
        connection.request("GET", SERVICES)
        assert silent(connection)
    wait(lambda: not server.open_requests(), "the server noticed that the client left")


def test_open_watches_can_be_dropped(server: ApiServer, plain: Plain) -> None:
    with plain.watch(SERVICES) as stream:
        stream.take(100)
        wait(lambda: server.drop_open("services", "watch") == 1, "the watch is known")
        with pytest.raises(ConnectionResetError):
            stream.line()


def test_a_watch_that_nobody_reads_can_be_dropped(server: ApiServer, plain: Plain) -> None:
    with plain.watch(SERVICES) as stream:
        stream.take(100)
        for number in range(400):
            server.store.put(make.service("s", ip=f"10.96.1.{number & 255}", note="x" * 200_000))
        assert server.drop_open("services", "watch") == 1
        wait(lambda: not server.open_requests(), "its thread is free")


def test_open_watches_can_be_half_open_for_a_while(server: ApiServer, plain: Plain) -> None:
    with plain.watch(SERVICES) as stream:
        stream.take(100)
        assert server.stall_open("services") == 1
        server.store.put(make.service("late"))
        time.sleep(SHORT_SEC)
        assert server.open_requests("services", "watch")
        server.resume_open()
        server.store.put(make.service("later"))
        assert stream.take(2) == [("ADDED", "late"), ("ADDED", "later")]


def test_connections_are_refused_and_taken_again_at_the_same_port(
    server: ApiServer, plain: Plain
) -> None:
    with plain.watch(SERVICES) as stream:
        stream.take(100)
        server.refuse()
        with pytest.raises(ConnectionRefusedError):
            plain.get(SERVICES)
        server.store.put(make.service("x"))
        assert stream.take(1) == [("ADDED", "x")], "open connections stay"
        server.drop_open()
    server.accept()
    assert plain.get(SERVICES).code == 200


def test_too_many_requests_name_when_to_come_again(server: ApiServer, plain: Plain) -> None:
    server.faults.add("status", code=429, retry_after_sec=7)
    answer = plain.get(SERVICES)
    assert (answer.code, answer.headers["Retry-After"]) == (429, "7")
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("code", [410, 500, 503, 504])
def test_errors_are_status_objects(server: ApiServer, plain: Plain, code: int) -> None:
    server.faults.add("status", code=code, retry_after_sec=3)
    answer = plain.get(SERVICES)
    assert (answer.code, answer.raw["kind"], answer.raw["code"]) == (code, "Status", code)
    assert answer.raw["details"]["retryAfterSeconds"] == 3
    assert answer.headers["Retry-After"] == "3"


def test_a_slow_body_takes_its_time(server: ApiServer, plain: Plain) -> None:
    whole = plain.get(SERVICES).body
    server.faults.add("slow", bytes_per_sec=len(whole) * 2)
    begin = time.monotonic()
    assert plain.get(SERVICES).body == whole
    assert time.monotonic() - begin > 0.3
    server.faults.add("slow", after_bytes=len(whole) - 100, bytes_per_sec=200)
    begin = time.monotonic()
    assert plain.get(SERVICES).body == whole
    assert time.monotonic() - begin > 0.3


def test_garbage_stands_between_two_lines(server: ApiServer, plain: Plain) -> None:
    server.faults.add("garbage", "services", "watch", after_bytes=2000, line=b"<html>")
    with plain.watch(SERVICES, timeoutSeconds=1) as stream:
        lines = stream.answer.read().splitlines()
    at = lines.index(b"<html>")
    assert len(b"\n".join(lines[:at])) + 1 >= 2000
    assert len(b"\n".join(lines[: at - 1])) + 1 < 2000
    assert len([json.loads(line) for line in lines if line != b"<html>"]) == 100


def test_garbage_can_come_first(server: ApiServer, plain: Plain) -> None:
    server.faults.add("garbage")
    assert plain.get(SERVICES).body.startswith(b"!! not JSON\n{")


def test_an_answer_can_be_of_another_kind(server: ApiServer, plain: Plain) -> None:
    server.faults.add("content-type", line=b"<html>sign in</html>")
    answer = plain.get(SERVICES)
    assert (answer.code, answer.headers["Content-Type"]) == (200, "text/html")
    assert answer.body == b"<html>sign in</html>"


def test_an_error_event_ends_a_watch_and_nothing_else(server: ApiServer, plain: Plain) -> None:
    server.faults.add("error-event", code=500)
    assert plain.get(SERVICES).code == 200, "it waits for a watch"
    with plain.watch(SERVICES) as stream:
        (event,) = stream.rest()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 500)
    server.faults.add("error-event", "services", after_bytes=1000, code=410)
    with plain.watch(SERVICES) as stream:
        *added, error = stream.rest()
    assert 0 < len(added) < 100
    assert {event["type"] for event in added} == {"ADDED"}
    assert (error["type"], error["object"]["reason"]) == ("ERROR", "Expired")


def test_a_fault_may_cut_the_watch_list_before_its_mark(server: ApiServer, plain: Plain) -> None:
    server.faults.add("close", "services", "watch", after_bytes=4000)
    with plain.watch(SERVICES, **WATCH_LIST) as stream, pytest.raises(http.client.HTTPException):
        stream.answer.read()
    with plain.watch(SERVICES, **WATCH_LIST) as stream:
        assert stream.take(101)[-1] == ("BOOKMARK", "")


def test_a_server_that_closes_ends_what_is_open() -> None:
    with ApiServer(tls=False) as own:
        own.store.put(make.service("a"))
        own.faults.add("stall", "services", "list")
        plain = Plain(own)
        waiting = threading.Thread(target=swallow, args=(lambda: plain.get(SERVICES),))
        waiting.start()
        wait(lambda: bool(own.open_requests("services", "list")), "the request is there")
        with plain.watch(SERVICES) as stream:
            stream.take(1)
            begin = time.monotonic()
            own.__exit__()
            swallow(stream.line)
        waiting.join()
        assert time.monotonic() - begin < 5
    assert not [t for t in threading.enumerate() if t.name.startswith("apiserver-connection")]
    assert not own.directory.exists()


def silent(connection: http.client.HTTPConnection) -> bool:
    """Does nothing come for a moment?"""
    connection.sock.settimeout(SHORT_SEC)
    try:
        connection.sock.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.sock.settimeout(20)
    return False


def swallow(act: Callable[[], object]) -> None:
    """Do what ends with the connection."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        act()


def wait(is_so: Callable[[], bool], what: str) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, f"not within 20 s: {what}"
        time.sleep(0.01)
