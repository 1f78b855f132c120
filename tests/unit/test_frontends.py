"""Where a Service is reached: every address and port of it, and what holds there."""

from __future__ import annotations

from typing import Any

import pytest

from kpbpf.address import ZERO, from_text, to_text
from kpbpf.compile import frontends
from kpbpf.compile.frontends import Fault, family_ports, faults_of, frontends_of, ranges_of
from kpbpf.kube.parse import parse
from kpbpf.model.objects import Node
from kpbpf.model.service import Service
from maps.abi import FrontendFlag, FrontendKey
from maps.layout import short_bits
from tests import make
from tests.unit.reading import PROTOCOLS, place

BOTH = ["10.96.0.1", "fd96::1"]
LOCAL = {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}


def read(raw: make.Raw) -> Service:
    model = make.model(raw)
    assert isinstance(model, Service)
    return model


def balanced(*addresses: str, **spec: Any) -> make.Raw:
    """A Service of type LoadBalancer in both families, with these addresses in its status."""
    return make.service(ip=BOTH, ingress=addresses, **{"type": "LoadBalancer"} | spec)


def in_words(raw: make.Raw) -> list[str]:
    """`10.96.0.1:80/TCP local_only`, in their order."""
    found = []
    for item in family_ports(read(raw)):
        for packed, flags in item.frontends:
            key = FrontendKey.unpack(packed)
            where = f"{place(key.addr, key.port)}/{PROTOCOLS.get(key.proto, '-')}"
            found.append(" ".join([where, *short_bits(FrontendFlag, flags)]))
    return found


def test_a_cluster_ip_and_all_the_rest_of_it() -> None:
    ports = [make.port(80, "a"), make.port(53, "b", "UDP")]
    assert in_words(make.service(ip=BOTH, ports=ports)) == [
        "10.96.0.1:80/TCP",
        "10.96.0.1:0/- whole_address",
        "10.96.0.1:53/UDP",
        "[fd96::1]:80/TCP",
        "[fd96::1]:0/- whole_address",
        "[fd96::1]:53/UDP",
    ]


def test_a_node_port_is_served_in_every_family_that_the_service_has() -> None:
    ports = [make.port(80, nodePort=30080)]
    assert in_words(make.service(ip=BOTH, type="NodePort", ports=ports)) == [
        "10.96.0.1:80/TCP",
        "0.0.0.0:30080/TCP external",
        "10.96.0.1:0/- whole_address",
        "[fd96::1]:80/TCP",
        "[::]:30080/TCP external",
        "[fd96::1]:0/- whole_address",
    ]


def test_one_number_may_be_the_node_port_of_two_protocols() -> None:
    ports = [make.port(53, "t", nodePort=30053), make.port(53, "u", "UDP", nodePort=30053)]
    found = in_words(make.service(type="NodePort", ports=ports))
    assert "0.0.0.0:30053/TCP external" in found
    assert "0.0.0.0:30053/UDP external" in found


def test_policies_hold_where_they_are_for() -> None:
    """A26: internalTrafficPolicy says nothing about what is reached from outside."""
    raw = balanced("203.0.113.1", externalIPs=["198.51.100.1"], **LOCAL)
    raw["spec"]["ports"] = [make.port(80, nodePort=30080)]
    assert in_words(raw)[:5] == [
        "10.96.0.1:80/TCP local_only",
        "203.0.113.1:80/TCP external external_local",
        "198.51.100.1:80/TCP external external_local",
        "0.0.0.0:30080/TCP external external_local",
        "10.96.0.1:0/- whole_address",
    ]


def test_an_external_policy_of_what_is_not_external_is_none() -> None:
    assert in_words(make.service(externalTrafficPolicy="Local")) == [
        "10.96.0.10:80/TCP",
        "10.96.0.10:0/- whole_address",
    ]


def test_addresses_of_a_family_without_a_cluster_ip_are_not_served() -> None:
    """A11: each family is looked at as if the other one were not there."""
    raw = balanced("203.0.113.1", "2001:db8::1", externalIPs=["198.51.100.1", "2001:db8::2"])
    raw["spec"] |= {"clusterIP": "fd96::1", "clusterIPs": ["fd96::1"]}
    assert in_words(raw) == [
        "[fd96::1]:80/TCP",
        "[2001:db8::1]:80/TCP external",
        "[2001:db8::2]:80/TCP external",
        "[fd96::1]:0/- whole_address",
    ]
    assert faults_of(read(raw)) == [
        Fault(
            "spec.externalIPs",
            "addresses of IPv6, the only family of the Service",
            "1 of the other one",
        )
    ]


def test_an_address_named_twice_is_one_frontend_with_the_stricter_rule() -> None:
    ranges = {"loadBalancerSourceRanges": ["192.0.2.0/24"]}
    raw = balanced("203.0.113.1", "10.96.0.1", externalIPs=["203.0.113.1", "10.96.0.1"], **ranges)
    assert in_words(raw)[:3] == [
        "10.96.0.1:80/TCP",
        "203.0.113.1:80/TCP external source_ranges",
        "10.96.0.1:0/- whole_address",
    ]


def test_ranges_are_for_the_load_balancers_addresses_alone() -> None:
    raw = balanced(
        "203.0.113.1",
        externalIPs=["198.51.100.1"],
        loadBalancerSourceRanges=["192.0.2.0/24"],
        ports=[make.port(80, nodePort=30080)],
    )
    assert [words for words in in_words(raw) if "source_ranges" in words] == [
        "203.0.113.1:80/TCP external source_ranges"
    ]


