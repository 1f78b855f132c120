"""Objects become model values; wrong ones are named by field, and nothing else ever happens."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kpbpf.address import from_text, to_text
from kpbpf.kube.fields import BadObject
from kpbpf.kube.parse import key_of, parse
from kpbpf.model.endpoint import READY, SERVING, TERMINATING, EndpointSlice
from kpbpf.model.objects import Block, Key, Namespace, Node, Pod, ServiceRange
from kpbpf.model.service import SCTP, TCP, UDP, Service, ServicePort
from tests import make


def read_service(**spec: Any) -> Service:
    model = make.model(make.service(**spec))
    assert isinstance(model, Service)
    return model


def read_slice(**more: Any) -> EndpointSlice:
    model = make.model(make.slice_(**more))
    assert isinstance(model, EndpointSlice)
    return model


# ---- Service ---------------------------------------------------------------------------


def test_a_plain_service() -> None:
    service = read_service(ip="10.96.0.10", ports=[make.port(80, "http", nodePort=30080)])
    assert service.key == Key("Service", "default", "web")
    assert service.cluster_ips == (from_text("10.96.0.10"),)
    assert service.ports == (ServicePort("http", TCP, 80, 30080),)
    assert service.served
    assert not service.affinity_sec
    assert not service.internal_local


def test_the_namespace_is_default_unless_told() -> None:
    raw = make.service()
    del raw["metadata"]["namespace"]
    assert key_of(raw) == Key("Service", "default", "web")


def test_protocols() -> None:
    ports = [make.port(53, name.lower(), name) for name in ("TCP", "UDP", "SCTP")]
    assert [port.proto for port in read_service(ports=ports).ports] == [TCP, UDP, SCTP]


def test_one_cluster_ip_per_family() -> None:
    service = read_service(ip=["10.96.0.1", "fd96::1", "10.96.0.2"])
    assert [to_text(ip) for ip in service.cluster_ips] == ["10.96.0.1", "fd96::1"]


def test_cluster_ip_alone_does() -> None:
    assert read_service(ip="fd96::1", clusterIPs=None).cluster_ips == (from_text("fd96::1"),)


def test_leading_zeros_are_decimal() -> None:
    assert read_service(ip="172.30.0.041").cluster_ips == (from_text("172.30.0.41"),)


@pytest.mark.parametrize(
    "spec",
    [
        {"ip": "None"},
        {"ip": "None", "clusterIPs": None},
        {"type": "ExternalName", "externalName": "example.com"},
        {"labels": {"service.kubernetes.io/service-proxy-name": "other"}},
    ],
)
def test_services_that_are_not_for_us(spec: dict[str, Any]) -> None:
    assert not read_service(**spec).served


def test_affinity_lasts_three_hours_unless_told() -> None:
    assert read_service(sessionAffinity="ClientIP").affinity_sec == 10800
    config = {"clientIP": {"timeoutSeconds": 7}}
    timed = read_service(sessionAffinity="ClientIP", sessionAffinityConfig=config)
    assert timed.affinity_sec == 7
    assert not read_service(sessionAffinityConfig=config).affinity_sec


def test_what_is_compiled_later_is_read_already() -> None:
    raw = make.service(
        type="LoadBalancer",
        internalTrafficPolicy="Local",
        externalTrafficPolicy="Local",
        externalIPs=["198.51.100.1"],
        loadBalancerSourceRanges=[" 192.0.2.0/24 ", "fd00::/8"],
        healthCheckNodePort=32000,
    )
    ingress = [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "x"}]
    raw["status"] = {"loadBalancer": {"ingress": ingress}}
    service = make.model(raw)
    assert isinstance(service, Service)
    assert service.internal_local
    assert service.external_local
    assert service.external_ips == (from_text("198.51.100.1"),)
    assert service.load_balancer_ips == (from_text("203.0.113.1"),)
    assert service.source_ranges == (
        Block(from_text("192.0.2.0"), 120),
        Block(from_text("fd00::"), 8),
    )
    assert service.health_check_port == 32000


def test_who_a_service_is() -> None:
    raw = make.service(labels={"b": "2", "a": "1"}, created="2026-05-01T00:00:00Z")
    raw["metadata"]["uid"] = "u-1"
    service = make.model(raw)
    assert isinstance(service, Service)
    assert service.labels == (("a", "1"), ("b", "2"))
    assert service.created == datetime(2026, 5, 1, tzinfo=UTC).timestamp()
    assert service.uid == "u-1"


@pytest.mark.parametrize("created", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_a_service_of_which_nobody_knows_when_it_was_made(created: str) -> None:
    service = make.model(make.service(created=created))
    assert isinstance(service, Service)
    assert service.created == 0.0


@pytest.mark.parametrize("ip", ["0.0.0.0", "127.0.0.1", "239.1.1.1", "::", "::1", "ff02::1"])
def test_a_cluster_ip_that_nobody_can_send_to_is_refused(ip: str) -> None:
    with pytest.raises(BadObject, match="an address that clients can send to"):
        make.model(make.service(ip=ip))


def test_a_bad_external_ip_is_left_out_and_named() -> None:
    parsed = parse(make.service(externalIPs=["198.51.100.1", "nonsense"]))
    assert isinstance(parsed.model, Service)
    assert parsed.model.external_ips == (from_text("198.51.100.1"),)
    assert [str(remark) for remark in parsed.remarks] == [
        'spec.externalIPs[1]: expected an IP address, got "nonsense"'
    ]


# ---- EndpointSlice ---------------------------------------------------------------------


def test_what_an_endpoint_does_not_say() -> None:
    (endpoint,) = read_slice(endpoints=[{"addresses": ["10.1.0.1"]}]).endpoints
    assert endpoint.conditions == READY | SERVING
    assert endpoint.node == ""


def test_conditions_and_hints() -> None:
    raw = make.endpoint(
        "10.1.0.1", ready=False, serving=True, terminating=True, zones=["z"], nodes=["n"]
    )
    (endpoint,) = read_slice(endpoints=[raw]).endpoints
    assert endpoint.conditions == SERVING | TERMINATING
    assert (endpoint.for_zones, endpoint.for_nodes) == (("z",), ("n",))


def test_only_the_first_address_counts() -> None:
    (endpoint,) = read_slice(endpoints=[{"addresses": ["10.1.0.1", "10.1.0.2"]}]).endpoints
    assert endpoint.addr == from_text("10.1.0.1")


def test_a_port_without_a_number_is_left_out() -> None:
    ports = [make.port(8080, "http"), {"name": "none"}, {"name": "zero", "port": 0}]
    assert [port.name for port in read_slice(ports=ports).ports] == ["http"]


def test_a_headless_slice_belongs_to_no_service() -> None:
    assert read_slice(labels={"service.kubernetes.io/headless": ""}).service == ""
    assert read_slice().service == "web"


def test_a_slice_of_names_has_no_endpoints() -> None:
    slice_ = read_slice(family="FQDN", endpoints=[{"addresses": ["example.com"]}])
    assert slice_.endpoints == ()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("2018-10-22T19:32:52Z", 1540236772.0),
        ("2018-10-22T19:32:52.1Z", 1540236772.1),
        ("2018-10-22T19:32:52.123456789Z", 1540236772.123456),
        ("2018-10-22T21:32:52+02:00", 1540236772.0),
        ("", 0.0),
        ("2018-10-22", 0.0),
        ("2018-13-22T19:32:52Z", 0.0),
        ("yesterday", 0.0),
        (5, 0.0),
        (None, 0.0),
    ],
)
def test_when_a_slice_says_its_change_was_triggered(told: Any, seconds: float) -> None:
    assert read_slice(triggered=told).triggered == seconds


# ---- the others ------------------------------------------------------------------------


def test_node() -> None:
    assert make.model(make.node("n", "z", ["192.0.2.1"])) == Node(
        "n", "z", (from_text("192.0.2.1"),)
    )


def test_a_node_knows_the_blocks_of_its_pods_and_that_it_is_about_to_go() -> None:
    blocks = (Block(from_text("10.1.0.0"), 120), Block(from_text("fd01::"), 64))
    raw = make.node(
        podCIDR="10.1.0.0/24",
        podCIDRs=["10.1.0.7/24", "fd01::/64"],
        taints=[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}],
    )
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    node = make.model(raw)
    assert isinstance(node, Node)
    assert (node.pod_cidrs, node.deleting, node.leaving) == (blocks, True, True)
    alone = make.model(make.node(podCIDR="10.1.0.0/24", taints=[{"key": "other"}]))
    assert isinstance(alone, Node)
    assert (alone.pod_cidrs, alone.deleting, alone.leaving) == (blocks[:1], False, False)


def test_a_block_of_pods_that_is_none_is_left_out_and_named() -> None:
    parsed = parse(make.node(podCIDRs=["10.1.0.0/33", "fd01::/64"]))
    assert isinstance(parsed.model, Node)
    assert parsed.model.pod_cidrs == (Block(from_text("fd01::"), 64),)
    assert [str(remark) for remark in parsed.remarks] == [
        'spec.podCIDRs[0]: expected a range such as 192.0.2.0/24, got "10.1.0.0/33"'
    ]


def test_pod() -> None:
    found = make.model(make.pod(labels={"b": "2", "a": "1"}, phase="Succeeded", uid="u"))
    assert isinstance(found, Pod)
    assert found.addresses == (from_text("10.1.0.1"),)
    assert found.labels == (("a", "1"), ("b", "2"))
    assert found.finished
    assert found.uid == "u"


def test_namespace() -> None:
    found = make.model(make.namespace("prod", team="a"))
    assert found == Namespace("prod", (("kubernetes.io/metadata.name", "prod"), ("team", "a")))


def test_a_range_of_cluster_ips_has_no_namespace_and_wrong_blocks_are_left_out() -> None:
    parsed = parse(make.service_range("10.96.0.0/16", "fd96::1/112", "10.0.0.0/33"))
    assert parsed.model == ServiceRange(
        "kubernetes",
        (Block(from_text("10.96.0.0"), 112), Block(from_text("fd96::"), 112)),
    )
    assert parsed.model.key == Key("ServiceCIDR", "", "kubernetes")
    assert [remark.field for remark in parsed.remarks] == ["spec.cidrs[2]"]


# ---- wrong objects ---------------------------------------------------------------------

# what is wrong: object, message
WRONG: dict[str, tuple[Any, str]] = {
    "not a mapping": (
        ["kind"],
        ": expected an object with apiVersion, kind and metadata, got a list",
    ),
    "no kind": ({"apiVersion": "v1"}, "kind: expected a string, got nothing"),
    "a name in capitals": (
        make.service("Web"),
        'metadata.name: expected a DNS name in lower case, got "Web"',
    ),
    "a name with a slash": (
        make.service("a/b"),
        'metadata.name: expected a DNS name in lower case, got "a/b"',
    ),
    "a port that is text": (
        make.service(ports=[make.port("80")]),  # type: ignore[arg-type]
        'spec.ports[0].port: expected a number from 1 to 65535, got "80"',
    ),
    "port 0": (
        make.service(ports=[80, 0]),
        "spec.ports[1].port: expected a number from 1 to 65535, got 0",
    ),
    "a huge port": (
        make.service(ports=[10**5000]),
        "spec.ports[0].port: expected a number from 1 to 65535, got a huge number",
    ),
    "a port that is true": (
        make.service(ports=[make.port(True)]),
        "spec.ports[0].port: expected a number from 1 to 65535, got true",
    ),
    "two ports of one name": (
        make.service(ports=[make.port(80, "a"), make.port(81, "a")]),
        'spec.ports[1].name: expected a name that no other port has, got "a"',
    ),
    "one port twice": (
        make.service(ports=[make.port(80, "a"), make.port(80, "b")]),
        "spec.ports[1].port: expected a port and protocol that no other port has, got 80",
    ),
    "ports in a mapping": (
        make.service() | {"spec": {"ports": {"port": 80}}},
        "spec.ports: expected a list, got a mapping",
    ),
    "an unknown protocol": (
        make.service(ports=[make.port(80, protocol="ICMP")]),
        'spec.ports[0].protocol: expected TCP or UDP or SCTP, got "ICMP"',
    ),
    "a bad cluster IP": (
        make.service(ip="10.96.0.256"),
        'spec.clusterIPs[0]: expected an IP address, got "10.96.0.256"',
    ),
    "affinity for ever": (
        make.service(
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86401}},
        ),
        (
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: "
            "expected a number from 1 to 86400, got 86401"
        ),
    ),
    "a label that is a number": (
        make.service(labels={"a": 1}),  # type: ignore[dict-item]
        'metadata.labels["a"]: expected a string, got 1',
    ),
    "an endpoint without address": (
        make.slice_([{"addresses": []}]),
        "endpoints[0].addresses: expected a list of at least one address, got a list",
    ),
    "an endpoint of the other family": (
        make.slice_(["10.1.0.1", "fd00::1"]),
        'endpoints[1].addresses[0]: expected an IPv4 address, got "fd00::1"',
    ),
    "ready that is text": (
        make.slice_([{"addresses": ["10.1.0.1"], "conditions": {"ready": "yes"}}]),
        'endpoints[0].conditions.ready: expected true or false, got "yes"',
    ),
    "no family": (
        make.slice_(family="IPv5"),
        'addressType: expected IPv4 or IPv6 or FQDN, got "IPv5"',
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_objects_are_named_by_field(name: str) -> None:
    raw, message = WRONG[name]
    with pytest.raises(BadObject) as caught:
        parse(raw)
    assert str(caught.value) == message


def test_a_long_value_is_cut() -> None:
    with pytest.raises(BadObject) as caught:
        parse(make.service(type="x" * 1000))
    assert len(str(caught.value)) < 200
