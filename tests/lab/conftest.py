"""Fixtures of the lab: one shared Lab for tests that only look, a fresh one for those that break.

After a failure the end of the daemon's log stands in the report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.lab import Lab

_labs: list[Lab] = []


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
        for used in _labs:
            report.sections.append(("log of the daemon", used.kpbpf.log_tail()))
    return report
