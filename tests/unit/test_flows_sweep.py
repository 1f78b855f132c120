"""Connections are forgotten when their time is over or their pod is gone, and not before."""

from __future__ import annotations

import pytest

from controllers import flows
from kpbpf.address import ZERO, from_text
from maps import config
from maps.abi import Flow, FlowKey, State
from maps.fake import FakeTables, fake_tables

NOW_NS = 10**15
SEC_NS = 10**9


@pytest.fixture
def tables() -> FakeTables:
    made = fake_tables()
    config.ensure(made)
    return made


def key(port: int) -> FlowKey:
    return FlowKey(from_text("10.0.0.1"), from_text("10.0.0.2"), port, 80, 6, 0)


def flow(state: State, idle_sec: float = 0, client: int = 7, backend: int = 8) -> Flow:
    return Flow(
        last_seen_ns=NOW_NS - int(idle_sec * SEC_NS),
        nat_addr=ZERO,
        nat_port=0,
        client_port=0,
        state=state,
        flags=0,
        tick=0,
        client_ifindex=client,
        backend_ifindex=backend,
        client_mac=bytes(6),
        backend_mac=bytes(6),
        epoch=0,
        service=0,
        created_sec=0,
    )


def ports(tables: FakeTables) -> set[int]:
    return {found.low_port for found, _ in tables.flows.items()}


@pytest.mark.parametrize("state", list(State))
def test_a_flow_goes_when_its_state_allows_no_longer_idleness(
    tables: FakeTables, state: State
) -> None:
    limit = config.read(tables).timeout_sec[state]
    tables.flows.put(key(1), flow(state, limit - 1))
    tables.flows.put(key(2), flow(state, limit + 1))
    assert flows.sweep(tables, NOW_NS) == 1
    assert ports(tables) == {1}


def test_sweeping_twice_finds_nothing_the_second_time(tables: FakeTables) -> None:
    for port in range(3 * flows.BATCH + 1):
        tables.flows.put(key(port), flow(State.UDP_NEW, 3600))
    assert flows.sweep(tables, NOW_NS) == 3 * flows.BATCH + 1
    assert flows.sweep(tables, NOW_NS) == 0


def test_a_flow_of_an_unknown_state_does_not_stop_the_sweep(tables: FakeTables) -> None:
    tables.flows.put(key(1), flow(State.UDP_NEW, 3600)._replace(state=200))
    tables.flows.put(key(2), flow(State.UDP_NEW, 3600))
    flows.sweep(tables, NOW_NS)
    assert 2 not in ports(tables)


@pytest.mark.parametrize("gone", [{7}, {8}, {7, 8}])
def test_flows_of_a_gone_interface_go_whichever_end_it_was(
    tables: FakeTables, gone: set[int]
) -> None:
    tables.flows.put(key(1), flow(State.TCP_ESTABLISHED))
    tables.flows.put(key(2), flow(State.TCP_ESTABLISHED, client=9, backend=0))
    assert flows.forget_interfaces(tables, gone) == 1
    assert ports(tables) == {2}


def test_no_interface_gone_means_no_flow_forgotten(tables: FakeTables) -> None:
    tables.flows.put(key(1), flow(State.TCP_ESTABLISHED, client=0))
    assert flows.forget_interfaces(tables, ()) == 0
    assert ports(tables) == {1}
