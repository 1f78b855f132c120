"""UDP sockets of the node: they keep their backend, move when it leaves, and hear the Service."""

from __future__ import annotations

import socket

import pytest

from kpbpf import address
from maps import abi
from maps.abi import MemberFlag, Way
from tests.lab.host import OTHER_VIP, VIP, Host, Udp, ask_tcp
from tests.lab.sockets import Connection

# ---- UDP keeps its backend, and moves -------------------------------------------------------


def test_an_unconnected_socket_keeps_its_backend(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a, host.b], protocol="UDP")
    seen = set()
    for _ in range(12):
        with Udp(host.node, family) as udp:
            answers = {udp.ask(VIP[family])[0] for _ in range(6)}
        assert len(answers) == 1
        seen |= answers
    assert seen == {"a", "b"}


def test_an_idle_socket_may_get_another_backend(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a, host.b], protocol="UDP")
    with Udp(host.node, family) as udp:
        answers = set()
        for _ in range(40):
            answers.add(udp.ask(VIP[family])[0])
            for key, value in host.given():
                idle = value._replace(last_used_ns=max(value.last_used_ns - 121 * 10**9, 0))
                host.tables.sockets.put(key, idle)
        assert answers == {"a", "b"}


def test_an_unconnected_socket_moves_when_its_backend_leaves(host: Host, family: int) -> None:
    """A43."""
    service = host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp:
        assert udp.ask(VIP[family])[0] == "a"
        host.serve(VIP[family], [host.b], protocol="UDP", service=service)
        host.backends_left()
        assert udp.ask(VIP[family]) == ("b", (VIP[family], 80))


def test_a_backend_that_still_serves_keeps_its_sockets(host: Host, family: int) -> None:
    service = host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp, Udp(host.node, family) as connected:
        assert udp.ask(VIP[family])[0] == "a"
        connected.sock.connect((VIP[family], 80))
        host.serve(VIP[family], [host.b], protocol="UDP", service=service)
        ending = abi.MemberKey(address.from_text(host.a.addresses[family]), service, 8080)
        host.tables.members.put(ending, abi.Member(MemberFlag.SERVING))
        host.backends_left()
        assert udp.ask(VIP[family])[0] == "a"
        assert connected.ask_peer()[0] == "a"


@pytest.mark.parametrize("way", ["send", "recv"])
def test_a_connected_socket_hears_at_once_that_its_backend_left(
    host: Host, family: int, way: str
) -> None:
    service = host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp, Udp(host.node, family) as direct:
        udp.sock.connect((VIP[family], 80))
        direct.sock.connect((host.a.addresses[family], 8080))
        assert udp.ask_peer()[0] == "a"
        host.serve(VIP[family], [host.b], protocol="UDP", service=service)
        host.backends_left()
        with pytest.raises(OSError, match=r"abort|required") as raised:
            udp.sock.send(b"x") if way == "send" else udp.sock.recv(10)
        assert not isinstance(raised.value, TimeoutError)
        udp.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # heard, if it was not yet
        udp.sock.connect((VIP[family], 80))
        assert udp.ask_peer() == ("b", (VIP[family], 80))
        assert direct.ask_peer()[0] == "a", "a socket that named no Service was ended"


def test_tcp_connections_outlive_their_backends_place_in_the_set(host: Host, family: int) -> None:
    """A40."""
    service = host.serve(VIP[family], [host.a])
    with Connection(host.node, VIP[family], 80) as connection:
        assert connection.who().server == "a"
        host.serve(VIP[family], [host.b], service=service)
        host.backends_left()
        assert connection.who().server == "a"
    assert ask_tcp(host.node, VIP[family])[0].server == "b"


# ---- who was that? --------------------------------------------------------------------------


def test_one_socket_with_two_services_gets_two_backends(host: Host, family: int) -> None:
    """So that every answer tells which Service it comes from."""
    for front in (VIP[family], OTHER_VIP[family]):
        host.serve(front, [host.a, host.b], protocol="UDP")
    for _ in range(12):
        with Udp(host.node, family) as udp:
            first, source = udp.ask(VIP[family])
            assert source == (VIP[family], 80)
            second, source = udp.ask(OTHER_VIP[family])
            assert source == (OTHER_VIP[family], 80)
            assert {first, second} == {"a", "b"}


def test_an_answer_is_that_of_the_service_last_asked_where_there_is_one_backend(
    host: Host, family: int
) -> None:
    for front in (VIP[family], OTHER_VIP[family]):
        host.serve(front, [host.a], protocol="UDP")
    with Udp(host.node, family) as udp:
        for front in (VIP[family], OTHER_VIP[family]) * 3:
            assert udp.ask(front) == ("a", (front, 80))
        direct = (host.a.addresses[family], 8080)
        assert udp.ask(*direct) == ("a", direct)
        assert udp.ask(VIP[family]) == ("a", (VIP[family], 80))


def test_a_socket_connected_elsewhere_shows_its_new_peer(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a], protocol="UDP")
    direct = (host.a.addresses[family], 8080)
    with Udp(host.node, family) as udp:
        udp.sock.connect((VIP[family], 80))
        assert udp.sock.getpeername()[:2] == (VIP[family], 80)
        udp.sock.connect(direct)
        assert udp.sock.getpeername()[:2] == direct
        assert udp.ask_peer() == ("a", direct)


def test_a_disconnected_socket_has_no_peer_and_can_be_used_again(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp:
        udp.sock.connect((VIP[family], 80))
        _disconnect(udp.sock)
        with pytest.raises(OSError, match="not connected"):
            udp.sock.getpeername()
        assert udp.ask(VIP[family]) == ("a", (VIP[family], 80))


def _disconnect(sock: socket.socket) -> None:
    """connect(2) with AF_UNSPEC, which Python's sockets have no word for."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(sock.fileno(), bytes(16), 16) == 0


def test_entries_of_closed_sockets_are_forgotten(host: Host, family: int) -> None:
    for protocol in ("TCP", "UDP"):
        host.serve(VIP[family], [host.a], protocol=protocol)
    open_udp, open_tcp = Udp(host.node, family), Connection(host.node, VIP[family], 80)
    with open_udp, open_tcp:
        open_udp.ask(VIP[family])
        kept = {key for key, _ in host.given()}
        ask_tcp(host.node, VIP[family])
        with Udp(host.node, family) as udp:
            udp.ask(VIP[family])
        assert len(host.given()) == len(kept) + 3
        _age(host, 11)
        with host.node.inside():
            assert host.sockets.sweep() == 3
        assert {key for key, _ in host.given()} == kept
        assert open_udp.ask(VIP[family])[1] == (VIP[family], 80)
        assert open_tcp.sock.getpeername()[:2] == (VIP[family], 80)


def _age(host: Host, seconds: int) -> None:
    for key, value in host.given():
        older = value._replace(last_used_ns=value.last_used_ns - seconds * 10**9)
        host.tables.sockets.put(key, older)


def test_a_socket_has_one_entry_for_each_way(host: Host, family: int) -> None:
    host.serve(VIP[family], [host.a], protocol="UDP")
    with Udp(host.node, family) as udp:
        for _ in range(3):
            udp.ask(VIP[family])
        service, backend = (VIP[family], 80), (host.a.addresses[family], 8080)
        ways = {
            key.way: (address.to_text(key.addr), key.port, address.to_text(value.addr), value.port)
            for key, value in host.given()
        }
        assert ways == {Way.TO_BACKEND: service + backend, Way.TO_SERVICE: backend + service}
