"""healthCheckNodePort by the real daemon: what a load balancer's probes get as things change."""

from __future__ import annotations

import http.client
import socket
from typing import Any

import pytest

from tests.cluster.daemon import SOON_SEC, Cluster
from tests.cluster.resources import Raw, by_name
from tests.lab.agent import until
from tests.lab.world import ADDRESS_FAMILY, FAMILIES, IPV4, Place

PORT = 31999
LOCAL: dict[str, Any] = {
    "type": "LoadBalancer",
    "externalTrafficPolicy": "Local",
    "healthCheckNodePort": PORT,
}
SAYS = """{
\t"service": {
\t\t"namespace": "default",
\t\t"name": "%s"
\t},
\t"localEndpoints": %d,
\t"serviceProxyHealthy": true
}"""


def probe(place: Place, address: str, family: int = IPV4) -> tuple[int, str, dict[str, str]]:
    """Ask from a place: status, body, headers."""
    client = http.client.HTTPConnection(address, PORT)
    client.sock = place.socket(family, socket.SOCK_STREAM)
    try:
        client.sock.connect((address, PORT))
        client.request("GET", "/any/path")
        response = client.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        client.close()


def answers(cluster: Cluster) -> tuple[int, int] | None:
    """Status and count at the node's address, seen from outside; None: nobody answers."""
    try:
        code, _, headers = probe(cluster.world.router, cluster.world.node.addresses[IPV4])
    except OSError:
        return None
    return code, int(headers["X-Load-Balancing-Endpoint-Weight"])


def becomes(cluster: Cluster, wanted: tuple[int, int] | None) -> None:
    until(lambda: answers(cluster) == wanted, f"probes get {wanted}", SOON_SEC)


def end(cluster: Cluster, name: str) -> None:
    """All endpoints are ending, and still serve."""
    store = cluster.server.store
    for family in FAMILIES:
        raw: Raw = store.get(by_name("endpointslices"), ("default", f"{name}-ipv{family}"))
        for endpoint in raw["endpoints"]:
            endpoint["conditions"] = {"ready": False, "serving": True, "terminating": True}
        store.put(raw)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_load_balancer_is_told_to_the_byte_from_outside(cluster: Cluster, family: int) -> None:
    assert ADDRESS_FAMILY[family]
    with cluster.service("front", 71) as front:
        front.put(cluster.a, cluster.b, **LOCAL)
        becomes(cluster, (200, 2))
        node = cluster.world.node.addresses[family]
        code, body, headers = probe(cluster.world.router, node, family)
        assert (code, body) == (200, SAYS % ("front", 2))
        del headers["Date"]
        assert headers == {
            "Content-Type": "application/json",
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": "2",
            "Content-Length": str(len(body)),
        }
    becomes(cluster, None)


def test_endpoints_that_come_end_and_go_are_told(cluster: Cluster) -> None:
    with cluster.service("front", 72) as front:
        front.put(cluster.world.remote, **LOCAL)
        becomes(cluster, (503, 0))
        front.put(cluster.a, cluster.world.remote, **LOCAL)
        becomes(cluster, (200, 1))
        end(cluster, "front")
        becomes(cluster, (503, 0))
        front.put(cluster.a, **LOCAL)
        becomes(cluster, (200, 1))
        front.put(cluster.a, **LOCAL | {"externalTrafficPolicy": "Cluster"})
        becomes(cluster, None)


def test_a_port_that_is_taken_is_told_about_the_service_and_had_when_it_is_free(
    cluster: Cluster,
) -> None:
    with cluster.world.node.socket(IPV4, socket.SOCK_STREAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", PORT))
        other.listen()
        with cluster.service("front", 73) as front:
            front.put(cluster.a, **LOCAL)
            event = cluster.event("FailedToStartServiceHealthcheck")
            assert (event["type"], event["action"]) == ("Warning", "Listen")
            assert event["regarding"]["kind"] == "Service"
            assert event["regarding"]["name"] == "front"
            assert event["note"] == (
                f'node node-1 failed to start healthcheck "default/front" on port {PORT}: '
                f"listen tcp 0.0.0.0:{PORT}: bind: address already in use"
            )
            other.close()
            until(lambda: answers(cluster) == (200, 1), "probes get an answer", 2 * SOON_SEC)


def test_a_daemon_that_starts_tells_what_it_reads_and_one_that_ends_tells_nothing(
    resting: Cluster,
) -> None:
    resting.start()
    with resting.service("front", 74) as front:
        front.put(resting.a, **LOCAL)
        becomes(resting, (200, 1))
        resting.stop()
        assert answers(resting) is None
        resting.start()
        becomes(resting, (200, 1))
