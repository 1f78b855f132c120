"""The HTTP server, by real sockets: what it answers, and what bad clients cannot do to it."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import pytest

from kpbpf import web
from kpbpf.settings import Address
from kpbpf.web import Answer, CannotListen, Request, Server, routes, text

LOCALHOST = Address("127.0.0.1", 0)


def hello(request: Request) -> Answer:
    return text(200, f"hello {request.method} {sorted(request.query)}")


@contextmanager
def running(
    make: web.Make = routes({"/hello": hello}),  # noqa: B008 (it holds no state)
    address: Address = LOCALHOST,
) -> Iterator[Server]:
    server = Server.start(address, make, "test")
    try:
        yield server
    finally:
        server.stop()


def ask(
    server: Server, path: str = "/hello", method: str = "GET", host: str = "127.0.0.1"
) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection(host, server.port, timeout=20)) as client:
        client.request(method, path)
        response = client.getresponse()
        return response, response.read()


def say(server: Server, request: bytes) -> bytes:
    """Everything the server answers to these bytes, until it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# ---- answers ------------------------------------------------------------------------------


def test_a_path_is_answered_with_its_code_type_and_body() -> None:
    with running() as server:
        response, body = ask(server)
    assert (response.status, body) == (200, b"hello GET []\n")
    assert response.getheader("Content-Type") == web.TEXT
    assert response.getheader("Connection") == "close"


def test_a_query_is_no_part_of_the_path() -> None:
    with running() as server:
        assert ask(server, "/hello?verbose&x=1")[1] == b"hello GET ['verbose', 'x']\n"


def test_head_has_the_headers_of_get_and_no_body() -> None:
    with running() as server:
        response, body = ask(server, method="HEAD")
        assert (response.status, body) == (200, b"")
        assert response.getheader("Content-Length") == str(len(b"hello HEAD []\n"))


def test_another_path_is_answered_by_a_list_of_those_there_are() -> None:
    with running(routes({"/b": hello, "/a": hello})) as server:
        response, body = ask(server, "/c")
    assert response.status == 404
    assert body.splitlines()[1:] == [b"  /a", b"  /b"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_get_and_head_are_taken(method: str) -> None:
    with running() as server:
        response, _ = ask(server, method=method)
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")


def test_a_maker_may_answer_any_path_with_headers_of_its_own() -> None:
    def any_path(request: Request) -> Answer:
        return Answer(503, request.path.encode(), web.JSON, (("X-Weight", "0"),))

    with running(any_path) as server:
        response, body = ask(server, "/what%20ever")
    assert (response.status, body) == (503, b"/what ever")
    assert response.getheader("X-Weight") == "0"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET http://[::1 HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"get /hello HTTP/1.1\r\n\r\n", 501),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /hello HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /hello HTTP/1.0\r\n\r\n", 200),
        (b"GET http://node:1/hello HTTP/1.1\r\nHost: node\r\n\r\n", 200),
    ],
)
def test_what_is_not_good_http_is_told_so(request_bytes: bytes, code: int) -> None:
    with running() as server:
        assert status(say(server, request_bytes)) == code


def test_a_body_that_nobody_reads_does_not_cost_the_answer() -> None:
    request = b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    with running() as server:
        assert status(say(server, request)) == 405


def test_a_request_that_comes_byte_by_byte_is_answered() -> None:
    with running() as server, socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        for byte in b"GET /hello HTTP/1.1\r\n\r\n":
            sock.send(bytes([byte]))
        assert status(sock.recv(65536)) == 200


def test_a_client_that_says_it_has_no_more_to_say_still_gets_its_answer() -> None:
    with running() as server, socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.send(b"GET /hello HTTP/1.1\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert status(sock.recv(65536)) == 200


def test_an_answer_that_is_larger_than_any_buffer_arrives_in_whole() -> None:
    with running(lambda _: Answer(200, b"x" * 20_000_000)) as server:
        assert len(ask(server)[1]) == 20_000_000


def test_a_maker_that_raises_is_answered_by_500_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: Request) -> Answer:
        raise ValueError("on purpose")

    with running(routes({"/broken": broken, "/hello": hello})) as server:
        for _ in range(3):
            assert ask(server, "/broken")[0].status == 500
            assert ask(server)[0].status == 200
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert "on purpose" in record.getMessage()


