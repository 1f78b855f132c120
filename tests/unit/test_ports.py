"""HTTP at many ports in one thread, by real sockets: bytes, faults, and what it costs to wait."""

from __future__ import annotations

import errno
import http.client
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kpbpf.daemon import ports
from kpbpf.daemon.ports import ANY, CannotListen, Ports
from kpbpf.web import JSON, Answer

LOCALHOST = ("127.0.0.1",)
GET = b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"


def hello() -> Answer:
    return Answer(200, b"hello", JSON, (("X-Weight", "1"), ("A-First", "2")))


def bye() -> Answer:
    return Answer(503, b"bye")


@pytest.fixture
def many() -> Iterator[Ports]:
    made = Ports("test ports")
    try:
        yield made
    finally:
        made.stop()
        assert "test ports" not in [thread.name for thread in threading.enumerate()]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=20)


def say(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """Everything that is answered to these bytes, until the other end hangs up."""
    with connect(port, host) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def reads(sock: socket.socket, end: bytes) -> bytes:
    """What comes, until it ends so."""
    heard = b""
    while not heard.endswith(end):
        more = sock.recv(65536)
        assert more, f"hung up after {heard!r}"
        heard += more
    return heard


# ---- answers ------------------------------------------------------------------------------


def test_the_bytes_are_those_of_gos_server(many: Ports) -> None:
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    with connect(port) as sock:
        sock.sendall(GET)
        answer = reads(sock, b"hello")
    assert re.fullmatch(
        rb"HTTP/1\.1 200 OK\r\nA-First: 2\r\nContent-Type: application/json\r\nX-Weight: 1\r\n"
        rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\nContent-Length: 5\r\n\r\nhello",
        answer,
    )


@pytest.mark.parametrize(
    ("request_bytes", "first_line", "last_bytes"),
    [
        (LAST, b"HTTP/1.1 200 OK", b"Connection: close\r\n\r\nhello"),
        (b"GET /x?y HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK", b"Connection: close\r\n\r\nhello"),
        (
            b"HEAD / HTTP/1.1\r\nconnection: Close\r\n\r\n",
            b"HTTP/1.1 200 OK",
            b"Content-Length: 5\r\nConnection: close\r\n\r\n",
        ),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"HTTP/1.1 200 OK", b"hello"),
        (b"\x16\x03\x01\x02\r\n\r\n", b"HTTP/1.1 400 Bad Request", b"400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\n", b"HTTP/1.1 400 Bad Request", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n" + b"a" * 70_000, b"HTTP/1.1 400 Bad Request", b"400 Bad Request"),
        (GET + GET + LAST, b"HTTP/1.1 200 OK", b"Connection: close\r\n\r\nhello"),
    ],
)
def test_every_request_is_answered_and_the_last_one_ends_the_connection(
    many: Ports, request_bytes: bytes, first_line: bytes, last_bytes: bytes
) -> None:
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    answer = say(port, request_bytes)
    assert answer.partition(b"\r\n")[0] == first_line
    assert answer.endswith(last_bytes)
    assert answer.count(b"hello") == (3 if request_bytes.startswith(GET) else b"hello" in answer)


def test_a_connection_is_kept_and_a_request_may_come_in_pieces(many: Ports) -> None:
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    with connect(port) as sock:
        for _ in range(3):
            for byte in GET:
                sock.sendall(bytes([byte]))
            reads(sock, b"hello")


def test_each_port_has_its_own_answer_in_both_families(many: Ports) -> None:
    first, second = free_port(), free_port()
    many.open("a", [ANY], first, hello)
    many.open("b", LOCALHOST, second, bye)
    for host in ("127.0.0.1", "::1"):
        assert say(first, LAST, host).endswith(b"hello")
    assert say(second, LAST).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    with pytest.raises(ConnectionRefusedError):
        connect(second, "::1")


# ---- opening and closing ------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_in_gos_words_and_nothing_stays_open(many: Ports) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotListen) as told:
            many.open("a", ["127.0.0.1", "127.0.0.2"], port, hello)
        words = f"listen tcp 127.0.0.2:{port}: bind: address already in use"
        assert str(told.value) == words
        with pytest.raises(ConnectionRefusedError):
            connect(port)
    many.open("a", ["127.0.0.1", "127.0.0.2"], port, hello)
    assert say(port, LAST).endswith(b"hello")


def test_an_address_of_somebody_else_is_told(many: Ports) -> None:
    port = free_port()
    with pytest.raises(CannotListen) as told:
        many.open("a", ["2001:db8::1"], port, hello)
    words = f"listen tcp [2001:db8::1]:{port}: bind: cannot assign requested address"
    assert str(told.value) == words


def test_a_closed_port_is_free_at_once_and_its_connections_end(many: Ports) -> None:
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    with connect(port) as sock:
        sock.sendall(GET)
        reads(sock, b"hello")
        many.close("a")
        assert sock.recv(10) == b""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
    many.open("b", LOCALHOST, port, bye)
    assert say(port, LAST).endswith(b"bye")
    many.close("a")
    assert say(port, LAST).endswith(b"bye")


def test_a_thousand_ports_are_one_thread_that_sleeps(many: Ports) -> None:
    for number in range(1000):
        for _ in range(100):
            try:
                many.open(str(number), LOCALHOST, free_port(), hello)
            except CannotListen:
                continue
            break
    chosen = [one.sock.getsockname()[1] for held in many._open.values() for one in held]
    assert len(chosen) == 1000
    (thread,) = [one for one in threading.enumerate() if one.name == "test ports"]
    wakes = Path(f"/proc/self/task/{thread.native_id}/status")
    before = _switches(wakes)
    time.sleep(0.5)
    assert _switches(wakes) == before
    for port in chosen[::100]:
        assert say(port, LAST).endswith(b"hello")


def _switches(status: Path) -> str:
    """How often the thread has gone to sleep."""
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.MULTILINE)
    assert found
    return found[1]


