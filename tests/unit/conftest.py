"""Fixtures: tables in memory and a way to run commands on them, and where these tests run."""

from __future__ import annotations

from pathlib import Path

import pytest

import maps.table
from maps import config
from maps.fake import FakeTables, fake_tables
from tests.unit.command import NOW_NS, Run, runner


@pytest.fixture
def node_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTables:
    """The tables that every command opens, of a node that is set up; time stands still.

    A daemon that may run on this machine is not asked.
    """
    monkeypatch.setenv("KPBPF_RUN", str(tmp_path))
    made = fake_tables()
    config.ensure(made)
    monkeypatch.setattr(maps.table, "open_tables", lambda *_args, **_kwargs: made)
    monkeypatch.setattr("time.monotonic_ns", lambda: NOW_NS)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line: run("svc", "ls")."""
    return runner(capsys)


@pytest.fixture(autouse=True)
def outside_of_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may themselves run in a pod, or behind a proxy."""
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A pod's service account."""
    made = tmp_path / "serviceaccount"
    made.mkdir()
    (made / "token").write_text("one")
    (made / "ca.crt").write_text("no certificate, which plain HTTP does not need")
    return made