# ---- where it listens -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("::", ["127.0.0.1", "::1"]),
    ],
)
def test_it_listens_in_the_families_that_the_address_means(
    host: str, reached_at: list[str]
) -> None:
    with running(address=Address(host, 0)) as server:
        for client in ("127.0.0.1", "::1"):
            if client in reached_at:
                assert ask(server, host=client)[0].status == 200
            else:
                with pytest.raises(ConnectionRefusedError):
                    ask(server, host=client)


def test_a_port_that_is_taken_is_named() -> None:
    with (
        running() as server,
        pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{server.port}: Address already in use"),
    ):
        Server.start(Address("127.0.0.1", server.port), hello, "health")


@pytest.mark.parametrize("host", ["node.example", "192.0.2.1", "1.2.3", "fe80::x"])
def test_a_host_that_is_not_an_address_of_this_machine_is_refused_without_asking_dns(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        pytest.fail("DNS was asked")

    for name in ("getaddrinfo", "getfqdn", "gethostbyname", "gethostbyaddr", "getnameinfo"):
        monkeypatch.setattr(socket, name, asked)
    with pytest.raises(CannotListen, match="cannot listen"):
        Server.start(Address(host, 0), hello, "health")


def test_the_port_is_free_again_at_once_after_a_stop() -> None:
    with running() as server:
        ask(server)
    with running(address=Address("127.0.0.1", server.port)) as again:
        assert ask(again)[0].status == 200


def test_a_stop_hangs_up_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with running() as server:
        ask(server)
        silent = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with silent, suppress(ConnectionResetError):  # it was not even accepted
        assert silent.recv(1) == b""
    assert set(threading.enumerate()) <= before


# ---- bad clients ----------------------------------------------------------------------------


def test_200_clients_at_once_are_all_answered() -> None:
    with running() as server, ThreadPoolExecutor(200) as clients:
        answers = clients.map(lambda _: ask(server)[0].status, range(200))
        assert list(answers) == [200] * 200


def test_clients_beyond_the_limit_that_say_nothing_do_not_keep_others_out() -> None:
    with running() as server:
        silent = [
            socket.create_connection(("127.0.0.1", server.port), timeout=20)
            for _ in range(web.CONNECTIONS + 50)
        ]
        try:
            assert ask(server)[0].status == 200
            assert len(server._http._opened) <= web.CONNECTIONS
            assert silent[0].recv(1) == b"", "the first ones had to make room"
        finally:
            for sock in silent:
                sock.close()


def test_a_client_that_dribbles_headers_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECTION_SEC", 0.3)
    with running() as server, socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.send(b"GET /hello HTTP/1.1\r\n")
        ended = threading.Event()

        def dribble() -> None:
            while not ended.wait(0.05):
                try:
                    sock.send(b"X-A: b\r\n")
                except OSError:
                    return

        with ThreadPoolExecutor(1) as dribbler:
            dribbler.submit(dribble)
            try:
                with suppress(ConnectionResetError):  # it had sent more than was read
                    assert sock.recv(1) == b""
            finally:
                ended.set()


def test_a_client_that_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECTION_SEC", 0.3)
    with (
        running(lambda _: Answer(200, b"x" * 50_000_000)) as server,
        socket.create_connection(("127.0.0.1", server.port), 20) as sock,
    ):
        sock.send(b"GET / HTTP/1.1\r\n\r\n")
        _until(lambda: len(server._http._opened) == 1)
        _until(lambda: not server._http._opened)


def test_a_slow_answer_keeps_nobody_waiting() -> None:
    release = threading.Event()

    def slow(_: Request) -> Answer:
        release.wait(20)
        return text(200, "at last")

    with running(routes({"/slow": slow, "/hello": hello})) as server, ThreadPoolExecutor(1) as one:
        waiting = one.submit(ask, server, "/slow")
        assert ask(server)[0].status == 200
        release.set()
        assert waiting.result()[1] == b"at last\n"


def _until(true: object, deadline_sec: float = 20) -> None:
    assert callable(true)
    end = time.monotonic() + deadline_sec
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
