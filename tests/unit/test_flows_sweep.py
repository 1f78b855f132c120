"""Connections are forgotten when their time is over or their pod is gone, and not before."""

from __future__ import annotations

import pytest

from controllers import flows
from kpbpf.address import ZERO, from_text
from maps import config
from maps.abi import Flow, FlowFlag, FlowKey, Name, NameKey, NameKind, State
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
        masq_addr=ZERO,
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
    assert flows.sweep(tables, NOW_NS).removed == 1
    assert ports(tables) == {1}


def test_sweeping_twice_finds_nothing_the_second_time(tables: FakeTables) -> None:
    for port in range(3000):
        tables.flows.put(key(port), flow(State.UDP_NEW, 3600))
    assert flows.sweep(tables, NOW_NS).removed == 3000
    assert flows.sweep(tables, NOW_NS).removed == 0


def test_connections_that_stay_are_counted_by_protocol_and_state(tables: FakeTables) -> None:
    for port, state in enumerate((State.TCP_NEW, State.TCP_ESTABLISHED, State.TCP_ESTABLISHED)):
        tables.flows.put(key(port), flow(state))
    tables.flows.put(key(10), flow(State.TCP_ESTABLISHED)._replace(flags=FlowFlag.TRANSLATED))
    tables.flows.put(key(11), flow(State.TCP_ESTABLISHED)._replace(flags=FlowFlag.ALIAS))
    tables.flows.put(key(12), flow(State.TCP_NEW, 3600))
    tables.flows.put(key(13)._replace(proto=17), flow(State.UDP_STREAM))
    swept = flows.sweep(tables, NOW_NS)
    assert swept.connections == {
        (6, State.TCP_NEW): 1,
        (6, State.TCP_ESTABLISHED): 3,
        (17, State.UDP_STREAM): 1,
    }
    assert swept.of_services == {}, "nobody asked"


def test_connections_of_services_are_counted_once_and_when_asked(tables: FakeTables) -> None:
    through = flow(State.TCP_ESTABLISHED)._replace(service=70_000, flags=FlowFlag.TRANSLATED)
    tables.flows.put(key(1), through)
    tables.flows.put(key(2), through._replace(flags=FlowFlag.TRANSLATED | FlowFlag.ALIAS))
    tables.flows.put(key(3), through._replace(service=2))
    tables.flows.put(key(4), through._replace(service=3, last_seen_ns=0))
    tables.flows.put(key(5), flow(State.TCP_ESTABLISHED))
    assert flows.sweep(tables, NOW_NS, count_services=True).of_services == {70_000: 1, 2: 1}


def test_the_first_services_by_name_are_chosen_whole(tables: FakeTables) -> None:
    names = [
        "default/web:http/IPv4",
        "default/web:http/IPv6",
        "default/web:metrics/IPv4",
        "default/api/IPv4",
        "kube-system/dns:dns/IPv4",
    ]
    for number, name in enumerate(names):
        tables.names.put(NameKey(NameKind.SERVICE, number), Name(name))
    tables.names.put(NameKey(NameKind.ENDPOINT, 9), Name("a/pod"))
    assert flows.first_services(tables, 0) == {}
    assert flows.first_services(tables, 1) == {3: "default/api"}
    assert set(flows.first_services(tables, 2)) == {0, 1, 2, 3}
    assert flows.first_services(tables, 50)[4] == "kube-system/dns"


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
