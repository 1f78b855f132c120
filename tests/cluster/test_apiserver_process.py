"""The API server double as others see it: the official client, and a process to drive."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import make
from tests.cluster.apiserver import ApiServer
from tests.cluster.process import ServerProcess
from tests.cluster.rbac import service_account
from tests.cluster.workload import TRIGGER, Shape, Step


def test_the_official_client_lists_and_watches(tmp_path: Path) -> None:
    from kubernetes import client, config, watch

    with ApiServer() as server:
        server.tokens.set({"secret": service_account("kube-system", "kpbpf")})
        server.store.bulk(make.service(f"s{number}") for number in range(5))
        path = server.kubeconfig(tmp_path / "kubeconfig", token="secret")
        api = config.new_client_from_config(str(path))
        with api:
            core = client.CoreV1Api(api)
            first = core.list_service_for_all_namespaces(limit=3)
            rest = core.list_service_for_all_namespaces(_continue=first.metadata._continue)
            names = [item.metadata.name for item in first.items + rest.items]
            assert names == [f"s{number}" for number in range(5)]
            server.store.put(make.service("later", ip="10.96.0.42"))
            seen: list[Any] = list(
                watch.Watch().stream(
                    core.list_service_for_all_namespaces,
                    resource_version=first.metadata.resource_version,
                    timeout_seconds=1,
                )
            )
            assert [(e["type"], e["object"].spec.cluster_ip) for e in seen] == [
                ("ADDED", "10.96.0.42")
            ]
            with pytest.raises(client.ApiException) as gone:
                core.read_namespaced_service("nobody", "default")
            assert (gone.value.status, gone.value.reason) == (404, "Not Found")


def test_a_process_serves_a_cluster_and_is_driven_by_its_control_port() -> None:
    with ServerProcess("--services", "50", "--endpoints", "3", "--token", "t") as server:
        assert server.told["token"] == "t"
        assert len(server.ask("/snapshot?resource=endpointslices")) == 50
        assert server.ask("/usage")["cpu_sec"] > 0
        version = server.ask("/version")
        assert version == server.told["version"]
        assert server.ask("/put", "POST", [make.service("more")]) == version + 1
        assert server.ask("/delete", "POST", [make.service("more")]) == version + 2
        with pytest.raises(urllib.error.HTTPError, match="400"):
            server.order("/faults", kind="nonsense")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            server.ask("/nothing")
    assert not server.kubeconfig.exists()
    assert server.ended == 0


def test_churn_changes_endpoints_at_a_rate_and_says_which() -> None:
    with ServerProcess("--services", "50", "--endpoints", "3", "--no-tls") as server:
        began, version = time.monotonic(), server.ask("/version")
        server.order("/churn", rate=100, seconds=0.4, seed=3)
        deadline = time.monotonic() + 20
        while server.ask("/churn")["running"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        steps = [Step(*step) for step in server.ask("/churn")["steps"]]
        assert server.ask("/version") == version + 40
        slices = {
            raw["metadata"]["labels"]["kubernetes.io/service-name"]: raw
            for raw in server.ask("/snapshot?resource=endpointslices")
        }
    assert [step.version for step in steps] == list(range(version + 1, version + 41))
    assert began < steps[0].at <= steps[-1].at - 0.3
    last = steps[-1]
    raw = slices[last.service]
    addresses = [endpoint["addresses"][0] for endpoint in raw["endpoints"]]
    assert last.came in addresses
    assert last.gone not in addresses
    assert raw["metadata"]["annotations"][TRIGGER] > "2026-01-01T00:00:01"


def test_a_process_takes_orders_for_faults_and_manners() -> None:
    with ServerProcess("--no-tls", "--no-watch-list") as server:
        url = server.told["url"]
        assert fetch(f"{url}/api/v1/services") == 200
        server.order("/faults", kind="status", code=503, times=None)
        assert fetch(f"{url}/api/v1/services") == 503
        server.ask("/faults", "DELETE")
        assert fetch(f"{url}/api/v1/services") == 200
        query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"
        assert fetch(f"{url}/api/v1/services?{query}") == 422
        assert server.order("/behaviour", watch_list=True)["watch_list"] is True
        assert fetch(f"{url}/api/v1/services?{query}") == 200
        server.order("/tokens", secret=["me", []])
        assert fetch(f"{url}/api/v1/services") == 401
        assert server.ask("/requests?from=5")[0]["code"] == 401
        server.order("/refuse")
        with pytest.raises(urllib.error.URLError, match="refused"):
            fetch(url)
        server.order("/accept")
        assert fetch(f"{url}/readyz") == 401
        server.order("/stop")
    assert server.ended == 0


def fetch(url: str) -> int:
    """The code of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_an_invented_cluster_has_both_families() -> None:
    shape = Shape(services=1000, endpoints=2, ipv6_percent=10)
    services = [shape.service(number) for number in range(shape.services)]
    families = [raw["spec"]["ipFamilies"][0] for raw in services]
    assert families.count("IPv6") == pytest.approx(100, abs=10)
    assert len({raw["spec"]["clusterIP"] for raw in services}) == 1000
    addresses = [
        address
        for number in range(1000)
        for endpoint in shape.slice(number)["endpoints"]
        for address in endpoint["addresses"]
    ]
    assert len(set(addresses)) == 2000