# ---- bad clients ----------------------------------------------------------------------------


def test_who_is_silent_for_too_long_goes(many: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "SILENCE_SEC", 0.5)
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    with connect(port) as silent, connect(port) as half:
        half.sendall(b"GET / HT")
        assert silent.recv(10) == b""
        assert half.recv(10) == b""


def test_of_too_many_the_longest_silent_goes(many: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "CONNECTIONS", 3)
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    with ExitStack() as stack:
        first, *others = [stack.enter_context(connect(port)) for _ in range(3)]
        for sock in (first, *others, first):
            sock.sendall(GET)
            reads(sock, b"hello")
        new = stack.enter_context(connect(port))
        new.sendall(GET)
        reads(new, b"hello")
        assert others[0].recv(10) == b""
        first.sendall(GET)
        reads(first, b"hello")


def test_who_resets_or_does_not_read_harms_nobody(many: Ports) -> None:
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    with connect(port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(GET * 10)
    with connect(port) as deaf:
        deaf.setblocking(False)
        assert _fills(deaf) in (errno.EAGAIN, errno.ECONNRESET, errno.EPIPE)
        assert say(port, LAST).endswith(b"hello")


def _fills(sock: socket.socket) -> int | None:
    """Send until that is no longer possible, and tell why."""
    try:
        while True:
            sock.send(GET * 100)
    except OSError as error:
        return error.errno


def test_without_files_left_it_goes_on_when_there_are_again(many: Ports) -> None:
    port = free_port()
    many.open("a", LOCALHOST, port, hello)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        ours = connect(port)
        stack.callback(ours.close)
        ours.sendall(GET)
        reads(ours, b"hello")
        waiting = socket.socket()
        stack.callback(waiting.close)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        none_left = os.dup(0)
        os.close(none_left)
        resource.setrlimit(resource.RLIMIT_NOFILE, (none_left, hard))
        waiting.connect(("127.0.0.1", port))
        assert ours.recv(10) == b"", "the longest silent makes room"
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.settimeout(20)
        waiting.sendall(GET)
        reads(waiting, b"hello")


def test_a_usual_client_understands_it(many: Ports) -> None:
    port = free_port()
    many.open("a", LOCALHOST, port, bye)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        for _ in range(2):
            client.request("GET", "/healthz")
            response = client.getresponse()
            assert (response.status, response.read()) == (503, b"bye")
    finally:
        client.close()
