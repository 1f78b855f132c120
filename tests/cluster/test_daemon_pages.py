"""What the daemon tells of itself to others: health, metrics, Events, and what it puts back."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from maps import bpf
from maps.abi import ABI_VERSION
from tests.cluster.daemon import HEALTH_PORT, SOON_SEC, Cluster, name_of, node, pod
from tests.cluster.resources import by_name
from tests.lab.agent import until
from tests.lab.manifests import NODE_NAME
from tests.lab.sockets import ask_tcp
from tests.lab.world import IPV4, Place

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
LEAVING = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1"}]


def metrics(cluster: Cluster) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels."""
    page = cluster.page("/metrics")
    assert page.code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def sample(cluster: Cluster, name: str, **labels: str) -> float:
    return metrics(cluster)[name, tuple(sorted(labels.items()))]


# ---- health ------------------------------------------------------------------------------------


def gone(cluster: Cluster) -> None:
    cluster.server.store.remove(by_name("nodes"), ("", NODE_NAME))


def tainted(cluster: Cluster) -> None:
    cluster.server.store.put(node(taints=LEAVING))


def being_deleted(cluster: Cluster) -> None:
    raw = node()
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.server.store.put(raw)


@pytest.mark.parametrize("leaves", [gone, tainted, being_deleted])
def test_a_node_that_leaves_gets_no_traffic_and_the_daemon_lives(
    cluster: Cluster, leaves: Any
) -> None:
    before = cluster.page("/healthz", HEALTH_PORT)
    assert (before.code, before.raw["nodeEligible"], before.raw["healthy"]) == (200, True, True)
    leaves(cluster)
    until(lambda: cluster.page("/healthz", HEALTH_PORT).code == 503, "not eligible", SOON_SEC)
    after = cluster.page("/healthz", HEALTH_PORT)
    assert (after.raw["nodeEligible"], after.raw["healthy"]) == (False, True)
    assert cluster.page("/livez", HEALTH_PORT).code == 200
    cluster.server.store.put(node())
    until(lambda: cluster.page("/healthz", HEALTH_PORT).code == 200, "eligible", SOON_SEC)
    codes = metrics(cluster)
    assert codes["kubeproxy_proxy_healthz_total", (("code", "503"),)] >= 1


def test_a_daemon_is_ready_when_all_is_read_and_written(resting: Cluster) -> None:
    resting.server.rbac = None
    resting.server.faults.add("stall", "endpointslices", times=None)
    resting.kpbpf.launch()
    until(lambda: resting.page_or_none("/readyz") is not None, "it answers", SOON_SEC)
    assert resting.page("/readyz").code == 503
    until(lambda: "EndpointSlices" in resting.page("/readyz").text, "what is awaited", SOON_SEC)
    assert resting.page("/livez", HEALTH_PORT).code == 200
    resting.server.faults.clear()
    until(lambda: resting.page("/readyz").code == 200, "ready", 60)
    resting.converges()


def test_mode_and_configuration_are_told(cluster: Cluster) -> None:
    assert cluster.page("/proxyMode").text == "kpbpf"
    told = cluster.page("/configz").raw["kubeproxy.config.k8s.io"]
    assert told["hostnameOverride"] == NODE_NAME
    assert told["kind"] == "KubeProxyConfiguration"


# ---- metrics -----------------------------------------------------------------------------------


def test_metrics_tell_of_the_cluster(cluster: Cluster) -> None:
    name = "kubeproxy_network_programming_duration_seconds_count"
    before = sample(cluster, name, ip_family="IPv4") if _has(cluster, name) else 0.0
    with cluster.service("web", 60, cluster.a, cluster.b) as web:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        raw = cluster.server.store.get(by_name("endpointslices"), ("default", "web-ipv4"))
        raw["metadata"]["annotations"] = {TRIGGER: now}
        raw["endpoints"] = raw["endpoints"][:1]
        cluster.server.store.put(raw)
        until(
            lambda: sample(cluster, name, ip_family="IPv4") == before + 1,
            "the change that is annotated is measured",
            SOON_SEC,
        )
        assert ask_tcp(cluster.client, web.addresses[IPV4], 80).server == "pod-a"
        found = metrics(cluster)
        synced = [value for (one, _), value in found.items() if one == "kpbpf_synced"]
        assert synced == [1.0]
        assert found["kpbpf_object_problems", (("kind", "Service"),)] == 0
        assert any(one.startswith("kpbpf_reflector") for one, _ in found)
        assert any(one == "kpbpf_packets_total" and value for (one, _), value in found.items())


def _has(cluster: Cluster, name: str) -> bool:
    return any(one == name for one, _ in metrics(cluster))


# ---- Events ------------------------------------------------------------------------------------


def test_the_start_is_told_about_the_node(resting: Cluster) -> None:
    resting.start()
    event = resting.event("Starting")
    assert event["regarding"]["kind"] == "Node"
    assert event["regarding"]["name"] == NODE_NAME
    assert event["reportingInstance"] == NODE_NAME


@pytest.mark.parametrize("mechanism", ["tcx", "clsact"])
def test_programs_that_somebody_removes_are_back_and_an_event_says_so(
    resting: Cluster, mechanism: str
) -> None:
    fresh = resting.world.add_pod(f"off-{mechanism}")
    resting.server.store.put(pod(fresh))
    resting.start(KPBPF_ATTACH=mechanism)
    until(lambda: resting.pods_attached(fresh), "attached", SOON_SEC)
    take_off(resting, fresh, mechanism)
    event = resting.event("ProgramsRestored")
    assert resting.in_force(fresh)
    assert event["regarding"]["name"] == name_of(fresh)
    assert event["type"] == "Warning"


def take_off(cluster: Cluster, place: Place, mechanism: str) -> None:
    """Remove from_pod as somebody else would."""
    if mechanism == "clsact":
        cluster.world.node.run("tc", "filter", "del", "dev", place.host_ifname, "ingress")
        return
    with cluster.world.node.inside():
        ifindex = socket.if_nametoindex(place.host_ifname)
    link = bpf.obj_get(cluster.kpbpf.home.links_dir(ABI_VERSION) / f"{ifindex}-from_pod")
    bpf.link_detach(link)
    os.close(link)
