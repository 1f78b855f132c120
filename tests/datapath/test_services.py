"""Connections to Services: which backend, and what packets look like on their way."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from scapy.layers.l2 import Ether

from kpbpf import address
from maps.abi import Hook, Step
from tests.datapath.node import Node
from tests.datapath.packets import End, Net, Talk

SEVERAL = 4
DRAWS = 4000
TOLERANCE = 140
"""Five standard deviations of how often one of 4 backends is drawn in 4000 times."""


def backends_drawn(node: Node, talk: Talk, draws: int = DRAWS) -> Counter[str]:
    """Open many connections, from a port each; count where they went."""
    frame = bytearray(bytes(Ether(src=node.client.mac, dst=node.client.node_mac) / talk.opening()))
    ports = 14 + (20 if talk.net.version == 4 else 40)
    drawn: Counter[str] = Counter()
    for sport in range(10000, 10000 + draws):
        struct.pack_into("!H", frame, ports, sport)
        packet = node.run(Hook.FROM_POD, node.client, bytes(frame)).data[14:]
        ipv4 = talk.net.version == 4
        drawn[address.to_text(address.MAPPED + packet[16:20] if ipv4 else packet[24:40])] += 1
    return drawn


def test_first_packet_to_a_service_goes_to_its_backend(node: Node, net: Net, proto: str) -> None:
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 80)], proto)
    result = node.from_pod(node.client, talk.opening())
    result.expect("to_backend", talk.to(net.remote, 80).opening())
    assert {Step.SERVICE, Step.BACKEND_RANDOM, Step.FLOW_CREATED, Step.TO_STACK} <= result.steps


def test_destination_port_becomes_the_target_port(node: Node, net: Net) -> None:
    for proto in ("TCP", "UDP"):
        talk = net.to_service(proto)
        node.serve(talk.dst, [End(net.remote, 8080)], proto)
        result = node.from_pod(node.client, talk.opening())
        result.expect("to_backend", talk.to(net.remote, 8080).opening())


def test_next_packet_goes_to_the_same_backend(node: Node, net: Net, proto: str) -> None:
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 80), End(net.second_remote, 80)], proto)
    chosen = node.from_pod(node.client, talk.opening()).packet.dst
    for _ in range(10):
        result = node.from_pod(node.client, talk.more())
        result.expect("to_backend", talk.to(chosen, 80).more())
        assert Step.FLOW_KNOWN in result.steps


def test_reply_into_the_client_shows_the_service_again(node: Node, net: Net, proto: str) -> None:
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 80)], proto)
    node.from_pod(node.client, talk.opening())
    reply = talk.to(net.remote, 80).answer()
    node.to_pod(node.client, reply).expect("reply", talk.answer())


@pytest.mark.parametrize("any_proto", ["TCP", "UDP", "SCTP", "ICMP"])
def test_what_is_for_no_service_goes_on_as_it_is(node: Node, net: Net, any_proto: str) -> None:
    talk = net.talk(any_proto, End(net.client, 40000), End(net.outside, 80))
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening())
    node.to_pod(node.client, talk.answer()).expect("direct", talk.answer())
    assert node.flow_count() == 1


def test_another_port_of_a_service_address_is_not_the_service(node: Node, net: Net) -> None:
    node.serve(End(net.service, 80), [End(net.remote, 80)])
    talk = net.to_service(port=81)
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening())


def test_same_port_of_another_protocol_is_another_service(node: Node, net: Net) -> None:
    node.serve(End(net.service, 53), [End(net.remote, 53)], "TCP")
    node.serve(End(net.service, 53), [End(net.second_remote, 53)], "UDP")
    for proto, backend in (("TCP", net.remote), ("UDP", net.second_remote)):
        talk = net.to_service(proto, port=53)
        result = node.from_pod(node.client, talk.opening())
        result.expect("to_backend", talk.to(backend, 53).opening())


def test_ping_of_a_service_address_is_not_handled_a38(node: Node, net: Net) -> None:
    node.serve(End(net.service, 80), [End(net.remote, 80)])
    talk = net.talk("ICMP", End(net.client, 77), End(net.service, 77))
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening())


# ---- backends of this node ----------------------------------------------------------------


def test_local_backend_gets_packets_straight_and_answers_so(
    node: Node, net: Net, proto: str
) -> None:
    talk = net.to_service(proto)
    inside = talk.to(net.server, 80)
    node.serve(talk.dst, [End(net.server, 80)], proto)
    for say in (Talk.opening, Talk.more):
        sent = node.from_pod(node.client, say(talk))
        sent.expect("to_backend", say(inside), into=node.server)
        back = node.from_pod(node.server, inside.answer())
        back.expect("reply", talk.answer(), into=node.client)
        assert Step.LOCAL_POD in sent.steps & back.steps


def test_without_fast_path_the_stack_carries_both_ways(node: Node, net: Net, proto: str) -> None:
    node.fast_path(on=False)
    talk = net.to_service(proto)
    inside = talk.to(net.server, 80)
    node.serve(talk.dst, [End(net.server, 80)], proto)
    for say in (Talk.opening, Talk.more):
        node.from_pod(node.client, say(talk)).expect("to_backend", say(inside))
        node.to_pod(node.server, say(inside)).expect("direct", say(inside))
        node.from_pod(node.server, inside.answer()).expect("direct", inside.answer())
        node.to_pod(node.client, inside.answer()).expect("reply", talk.answer())
    assert node.flow_count() == 2


@pytest.mark.parametrize("any_proto", ["TCP", "UDP", "SCTP", "ICMP"])
def test_pod_reaches_the_other_pod_of_its_node_straight(
    node: Node, net: Net, any_proto: str
) -> None:
    talk = net.talk(any_proto, End(net.client, 40000), End(net.server, 80))
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening(), into=node.server)
    node.from_pod(node.server, talk.answer()).expect("direct", talk.answer(), into=node.client)
    node.from_pod(node.client, talk.more()).expect("direct", talk.more(), into=node.server)


def test_spent_ttl_is_left_to_the_stack_which_tells_the_sender(node: Node, net: Net) -> None:
    talk = net.to_service("UDP")
    inside = talk.to(net.server, 80)
    node.serve(talk.dst, [End(net.server, 80)], "UDP")
    for ttl in (0, 1):
        packet, arrives = talk.opening(), inside.opening()
        for p in (packet, arrives):
            setattr(p, "ttl" if net.version == 4 else "hlim", ttl)
        result = node.from_pod(node.client, packet)
        result.expect("to_backend", arrives)
        assert Step.TTL_SPENT in result.steps


def test_pod_that_reaches_itself_sees_the_hairpin_address(node: Node, net: Net, proto: str) -> None:
    talk = net.to_service(proto)
    inside = talk.to(net.client, 80).seen_as(net.hairpin)
    node.serve(talk.dst, [End(net.client, 80)], proto)
    for say in (Talk.opening, Talk.more):
        result = node.from_pod(node.client, say(talk))
        result.expect("to_backend", say(inside), into=node.client)
        back = node.from_pod(node.client, inside.answer())
        back.expect("reply", talk.answer(), into=node.client)
        assert Step.HAIRPIN in result.steps & back.steps


def test_hairpin_works_without_fast_path_and_with_ttl_1(node: Node, net: Net) -> None:
    node.fast_path(on=False)
    talk = net.to_service("UDP")
    inside = talk.to(net.client).seen_as(net.hairpin)
    node.serve(talk.dst, [End(net.client, 8080)], "UDP")
    packet, arrives = talk.opening(), inside.opening()
    for p in (packet, arrives):
        setattr(p, "ttl" if net.version == 4 else "hlim", 1)
    node.from_pod(node.client, packet).expect("to_backend", arrives, into=node.client)


# ---- which backend ------------------------------------------------------------------------


def test_new_connections_are_spread_evenly_a17(node: Node, net: Net, proto: str) -> None:
    talk = net.to_service(proto)
    ends = [End(net.remote[:-1] + str(i), 80) for i in range(1, SEVERAL + 1)]
    node.serve(talk.dst, ends, proto, local=[End(net.server, 80)])
    drawn = backends_drawn(node, talk)
    assert set(drawn) == {end.addr for end in ends}
    assert all(abs(n - DRAWS / SEVERAL) < TOLERANCE for n in drawn.values()), drawn


def test_internal_traffic_policy_local_uses_only_endpoints_of_the_node_a26(
    node: Node, net: Net
) -> None:
    talk = net.to_service()
    local = [End(net.server, 80), End(net.other, 80)]
    node.serve(talk.dst, [End(net.remote, 80), *local], local=local, local_only=True)
    drawn = backends_drawn(node, talk, 200)
    assert set(drawn) == {net.server, net.other}


def test_local_policy_without_local_endpoint_drops_without_answer_a20(
    node: Node, net: Net, proto: str
) -> None:
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 80)], proto, local_only=True)
    node.from_pod(node.client, talk.opening()).expect("no_local_backend")


def test_new_backends_take_new_connections_while_known_ones_stay_a40(
    node: Node, net: Net, proto: str
) -> None:
    known, new = net.to_service(proto), net.to_service(proto, sport=40001)
    node.serve(known.dst, [End(net.remote, 80)], proto)
    node.from_pod(node.client, known.opening())
    node.serve(known.dst, [End(net.second_remote, 80)], proto, serving=[End(net.remote, 80)])
    node.raise_epoch(udp=proto == "UDP")
    for _ in range(2):
        result = node.from_pod(node.client, known.more())
        result.expect("to_backend", known.to(net.remote, 80).more())
    result = node.from_pod(node.client, new.opening())
    result.expect("to_backend", new.to(net.second_remote, 80).opening())


@pytest.mark.parametrize("lasting", ["TCP", "SCTP"])
def test_connection_stays_on_a_backend_that_is_gone_a40(node: Node, net: Net, lasting: str) -> None:
    talk = net.to_service(lasting)
    node.serve(talk.dst, [End(net.remote, 80)], lasting)
    node.from_pod(node.client, talk.opening())
    node.serve(talk.dst, [End(net.second_remote, 80)], lasting)
    node.raise_epoch()
    node.raise_epoch(udp=True)
    at_backend = talk.to(net.remote, 80)
    node.from_pod(node.client, talk.more()).expect("to_backend", at_backend.more())
    node.remove_service(talk.dst, lasting)
    node.from_pod(node.client, talk.more()).expect("to_backend", at_backend.more())
    node.to_pod(node.client, at_backend.answer()).expect("reply", talk.answer())


def test_udp_leaves_a_backend_that_is_gone_with_its_next_packet_a43(node: Node, net: Net) -> None:
    talk = net.to_service("UDP")
    node.serve(talk.dst, [End(net.remote, 53)], "UDP")
    node.from_pod(node.client, talk.opening())
    node.serve(talk.dst, [End(net.second_remote, 53)], "UDP")
    node.raise_epoch(udp=True)
    result = node.from_pod(node.client, talk.more())
    result.expect("to_backend", talk.to(net.second_remote, 53).more())
    assert Step.BACKEND_GONE in result.steps
    reply = talk.to(net.second_remote, 53).answer()
    node.to_pod(node.client, reply).expect("reply", talk.answer())
    assert Step.FLOW_JUDGED_AGAIN not in node.from_pod(node.client, talk.more()).steps


def test_udp_that_began_before_its_service_reaches_it_with_its_next_packet(
    node: Node, net: Net
) -> None:
    talk = net.to_service("UDP")
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening())
    node.serve(talk.dst, [End(net.remote, 53)], "UDP")
    node.raise_epoch(udp=True)
    inside = talk.to(net.remote, 53)
    node.from_pod(node.client, talk.more()).expect("to_backend", inside.more())
    node.to_pod(node.client, inside.answer()).expect("reply", talk.answer())


def test_syn_sent_again_reaches_a_service_that_has_appeared(node: Node, net: Net) -> None:
    talk = net.to_service()
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening())
    node.serve(talk.dst, [End(net.remote, 80)])
    inside = talk.to(net.remote, 80)
    node.from_pod(node.client, talk.opening()).expect("to_backend", inside.opening())


def test_udp_waits_for_the_first_endpoint_a45(node: Node, net: Net) -> None:
    talk = net.to_service("UDP")
    node.serve(talk.dst, [], "UDP")
    assert node.from_pod(node.client, talk.opening()).verdict == "no_backend"
    node.serve(talk.dst, [End(net.remote, 53)], "UDP")
    inside = talk.to(net.remote, 53)
    node.from_pod(node.client, talk.more()).expect("to_backend", inside.more())


def test_udp_without_any_backend_left_is_refused_with_its_next_packet(node: Node, net: Net) -> None:
    talk = net.to_service("UDP")
    node.serve(talk.dst, [End(net.remote, 53)], "UDP")
    node.from_pod(node.client, talk.opening())
    node.serve(talk.dst, [], "UDP")
    node.raise_epoch(udp=True)
    assert node.from_pod(node.client, talk.more()).verdict == "no_backend"


# ---- session affinity (A34) ---------------------------------------------------------------

AFFINITY = 100


def affine(node: Node, net: Net, proto: str = "TCP") -> tuple[Talk, list[End]]:
    """A Service of many backends with affinity, and the client's first connection to it."""
    talk = net.to_service(proto)
    ends = [End(net.remote[:-1] + str(i), 80) for i in range(1, 9)]
    node.serve(talk.dst, ends, proto, affinity_sec=AFFINITY)
    return talk, ends


