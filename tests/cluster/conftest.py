"""Fixtures: an API server double of the test's own with a plain client, and a whole node.

After a failure the end of the daemon's log stands in the report.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.cluster.apiserver import ApiServer
from tests.cluster.behaviour import Behaviour
from tests.cluster.daemon import Cluster
from tests.cluster.plain import Plain

_clusters: list[Cluster] = []


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server without TLS that does not wait for versions to come."""
    with ApiServer(tls=False, behaviour=Behaviour(fresh_wait_sec=0.05)) as made:
        yield made


@pytest.fixture
def plain(server: ApiServer) -> Plain:
    """A client of `server`."""
    return Plain(server)


@pytest.fixture(scope="session")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for the whole session, since loading programs takes seconds."""
    if os.geteuid() != 0:
        pytest.exit("These tests make network namespaces and load programs: run them as root.", 2)
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        _clusters.append(made)
        yield made


@pytest.fixture
def resting(one_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster as at the beginning, but for maps and pins; no daemon runs."""
    one_cluster.have_none()
    one_cluster.reset()
    yield one_cluster
    one_cluster.have_none()


@pytest.fixture
def cluster(one_cluster: Cluster) -> Cluster:
    """The cluster as at the beginning, and a daemon that is in sync and has attached the pods."""
    one_cluster.reset()
    one_cluster.have_usual()
    return one_cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the daemon's log to the report of a failure."""
    report = yield
    if report.failed:
        for used in _clusters:
            report.sections.append(("log of the daemon", used.kpbpf.log_tail()))
    return report
