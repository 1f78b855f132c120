"""Rows for people, from tables in memory."""

from typing import Any

import pytest

from kpbpf.address import from_text, mac_bytes
from maps import abi, config, show
from maps.abi import FlowFlag, Hook, NameKind, State, Verdict
from maps.fake import FakeTables, fake_tables
from maps.layout import U32

SECOND = 1_000_000_000
CLIENT, SERVICE = from_text("10.1.0.1"), from_text("10.96.0.10")
BACKENDS = [from_text("10.1.0.2"), from_text("10.1.0.3")]
MAC = mac_bytes("02:00:00:00:00:01")


@pytest.fixture
def tables() -> FakeTables:
    tables = fake_tables()
    config.ensure(tables)
    tables.names.put(abi.NameKey(NameKind.SERVICE, 7), abi.Name("default/web:http/IPv4"))
    return tables


def flow(**changes: Any) -> abi.Flow:
    """A TCP flow of 40 s ago, last seen at 90 s."""
    plain = abi.Flow.unpack(bytes(abi.Flow.SIZE))._replace(
        last_seen_ns=90 * SECOND,
        created_sec=40,
        state=State.TCP_ESTABLISHED,
        client_ifindex=4,
        backend_ifindex=5,
    )
    return plain._replace(**changes)


def test_pod_with_two_addresses_is_one_row(tables: FakeTables) -> None:
    tables.names.put(abi.NameKey(NameKind.ENDPOINT, 1), abi.Name("eth0 in pod-a"))
    for text in ("fd00::1", "10.1.0.1"):
        pod = abi.Endpoint(id=1, ifindex=12, pod_mac=MAC, node_mac=MAC, mode=0)
        tables.endpoints.put(abi.EndpointKey(from_text(text)), pod)
    (row,) = show.endpoints(tables, interface={12: "veth0"}.get)
    assert row["ips"] == ["10.1.0.1", "fd00::1"]
    assert (row["id"], row["name"], row["host"], row["ifindex"]) == (
        1,
        "eth0 in pod-a",
        "veth0",
        12,
    )
    assert (row["pod_mac"], row["mode"]) == ("02:00:00:00:00:01", "veth")


def test_interface_that_is_gone_has_no_name() -> None:
    assert show.interface_name(1) == "lo"
    assert show.interface_name(0x7FFFFFFF) is None


def test_translated_flow_is_one_row_seen_from_its_client(tables: FakeTables) -> None:
    key = abi.FlowKey(CLIENT, BACKENDS[0], 40_001, 8080, 6, 0)
    record = flow(
        flags=FlowFlag.TRANSLATED, nat_addr=SERVICE, nat_port=80, client_port=40_000, service=7
    )
    tables.flows.put(key, record)
    alias = abi.FlowKey(CLIENT, SERVICE, 40_000, 80, 6, 0)
    tables.flows.put(alias, flow(flags=FlowFlag.TRANSLATED | FlowFlag.ALIAS))
    (row,) = show.flows(tables, now_ns=100 * SECOND)
    assert row == {
        "protocol": "TCP",
        "client": "10.1.0.1:40000",
        "destination": "10.96.0.10:80",
        "masquerade": None,
        "backend": "10.1.0.2:8080",
        "service": "default/web:http/IPv4",
        "state": "tcp_established",
        "hairpin": False,
        "from_node": False,
        "transit": False,
        "age_sec": 60,
        "idle_sec": 10,
        "expires_sec": 86_390,
        "client_ifindex": 4,
        "backend_ifindex": 5,
    }


def test_direct_flow_has_no_backend_and_its_client_may_be_the_higher_end(
    tables: FakeTables,
) -> None:
    key = abi.FlowKey(CLIENT, BACKENDS[0], 80, 40_000, 6, 0)
    tables.flows.put(key, flow(flags=FlowFlag.CLIENT_IS_HIGH, state=99))
    (row,) = show.flows(tables, now_ns=0)
    assert (row["client"], row["destination"]) == ("10.1.0.2:40000", "10.1.0.1:80")
    assert (row["backend"], row["service"], row["state"]) == (None, None, "state 99")
    assert (row["age_sec"], row["idle_sec"], row["expires_sec"]) == (0, 0, 0)


