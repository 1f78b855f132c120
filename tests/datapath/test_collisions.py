"""Connections that would look the same to a backend are told apart, and answered rightly.

The same client port to two Services with one backend, or to a Service and straight to its
backend: the later one leaves with another source port, or goes to another backend.
"""

from __future__ import annotations

import pytest

from maps.abi import State, Step
from tests.datapath.node import TIMEOUTS, Node
from tests.datapath.packets import End, Net, Talk
from tests.datapath.result import Pod

PORT = 8080
place = pytest.mark.parametrize("near", [False, True], ids=["remote", "local"])


def serve_twice(node: Node, net: Net, proto: str, backend: str) -> tuple[Talk, Talk]:
    """Two Services with one backend; the connections of one client port to either."""
    talk = net.to_service(proto)
    second = talk.to(net.second_service, 80)
    for front in (talk.dst, second.dst):
        node.serve(front, [End(backend, PORT)], proto)
    return talk, second


def moved(node: Node, pod: Pod, sent: Talk, inside: Talk, into: Pod | None) -> Talk:
    """Send the opening; return the connection as the backend sees it, with its other port."""
    result = node.from_pod(pod, sent.opening())
    assert result.packet.sport != inside.src.port
    assert Step.SOURCE_PORT in result.steps
    as_seen = inside.seen_as(port=result.packet.sport)
    result.expect("to_backend", as_seen.opening(), into=into)
    return as_seen


def answer(node: Node, net: Net, inside: Talk, talk: Talk) -> None:
    """The backend's answer to `inside` must reach the client as one to `talk`."""
    if inside.dst.addr == net.server:
        result = node.from_pod(node.server, inside.answer())
        result.expect("reply", talk.answer(), into=node.client)
    else:
        node.to_pod(node.client, inside.answer()).expect("reply", talk.answer())


@place
def test_two_services_with_one_backend_are_never_mixed(
    node: Node, net: Net, proto: str, near: bool
) -> None:
    backend, into = (net.server, node.server) if near else (net.remote, None)
    first, second = serve_twice(node, net, proto, backend)
    inside = first.to(backend)
    node.from_pod(node.client, first.opening()).expect("to_backend", inside.opening(), into=into)
    as_seen = moved(node, node.client, second, second.to(backend), into)
    for _ in range(2):
        answer(node, net, as_seen, second)
        answer(node, net, inside, first)
        result = node.from_pod(node.client, second.more())
        result.expect("to_backend", as_seen.more(), into=into)
        node.from_pod(node.client, first.more()).expect("to_backend", inside.more(), into=into)


def test_another_backend_serves_as_well(node: Node, net: Net, proto: str) -> None:
    ends = [End(net.remote[:-1] + str(i), 80) for i in range(1, 9)]
    fronts = [End(net.service, 80), End(net.second_service, 80)]
    for front in fronts:
        node.serve(front, ends, proto)
    for sport in range(40000, 40040):
        seen = set()
        for front in fronts:
            talk = net.to_service(proto, sport=sport).to(*front)
            packet = node.from_pod(node.client, talk.opening()).packet
            seen.add((packet.sport, packet.dst))
        assert len(seen) == 2


def test_pod_that_reaches_itself_twice_is_never_mixed(node: Node, net: Net, proto: str) -> None:
    first, second = serve_twice(node, net, proto, net.client)
    inside = first.to(net.client).seen_as(net.hairpin)
    node.from_pod(node.client, first.opening())
    as_seen = moved(node, node.client, second, inside, node.client)
    for view, talk in ((inside, first), (as_seen, second)):
        result = node.from_pod(node.client, view.answer())
        result.expect("reply", talk.answer(), into=node.client)


# ---- straight to the backend --------------------------------------------------------------


