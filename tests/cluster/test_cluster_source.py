"""Tests of what is read of a cluster, and of what waits for it, against a truthful server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kpbpf.kube.cluster import ClusterSource
from kpbpf.kube.session import Session
from kpbpf.kube.source import Unread
from kpbpf.kube.values import block
from kpbpf.model.objects import Key, ServiceRange
from kpbpf.settings.settings import Api
from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.resources import by_name
from tests.unit.following import threads, wait_for

FROM_PODS: list[Any] = [{"from": [{"podSelector": {}}]}]
FROM_NAMESPACES: list[Any] = [{"from": [{"namespaceSelector": {}}]}]


class Followed:
    """A ClusterSource, and the state that its changes add up to."""

    def __init__(self, source: ClusterSource) -> None:
        self.source = source
        self.woken = threading.Event()
        self.there: set[str] = set()

    def state(self) -> set[str]:
        """Every object that was told of and is there: "Service default/web"."""
        for change in self.source.refresh():
            (self.there.add if change.model else self.there.discard)(str(change.key))
        return self.there

    def waits_for(self, *objects: str) -> None:
        """Wait until exactly these are there."""
        wait_for(lambda: self.state() == set(objects), f"{objects}, there are {self.there}")

    def syncs(self) -> None:
        """Wait until nothing is awaited."""
        wait_for(lambda: not self.source.awaited(), "synced")

    def synced(self, resource: str) -> bool:
        """Whether a resource was read once."""
        return any(one.synced for one in self.source.stats() if one.resource == resource)


@contextmanager
def following(server: ApiServer) -> Iterator[Followed]:
    session = Session.open(Api(None, (server.url,), qps=0.0))
    followed = Followed(ClusterSource(session, "n1"))
    followed.source.start(followed.woken.set)
    try:
        yield followed
    finally:
        started = time.monotonic()
        followed.source.close()
        session.close()
        assert time.monotonic() - started < 1.5
        assert not threads()


def test_what_others_serve_is_not_read(server: ApiServer) -> None:
    proxy = {"service.kubernetes.io/service-proxy-name": "other"}
    headless = {"service.kubernetes.io/headless": ""}
    server.store.bulk(
        [
            make.service("web"),
            make.service("other", "10.96.0.2", labels=proxy),
            make.service("bare", "None"),
            make.slice_(of="web", name="web-1"),
            make.slice_(of="bare", name="bare-1", labels=headless),
            make.node("n1"),
            make.node("n2"),
            make.pod("mine", node="n1"),
            make.pod("theirs", "10.1.0.2", node="n2"),
            make.namespace("default"),
        ]
    )
    with following(server) as followed:
        followed.waits_for(
            "Service default/web", "EndpointSlice default/web-1", "Node n1", "Pod default/mine"
        )
        followed.syncs()
        server.store.put(make.service("web", labels=proxy))
        server.store.put(make.service("other", "10.96.0.2"))
        followed.waits_for(
            "Service default/other", "EndpointSlice default/web-1", "Node n1", "Pod default/mine"
        )
        assert followed.source.where(Key("Pod", "default", "mine")) == (
            "/api/v1/namespaces/default/pods/mine"
        )


def test_a_node_without_a_node_object_is_not_waited_for(server: ApiServer) -> None:
    with following(server) as followed:
        followed.syncs()
        assert followed.source.get(Key("Node", "", "n1")) is None
        server.store.put(make.node("n1"))
        followed.waits_for("Node n1")


def test_before_the_start_everything_that_services_need_is_awaited(server: ApiServer) -> None:
    session = Session.open(Api(None, (server.url,)))
    assert ClusterSource(session, "n1").awaited() == [
        "Services of the API server",
        "EndpointSlices of the API server",
        "the node's own Node of the API server",
    ]
    session.close()


def test_the_first_sync_does_not_wait_for_what_policies_need(server: ApiServer) -> None:
    server.store.put(make.service("web"))
    for resource in ("pods", "networkpolicies", "servicecidrs"):
        server.faults.add("status", resource, times=None, code=403)
    with following(server) as followed:
        followed.syncs()
        followed.waits_for("Service default/web")
        assert not followed.synced("pods")


def test_ranges_of_cluster_ips_are_read(server: ApiServer) -> None:
    server.store.put(make.service_range("10.96.0.0/16", "fd96::/112"))
    with following(server) as followed:
        followed.waits_for("ServiceCIDR kubernetes")
        blocks = (block("10.96.0.0/16"), block("fd96::/112"))
        key = Key("ServiceCIDR", "", "kubernetes")
        assert followed.source.get(key) == ServiceRange("kubernetes", blocks)
        assert followed.source.where(key) == "/apis/networking.k8s.io/v1/servicecidrs/kubernetes"
        server.store.put(make.service_range("10.97.0.0/16", name="more"))
        followed.waits_for("ServiceCIDR kubernetes", "ServiceCIDR more")
        server.store.remove(by_name("servicecidrs"), ("", "more"))
        followed.waits_for("ServiceCIDR kubernetes")


def test_a_server_without_ranges_of_cluster_ips_is_asked_once(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    missing = server.faults.add("status", "servicecidrs", times=None, code=404)
    server.store.put(make.service("web"))
    with following(server) as followed:
        followed.waits_for("Service default/web")
        wait_for(lambda: followed.synced("servicecidrs"))
        wait_for(lambda: all(one.synced for one in followed.source.stats()))
        assert missing.hits == 1
        assert caplog.text.count("servicecidrs") == 1
        assert "does not have them" in caplog.text
        (stats,) = [one for one in followed.source.stats() if one.resource == "servicecidrs"]
        assert abs(stats.last_heard - time.time()) < 60, "it was heard, so nobody is alarmed"


def test_ranges_that_were_read_stay_when_the_server_seems_to_forget_them(
    server: ApiServer,
) -> None:
    server.store.put(make.service_range("10.96.0.0/16"))
    with following(server) as followed:
        followed.waits_for("ServiceCIDR kubernetes")
        wait_for(lambda: followed.synced("servicecidrs"))
        missing = server.faults.add("status", "servicecidrs", times=3, code=404)
        server.drop_open("servicecidrs", "watch")
        wait_for(lambda: missing.hits == 3)
        assert followed.state() == {"ServiceCIDR kubernetes"}
        server.store.put(make.service_range("10.97.0.0/16", name="more"))
        followed.waits_for("ServiceCIDR kubernetes", "ServiceCIDR more")


@pytest.mark.parametrize("resource", ["services", "endpointslices", "nodes"])
def test_the_first_sync_waits_for_what_services_need(server: ApiServer, resource: str) -> None:
    fault = server.faults.add("status", resource, times=None, code=403)
    with following(server) as followed:
        wait_for(lambda: fault.hits >= 2 and len(followed.source.awaited()) == 1)
        fault.lift()
        followed.syncs()
        assert followed.woken.is_set()


def test_the_reader_is_woken_by_every_change_once_all_is_read(server: ApiServer) -> None:
    with following(server) as followed:
        wait_for(lambda: all(one.synced for one in followed.source.stats()))
        for number in range(20):
            followed.source.refresh()
            followed.woken.clear()
            server.store.put(make.service("web", f"10.96.0.{number + 1}"))
            assert followed.woken.wait(20.0)


def test_all_pods_and_namespaces_are_read_while_a_policy_needs_them(server: ApiServer) -> None:
    server.store.bulk(
        [
            make.pod("mine", node="n1"),
            make.pod("theirs", "10.1.0.2", node="n2"),
            make.namespace("default"),
        ]
    )
    with following(server) as followed:
        followed.waits_for("Pod default/mine")
        server.store.put(make.policy("all", ingress=FROM_PODS))
        policy = "NetworkPolicy default/all"
        followed.waits_for("Pod default/mine", "Pod default/theirs", policy)
        server.store.put(make.policy("all", ingress=FROM_NAMESPACES))
        followed.waits_for("Pod default/mine", "Pod default/theirs", "Namespace default", policy)
        server.store.put(make.pod("more", "10.1.0.3", node="n2"))
        wait_for(lambda: "Pod default/more" in followed.state())
        server.store.delete(make.policy("all"))
        followed.waits_for("Pod default/mine")
        assert {one.resource for one in followed.source.stats()} == {
            "services",
            "endpointslices",
            "servicecidrs",
            "nodes",
            "networkpolicies",
            "pods",
        }
        server.store.put(make.policy("all", ingress=FROM_NAMESPACES))
        wait_for(lambda: "Namespace default" in followed.state())
        wait_for(lambda: "Pod default/theirs" in followed.state())


def test_own_pods_never_vanish_while_who_is_read_changes(server: ApiServer) -> None:
    server.store.bulk([make.pod("mine", node="n1"), make.pod("theirs", "10.1.0.2", node="n2")])
    with following(server) as followed:
        followed.waits_for("Pod default/mine")
        for _ in range(3):
            server.store.put(make.policy("all", ingress=FROM_PODS))
            wait_for(lambda: "Pod default/theirs" in followed.state())
            server.store.delete(make.policy("all"))
            wait_for(lambda: "Pod default/theirs" not in followed.state())
            assert "Pod default/mine" in followed.there


def test_a_slice_that_cannot_be_read_stands_for_its_service(server: ApiServer) -> None:
    wrong = make.slice_(of="web", name="web-1") | {"addressType": "IPv9"}
    server.store.bulk([make.service("web"), wrong, make.service("bad", "10.96.0.2") | {"spec": 1}])
    with following(server) as followed:
        followed.syncs()
        followed.waits_for("Service default/web")
        assert set(followed.source.unread().keys) == {
            Key("Service", "default", "web"),
            Key("Service", "default", "bad"),
        }
        assert {(one.where, one.field) for one in followed.source.problems()} == {
            (
                "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1",
                "addressType",
            ),
            ("/api/v1/namespaces/default/services/bad", "spec"),
        }
        server.store.put(make.slice_(of="web", name="web-1"))
        server.store.delete(make.service("bad"))
        followed.waits_for("Service default/web", "EndpointSlice default/web-1")
        wait_for(lambda: followed.source.unread() == Unread())
        wait_for(lambda: not followed.source.problems())


def test_what_was_taken_and_what_is_there_agree(server: ApiServer) -> None:
    server.store.put(make.service("web", "10.96.0.1"))
    key = Key("Service", "default", "web")
    with following(server) as followed:
        followed.waits_for("Service default/web")
        wait_for(lambda: all(one.synced for one in followed.source.stats()))
        followed.source.refresh()
        before = followed.source.get(key)
        followed.woken.clear()
        server.store.put(make.service("web", "10.96.0.2"))
        assert followed.woken.wait(20.0)
        assert followed.source.get(key) == before, "not before refresh says so"
        (change,) = followed.source.refresh()
        assert followed.source.get(key) == change.model != before


def test_stats_tell_how_reading_goes(server: ApiServer) -> None:
    server.store.put(make.service("web"))
    with following(server) as followed:
        followed.syncs()
        found = {one.resource: one for one in followed.source.stats()}
        services = found["services"]
        assert (services.objects, services.lists, services.watches) == (1, 1, 1)
        assert abs(services.last_heard - time.time()) < 60
        server.drop_open("services", "watch")
        wait_for(lambda: followed.source.stats()[0].failures == 1)
        wait_for(lambda: followed.source.stats()[0].watches == 2)
        assert followed.source.stats()[0].lists == 1
