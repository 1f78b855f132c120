"""A trace tells what would happen, and leaves every map as it was.

`Node` traces each packet of every other test before it sends it; here stand the cases where
there is most to be changed, compared over all maps.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from maps import bpf
from maps.abi import Hook, Step, Verdict
from tests.datapath.node import CB, TRACE_MARKS, Node, context
from tests.datapath.packets import End, Net, Talk, quote, too_big


def known(node: Node, net: Net, proto: str) -> Talk:
    """A connection to a Service with affinity, as the client sees it."""
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 80)], proto, affinity_sec=60)
    node.from_pod(node.client, talk.opening())
    return talk


def new_connection(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = known(node, net, "TCP").seen_as(port=40001)
    return (
        talk.opening(),
        Verdict.PASS_TO_BACKEND,
        {
            Step.SOURCE_CHECKED,
            Step.SERVICE,
            Step.AFFINITY,
            Step.FLOW_CREATED,
            Step.DESTINATION_REWRITTEN,
            Step.TO_STACK,
        },
    )


def direct_connection(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = net.talk("UDP", End(net.client, 1), End(net.server, 2))
    steps = {Step.SOURCE_CHECKED, Step.FLOW_CREATED, Step.LOCAL_POD}
    return talk.opening(), Verdict.PASS_DIRECT, steps


def idle_connection(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = known(node, net, "TCP")
    node.idle(5)
    steps = {Step.FLOW_KNOWN, Step.DESTINATION_REWRITTEN, Step.TO_STACK}
    return talk.tcp("FA"), Verdict.PASS_TO_BACKEND, steps


def expired_connection(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = known(node, net, "UDP")
    node.idle(1000)
    steps = {Step.FLOW_EXPIRED, Step.SERVICE, Step.AFFINITY, Step.FLOW_CREATED}
    return talk.more(), Verdict.PASS_TO_BACKEND, steps


def judged_again(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = known(node, net, "TCP")
    node.raise_epoch()
    return talk.more(), Verdict.PASS_TO_BACKEND, {Step.FLOW_KNOWN, Step.FLOW_JUDGED_AGAIN}


def backend_gone(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = known(node, net, "UDP")
    node.serve(talk.dst, [End(net.second_remote, 80)], "UDP")
    node.raise_epoch(udp=True)
    steps = {Step.FLOW_JUDGED_AGAIN, Step.BACKEND_GONE, Step.BACKEND_RANDOM, Step.FLOW_CREATED}
    return talk.more(), Verdict.PASS_TO_BACKEND, steps


def hairpin(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = net.to_service()
    node.serve(talk.dst, [End(net.client, 80)])
    return talk.opening(), Verdict.PASS_TO_BACKEND, {Step.HAIRPIN, Step.LOCAL_POD}


def first_fragment(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = known(node, net, "UDP")
    data = Raw(bytes(talk.opening())[20 if net.version == 4 else 40 :])
    if net.version == 4:
        packet = talk.ip(flags="MF", proto=17) / data
    else:
        packet = talk.ip() / IPv6ExtHdrFragment(nh=17, m=1) / data
    return packet, Verdict.PASS_TO_BACKEND, {Step.FLOW_KNOWN}


def refused(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = net.to_service()
    node.serve(talk.dst, [])
    return talk.opening(), Verdict.DROP_NO_BACKEND, {Step.SERVICE, Step.REFUSED}


def spoofed(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = net.to_service().seen_as(net.server)
    return talk.opening(), Verdict.DROP_SPOOFED_SOURCE, {Step.SOURCE_CHECKED}


def error_about_a_reply(node: Node, net: Net) -> tuple[Packet, Verdict, set[Step]]:
    talk = known(node, net, "UDP")
    complaint = too_big(net, net.client, net.service, quote(talk.answer()))
    return complaint, Verdict.PASS_ICMP_ERROR, {Step.SOURCE_CHECKED, Step.ICMP_INNER}


CASES: list[Callable[[Node, Net], tuple[Packet, Verdict, set[Step]]]] = [
    new_connection,
    direct_connection,
    idle_connection,
    expired_connection,
    judged_again,
    backend_gone,
    hairpin,
    first_fragment,
    refused,
    spoofed,
    error_about_a_reply,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_trace_tells_verdict_and_steps_and_changes_no_map(
    node: Node, net: Net, case: Callable[[Node, Net], tuple[Packet, Verdict, set[Step]]]
) -> None:
    packet, verdict, steps = case(node, net)
    maps = [name for name in node.tables.by_name if name != "scratches"]
    before = node.written(maps)
    frame = bytes(Ether(src=node.client.mac, dst=node.client.node_mac) / packet)
    told, told_steps = node.trace(Hook.FROM_POD, node.client, frame)
    assert node.written(maps) == before
    assert told == verdict
    assert steps <= told_steps


def test_trace_of_a_reply_changes_no_map(node: Node, net: Net, proto: str) -> None:
    talk = known(node, net, proto)
    reply = talk.to(net.remote, 80).answer()
    result = node.to_pod(node.client, reply)
    result.expect("reply", talk.answer())
    assert {Step.FLOW_KNOWN, Step.SOURCE_REWRITTEN} <= result.steps


@pytest.mark.parametrize("marks", [(0, 0), (TRACE_MARKS[0], 0), (0, TRACE_MARKS[1])])
def test_only_both_marks_make_a_trace(node: Node, net: Net, marks: tuple[int, int]) -> None:
    marked = bytearray(context(node.client.ifindex))
    struct.pack_into("=II", marked, CB + 12, *marks)
    talk = net.talk("UDP", End(net.client, 1), End(net.outside, 2))
    frame = bytes(Ether(src=node.client.mac, dst=node.client.node_mac) / talk.opening())
    done = bpf.prog_test_run(node.program("from_pod"), frame, bytes(marked))
    assert node.flow_count() == 1
    assert struct.unpack_from("=II", done.context, CB) == (0, 0)


def test_trace_says_the_same_twice(node: Node, net: Net, proto: str) -> None:
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 80)], proto)
    frame = bytes(Ether(src=node.client.mac, dst=node.client.node_mac) / talk.opening())
    told = {node.trace(Hook.FROM_POD, node.client, frame) for _ in range(3)}
    assert len(told) == 1
