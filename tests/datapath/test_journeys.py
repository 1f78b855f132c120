"""Out and back: what leaves one hook is what enters the next, as far as the client and home.

Nobody here knows what a packet should look like on the way. A backend answers whatever reaches
it; in the end the client must hear from whom it spoke to, and nobody else.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from tests.datapath.node import Node
from tests.datapath.packets import IPV4, IPV6, End, Net, Talk, quote, too_big
from tests.datapath.result import PASS, REDIRECT, Pod, Result


def ends(packet: Packet) -> tuple[End, End]:
    """From whom to whom a packet is."""
    transport = packet.payload
    if isinstance(transport, TCP | UDP | SCTP):
        return End(packet.src, transport.sport), End(packet.dst, transport.dport)
    assert isinstance(transport, ICMP | ICMPv6EchoRequest)
    return End(packet.src, transport.id), End(packet.dst, transport.id)


def heard(net: Net, proto: str, packet: Packet) -> Talk:
    """The connection as whoever got this packet sees it."""
    return net.talk(proto, *ends(packet))


def carry(node: Node, result: Result, pod: Pod) -> Packet:
    """The rest of the way to a pod: nothing more if it was handed over, else the stack."""
    assert result.action in (PASS, REDIRECT)
    if result.action == REDIRECT:
        assert result.frame.dst == pod.mac
        return result.packet
    return node.to_pod(pod, result.packet).packet


def there(node: Node, pod: Pod, packet: Packet, target: Pod | None) -> Packet:
    """From a pod to another one, or out by the wire."""
    result = node.from_pod(pod, packet)
    if target:
        return carry(node, result, target)
    assert result.action == PASS
    return result.packet


def back(node: Node, target: Pod | None, answer: Packet, pod: Pod) -> Packet:
    """The answer's way to the pod that asked."""
    if target:
        return carry(node, node.from_pod(target, answer), pod)
    return node.to_pod(pod, answer).packet


def same_but_ttl(packet: Packet, wanted: Packet) -> None:
    """Compare as the receiver sees it: how far it came does not matter."""
    packet, wanted = packet.copy(), type(wanted)(bytes(wanted))
    for one in (packet, wanted):
        if isinstance(one, IP):
            one.ttl, one.chksum = 64, None
        else:
            one.hlim = 64
    assert bytes(packet) == bytes(wanted), f"{packet.command()}\nwanted {wanted.command()}"


places = pytest.mark.parametrize("place", ["remote", "local", "itself"])
paths = pytest.mark.parametrize("fast", [True, False], ids=["fast", "stack"])


def backend(node: Node, net: Net, place: str) -> tuple[Pod | None, str]:
    """Where the backend is, and its address."""
    pods = {"remote": (None, net.remote), "local": (node.server, net.server)}
    return {**pods, "itself": (node.client, net.client)}[place]


@places
@paths
def test_client_is_answered_by_the_service_it_asked(
    node: Node, net: Net, proto: str, place: str, fast: bool
) -> None:
    node.fast_path(fast)
    target, addr = backend(node, net, place)
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(addr, 80)], proto)
    for say in (Talk.opening, Talk.more, Talk.more):
        arrived = there(node, node.client, say(talk), target)
        seen = heard(net, proto, arrived)
        assert seen.dst == End(addr, 80)
        assert seen.src.addr == (net.hairpin if place == "itself" else net.client)
        same_but_ttl(back(node, target, seen.answer(), node.client), talk.answer())


@places
@paths
def test_whole_tcp_connection(node: Node, net: Net, place: str, fast: bool) -> None:
    node.fast_path(fast)
    target, addr = backend(node, net, place)
    talk = net.to_service()
    node.serve(talk.dst, [End(addr, 8080)])
    seen = heard(net, "TCP", there(node, node.client, talk.opening(), target))
    script = [
        ("server", "SA", b"", 5000, 1001),
        ("client", "A", b"", 1001, 5001),
        ("client", "PA", b"GET / HTTP/1.1\r\n\r\n", 1001, 5001),
        ("server", "A", b"", 5001, 1019),
        ("server", "PA", b"x" * 1400, 5001, 1019),
        ("client", "A", b"", 1019, 6401),
        ("server", "FA", b"", 6401, 1019),
        ("client", "FA", b"", 1019, 6402),
        ("server", "A", b"", 6402, 1020),
    ]
    for who, flags, data, seq, ack in script:
        if who == "client":
            packet = talk.tcp(flags, data, seq=seq, ack=ack)
            arrived = there(node, node.client, packet, target)
            same_but_ttl(arrived, seen.tcp(flags, data, seq=seq, ack=ack))
        else:
            packet = seen.back.tcp(flags, data, seq=seq, ack=ack)
            arrived = back(node, target, packet, node.client)
            same_but_ttl(arrived, talk.back.tcp(flags, data, seq=seq, ack=ack))


