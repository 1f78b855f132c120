"""`kpbpf cleanup --keep-connections`: the flag, what is left, and how long it is waited for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kpbpf.address import ZERO, from_text
from kpbpf.cli import hand_over
from kpbpf.datapath.kernel import now_ns
from kpbpf.home import Home
from maps import config
from maps.abi import ConfigFlag, Flow, FlowFlag, FlowKey, State
from maps.fake import FakeTables, fake_tables

SEC_NS = 10**9


@pytest.fixture
def tables() -> FakeTables:
    made = fake_tables()
    config.ensure(made)
    return made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "pins", tmp_path / "run")


def put(
    tables: FakeTables,
    port: int,
    flags: int = 0,
    service: int = 5,
    idle_sec: int = 0,
    state: State = State.TCP_ESTABLISHED,
) -> None:
    key = FlowKey(from_text("10.0.0.1"), from_text("10.0.0.2"), port, 80, 6, 0)
    empty = Flow.unpack(bytes(Flow.SIZE))
    tables.flows.put(
        key,
        empty._replace(
            last_seen_ns=now_ns() - idle_sec * SEC_NS,
            nat_addr=ZERO,
            flags=flags,
            state=state,
            service=service,
        ),
    )


def test_the_flag_is_set_once_and_the_rest_of_the_configuration_stays(
    home: Home, tables: FakeTables, capsys: pytest.CaptureFixture[str]
) -> None:
    before = config.read(tables)
    assert hand_over.hand_over(home, tables, 0) == 0
    after = config.read(tables)
    assert after == before._replace(flags=before.flags | ConfigFlag.HAND_OVER)
    assert "as before" not in capsys.readouterr().out
    assert hand_over.hand_over(home, tables, 0) == 0
    assert "as before" in capsys.readouterr().out
    assert config.set_hand_over(tables, False)
    assert config.read(tables) == before
    assert not config.set_hand_over(tables, False)


def test_connections_through_services_are_counted_once_and_only_while_they_live(
    home: Home, tables: FakeTables, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tables, 1, flags=FlowFlag.TRANSLATED)
    put(tables, 1001, flags=FlowFlag.ALIAS | FlowFlag.TRANSLATED)
    put(tables, 2, flags=FlowFlag.TRANSLATED, idle_sec=31, state=State.TCP_CLOSING)
    put(tables, 3, service=0)
    assert hand_over.hand_over(home, tables, 0) == 0
    said = capsys.readouterr().out
    assert "1 connection through a Service is left\n" in said
    assert "`kpbpf cleanup` takes those off" in said


def test_what_is_left_after_the_wait_is_told_by_the_exit_code(
    home: Home, tables: FakeTables, capsys: pytest.CaptureFixture[str]
) -> None:
    for port in range(1, 1235):
        put(tables, port, flags=FlowFlag.TRANSLATED)
    assert hand_over.hand_over(home, tables, 0.2) == 1
    said = capsys.readouterr()
    assert "1,234 connections through Services are left\n" in said.out
    assert said.err == "1,234 connections through Services are left; 0 s more\n"


def test_the_wait_ends_with_the_last_connection(
    home: Home,
    tables: FakeTables,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hand_over, "LOOK_SEC", 0.05)
    put(tables, 1, flags=FlowFlag.TRANSLATED)
    (key,) = (key for key, _ in tables.flows.items())
    ends = threading.Timer(0.3, tables.flows.delete, [key])
    ends.start()
    try:
        assert hand_over.hand_over(home, tables, 600) == 0
    finally:
        ends.join()
    assert "none is left" in capsys.readouterr().out