def test_pod_that_reaches_itself_is_its_own_client(tables: FakeTables) -> None:
    key = abi.FlowKey(BACKENDS[0], config.HAIRPIN4, 8080, 40_000, 6, 0)
    flags = FlowFlag.TRANSLATED | FlowFlag.HAIRPIN | FlowFlag.CLIENT_IS_HIGH
    tables.flows.put(key, flow(flags=flags, nat_addr=SERVICE, nat_port=80, client_port=40_000))
    (row,) = show.flows(tables, now_ns=0)
    assert (row["client"], row["backend"]) == ("10.1.0.2:40000", "10.1.0.2:8080")
    assert row["hairpin"]


def test_a_masqueraded_flow_shows_its_client_and_who_the_backend_sees(tables: FakeTables) -> None:
    outside, node = from_text("203.0.113.9"), from_text("10.0.0.4")
    key = abi.FlowKey(node, BACKENDS[0], 40_000, 8080, 6, 0)
    flags = FlowFlag.TRANSLATED | FlowFlag.MASQUERADED
    record = flow(flags=flags, nat_addr=SERVICE, nat_port=80, client_port=50_000, masq_addr=outside)
    tables.flows.put(key, record)
    passing = abi.FlowKey(outside, BACKENDS[0], 50_000, 8080, 6, 0)
    transit = record._replace(flags=flags | FlowFlag.TRANSIT, client_port=40_000, masq_addr=node)
    tables.flows.put(passing, transit)
    (row,) = show.flows(tables, now_ns=0)
    (through,) = show.flows(tables, now_ns=0, transit=True)
    for shown in (row, through):
        assert shown["client"] == "203.0.113.9:50000"
        assert shown["destination"] == "10.96.0.10:80"
        assert shown["masquerade"] == "10.0.0.4:40000"
        assert shown["backend"] == "10.1.0.2:8080"
    assert (row["transit"], through["transit"]) == (False, True)


def test_drops_come_latest_first(tables: FakeTables) -> None:
    for port, seconds in ((80, 10), (81, 30), (82, 20)):
        key = abi.DroppedKey(CLIENT, SERVICE, port, 6, Hook.FROM_POD, Verdict.DROP_NO_BACKEND)
        tables.drops.put(key, abi.Dropped(port, seconds * SECOND, 4))
    rows = show.drops(tables, now_ns=31 * SECOND)
    assert [row["destination"] for row in rows] == [f"10.96.0.10:{port}" for port in (81, 82, 80)]
    assert rows[0]["verdict"] == "no_backend"
    assert rows[0]["why"] == Verdict.DROP_NO_BACKEND.caption
    assert (rows[0]["hook"], rows[0]["packets"], rows[0]["age_sec"]) == ("from_pod", 81, 1)


def test_counters_are_summed_and_unknown_verdicts_stay_visible(tables: FakeTables) -> None:
    cpus = len(tables.counters.get(U32(0)) or [])
    slot = Hook.TO_POD * abi.VERDICTS + Verdict.PASS_REPLY
    tables.counters.put(U32(slot), [abi.Counter(1, 100)] * cpus)
    tables.counters.put(U32(120), [abi.Counter(2, 0)] * cpus)
    unknown, reply = show.counters(tables)
    assert (reply["hook"], reply["verdict"], reply["dropped"]) == ("to_pod", "reply", False)
    assert (reply["packets"], reply["bytes"]) == (cpus, 100 * cpus)
    assert (unknown["verdict"], unknown["dropped"]) == ("verdict 120", True)
    assert unknown["why"] == "unknown to this version"


def test_map_usage_tells_how_full_a_map_is(tables: FakeTables) -> None:
    for slot, addr in enumerate([*BACKENDS, BACKENDS[0]]):
        tables.backends.put(abi.BackendKey(3, slot), abi.Backend(addr, 8080, 0))
    rows = {row["name"]: row for row in show.map_usage(tables)}
    assert set(rows) == set(abi.MAPS)
    assert (rows["backends"]["entries"], rows["backends"]["limit"]) == (3, 1_048_576)
    assert rows["configs"]["percent"] == 100
    assert rows["flows"]["kind"] == "lru_hash"
