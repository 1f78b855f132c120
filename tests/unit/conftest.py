"""Fixtures for tests of the command line: tables in memory, and a way to run commands on them."""

from __future__ import annotations

import pytest

import maps.table
from maps import config
from maps.fake import FakeTables, fake_tables
from tests.unit.command import NOW_NS, Run, runner


@pytest.fixture
def node_tables(monkeypatch: pytest.MonkeyPatch) -> FakeTables:
    """The tables that every command opens, of a node that is set up; time stands still."""
    made = fake_tables()
    config.ensure(made)
    monkeypatch.setattr(maps.table, "open_tables", lambda *_args, **_kwargs: made)
    monkeypatch.setattr("time.monotonic_ns", lambda: NOW_NS)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line: run("svc", "ls")."""
    return runner(capsys)
