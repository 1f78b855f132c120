"""The wire's programs meet as many frames that nobody would send as the pods' do: test_fuzz.py.

A test-run takes the type of a frame from its bytes 12 and 13. So those of the programs without a
link layer are packets whose source address has that type in its middle.
"""

from __future__ import annotations

import random

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from maps import bpf
from maps.abi import FrontendFlag
from tests.datapath.node import context
from tests.datapath.packets import IPV4, IPV6, End, Net, port_unreachable, quote, too_big
from tests.datapath.test_fuzz import flipped, hold, noisy, seed, truncated
from tests.datapath.wire import FIRST, Wire, frontend, node_address

__all__ = ["seed"]

TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
PROGRAMS = ("from_wire", "to_wire", "from_wire_l3", "to_wire_l3")


def plausible(net: Net) -> list[Packet]:
    """Packets of every kind at the wire: these are cut, flipped and filled with noise."""
    packets = []
    for proto in ("TCP", "UDP", "SCTP"):
        for kind, backend in (("NodePort", net.remote), ("LoadBalancer", net.server)):
            front, _, _ = frontend(net, kind)
            talk = net.talk(proto, End(net.outside, 40000), front)
            seen = talk.to(backend).seen_as(node_address(net))
            packets += [talk.opening(), talk.more(), talk.answer(), seen.opening(), seen.answer()]
            packets.append(too_big(net, net.router, seen.src.addr, quote(seen.more(), 24)))
            packets.append(port_unreachable(net, backend, seen.src.addr, quote(seen.opening(), 8)))
        own = net.talk(proto, End(node_address(net, FIRST), 40000), End(net.service, 80))
        here = own.to(own.src.addr).seen_as(net.outside)
        packets += [own.opening(), own.more(), own.answer(), here.answer(), here.more()]
    ping = net.talk("ICMP", End(net.outside, 7), End(node_address(net, FIRST), 7))
    return [*packets, ping.opening(), ping.answer()]


def frames(program: str) -> list[bytes]:
    """The plausible packets as the program gets them."""
    there, back = (FIRST.node_mac, FIRST.mac), (FIRST.mac, FIRST.node_mac)
    src, dst = there if program == "from_wire" else back
    packets = [(net, packet) for net in (IPV4, IPV6) for packet in plausible(net)]
    if not program.endswith("_l3"):
        return [bytes(Ether(src=src, dst=dst) / packet) for _, packet in packets]
    bare = [(TYPES[net.version], bytes(packet)) for net, packet in packets]
    return [data[:12] + kind + data[14:] for kind, data in bare]


@pytest.fixture
def busy(wire: Wire) -> Wire:
    """A node whose Services have one backend each, and that knows all base packets."""
    for net in (IPV4, IPV6):
        for proto in ("TCP", "UDP", "SCTP"):
            for kind, backend in (("NodePort", net.remote), ("LoadBalancer", net.server)):
                _, key, flags = frontend(net, kind)
                wire.node.serve(key, [End(backend, 8080)], proto, flags=flags)
            here = End(node_address(net, FIRST), 8080)
            flags = FrontendFlag.EXTERNAL
            wire.node.serve(End(net.service, 80), [here], proto, affinity_sec=60, flags=flags)
    for program in PROGRAMS:
        for frame in frames(program):
            bpf.prog_test_run(wire.node.program(program), frame, context(FIRST.ifindex))
    return wire


programs = pytest.mark.parametrize("program", PROGRAMS)


@programs
def test_frames_cut_off_at_every_length(busy: Wire, program: str, seed: int) -> None:
    hold(busy.node, program, FIRST.ifindex, truncated(frames(program)), seed)


@programs
def test_noise_behind_plausible_headers(busy: Wire, program: str, seed: int) -> None:
    stream = noisy(frames(program), random.Random(seed))
    hold(busy.node, program, FIRST.ifindex, stream, seed)


@programs
def test_flipped_bits(busy: Wire, program: str, seed: int) -> None:
    stream = flipped(frames(program), random.Random(seed))
    hold(busy.node, program, FIRST.ifindex, stream, seed)
