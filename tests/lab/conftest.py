"""Fixtures of the lab: one shared Lab for tests that only look, a fresh one for those that break;
the same of the Fleet of three nodes.

After a failure the end of the daemon's log stands in the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kpbpf.datapath import cgroup
from tests.lab.agent import Kpbpf
from tests.lab.fleet import Fleet, MakeFleet
from tests.lab.host import Host
from tests.lab.lab import Lab

_labs: list[Lab] = []
_fleets: list[Fleet] = []


@pytest.fixture(scope="session", autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.exit("The lab makes network namespaces and loads programs: run it as root.", 2)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The Lab that tests share; they leave its daemon running and its pods attached."""
    with Lab(tmp_path_factory.mktemp("lab")) as shared:
        _labs.append(shared)
        yield shared


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Make a Lab of the test's own, with options and environment for its daemon."""
    with ExitStack() as stack:

        def make(*options: str, **environment: str) -> Lab:
            made = Lab(tmp_path, *options, **environment)
            _labs.append(made)
            return stack.enter_context(made)

        yield make
        _labs[1:] = []


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The Fleet that tests share: three nodes, as an operator gets them who asks for nothing."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as shared:
        _fleets.append(shared)
        yield shared
        _fleets.remove(shared)


@pytest.fixture(scope="module")
def make_fleet(tmp_path_factory: pytest.TempPathFactory) -> MakeFleet:
    """Make a Fleet of the module's own; a context manager."""

    @contextmanager
    def make(*options: str, **more: Any) -> Iterator[Fleet]:
        made = Fleet(tmp_path_factory.mktemp("fleet"), *options, **more)
        _fleets.append(made)
        try:
            with made:
                yield made
        finally:
            _fleets.remove(made)

    return make


@pytest.fixture(scope="session")
def _host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture
def host(_host: Host) -> Iterator[Host]:
    """A node with the socket programs attached, no Service and no daemon."""
    _host.reset()
    yield _host
    cgroup.detach(_host.home)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    """Each address family in turn."""
    return int(request.param)


@pytest.fixture(params=["TCP", "UDP"], ids=["tcp", "udp"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Each protocol in turn."""
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the daemons' logs to the report of a failure."""
    report = yield
    if report.failed:
        kpbpfs: list[Kpbpf] = [lab.kpbpf for lab in _labs]
        for used in (*kpbpfs, *(one for fleet in _fleets for one in fleet.kpbpfs.values())):
            report.sections.append((f"log of the daemon of {used.node_name}", used.log_tail()))
    return report