@place
def test_direct_connection_with_the_ports_of_a_translated_one_is_diverted(
    node: Node, net: Net, proto: str, near: bool
) -> None:
    backend, into = (net.server, node.server) if near else (net.remote, None)
    talk, _ = serve_twice(node, net, proto, backend)
    direct = talk.to(backend)
    node.from_pod(node.client, talk.opening())
    as_seen = moved(node, node.client, direct, direct, into)
    for _ in range(2):
        answer(node, net, as_seen, direct)
        answer(node, net, direct, talk)
        result = node.from_pod(node.client, direct.more())
        result.expect("to_backend", as_seen.more(), into=into)
        node.from_pod(node.client, talk.more()).expect("to_backend", direct.more(), into=into)


def test_connection_to_a_service_gives_way_to_a_direct_one(
    node: Node, net: Net, proto: str
) -> None:
    talk, _ = serve_twice(node, net, proto, net.remote)
    direct = talk.to(net.remote)
    node.from_pod(node.client, direct.opening()).expect("direct", direct.opening())
    as_seen = moved(node, node.client, talk, direct, None)
    answer(node, net, as_seen, talk)
    node.to_pod(node.client, direct.answer()).expect("direct", direct.answer())
    node.from_pod(node.client, direct.more()).expect("direct", direct.more())


def test_diverted_connection_outlives_the_one_it_was_diverted_by(
    node: Node, net: Net, proto: str
) -> None:
    talk, _ = serve_twice(node, net, proto, net.remote)
    direct = talk.to(net.remote)
    node.from_pod(node.client, talk.opening())
    as_seen = moved(node, node.client, direct, direct, None)
    answer(node, net, as_seen, direct)
    node.idle(TIMEOUTS[State.TCP_NEW] + 1, talk, direct)
    for _ in range(2):
        node.from_pod(node.client, direct.more()).expect("to_backend", as_seen.more())
        answer(node, net, as_seen, direct)


def test_diverted_records_keep_each_other_alive(node: Node, net: Net) -> None:
    talk, _ = serve_twice(node, net, "UDP", net.remote)
    direct = talk.to(net.remote)
    node.from_pod(node.client, talk.opening())
    as_seen = moved(node, node.client, direct, direct, None)
    for hook, packet in ((node.from_pod, direct.more()), (node.to_pod, as_seen.answer())):
        node.idle(2)
        hook(node.client, packet)
        alias, record = node.flow(direct, diverted=1), node.flow(as_seen)
        assert alias
        assert record
        assert alias.last_seen_ns == record.last_seen_ns


def test_diverting_does_not_spare_the_source_check(node: Node, net: Net) -> None:
    talk, _ = serve_twice(node, net, "TCP", net.remote)
    node.from_pod(node.client, talk.opening())
    node.from_pod(node.other, talk.to(net.remote).opening()).expect("spoofed_source")


# ---- records that are in nobody's way -----------------------------------------------------


def test_port_is_free_again_when_the_other_connection_has_timed_out(
    node: Node, net: Net, proto: str
) -> None:
    first, second = serve_twice(node, net, proto, net.remote)
    node.from_pod(node.client, first.opening())
    node.idle(TIMEOUTS[State.TCP_NEW] + 1)
    result = node.from_pod(node.client, second.opening())
    result.expect("to_backend", second.to(net.remote).opening())


def test_port_is_free_again_when_the_other_connection_is_closing(node: Node, net: Net) -> None:
    first, second = serve_twice(node, net, "TCP", net.remote)
    node.from_pod(node.client, first.opening())
    node.from_pod(node.client, first.tcp("R"))
    result = node.from_pod(node.client, second.opening())
    result.expect("to_backend", second.to(net.remote).opening())


def test_record_that_lost_its_alias_is_taken_over_by_its_own_connection(
    node: Node, net: Net, proto: str
) -> None:
    talk, _ = serve_twice(node, net, proto, net.remote)
    node.from_pod(node.client, talk.opening())
    node.forget(talk)
    result = node.from_pod(node.client, talk.opening())
    result.expect("to_backend", talk.to(net.remote).opening())
