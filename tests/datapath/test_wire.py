"""Services at the wire: every client, every frontend, every place of a backend, out and back."""

from __future__ import annotations

import pytest

from maps.abi import ConfigFlag, FrontendFlag, RangeScope, Step
from tests.datapath.packets import End, Net, Talk
from tests.datapath.result import PASS
from tests.datapath.wire import FIRST, SECOND, Wire, frontend, node_address


@pytest.fixture(params=["ClusterIP", "NodePort", "LoadBalancer"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of frontend in turn."""
    return str(request.param)


def outside(net: Net, proto: str, to: End) -> Talk:
    return net.talk(proto, End(net.outside, 40000), to)


# ---- clients outside ------------------------------------------------------------------------


def test_client_outside_reaches_a_pod_of_this_node_with_its_own_address(
    wire: Wire, net: Net, proto: str, kind: str
) -> None:
    front, key, flags = frontend(net, kind)
    wire.node.serve(key, [End(net.server, 8080)], proto, flags=flags)
    talk = outside(net, proto, front)
    inside = talk.to(net.server)
    for say in (Talk.opening, Talk.more):
        wire.receives(say(talk)).expect("to_backend", say(inside), into=wire.node.server)
        back = wire.node.from_pod(wire.node.server, inside.answer())
        back.expect_routed("reply", talk.answer())
        wire.carried(back, FIRST)


def test_client_outside_reaches_a_pod_elsewhere_masqueraded(
    wire: Wire, net: Net, proto: str, kind: str
) -> None:
    front, key, flags = frontend(net, kind)
    wire.node.serve(key, [End(net.remote, 8080)], proto, flags=flags)
    talk = outside(net, proto, front)
    seen = talk.to(net.remote).seen_as(node_address(net))
    for say in (Talk.opening, Talk.more):
        there = wire.receives(say(talk))
        there.expect_routed("to_backend", say(seen))
        wire.carried(there, SECOND)
        back = wire.receives(seen.answer(), SECOND)
        back.expect_routed("reply", talk.answer())
        wire.carried(back, FIRST)
        assert Step.MASQUERADE_UNDONE in back.steps


def test_client_outside_reaches_a_process_of_this_node(
    wire: Wire, net: Net, proto: str, kind: str
) -> None:
    front, key, flags = frontend(net, kind)
    here = node_address(net, FIRST)
    wire.node.serve(key, [End(here, 8080)], proto, flags=flags)
    talk = outside(net, proto, front)
    inside = talk.to(here)
    for say in (Talk.opening, Talk.more):
        wire.receives(say(talk)).expect("to_backend", say(inside))
        wire.sends(inside.answer()).expect("reply", talk.answer())


def test_without_fast_path_the_stack_carries_both_ways(wire: Wire, net: Net, proto: str) -> None:
    wire.node.fast_path(on=False)
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.server, 8080)], proto, flags=flags)
    talk = outside(net, proto, front)
    inside = talk.to(net.server)
    server = wire.node.server
    for say in (Talk.opening, Talk.more):
        wire.receives(say(talk)).expect("to_backend", say(inside))
        wire.node.to_pod(server, say(inside)).expect("direct", say(inside))
        wire.node.from_pod(server, inside.answer()).expect("direct", inside.answer())
        wire.sends(inside.answer(), came_by=server.ifindex).expect("reply", talk.answer())


def test_pod_that_is_not_attached_is_served_by_the_stack(wire: Wire, net: Net, proto: str) -> None:
    wire.node.remove_endpoint(wire.node.server)
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.server, 8080)], proto, flags=flags)
    talk = outside(net, proto, front)
    inside = talk.to(net.server)
    wire.receives(talk.opening()).expect("to_backend", inside.opening())
    wire.sends(inside.answer(), came_by=99).expect("reply", talk.answer())
    # Attached later, its replies go on as they did: the stack has seen the one direction.
    wire.node.add_endpoint(wire.node.server)
    wire.node.raise_epoch(udp=proto == "UDP")
    wire.node.from_pod(wire.node.server, inside.answer()).expect("direct", inside.answer())
    wire.receives(talk.more()).expect("to_backend", inside.more())


def test_what_is_for_no_service_is_not_touched(wire: Wire, net: Net) -> None:
    for proto in ("TCP", "UDP", "SCTP", "ICMP"):
        talk = outside(net, proto, End(node_address(net, FIRST), 22))
        for say in (Talk.opening, Talk.more):
            wire.receives(say(talk)).expect("direct", say(talk))
            wire.sends(talk.answer()).expect("direct", talk.answer())
    assert wire.node.flow_count() == 0


def test_node_port_is_served_at_the_chosen_addresses_only(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.server, 8080)], flags=flags)
    for talk in (outside(net, "TCP", front), outside(net, "TCP", End(net.router, front.port))):
        served = talk.dst == front
        result = wire.receives(talk.opening())
        assert (result.verdict == "to_backend") == served
        assert (Step.NODE_PORT in result.steps) == served


def test_middle_of_an_unknown_connection_is_the_nodes_own_matter(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.server, 8080)], flags=flags)
    talk = outside(net, "TCP", front)
    wire.receives(talk.more()).expect("direct", talk.more())


def test_frames_for_another_machine_are_not_looked_at(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.server, 8080)], flags=flags)
    packet = outside(net, "TCP", front).opening()
    other = FIRST._replace(mac="02:00:00:00:99:99")
    wire.receives(packet, other).expect("not_ours", packet)


# ---- clients in pods ------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "stack"])
def test_pod_reaches_an_external_address_whose_backend_is_elsewhere_masqueraded(
    wire: Wire, net: Net, proto: str, fast: bool
) -> None:
    wire.node.fast_path(fast)
    client = wire.node.client
    for kind in ("NodePort", "LoadBalancer"):
        front, key, flags = frontend(net, kind)
        wire.node.serve(key, [End(net.remote, 8080)], proto, flags=flags)
        talk = net.talk(proto, End(net.client, 40000), front)
        for say in (Talk.opening, Talk.more):
            there = wire.node.from_pod(client, say(talk))
            seen = talk.to(net.remote).seen_as(node_address(net), there.packet.sport)
            there.expect_routed("to_backend", say(seen))
            wire.carried(there, SECOND)
            back = wire.receives(seen.answer(), SECOND)
            back.expect("reply", talk.answer(), into=client)
            if not fast:  # by the host's end of its veth pair, past to_pod
                wire.node.to_pod(client, back.packet).expect("direct", back.packet)


def test_reply_to_a_pod_that_is_not_masqueraded_is_left_to_to_pod(
    wire: Wire, net: Net, proto: str
) -> None:
    talk = net.to_service(proto)
    inside = talk.to(net.remote)
    wire.node.serve(talk.dst, [End(net.remote, 8080)], proto)
    wire.node.from_pod(wire.node.client, talk.opening())
    wire.sends(inside.opening(), SECOND, came_by=wire.node.client.ifindex).expect(
        "direct", inside.opening()
    )
    wire.receives(inside.answer(), SECOND).expect("direct", inside.answer())
    wire.node.to_pod(wire.node.client, inside.answer()).expect("reply", talk.answer())


def test_pod_reaches_a_process_of_its_node(wire: Wire, net: Net, proto: str) -> None:
    here = node_address(net, FIRST)
    for kind in ("ClusterIP", "NodePort"):
        front, key, flags = frontend(net, kind)
        wire.node.serve(key, [End(here, 8080)], proto, flags=flags)
        talk = net.talk(proto, End(net.client, 40000 + len(kind)), front)
        inside = talk.to(here)
        wire.node.from_pod(wire.node.client, talk.opening()).expect("to_backend", inside.opening())
        wire.node.to_pod(wire.node.client, inside.answer()).expect("reply", talk.answer())


def test_pod_reaches_itself_by_a_node_port(wire: Wire, net: Net, proto: str) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.client, 8080)], proto, flags=flags)
    talk = net.talk(proto, End(net.client, 40000), front)
    inside = talk.to(net.client).seen_as(net.hairpin)
    client = wire.node.client
    wire.node.from_pod(client, talk.opening()).expect("to_backend", inside.opening(), into=client)
    wire.node.from_pod(client, inside.answer()).expect("reply", talk.answer(), into=client)


# ---- processes of the node ------------------------------------------------------------------


def of_node(net: Net, proto: str, to: End) -> Talk:
    return net.talk(proto, End(node_address(net, FIRST), 40000), to)


def test_process_of_the_node_reaches_a_pod_here(wire: Wire, net: Net, proto: str) -> None:
    talk = of_node(net, proto, End(net.service, 80))
    inside = talk.to(net.server)
    wire.node.serve(talk.dst, [End(net.server, 8080)], proto)
    for say in (Talk.opening, Talk.more):
        there = wire.sends(say(talk))
        there.expect("to_backend", say(inside), into=wire.node.server)
        wire.node.to_pod(wire.node.server, there.packet).expect("direct", there.packet)
        back = wire.node.from_pod(wire.node.server, inside.answer())
        back.expect_to_node("reply", talk.answer(), FIRST)
        wire.receives(back.packet).expect("direct", back.packet)


def test_process_of_the_node_reaches_a_pod_elsewhere(wire: Wire, net: Net, proto: str) -> None:
    talk = of_node(net, proto, End(net.service, 80))
    seen = talk.to(net.remote).seen_as(node_address(net))
    wire.node.serve(talk.dst, [End(net.remote, 8080)], proto)
    for say in (Talk.opening, Talk.more):
        there = wire.sends(say(talk))
        there.expect_routed("to_backend", say(seen))
        wire.carried(there, SECOND)
        back = wire.receives(seen.answer(), SECOND)
        back.expect_to_node("reply", talk.answer(), FIRST)
        wire.receives(back.packet).expect("direct", back.packet)


def test_process_of_the_node_reaches_another_one_of_it(wire: Wire, net: Net, proto: str) -> None:
    here = node_address(net, FIRST)
    talk = of_node(net, proto, End(net.service, 80))
    seen = talk.to(here).seen_as(net.hairpin)
    wire.node.serve(talk.dst, [End(here, 8080)], proto)
    for say in (Talk.opening, Talk.more):
        there = wire.sends(say(talk))
        there.expect_to_node("to_backend", say(seen), FIRST)
        wire.receives(there.packet).expect("direct", there.packet)
        back = wire.sends(seen.answer())
        back.expect_to_node("reply", talk.answer(), FIRST)
        wire.receives(back.packet).expect("direct", back.packet)


def test_forwarded_packets_are_not_those_of_a_process(wire: Wire, net: Net) -> None:
    talk = net.to_service("UDP")
    wire.node.serve(talk.dst, [End(net.remote, 8080)], "UDP")
    packet = outside(net, "UDP", talk.dst).opening()
    wire.sends(packet, came_by=SECOND.ifindex).expect("direct", packet)


# ---- UDP moves on ---------------------------------------------------------------------------


def test_udp_from_outside_leaves_a_backend_that_is_gone_a43(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "NodePort")
    talk = outside(net, "UDP", front)
    wire.node.serve(key, [End(net.remote, 53)], "UDP", flags=flags)
    wire.receives(talk.opening())
    wire.node.serve(key, [End(net.server, 53)], "UDP", flags=flags)
    wire.node.raise_epoch(udp=True)
    result = wire.receives(talk.more())
    result.expect("to_backend", talk.to(net.server, 53).more(), into=wire.node.server)
    assert Step.BACKEND_GONE in result.steps
    assert Step.FLOW_JUDGED_AGAIN not in wire.receives(talk.more()).steps


def test_connection_from_outside_stays_on_a_backend_that_is_gone_a40(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "NodePort")
    talk = outside(net, "TCP", front)
    wire.node.serve(key, [End(net.server, 8080)], flags=flags)
    wire.receives(talk.opening())
    wire.node.serve(key, [End(net.remote, 8080)], flags=flags)
    wire.node.raise_epoch()
    inside = talk.to(net.server)
    wire.receives(talk.more()).expect("to_backend", inside.more(), into=wire.node.server)


# ---- nothing to be served -------------------------------------------------------------------


def test_source_ranges_hold_for_every_client(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "LoadBalancer")
    flags |= FrontendFlag.SOURCE_RANGES
    number = wire.node.serve(key, [End(net.server, 8080)], flags=flags)
    talk = outside(net, "TCP", front)
    wire.receives(talk.opening()).expect("source_range")
    pod = net.talk("TCP", End(net.client, 40000), front)
    wire.node.from_pod(wire.node.client, pod.opening()).expect("source_range")
    block = {4: "192.0.2.0/28", 6: "2001:db8::/120"}[net.version]
    wire.range(number, block)
    wire.receives(talk.opening()).expect(
        "to_backend", talk.to(net.server).opening(), into=wire.node.server
    )
    wire.node.from_pod(wire.node.client, pod.opening()).expect("source_range")


def test_addresses_of_no_service_in_the_service_range_are_dropped_a22(wire: Wire, net: Net) -> None:
    wire.range(RangeScope.RANGE_SERVICES, {4: "10.96.0.0/12", 6: "fd96::/112"}[net.version])
    pod = net.to_service()
    wire.node.from_pod(wire.node.client, pod.opening()).expect("direct", pod.opening())
    wire.node.switch(ConfigFlag.SERVICE_RANGES)
    pod = net.to_service(sport=40001)
    wire.node.from_pod(wire.node.client, pod.opening()).expect("unknown_service")
    wire.receives(outside(net, "UDP", pod.dst).opening()).expect("unknown_service")


def test_hand_over_leaves_new_connections_and_carries_known_ones(wire: Wire, net: Net) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.server, 8080)], flags=flags)
    known, new = outside(net, "TCP", front), outside(net, "TCP", front).seen_as(port=40001)
    wire.receives(known.opening())
    wire.node.switch(ConfigFlag.HAND_OVER)
    inside = known.to(net.server)
    wire.receives(known.more()).expect("to_backend", inside.more(), into=wire.node.server)
    wire.receives(new.opening()).expect("untracked", new.opening())
    pod = net.talk("TCP", End(net.client, 40000), front)
    wire.node.from_pod(wire.node.client, pod.opening()).expect("untracked", pod.opening())


def test_unreadable_packets_are_not_ours_at_the_wire(wire: Wire, net: Net) -> None:
    packet = outside(net, "UDP", End(node_address(net, FIRST), 80)).opening()
    wire.node.change_config(flags=0)
    wire.receives(packet).expect("not_ours", packet)
    assert wire.sends(packet).action == PASS
