"""Hostile objects at the API: they are named, and harm nothing but themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import make
from tests.cluster import hostile
from tests.cluster.daemon import SOON_SEC, ApiService, Cluster
from tests.cluster.resources import by_name
from tests.lab.agent import until
from tests.lab.sockets import ask_tcp
from tests.lab.world import IPV4

MANY = 3_000
LOG_LINES = 120
RSS_BYTES = 400 << 20
"""Of which the interpreter and its packages are 60 MB; ten megabytes of JSON are held for a while
as bytes, as text and as objects."""


@contextmanager
def others_go_on(cluster: Cluster, number: int) -> Iterator[ApiService]:
    """A Service that answers before the block, and follows its changes within and after it."""
    with cluster.service("good", number, cluster.a) as good:
        yield good
        follows(cluster, good)
        assert cluster.runs
        assert rss(cluster) < RSS_BYTES


def follows(cluster: Cluster, good: ApiService) -> None:
    """A change of a good Service gets through, also behind whatever came before it."""
    for place in (cluster.b, cluster.a):
        good.put(place)
        until(lambda p=place: good.backends() == {p.addresses[IPV4]}, "the change", SOON_SEC)  # type: ignore[misc]
        assert ask_tcp(cluster.client, good.addresses[IPV4], 80).server == place.name


def rss(cluster: Cluster) -> int:
    """The most memory that the daemon has had, in bytes."""
    assert cluster.kpbpf.daemon is not None
    status = Path(f"/proc/{cluster.kpbpf.daemon.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def problems(cluster: Cluster) -> list[dict[str, str]]:
    found: list[dict[str, str]] = cluster.status()["problems"]
    return found


def problems_metric(cluster: Cluster, kind: str) -> float:
    prefix = f'kpbpf_object_problems{{kind="{kind}"}} '
    lines = cluster.page("/metrics").text.splitlines()
    return next(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))


def test_a_bad_object_is_named_everywhere_and_mended(cluster: Cluster) -> None:
    bad = make.service("bad", "10.98.1.1", [make.port(80) | {"port": "eighty"}])
    with others_go_on(cluster, 100):
        log = cluster.kpbpf.log_text()
        hostile.put(cluster.server.store, "services", "bad", bad)
        said = cluster.log_grows("services/bad", log)
        assert "spec.ports[0].port" in said
        until(lambda: len(problems(cluster)) == 1, "status names it", SOON_SEC)
        done = cluster.kpbpf.cli("status")
        assert done.returncode == 1
        for words in ("/services/bad", "spec.ports[0].port", "expected", "eighty"):
            assert words in done.stdout
        until(lambda: problems_metric(cluster, "Service") == 1, "the metric", SOON_SEC)
        cluster.server.store.put(make.service("bad", "10.98.1.1"))
        cluster.log_grows("mended: /api/v1/namespaces/default/services/bad", log)
        until(lambda: not problems(cluster), "status has nothing to name", SOON_SEC)
        cluster.converges()
    assert problems_metric(cluster, "Service") == 0


def test_an_object_that_becomes_bad_keeps_its_last_good_state(cluster: Cluster) -> None:
    with cluster.service("good", 101, cluster.a) as good:
        raw = cluster.server.store.get(by_name("services"), ("default", "good"))
        raw["spec"]["ports"] = "eighty"
        hostile.put(cluster.server.store, "services", "good", raw)
        until(lambda: len(problems(cluster)) == 1, "status names it", SOON_SEC)
        assert good.backends() == {cluster.a.addresses[IPV4]}
        assert ask_tcp(cluster.client, good.addresses[IPV4], 80).server == "pod-a"


def a_large_annotation(cluster: Cluster) -> None:
    hostile.put(cluster.server.store, "services", "large", hostile.large())
    until(lambda: cluster.kpbpf.backends("10.98.0.1", 80, "TCP") == set(), "served", SOON_SEC)


def many_ports(cluster: Cluster) -> None:
    hostile.put(cluster.server.store, "services", "many-ports", hostile.many_ports())
    until(lambda: [one["field"] for one in problems(cluster)] == ["spec.ports"], "named", SOON_SEC)


def deep_json(cluster: Cluster) -> None:
    hostile.put(cluster.server.store, "services", "deep", hostile.deep())
    until(lambda: bool(problems(cluster)), "status names it", SOON_SEC)
    assert "nested too deeply" in problems(cluster)[0]["got"]


def wrong_types(cluster: Cluster) -> None:
    store = cluster.server.store
    for kind, name, raw in hostile.wrong_types():
        hostile.put(store, kind, name, raw)
    until(lambda: len(problems(cluster)) > 200, "status names them", SOON_SEC)


def thousands_at_once(cluster: Cluster) -> None:
    for number in range(MANY):
        raw = make.service(f"bad-{number}", "10.98.1.1", [{"port": 0}])
        hostile.put(cluster.server.store, "services", f"bad-{number}", raw)
    until(lambda: len(problems(cluster)) == MANY, "status counts them", SOON_SEC)
    assert problems_metric(cluster, "Service") == MANY


@pytest.mark.parametrize(
    "attack", [a_large_annotation, many_ports, deep_json, wrong_types, thousands_at_once]
)
def test_others_are_served_and_followed_whatever_is_put(
    resting: Cluster, attack: Callable[[Cluster], None]
) -> None:
    """Both by a daemon that runs, and by one that starts and finds it there."""
    resting.start()
    with others_go_on(resting, 102) as good:
        log = resting.kpbpf.log_text()
        attack(resting)
        follows(resting, good)
        resting.stop()
        resting.start()
    assert len(resting.kpbpf.log_text()[len(log) :].splitlines()) < LOG_LINES
