"""healthCheckNodePort: who is asked about, what is counted, the very bytes, ports in dispute."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest

from kpbpf.address import Address, from_text
from kpbpf.daemon.ports import CannotListen
from kpbpf.daemon.service_health import ServiceHealth, answer, wanted_port
from kpbpf.kube.read_slice import HEADLESS_LABEL
from kpbpf.model.event import Event
from kpbpf.model.objects import Key
from kpbpf.model.service import Service
from tests import make
from tests.make import endpoint
from tests.unit.test_ports import free_port

HERE, ELSEWHERE = "node-a", "node-b"

KUBE_PROXY_SAYS = b"""{
\t"service": {
\t\t"namespace": "shop",
\t\t"name": "front"
\t},
\t"localEndpoints": 2,
\t"serviceProxyHealthy": true
}"""
"""Of pkg/proxy/healthcheck/service_health.go, release 1.36, by way of Go's dedent and Trim."""


def balanced(name: str = "web", port: int = 0, policy: str = "Local") -> make.Raw:
    return make.service(
        name, type="LoadBalancer", externalTrafficPolicy=policy, healthCheckNodePort=port
    )


class Node:
    """A ServiceHealth that is told raw objects; it serves 127.0.0.1 unless `hosts` says more."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.healthy = True
        self.hosts: set[str] = {"127.0.0.1"}
        self.health = ServiceHealth(HERE, self.events.append, lambda: self.healthy, self.addresses)

    def addresses(self) -> Iterable[Address]:
        return map(from_text, self.hosts)

    def put(self, *objects: make.Raw) -> None:
        for raw in objects:
            model = make.model(raw)
            self.health.changed(model.key, model)

    def drop(self, kind: str, name: str) -> None:
        self.health.changed(Key(kind, "default", name), None)

    def tell(self, *objects: make.Raw) -> None:
        self.put(*objects)
        self.health.work()


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        yield made
    finally:
        made.health.close()


def probe(port: int, host: str = "127.0.0.1") -> tuple[int, int]:
    """Status and count."""
    with closing(http.client.HTTPConnection(host, port, timeout=20)) as client:
        client.request("GET", "/whatever")
        response = client.getresponse()
        weight = response.getheader("X-Load-Balancing-Endpoint-Weight")
        assert weight is not None
        assert f'"localEndpoints": {weight},'.encode() in response.read()
        return response.status, int(weight)


def refused(port: int) -> bool:
    try:
        probe(port)
    except ConnectionRefusedError:
        return True
    return False


# ---- what is answered -----------------------------------------------------------------------


def test_the_body_is_kube_proxys_to_the_byte() -> None:
    told = answer("shop/front", 2, healthy=True)
    assert told.body == KUBE_PROXY_SAYS
    assert (told.code, told.content_type) == (200, "application/json")
    assert dict(told.headers) == {
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": "2",
    }


@pytest.mark.parametrize(
    ("count", "healthy", "code"), [(1, True, 200), (0, True, 503), (1, False, 503), (0, False, 503)]
)
def test_a_node_is_fit_with_endpoints_and_a_proxy_that_keeps_up(
    count: int, healthy: bool, code: int
) -> None:
    told = answer("a/b", count, healthy)
    assert told.code == code
    assert f'"serviceProxyHealthy": {str(healthy).lower()}\n'.encode() in told.body


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ({}, True),
        ({"externalTrafficPolicy": "Cluster"}, False),
        ({"type": "NodePort"}, False),
        ({"healthCheckNodePort": 0}, False),
        ({"labels": {"service.kubernetes.io/service-proxy-name": "other"}}, False),
        ({"ip": "None"}, False),
    ],
)
def test_only_load_balancers_of_local_traffic_are_asked_about(
    spec: dict[str, object], asked: bool
) -> None:
    wanted = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    raw = make.service(**{**wanted, "healthCheckNodePort": 31000, **spec})  # type: ignore[arg-type]
    model = make.model(raw)
    assert isinstance(model, Service)
    assert wanted_port(model) == (31000 if asked else 0)


# ---- what is counted --------------------------------------------------------------------------


def test_endpoints_are_counted_that_are_here_and_ready(node: Node) -> None:
    port = free_port()
    node.tell(
        balanced(port=port),
        make.slice_(
            [
                endpoint("10.1.0.1", HERE),
                endpoint("10.1.0.2", HERE, ready=False, serving=True, terminating=True),
                endpoint("10.1.0.3", ELSEWHERE),
                endpoint("10.1.0.4", HERE, ready=False),
            ],
            name="one",
        ),
        make.slice_([endpoint("10.1.0.1", HERE), endpoint("10.1.0.5", HERE)], name="two"),
        make.slice_([endpoint("10.1.0.6", HERE)], of="other"),
        make.slice_([endpoint("10.1.0.7", HERE)], name="no-ports", ports=[]),
        make.slice_([endpoint("10.1.0.8", HERE)], name="bare", labels={HEADLESS_LABEL: ""}),
    )
    assert probe(port) == (200, 2)


def test_terminating_endpoints_alone_are_none(node: Node) -> None:
    port = free_port()
    ending = endpoint("10.1.0.2", HERE, ready=False, serving=True, terminating=True)
    node.tell(balanced(port=port), make.slice_([ending]))
    assert probe(port) == (503, 0)


def test_a_pod_with_an_address_in_each_family_is_one(node: Node) -> None:
    port = free_port()
    node.tell(
        balanced(port=port),
        make.slice_([endpoint("10.1.0.1", HERE), endpoint("10.1.0.2", HERE)], name="four"),
        make.slice_([endpoint("fd00::1", HERE)], name="six", family="IPv6"),
    )
    assert probe(port) == (200, 2)


def test_health_of_the_proxy_is_asked_with_each_probe(node: Node) -> None:
    port = free_port()
    node.tell(balanced(port=port), make.slice_([endpoint("10.1.0.1", HERE)]))
    assert probe(port) == (200, 1)
    node.healthy = False
    assert probe(port) == (503, 1)
    node.healthy = True
    assert probe(port) == (200, 1)


# ---- what changes -----------------------------------------------------------------------------


def test_what_changes_is_followed(node: Node) -> None:
    first, second = free_port(), free_port()
    node.tell(make.slice_([endpoint("10.1.0.1", HERE)], name="one"))
    node.tell(balanced(port=first))
    assert probe(first) == (200, 1)
    node.put(make.slice_([endpoint("10.1.0.1", HERE), endpoint("10.1.0.2", HERE)], name="one"))
    assert probe(first) == (200, 1), "the maps are not written yet"
    node.health.work()
    assert probe(first) == (200, 2)
    node.tell(make.slice_([endpoint("10.1.0.1", HERE)], of="other", name="one"))
    assert probe(first) == (503, 0)
    node.tell(make.slice_([endpoint("10.1.0.1", HERE)], name="one"), balanced(port=second))
    assert refused(first)
    assert probe(second) == (200, 1)
    node.drop("EndpointSlice", "one")
    node.tell()
    assert probe(second) == (503, 0)
    node.tell(balanced(port=second, policy="Cluster"))
    assert refused(second)
    node.tell(balanced(port=second))
    node.drop("Service", "web")
    node.tell()
    assert refused(second)
    assert not node.events


def test_a_port_may_go_from_one_service_to_another_at_once(node: Node) -> None:
    port = free_port()
    node.tell(balanced("old", port))
    node.drop("Service", "old")
    node.tell(balanced("new", port), make.slice_([endpoint("10.1.0.1", HERE)], of="new"))
    assert probe(port) == (200, 1)
    assert not node.events


def test_addresses_that_come_and_go_are_followed(node: Node) -> None:
    port = free_port()
    node.tell(balanced(port=port))
    node.hosts = {"127.0.0.2", "::1"}
    node.tell()
    assert refused(port)
    assert probe(port, "127.0.0.2") == probe(port, "::1") == (503, 0)
    node.hosts = set()
    node.tell()
    with pytest.raises(ConnectionRefusedError):
        probe(port, "::1")


def test_without_a_selection_every_address_answers() -> None:
    health = ServiceHealth(HERE, lambda event: None, lambda: True)
    try:
        port = free_port()
        model = make.model(balanced(port=port))
        health.changed(model.key, model)
        health.work()
        assert probe(port, "127.0.0.1") == probe(port, "::1") == (503, 0)
    finally:
        health.close()


# ---- a port that is taken -----------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_once_and_tried_again(node: Node) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for _ in range(3):
            with pytest.raises(CannotListen, match="Service default/web: listen tcp"):
                node.tell(balanced(port=port))
        free = free_port()
        with pytest.raises(CannotListen):
            node.tell(balanced("fine", free))
        assert probe(free) == (503, 0), "the others are served"
    node.tell()
    assert probe(port) == (503, 0)
    note = (
        f'node node-a failed to start healthcheck "default/web" on port {port}: '
        f"listen tcp 127.0.0.1:{port}: bind: address already in use"
    )
    regarding = Key("Service", "default", "web")
    reason = "FailedToStartServiceHealthcheck"
    assert node.events == [Event(regarding, reason, "Listen", note, warning=True)]


def test_of_two_services_with_one_port_the_first_by_name_has_it(node: Node) -> None:
    port = free_port()
    node.put(balanced("b", port), balanced("a", port))
    node.put(make.slice_([endpoint("10.1.0.1", HERE)], of="a"))
    with pytest.raises(CannotListen, match="default/b"):
        node.health.work()
    assert probe(port) == (200, 1)
    assert [event.regarding.name for event in node.events] == ["b"]
    node.drop("Service", "a")
    node.tell()
    assert probe(port) == (503, 0)
