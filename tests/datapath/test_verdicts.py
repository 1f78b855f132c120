"""Every verdict is reached by a packet, and each drop is remembered: complete by enumeration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP
from scapy.packet import Raw

from kpbpf import address
from maps.abi import ConfigFlag, FrontendFlag, RangeScope, Verdict
from tests.datapath.node import Node, coarse_now_ns
from tests.datapath.packets import IPV4, IPV6, End, Net, port_unreachable, quote
from tests.datapath.result import Result
from tests.datapath.test_sctp import first_fragment
from tests.datapath.wire import FIRST, Wire

EXCUSED = {
    Verdict.DROP_FLOW_TABLE: "an LRU map takes every entry, unless the kernel has no memory left",
}


def not_ours(wire: Wire, net: Net) -> Result:
    node = wire.node
    return node.from_pod(node.client, ARP(pdst=IPV4.server))


def direct(wire: Wire, net: Net) -> Result:
    node = wire.node
    talk = net.talk("TCP", End(net.client, 1), End(net.outside, 2))
    return node.from_pod(node.client, talk.opening())


def to_backend(wire: Wire, net: Net) -> Result:
    node = wire.node
    talk = net.to_service()
    node.serve(talk.dst, [End(net.remote, 80)])
    return node.from_pod(node.client, talk.opening())


def reply(wire: Wire, net: Net) -> Result:
    node = wire.node
    to_backend(wire, net)
    return node.to_pod(node.client, net.to_service().to(net.remote, 80).answer())


def icmp_error(wire: Wire, net: Net) -> Result:
    node = wire.node
    to_backend(wire, net)
    quoted = quote(net.to_service().to(net.remote, 80).opening())
    return node.to_pod(node.client, port_unreachable(net, net.router, net.client, quoted))


def short(wire: Wire, net: Net) -> Result:
    node = wire.node
    proto = {"proto": 6} if net.version == 4 else {"nh": 6}
    return node.from_pod(node.client, net.ip(net.client, net.outside, **proto) / Raw(b"short"))


def bad_ip(wire: Wire, net: Net) -> Result:
    node = wire.node
    return node.from_pod(node.client, net.ip(net.client, net.outside, version=5) / TCP())


def extension_headers(wire: Wire, net: Net) -> Result:
    node = wire.node
    packet = IPV6.ip(IPV6.client, IPV6.outside)
    for _ in range(8):
        packet /= IPv6ExtHdrDestOpt()
    return node.from_pod(node.client, packet / TCP())


def fragment_unknown(wire: Wire, net: Net) -> Result:
    node = wire.node
    packet = net.ip(net.client, net.outside, **({"frag": 9} if net.version == 4 else {}))
    if net.version == 6:
        packet /= IPv6ExtHdrFragment(nh=17, offset=9)
    return node.from_pod(node.client, packet / Raw(b"x" * 16))


def spoofed_source(wire: Wire, net: Net) -> Result:
    node = wire.node
    return node.from_pod(node.other, net.to_service().opening())


def no_backend(wire: Wire, net: Net) -> Result:
    node = wire.node
    talk = net.to_service()
    node.serve(talk.dst, [])
    return node.from_pod(node.client, talk.opening())


def no_local_backend(wire: Wire, net: Net) -> Result:
    node = wire.node
    talk = net.to_service()
    node.serve(talk.dst, [End(net.remote, 80)], local_only=True)
    return node.from_pod(node.client, talk.opening())


def no_flow(wire: Wire, net: Net) -> Result:
    talk = net.to_service()
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    return wire.sends(talk.more(), came_by=wire.node.client.ifindex)


def untracked(wire: Wire, net: Net) -> Result:
    talk = net.to_service()
    wire.node.serve(talk.dst, [End(net.remote, 80)])
    return wire.node.from_pod(wire.node.client, talk.more())


def source_range(wire: Wire, net: Net) -> Result:
    talk = net.to_service()
    flags = FrontendFlag.EXTERNAL | FrontendFlag.SOURCE_RANGES
    wire.node.serve(talk.dst, [End(net.remote, 80)], flags=flags)
    return wire.receives(talk.seen_as(net.outside).opening())


def too_big(wire: Wire, net: Net) -> Result:
    talk = net.talk("UDP", End(net.outside, 40000), End(net.service, 80))
    wire.node.serve(talk.dst, [End(net.remote, 80)], "UDP", flags=FrontendFlag.EXTERNAL)
    packet = talk.data(b"x" * 1600)
    if net.version == 4:
        packet.flags = "DF"
    return wire.receives(packet)


def unknown_port(wire: Wire, net: Net) -> Result:
    wire.node.serve(End(net.service, 0), [], "", flags=FrontendFlag.WHOLE_ADDRESS)
    return wire.node.from_pod(wire.node.client, net.to_service().opening())


def unknown_service(wire: Wire, net: Net) -> Result:
    wire.node.switch(ConfigFlag.SERVICE_RANGES)
    wire.range(RangeScope.RANGE_SERVICES, f"{net.service}/{32 if net.version == 4 else 128}")
    return wire.node.from_pod(wire.node.client, net.to_service().opening())


def refusal_rate(wire: Wire, net: Net) -> Result:
    node = wire.node
    node.change_config(refusals_per_sec=0)
    return no_backend(wire, net)


def no_port(wire: Wire, net: Net) -> Result:
    wire.node.change_config(masquerade_first=40000, masquerade_last=40000)
    talk = net.talk("TCP", End(net.outside, 40000), End(net.service, 80))
    wire.node.serve(talk.dst, [End(net.remote, 80)], flags=FrontendFlag.EXTERNAL)
    wire.receives(talk.opening())
    return wire.receives(talk.seen_as(port=40001).opening())


def rewrite(wire: Wire, net: Net) -> Result:
    node = wire.node
    talk = net.to_service("SCTP")
    node.serve(talk.dst, [End(net.remote, 8080)], "SCTP")
    return node.from_pod(node.client, first_fragment(talk))


def not_configured(wire: Wire, net: Net) -> Result:
    node = wire.node
    node.change_config(flags=0)
    return node.from_pod(node.client, net.to_service().opening())


REACHED: dict[Verdict, Callable[[Wire, Net], Result]] = {
    Verdict.PASS_NOT_OURS: not_ours,
    Verdict.PASS_DIRECT: direct,
    Verdict.PASS_TO_BACKEND: to_backend,
    Verdict.PASS_REPLY: reply,
    Verdict.PASS_ICMP_ERROR: icmp_error,
    Verdict.PASS_UNTRACKED: untracked,
    Verdict.DROP_SHORT: short,
    Verdict.DROP_BAD_IP: bad_ip,
    Verdict.DROP_EXTENSION_HEADERS: extension_headers,
    Verdict.DROP_FRAGMENT_UNKNOWN: fragment_unknown,
    Verdict.DROP_SPOOFED_SOURCE: spoofed_source,
    Verdict.DROP_NO_BACKEND: no_backend,
    Verdict.DROP_NO_LOCAL_BACKEND: no_local_backend,
    Verdict.DROP_NO_FLOW: no_flow,
    Verdict.DROP_REFUSAL_RATE: refusal_rate,
    Verdict.DROP_NO_PORT: no_port,
    Verdict.DROP_REWRITE: rewrite,
    Verdict.DROP_NOT_CONFIGURED: not_configured,
    Verdict.DROP_SOURCE_RANGE: source_range,
    Verdict.DROP_TOO_BIG: too_big,
    Verdict.DROP_UNKNOWN_PORT: unknown_port,
    Verdict.DROP_UNKNOWN_SERVICE: unknown_service,
}


def test_no_verdict_is_left_out() -> None:
    assert REACHED.keys() | EXCUSED.keys() == set(Verdict)
    assert not REACHED.keys() & EXCUSED.keys()


@pytest.mark.parametrize("verdict", REACHED, ids=lambda verdict: verdict.short)
def test_verdict_is_reached_by_a_packet(wire: Wire, net: Net, verdict: Verdict) -> None:
    assert REACHED[verdict](wire, net).verdict == verdict.short


@pytest.mark.parametrize("verdict", REACHED, ids=lambda verdict: verdict.short)
def test_drops_are_remembered_and_nothing_else_is(wire: Wire, net: Net, verdict: Verdict) -> None:
    result = REACHED[verdict](wire, net)
    node = wire.node
    drops = {key.verdict: (key, value) for key, value in node.tables.drops.items()}
    assert (verdict in drops) == (verdict >= Verdict.DROP_SHORT)
    if verdict in drops:
        key, value = drops[verdict]
        assert key.hook == result.hook
        assert value.packets == 1
        assert value.ifindex in (node.client.ifindex, node.other.ifindex, FIRST.ifindex)
        assert 0 <= coarse_now_ns() - value.last_seen_ns < 10**9
        if verdict >= Verdict.DROP_FRAGMENT_UNKNOWN:
            assert address.to_text(key.src) == result.sent.payload.src
            assert address.to_text(key.dst) == result.sent.payload.dst


def test_same_drop_is_counted_in_one_place_whatever_the_clients_port(node: Node, net: Net) -> None:
    node.serve(End(net.service, 80), [])
    for sport in range(40000, 40010):
        node.from_pod(node.client, net.to_service(sport=sport).opening())
    ((key, value),) = node.tables.drops.items()
    assert (key.dst_port, key.proto, value.packets) == (80, 6, 10)
