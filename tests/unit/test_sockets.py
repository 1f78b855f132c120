"""Which sockets are moved, ended or forgotten: the decisions only, no socket is made."""

from __future__ import annotations

from controllers.sockets import YOUNG_NS, Connected, closed, left_behind
from kpbpf.address import Address, from_text
from maps.abi import Socket, SocketKey, Way

TCP, UDP = 6, 17
NODE, POD = 1, 2
NOW_NS = 10**15
SERVICE, GONE, STAYS = (from_text(text) for text in ("10.96.0.1", "10.42.0.2", "10.42.0.3"))

Given = tuple[SocketKey, Socket]


def sent(cookie: int, backend: Address, netns: int = NODE, age_ns: int = 0) -> Given:
    """An unconnected socket's choice."""
    key = SocketKey(cookie, SERVICE, 80, UDP, Way.TO_BACKEND)
    return key, Socket(NOW_NS - age_ns, netns, backend, 8080, 7)


def back(
    cookie: int, backend: Address, proto: int = UDP, netns: int = NODE, age_ns: int = 0
) -> Given:
    """The way back."""
    key = SocketKey(cookie, backend, 8080, proto, Way.TO_SERVICE)
    return key, Socket(NOW_NS - age_ns, netns, SERVICE, 80, 7)


def serves(service: int, address: Address, port: int) -> bool:
    assert (service, port) == (7, 8080)
    return address == STAYS


def test_choices_of_a_backend_that_left_are_made_anew() -> None:
    left = left_behind([sent(1, GONE), sent(2, STAYS)], serves)
    assert [key.cookie for key in left.choose_anew] == [1]
    assert not left.end


def test_sockets_that_may_be_connected_to_it_are_looked_for_in_their_namespace() -> None:
    given = [back(1, GONE), back(2, STAYS), back(3, GONE, netns=POD)]
    left = left_behind(given, serves)
    assert not left.choose_anew
    assert left.end == {
        NODE: {Connected(1, GONE, 8080): given[0][0]},
        POD: {Connected(3, GONE, 8080): given[2][0]},
    }


def test_tcp_is_never_touched() -> None:
    """A40."""
    assert left_behind([back(1, GONE, TCP)], serves) == ([], {})


def test_entries_of_closed_sockets_go_when_they_are_not_quite_young() -> None:
    old = YOUNG_NS + 1
    given = [
        back(1, STAYS, age_ns=old),
        back(2, STAYS, age_ns=old),
        sent(2, STAYS, age_ns=old),
        back(3, STAYS, TCP, age_ns=YOUNG_NS),
        back(4, STAYS, netns=POD, age_ns=old),
    ]
    assert closed(given, {NODE: {1}}, NOW_NS) == [given[1][0], given[2][0]]


def test_where_the_sockets_are_not_known_nothing_is_forgotten() -> None:
    assert closed([back(1, STAYS, age_ns=YOUNG_NS + 1)], {}, NOW_NS) == []
