"""Uplinks without an Ethernet header: what comes in has one before it goes on to a pod or a route.

A test-run takes the type of a frame from its bytes 12 and 13, which here are in the middle of the
source address: so clients have addresses with that type in them.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from maps import bpf
from maps.abi import Step, Verdict
from tests.datapath.checksums import wrong_checksums
from tests.datapath.node import Node, context
from tests.datapath.packets import CLIENT_SEQ, End, Net, Talk, refused_by_reset
from tests.datapath.result import PASS, REDIRECT, one_hop_later
from tests.datapath.wire import FIRST, Wire, frontend, node_address

CLIENT = {4: "8.0.2.9", 6: "2001:db8:86dd::9"}
"""Addresses in whose middle stands the type of their family."""


def run(node: Node, program: str, packet: Packet) -> tuple[Verdict, bpf.TestRun]:
    """Trace a packet through a program, then send it; both must agree."""
    data = bytes(packet)
    before = node.counters()
    told = bpf.prog_test_run(node.program(program), data, context(FIRST.ifindex, True))
    assert node.counters() == before
    done = bpf.prog_test_run(node.program(program), data, context(FIRST.ifindex))
    (slot,) = (i for i, counter in enumerate(node.counters()) if counter != before[i])
    assert told.retval == done.retval
    return Verdict(slot % 128), done


def same(net: Net, data: bytes, wanted: Packet) -> None:
    """Compare network layers; checksums of what came out are right."""
    found = (IP if net.version == 4 else IPv6)(data)
    assert data == bytes(wanted), f"{found.command()}\nwanted {wanted.command()}"
    assert not wrong_checksums(bytes(Ether(type=0x800 if net.version == 4 else 0x86DD)) + data)


def client(net: Net, proto: str, to: End) -> Talk:
    return net.talk(proto, End(CLIENT[net.version], 40000), to)


def test_client_reaches_a_pod_of_this_node(wire: Wire, net: Net, proto: str) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.server, 8080)], proto, flags=flags)
    talk, server = client(net, proto, front), wire.node.server
    for say in (Talk.opening, Talk.more):
        verdict, done = run(wire.node, "from_wire_l3", say(talk))
        assert (verdict, done.retval) == (Verdict.PASS_TO_BACKEND, REDIRECT)
        arrived = Ether(src=server.node_mac, dst=server.mac)
        arrived /= one_hop_later(say(talk.to(net.server)))
        assert done.data == bytes(arrived), Ether(done.data).command()


def test_client_reaches_a_pod_elsewhere(wire: Wire, net: Net, proto: str) -> None:
    front, key, flags = frontend(net, "NodePort")
    wire.node.serve(key, [End(net.remote, 8080)], proto, flags=flags)
    talk = client(net, proto, front)
    seen = talk.to(net.remote).seen_as(node_address(net))
    verdict, done = run(wire.node, "from_wire_l3", talk.opening())
    assert (verdict, done.retval) == (Verdict.PASS_TO_BACKEND, REDIRECT)
    kind = {4: b"\x08\x00", 6: b"\x86\xdd"}[net.version]
    assert done.data[:14] == bytes(12) + kind  # the kernel fills in the addresses
    same(net, done.data[14:], one_hop_later(seen.opening()))


def test_client_reaches_a_process_of_this_node_and_is_answered(
    wire: Wire, net: Net, proto: str
) -> None:
    front, key, flags = frontend(net, "LoadBalancer")
    here = CLIENT[net.version].replace("9", "1")
    wire.node.here.add(here)
    wire.node.serve(key, [End(here, 8080)], proto, flags=flags)
    talk = client(net, proto, front)
    inside = talk.to(here)
    verdict, done = run(wire.node, "from_wire_l3", talk.opening())
    assert (verdict, done.retval) == (Verdict.PASS_TO_BACKEND, PASS)
    same(net, done.data, inside.opening())
    verdict, done = run(wire.node, "to_wire_l3", inside.answer())
    assert (verdict, done.retval) == (Verdict.PASS_REPLY, PASS)
    same(net, done.data, talk.answer())


@pytest.mark.parametrize("program", ["from_wire_l3", "to_wire_l3"])
def test_refusal_has_no_link_layer_either(wire: Wire, net: Net, program: str) -> None:
    """A reset; for a port unreachable a test-run makes room behind a link layer."""
    talk = client(net, "TCP", End(net.service, 80))
    wire.node.serve(talk.dst, [])
    verdict, done = run(wire.node, program, talk.opening())
    assert (verdict, done.retval) == (Verdict.DROP_NO_BACKEND, REDIRECT)
    same(net, done.data, refused_by_reset(talk, CLIENT_SEQ + 1))


def test_middle_of_a_pods_unknown_connection_is_refused_into_the_pod(wire: Wire, net: Net) -> None:
    pod = wire.node.client._replace(addresses=(CLIENT[4], CLIENT[6]))
    wire.node.add_endpoint(pod)
    talk = client(net, "TCP", End(net.service, 80))
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    data = bytes(talk.tcp("F"))
    came_by = context(FIRST.ifindex, ingress_ifindex=pod.ifindex)
    done = bpf.prog_test_run(wire.node.program("to_wire_l3"), data, came_by)
    assert done.retval == REDIRECT
    answer = Ether(src=pod.node_mac, dst=pod.mac) / refused_by_reset(talk, CLIENT_SEQ + 1)
    assert done.data == bytes(answer), Ether(done.data).command()


def test_what_is_for_no_service_goes_on(wire: Wire, net: Net, proto: str) -> None:
    packet = client(net, proto, End(node_address(net, FIRST), 22)).opening()
    for program in ("from_wire_l3", "to_wire_l3"):
        verdict, done = run(wire.node, program, packet)
        assert (verdict, done.retval, done.data) == (Verdict.PASS_DIRECT, PASS, bytes(packet))
    assert Step.ROUTED not in wire.receives(packet).steps