def reopened(node: Node, talk: Talk, sport: int) -> str:
    """Where a new connection of the same client goes."""
    result = node.from_pod(node.client, talk.seen_as(port=sport).opening())
    assert result.verdict == "to_backend"
    chosen: str = result.packet.dst
    return chosen


def used_before(node: Node, seconds: int) -> None:
    for key, value in list(node.tables.affinities.items()):
        passed = (value.last_used_ns - seconds * 10**9) % (1 << 64)
        node.tables.affinities.put(key, value._replace(last_used_ns=passed))


def test_affinity_keeps_the_backend_of_a_client(node: Node, net: Net, proto: str) -> None:
    talk, _ = affine(node, net, proto)
    first = reopened(node, talk, 40000)
    assert {reopened(node, talk, 40001 + i) for i in range(12)} == {first}
    assert Step.AFFINITY in node.from_pod(node.client, talk.seen_as(port=50000).opening()).steps


def test_affinity_is_refreshed_by_each_new_connection(node: Node, net: Net) -> None:
    talk, _ = affine(node, net)
    first = reopened(node, talk, 40000)
    for i in range(12):
        used_before(node, AFFINITY - 2)
        assert reopened(node, talk, 40001 + i) == first


def test_affinity_is_not_refreshed_by_packets_of_a_known_connection(node: Node, net: Net) -> None:
    talk, _ = affine(node, net)
    reopened(node, talk, 40000)
    before = node.written(["affinities"])
    node.from_pod(node.client, talk.more())
    assert node.written(["affinities"]) == before


