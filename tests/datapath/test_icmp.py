"""ICMP errors about translated packets (A38): inside and out, both directions, every checksum.

An error quotes the start of the packet that it is about, as the place that complains saw it.
Whoever is told must see what it once sent, or was sent.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6TimeExceeded
from scapy.packet import Packet, Raw

from maps.abi import Step
from tests.datapath.node import Node
from tests.datapath.packets import End, Net, Talk, port_unreachable, quote, too_big

PORT = 8080
WHOLE = 2000
LENGTHS = [8, 16, 18, 20, 24, WHOLE]
"""How much of the transport header and data is quoted: RFC 792 asks for 8, RFC 1812 for more."""

Error = Callable[[Net, str, str, bytes], Packet]

errors = pytest.mark.parametrize("error", [port_unreachable, too_big])
with_ports = pytest.mark.parametrize("proto", ["TCP", "UDP"])


def opened(node: Node, net: Net, proto: str, backend: str) -> tuple[Talk, Talk]:
    """A connection to a Service of one backend: as the client sees it, and as the backend."""
    talk = net.to_service(proto)
    port = 80 if proto == "SCTP" else PORT  # the CRC in a quote stays: nobody can check it
    node.serve(talk.dst, [End(backend, port)], proto)
    node.from_pod(node.client, talk.opening())
    inside = talk.to(backend, port)
    return talk, inside.seen_as(net.hairpin) if backend == net.client else inside


# ---- to the client, about what it sent ----------------------------------------------------


@errors
@pytest.mark.parametrize("length", LENGTHS)
def test_error_by_a_router_on_the_way_reaches_the_client(
    node: Node, net: Net, proto: str, error: Error, length: int
) -> None:
    talk, inside = opened(node, net, proto, net.remote)
    complaint = error(net, net.router, net.client, quote(inside.more(), length))
    result = node.to_pod(node.client, complaint)
    result.expect("icmp_error", error(net, net.router, net.client, quote(talk.more(), length)))
    assert Step.ICMP_INNER in result.steps


@errors
def test_error_by_the_backend_itself_comes_from_the_service(
    node: Node, net: Net, proto: str, error: Error
) -> None:
    talk, inside = opened(node, net, proto, net.remote)
    complaint = error(net, net.remote, net.client, quote(inside.more()))
    told = error(net, net.service, net.client, quote(talk.more()))
    node.to_pod(node.client, complaint).expect("icmp_error", told)


def test_error_by_a_local_backend_goes_by_the_stack_to_the_client(
    node: Node, net: Net, proto: str
) -> None:
    talk, inside = opened(node, net, proto, net.server)
    complaint = port_unreachable(net, net.server, net.client, quote(inside.more()))
    told = port_unreachable(net, net.service, net.client, quote(talk.more()))
    node.from_pod(node.server, complaint).expect("direct", complaint)
    node.to_pod(node.client, complaint).expect("icmp_error", told)


def test_time_exceeded_is_an_error_too(node: Node, net: Net) -> None:
    talk, inside = opened(node, net, "UDP", net.remote)
    kind = ICMP(type=11) if net.version == 4 else ICMPv6TimeExceeded()
    head = net.ip(net.router, net.client) / kind
    result = node.to_pod(node.client, head / Raw(quote(inside.more())))
    result.expect("icmp_error", head / Raw(quote(talk.more())))


@with_ports
def test_error_about_a_connection_with_another_source_port(
    node: Node, net: Net, proto: str
) -> None:
    opened(node, net, proto, net.remote)
    second = net.to_service(proto).to(net.second_service, 80)
    node.serve(second.dst, [End(net.remote, PORT)], proto)
    port = node.from_pod(node.client, second.opening()).packet.sport
    inside = second.to(net.remote, PORT).seen_as(port=port)
    complaint = too_big(net, net.router, net.client, quote(inside.more(), WHOLE))
    told = too_big(net, net.router, net.client, quote(second.more(), WHOLE))
    node.to_pod(node.client, complaint).expect("icmp_error", told)


def test_half_a_quoted_checksum_stays_as_it_is(node: Node, net: Net) -> None:
    talk, inside = opened(node, net, "TCP", net.remote)
    complaint = too_big(net, net.router, net.client, quote(inside.more(), 17))
    half = bytes(complaint)[-1:]
    told = too_big(net, net.router, net.client, quote(talk.more(), 16) + half)
    node.to_pod(node.client, complaint).expect("icmp_error", told)


def test_quoted_udp_without_checksum_stays_without(node: Node, net: Net) -> None:
    if net.version == 6:
        return  # RFC 8200, 8.1: there it is mandatory
    talk, inside = opened(node, net, "UDP", net.remote)
    complaint, told = (
        too_big(net, net.router, net.client, quote(view.data(b"abc", chksum=0), WHOLE))
        for view in (inside, talk)
    )
    node.to_pod(node.client, complaint).expect("icmp_error", told)


# ---- from the client, about a reply -------------------------------------------------------


@errors
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("backend", ["remote", "server"])
def test_error_by_the_client_about_a_reply_reaches_the_backend(
    node: Node, net: Net, proto: str, error: Error, length: int, backend: str
) -> None:
    addr = getattr(net, backend)
    talk, inside = opened(node, net, proto, addr)
    complaint = error(net, net.client, net.service, quote(talk.answer(), length))
    told = error(net, net.client, addr, quote(inside.answer(), length))
    node.from_pod(node.client, complaint).expect("icmp_error", told)
    if backend == "server":
        node.to_pod(node.server, told).expect("direct", told)


# ---- a pod that reaches itself ------------------------------------------------------------


def test_pod_tells_itself_as_backend(node: Node, net: Net, proto: str) -> None:
    talk, inside = opened(node, net, proto, net.client)
    complaint = port_unreachable(net, net.client, net.hairpin, quote(inside.more(), WHOLE))
    told = port_unreachable(net, net.service, net.client, quote(talk.more(), WHOLE))
    result = node.from_pod(node.client, complaint)
    result.expect("icmp_error", told, into=node.client)


def test_pod_tells_itself_as_client(node: Node, net: Net, proto: str) -> None:
    talk, inside = opened(node, net, proto, net.client)
    complaint = port_unreachable(net, net.client, net.service, quote(talk.answer(), WHOLE))
    told = port_unreachable(net, net.hairpin, net.client, quote(inside.answer(), WHOLE))
    result = node.from_pod(node.client, complaint)
    result.expect("icmp_error", told, into=node.client)


# ---- nothing to translate -----------------------------------------------------------------


@errors
def test_error_about_a_direct_connection_passes_untouched(
    node: Node, net: Net, proto: str, error: Error
) -> None:
    talk = net.talk(proto, End(net.client, 40000), End(net.outside, 80))
    node.from_pod(node.client, talk.opening())
    about_sent = error(net, net.router, net.client, quote(talk.more()))
    node.to_pod(node.client, about_sent).expect("direct", about_sent)
    about_answer = error(net, net.client, net.outside, quote(talk.answer()))
    node.from_pod(node.client, about_answer).expect("direct", about_answer)


@errors
def test_error_about_an_unknown_connection_passes_untouched(
    node: Node, net: Net, proto: str, error: Error
) -> None:
    talk = net.to_service(proto)
    complaint = error(net, net.router, net.client, quote(talk.more()))
    node.to_pod(node.client, complaint).expect("direct", complaint)
    assert node.flow_count() == 0


@pytest.mark.parametrize("cut", [0, 1, 19, 20, 23, 39, 40, 43])
def test_quote_too_short_for_ports_passes_untouched(node: Node, net: Net, cut: int) -> None:
    _, inside = opened(node, net, "UDP", net.remote)
    header = 20 if net.version == 4 else 40
    quoted = bytes(inside.more())[: min(cut, header + 3)]
    complaint = too_big(net, net.router, net.client, quoted)
    node.to_pod(node.client, complaint).expect("direct", complaint)


def test_quote_of_a_later_fragment_passes_untouched(node: Node, net: Net) -> None:
    if net.version == 6:
        return  # test_fragments.py has IPv6's
    _, inside = opened(node, net, "UDP", net.remote)
    quoted = quote(inside.ip(frag=5, proto=17) / Raw(b"x" * 8))
    complaint = too_big(net, net.router, net.client, quoted)
    node.to_pod(node.client, complaint).expect("direct", complaint)


def test_error_with_another_pods_address_is_dropped(node: Node, net: Net) -> None:
    talk, _ = opened(node, net, "UDP", net.remote)
    complaint = port_unreachable(net, net.client, net.service, quote(talk.answer()))
    node.from_pod(node.other, complaint).expect("spoofed_source")


def test_ping_and_its_answer_are_no_errors(node: Node, net: Net) -> None:
    talk = net.talk("ICMP", End(net.client, 5), End(net.server, 5))
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening(), into=node.server)
    node.from_pod(node.server, talk.answer()).expect("direct", talk.answer(), into=node.client)
    assert node.flow_count() == 1