@paths
def test_two_pods_without_any_service(node: Node, net: Net, proto: str, fast: bool) -> None:
    node.fast_path(fast)
    talk = net.talk(proto, End(net.client, 40000), End(net.server, 80))
    for say in (Talk.opening, Talk.more):
        same_but_ttl(there(node, node.client, say(talk), node.server), say(talk))
        same_but_ttl(back(node, node.server, talk.answer(), node.client), talk.answer())


def test_client_from_elsewhere_reaches_a_pod(node: Node, net: Net, proto: str) -> None:
    talk = net.talk(proto, End(net.outside, 40000), End(net.server, 80))
    for say in (Talk.opening, Talk.more):
        same_but_ttl(node.to_pod(node.server, say(talk)).packet, say(talk))
        same_but_ttl(node.from_pod(node.server, talk.answer()).packet, talk.answer())


@pytest.mark.parametrize("proto", ["TCP", "UDP"])
@pytest.mark.parametrize("place", ["remote", "local"])
def test_many_connections_of_one_port_are_never_mixed(
    node: Node, net: Net, proto: str, place: str
) -> None:
    """One client port, four Services with one backend, and the backend itself."""
    target, addr = backend(node, net, place)
    talks = [net.to_service(proto, port=port) for port in (80, 81, 82, 83)]
    for talk in talks:
        node.serve(talk.dst, [End(addr, 8080)], proto)
    talks.append(talks[0].to(addr, 8080))
    seen = [heard(net, proto, there(node, node.client, t.opening(), target)) for t in talks]
    assert len({view.src for view in seen}) == len(talks)
    for talk, view in zip(talks, seen, strict=True):
        same_but_ttl(back(node, target, view.answer(), node.client), talk.answer())
        same_but_ttl(there(node, node.client, talk.more(), target), view.more())


@pytest.mark.parametrize("proto", ["TCP", "UDP"])
def test_path_mtu_of_a_service_is_learnt(node: Node, net: Net, proto: str) -> None:
    """What a router complains about must be, to the client, what it sent itself."""
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 8080)], proto)
    there(node, node.client, talk.opening(), None)
    big = talk.tcp("A", b"x" * 1400) if proto == "TCP" else talk.data(b"x" * 1400)
    on_the_way = there(node, node.client, big, None)
    complaint = too_big(net, net.router, net.client, quote(on_the_way, 64))
    told = node.to_pod(node.client, complaint).packet
    quoted = bytes(told)[(20 if net.version == 4 else 40) + 8 :]
    sent = bytes(big)
    assert quoted == sent[: len(quoted)]
    assert (told[ICMP].nexthopmtu if net.version == 4 else told[ICMPv6PacketTooBig].mtu) == 1400


def test_pings_between_pods_and_out(node: Node, net: Net) -> None:
    for addr, target in ((net.server, node.server), (net.outside, None)):
        talk = net.talk("ICMP", End(net.client, 77), End(addr, 77))
        same_but_ttl(there(node, node.client, talk.opening(), target), talk.opening())
        same_but_ttl(back(node, target, talk.answer(), node.client), talk.answer())


def test_switching_the_fast_path_in_the_middle_is_not_noticed(
    node: Node, net: Net, proto: str
) -> None:
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.server, 80)], proto)
    say = Talk.opening
    for fast in (True, False, True, False):
        node.fast_path(fast)
        arrived = there(node, node.client, say(talk), node.server)
        answer = heard(net, proto, arrived).answer()
        same_but_ttl(back(node, node.server, answer, node.client), talk.answer())
        say = Talk.more


def test_both_families_at_once(node: Node) -> None:
    for _ in range(2):
        for net in (IPV4, IPV6):
            talk = net.to_service()
            node.serve(talk.dst, [End(net.server, 80)])
            arrived = there(node, node.client, talk.opening(), node.server)
            assert isinstance(arrived, IP if net is IPV4 else IPv6)
            answer = heard(net, "TCP", arrived).answer()
            same_but_ttl(back(node, node.server, answer, node.client), talk.answer())