def test_affinity_expires(node: Node, net: Net) -> None:
    talk, _ = affine(node, net)
    chosen = set()
    for i in range(40):
        chosen.add(reopened(node, talk, 40000 + i))
        used_before(node, AFFINITY + 1)
    assert len(chosen) > 1


def test_affinity_to_a_backend_that_left_is_forgotten(node: Node, net: Net) -> None:
    talk, ends = affine(node, net)
    first = reopened(node, talk, 40000)
    rest = [end for end in ends if end.addr != first]
    node.serve(talk.dst, rest, affinity_sec=AFFINITY, serving=[End(first, 80)])
    second = reopened(node, talk, 40001)
    assert second in {end.addr for end in rest}
    assert reopened(node, talk, 40002) == second


def test_affinity_to_a_remote_backend_gives_way_to_local_policy(node: Node, net: Net) -> None:
    talk = net.to_service()
    remote, local = End(net.remote, 80), End(net.server, 80)
    node.serve(talk.dst, [remote], affinity_sec=AFFINITY)
    assert reopened(node, talk, 40000) == net.remote
    ends = [remote, local]
    node.serve(talk.dst, ends, local=[local], local_only=True, affinity_sec=AFFINITY)
    assert reopened(node, talk, 40001) == net.server


def test_affinity_is_shared_by_the_frontends_of_a_service(node: Node, net: Net) -> None:
    talk, ends = affine(node, net)
    second = End(net.second_service, 8000)
    node.serve(second, ends, affinity_sec=AFFINITY, same_as=talk.dst)
    first = reopened(node, talk, 40000)
    again = {reopened(node, talk.to(*second), 41000 + i) for i in range(12)}
    assert again == {first}


def test_affinity_is_kept_where_only_another_source_port_avoids_a_mix_up(
    node: Node, net: Net
) -> None:
    talk, _ = affine(node, net)
    first = reopened(node, talk, 40000)
    other = talk.to(net.second_service, 80).seen_as(port=40001)
    node.serve(other.dst, [End(first, 80)])
    node.from_pod(node.client, other.opening())
    assert reopened(node, talk, 40001) == first
    assert reopened(node, talk, 40002) == first


def test_affinity_is_each_client_its_own(node: Node, net: Net) -> None:
    talk, _ = affine(node, net)
    reopened(node, talk, 40000)
    theirs = talk.seen_as(net.other)
    node.from_pod(node.other, theirs.opening())
    assert len(node.written(["affinities"])["affinities"]) == 2
