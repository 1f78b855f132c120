"""A hundred thousand frames that nobody would send: none makes a program misbehave.

Each is traced, then sent. What the trace said is what must happen: handed over only where a
step says so, dropped or passed as the verdict says, untouched where nothing is to be changed.
The seed is printed; KPBPF_SEED=... runs the same frames once more.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from maps import bpf
from maps.abi import Hook, Step, Verdict
from tests.datapath.node import CB, WRITTEN_BY_PROGRAMS, Node, context
from tests.datapath.packets import IPV4, IPV6, End, Net, Talk, port_unreachable, quote, too_big
from tests.datapath.result import DROP, PASS, REDIRECT
from tests.datapath.test_malformed import UNTOUCHED

RANDOM_FRAMES = 40_000
"""For each hook and each way of making frames: with the truncated ones, over 100,000 in all."""

SHORTEST = {b"\x08\x00": 14 + 20, b"\x86\xdd": 14 + 40}
"""By Ethernet type: a test-run takes nothing that ends inside its network header."""

HANDED_OVER = (Step.LOCAL_POD, Step.REFUSED, Step.ROUTED, Step.TO_NODE)
MIGHT_BE_HANDED_OVER = sum(1 << step for step in HANDED_OVER)
UNCHANGED = (Verdict.PASS_NOT_OURS, Verdict.PASS_DIRECT, Verdict.PASS_UNTRACKED)
POD_HOOKS = (Hook.FROM_POD, Hook.TO_POD)


@pytest.fixture
def seed() -> int:
    """The seed of this run."""
    chosen = int(os.environ.get("KPBPF_SEED") or random.SystemRandom().getrandbits(32))
    print(f"KPBPF_SEED={chosen}")
    return chosen


def plausible(net: Net) -> list[Packet]:
    """Packets of every kind: these are cut, flipped and filled with noise."""
    talks = [net.to_service(proto) for proto in ("TCP", "UDP", "SCTP")]
    talks += [net.to_service("TCP", port=81), net.to_service("UDP", port=81)]
    talks += [net.to_service("UDP", port=82), net.to_service("TCP", port=83)]
    packets = [say(talk) for talk in talks for say in (Talk.opening, Talk.more, Talk.answer)]
    ping = net.talk("ICMP", End(net.client, 7), End(net.server, 7))
    direct = net.talk("UDP", End(net.client, 40000), End(net.server, 53))
    packets += [ping.opening(), ping.answer(), direct.opening(), direct.answer()]
    inside = talks[1].to(net.remote, 80)
    packets += [inside.answer(), talks[0].to(net.remote, 80).answer()]
    packets += [
        too_big(net, net.router, net.client, quote(inside.more(), 24)),
        port_unreachable(net, net.client, net.service, quote(talks[1].answer(), 24)),
        port_unreachable(net, net.client, net.hairpin, quote(direct.answer(), 24)),
    ]
    if net.version == 4:
        packets.append(talks[1].ip(flags="MF", id=3, proto=17) / Raw(bytes(inside.more())[20:44]))
        packets.append(talks[1].ip(frag=3, id=3, proto=17) / Raw(b"x" * 24))
    else:
        data = inside.more().payload
        packets.append(talks[1].ip() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / data)
        packets.append(talks[1].ip() / IPv6ExtHdrFragment(nh=17, m=1, id=3) / Raw(bytes(data)))
        packets.append(talks[1].ip() / IPv6ExtHdrFragment(nh=17, offset=4, id=3) / Raw(b"x" * 24))
    return packets


def frames(node: Node) -> list[bytes]:
    """The plausible packets of both families, and what is not ours, as frames."""
    link = {"src": node.client.mac, "dst": node.client.node_mac}
    packets = [Ether(**link) / packet for net in (IPV4, IPV6) for packet in plausible(net)]
    return [bytes(packet) for packet in (*packets, *UNTOUCHED.values())]


@pytest.fixture
def busy(node: Node) -> Node:
    """A node with Services of every kind, that knows the connections of all base packets."""
    for net in (IPV4, IPV6):
        remote, local = End(net.remote, 80), End(net.server, 80)
        for proto in ("TCP", "UDP", "SCTP"):
            node.serve(End(net.service, 80), [remote, local], proto, affinity_sec=60)
            node.serve(End(net.service, 81), [], proto)
            node.serve(End(net.service, 82), [End(net.client, 8080)], proto)
            node.serve(End(net.service, 83), [remote], proto, local_only=True)
    for frame in frames(node):
        for hook in POD_HOOKS:
            node.run(hook, node.client, frame)
    return node


def shortest(frame: bytes) -> int:
    return SHORTEST.get(frame[12:14], 15)


def truncated(whole: list[bytes]) -> Iterator[bytes]:
    """Cut off at every length."""
    for frame in whole:
        for length in range(shortest(frame), len(frame)):
            yield frame[:length]


def noisy(whole: list[bytes], source: random.Random) -> Iterator[bytes]:
    """Headers up to somewhere, then noise; link layers stay."""
    for _ in range(RANDOM_FRAMES):
        frame = source.choice(whole)
        kept = source.randrange(14, len(frame))
        least = max(shortest(frame) - kept, 0)
        yield frame[:kept] + source.randbytes(source.randrange(least, least + 200))


def flipped(whole: list[bytes], source: random.Random) -> Iterator[bytes]:
    """A few bits are wrong, somewhere behind the link layer."""
    for _ in range(RANDOM_FRAMES):
        frame = bytearray(source.choice(whole))
        for _ in range(source.randrange(1, 9)):
            bit = source.randrange(14 * 8, len(frame) * 8)
            frame[bit // 8] ^= 1 << bit % 8
        yield bytes(frame)


def behave(node: Node, program: str, ifindex: int, stream: Iterator[bytes], seed: int) -> int:
    """Send frames, and hold each to what its trace said; return how many there were."""
    fd = node.program(program)
    traced, plain = context(ifindex, trace=True), context(ifindex)
    count = 0
    for frame in stream:
        count += 1
        told = bpf.prog_test_run(fd, frame, traced)
        done = bpf.prog_test_run(fd, frame, plain)
        verdict, steps = struct.unpack_from("=II", told.context, CB)
        story = f"KPBPF_SEED={seed}, {program}: {frame.hex()}: {Verdict(verdict).short}"
        assert done.retval == told.retval, story
        if done.retval == REDIRECT:
            assert program != "to_pod", story
            assert steps & MIGHT_BE_HANDED_OVER, story
        else:
            assert done.retval == (DROP if verdict >= Verdict.DROP_SHORT else PASS), story
            assert not (verdict in UNCHANGED and done.data != frame), story
    return count


def entries(node: Node) -> dict[str, int]:
    """How many entries each map has."""
    return {name: len(list(table.items_raw())) for name, table in node.tables.by_name.items()}


def hold(node: Node, program: str, ifindex: int, stream: Iterator[bytes], seed: int) -> None:
    """Send frames; each was counted, and no map but the programs' own has changed."""
    ours = [name for name in node.tables.by_name if name not in (*WRITTEN_BY_PROGRAMS, "scratches")]
    before, counted = node.written(ours), sum(counter.packets for counter in node.counters())
    count = behave(node, program, ifindex, stream, seed)
    assert sum(counter.packets for counter in node.counters()) - counted == count
    assert node.written(ours) == before
    for name, number in entries(node).items():
        assert number <= node.tables.by_name[name].spec.entries
    print(f"{count} frames, {node.flow_count()} records")


programs = pytest.mark.parametrize("program", [hook.short for hook in POD_HOOKS])


@programs
def test_frames_cut_off_at_every_length(busy: Node, program: str, seed: int) -> None:
    hold(busy, program, busy.client.ifindex, truncated(frames(busy)), seed)


@programs
def test_noise_behind_plausible_headers(busy: Node, program: str, seed: int) -> None:
    stream = noisy(frames(busy), random.Random(seed))
    hold(busy, program, busy.client.ifindex, stream, seed)


@programs
def test_flipped_bits(busy: Node, program: str, seed: int) -> None:
    stream = flipped(frames(busy), random.Random(seed))
    hold(busy, program, busy.client.ifindex, stream, seed)