@pytest.mark.parametrize(
    "spec", [{"clusterIP": "None"}, {"type": "ExternalName"}, {"clusterIP": "", "clusterIPs": []}]
)
def test_nothing_is_served_for_a_service_without_a_cluster_ip(spec: dict[str, Any]) -> None:
    raw = balanced("203.0.113.1", externalIPs=["198.51.100.1"]) | {}
    raw["spec"] |= {"clusterIPs": None} | spec
    assert in_words(raw) == []
    assert frontends_of(read(raw)) == {}


def test_what_is_claimed_is_what_is_served() -> None:
    service = read(balanced("203.0.113.1", "2001:db8::1", ports=[make.port(80, nodePort=30080)]))
    served = [one for item in family_ports(service) for one in item.frontends]
    assert dict(served) == frontends_of(service)
    assert len(served) == len(dict(served)) == 8


# ---- who may come ------------------------------------------------------------------------


def ranges(node: Node, *blocks: str, family: str = "IPv4") -> list[str]:
    service = read(balanced("203.0.113.1", "2001:db8::1", loadBalancerSourceRanges=list(blocks)))
    spare = 96 if family == "IPv4" else 0
    found = ranges_of(service, family, node)
    return [f"{to_text(base)}/{prefix - spare}" for prefix, base in found]


ELSEWHERE = Node("node-a", addresses=(from_text("192.168.0.1"), from_text("fd00::9")))


def test_ranges_are_read_sloppily_and_told_apart_by_family() -> None:
    """A10: blanks are cut, leading zeros are decimal, and bits behind the prefix do not count."""
    blocks = (" 192.0.2.0/24 ", "010.011.012.013/16", "2001:db8:1::/48")
    assert ranges(ELSEWHERE, *blocks) == ["10.11.0.0/16", "192.0.2.0/24"]
    assert ranges(ELSEWHERE, *blocks, family="IPv6") == ["2001:db8:1::/48"]


def test_no_range_in_a_family_is_no_filter_there() -> None:
    assert ranges(ELSEWHERE, "192.0.2.0/24", family="IPv6") == []
    raw = balanced("203.0.113.1", "2001:db8::1", loadBalancerSourceRanges=["192.0.2.0/24"])
    assert "[2001:db8::1]:80/TCP external" in in_words(raw)


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "10.0.0.0/0"])
def test_everybody_in_a_family_is_no_filter_there(everybody: str) -> None:
    blocks = ["192.0.2.0/24", everybody, "2001:db8:1::/48"]
    assert ranges(ELSEWHERE, *blocks) == []
    assert ranges(ELSEWHERE, *blocks, family="IPv6") == ["2001:db8:1::/48"]
    raw = balanced("203.0.113.1", "2001:db8::1", loadBalancerSourceRanges=blocks)
    assert "203.0.113.1:80/TCP external" in in_words(raw)
    assert "[2001:db8::1]:80/TCP external source_ranges" in in_words(raw)


def test_where_the_node_may_come_from_its_balancers_own_address_may_too() -> None:
    """A30: the address may be one of this very node."""
    inside = Node("node-a", addresses=(from_text("10.0.0.9"), from_text("192.0.2.7")))
    assert ranges(inside, "192.0.2.0/24") == ["192.0.2.0/24", "203.0.113.1/32"]
    assert ranges(inside, "2001:db8:1::/48", family="IPv6") == ["2001:db8:1::/48"]


def test_a_range_of_ipv6_that_spans_how_ipv4_is_written_holds_no_ipv4_address() -> None:
    node = Node("node-a", addresses=(from_text("192.0.2.7"),))
    assert ranges(node, "::/1", family="IPv6") == ["::/1"]
    assert ranges(node, "::/1") == []


# ---- too much, and nonsense --------------------------------------------------------------


def test_addresses_that_nobody_can_send_to_are_left_out_and_named() -> None:
    """Above all 0.0.0.0, which is how NodePorts are written."""
    bad = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "::1", "ff02::1"]
    raw = balanced(*bad, "203.0.113.1", externalIPs=[*bad, "198.51.100.1"])
    parsed = parse(raw)
    assert isinstance(parsed.model, Service)
    assert parsed.model.external_ips == (from_text("198.51.100.1"),)
    assert parsed.model.load_balancer_ips == (from_text("203.0.113.1"),)
    assert [remark.field for remark in parsed.remarks] == [
        *(f"status.loadBalancer.ingress[{n}].ip" for n in range(6)),
        *(f"spec.externalIPs[{n}]" for n in range(6)),
    ]
    assert ZERO not in {key[:16] for key in frontends_of(parsed.model)}


def test_of_two_ports_with_one_node_port_the_first_has_it() -> None:
    ports = [make.port(80, "a", nodePort=30080), make.port(81, "b", nodePort=30080)]
    raw = make.service(type="NodePort", ports=ports)
    assert [words for words in in_words(raw) if "30080" in words] == ["0.0.0.0:30080/TCP external"]
    assert faults_of(read(raw)) == [
        Fault("spec.ports[1].nodePort", "a port and protocol that no other port has", "30080")
    ]


def test_one_service_cannot_fill_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontends, "MAX_FRONTENDS", 8)
    monkeypatch.setattr(frontends, "MAX_RANGES", 6)
    many = [f"198.51.100.{n}" for n in range(1, 10)]
    raw = balanced(
        "203.0.113.1",
        externalIPs=many,
        loadBalancerSourceRanges=[f"192.0.2.{n}/32" for n in range(9)],
        ports=[make.port(80, "a"), make.port(81, "b")],
    )
    service = read(raw)
    assert len([words for words in in_words(raw) if "external" in words]) == 8
    assert len(ranges_of(service, "IPv4", ELSEWHERE)) == 3
    assert [(fault.field, fault.got) for fault in faults_of(service)] == [
        ("spec.externalIPs", "10"),
        ("spec.loadBalancerSourceRanges", "9"),
    ]
