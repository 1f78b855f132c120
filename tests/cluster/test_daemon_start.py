"""A daemon that starts: pods are found by themselves, Services answer, nothing is interrupted."""

from __future__ import annotations

import re
import time

from tests.cluster.daemon import SOON_SEC, Cluster, pod
from tests.lab.agent import until
from tests.lab.podnet import add_bridge, add_bridged_pod
from tests.lab.sockets import Connection, Download, ask_tcp, ask_udp, digest, pattern, serve
from tests.lab.world import FAMILIES, IPV4


def test_pods_are_found_and_a_service_answers_them(cluster: Cluster) -> None:
    with cluster.service("web", 1, cluster.a, cluster.b) as web:
        for family in FAMILIES:
            address, client = web.addresses[family], cluster.client.addresses[family]
            answers = [ask_tcp(cluster.client, address, 80) for _ in range(30)]
            answers += [ask_udp(cluster.client, address, 80) for _ in range(30)]
            assert {one.server for one in answers} == {"pod-a", "pod-b"}
            assert {one.client for one in answers} == {client}
            with Connection(cluster.client, address, 80) as connection:
                assert connection.give(300_000) == pattern(300_000)
                assert connection.take(pattern(200_000)) == digest(pattern(200_000))
    found = {row["pod"]: row["found"] for row in cluster.kpbpf.rows("ep", "ls")}
    assert found == dict.fromkeys(("default/client", "default/a", "default/b"), "route")


def test_pods_that_ran_before_are_taken_over_with_their_connections(resting: Cluster) -> None:
    world = resting.world
    routed, other = world.add_pod("early"), world.add_pod("early2")
    add_bridge(world)
    bridged = add_bridged_pod(world, "early3", 7)
    with serve(other, 9090), serve(bridged, 9090):
        resting.server.store.bulk([pod(one) for one in (routed, other, bridged)])
        address = other.addresses[IPV4]
        with Connection(routed, address, 9090) as kept, Download(routed, address, 9090) as download:
            bridge_address = bridged.addresses[IPV4]
            with (
                Connection(bridged, address, 9090) as upwards,
                Connection(routed, bridge_address, 9090) as downwards,
            ):
                names = ["pod-early2", "pod-early2", "early3"]
                assert [one.who().server for one in (kept, upwards, downwards)] == names
                assert download.grows(), download.fault
                resting.start()
                until(lambda: resting.pods_attached(routed, other, bridged), "attached", SOON_SEC)
                assert download.grows(), download.fault
                assert [one.who().server for one in (kept, upwards, downwards)] == names
                assert kept.take(pattern(500_000)) == digest(pattern(500_000))
    found = {row["pod"]: row["found"] for row in resting.kpbpf.rows("ep", "ls")}
    assert found["default/early3"] == "neighbour"
    assert found["default/early"] == "route"


def test_a_restart_without_change_writes_nothing(resting: Cluster) -> None:
    resting.start()
    with resting.service("web", 3, resting.a, resting.b):
        before, log = resting.entries(), resting.kpbpf.log_text()
        resting.stop()
        resting.start()
        until(lambda: resting.pods_attached(resting.a), "attached", SOON_SEC)
        assert re.search("in sync after .* s, 0 entries written", resting.log_grows("in sync", log))
        assert resting.entries() == before


def test_the_maps_stay_as_they_were_until_the_api_server_is_back(resting: Cluster) -> None:
    resting.start()
    with resting.service("web", 4, resting.a) as web:
        resting.stop()
        before, log = resting.entries(), resting.kpbpf.log_text()
        resting.server.refuse()
        web.put(resting.b)
        resting.kpbpf.launch()
        resting.log_grows("cannot be reached", log)
        for _ in range(20):
            assert resting.entries() == before
            assert ask_tcp(resting.client, web.addresses[IPV4], 80).server == "pod-a"
            time.sleep(0.05)
        assert resting.page("/readyz").code == 503
        resting.server.accept()
        resting.converges()
        assert ask_tcp(resting.client, web.addresses[IPV4], 80).server == "pod-b"
        until(lambda: resting.page("/readyz").code == 200, "ready", SOON_SEC)
