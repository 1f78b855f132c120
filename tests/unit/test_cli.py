"""Flows, drops, maps and endpoints on tables in memory: what is printed, and how it ends."""

from __future__ import annotations

import json

import pytest

from kpbpf.address import from_text
from kpbpf.cli import ep, options
from kpbpf.errors import NotFound, Usage
from maps.abi import (
    Counter,
    Dropped,
    DroppedKey,
    Endpoint,
    EndpointKey,
    Flow,
    FlowFlag,
    FlowKey,
    Hook,
    Mode,
    Name,
    NameKey,
    NameKind,
    State,
    Verdict,
)
from maps.fake import FakeTables
from maps.layout import U32
from tests.unit.command import NOW_NS, SEC_NS, Run
from tests.unit.serving import serve


def pod(tables: FakeTables, id_: int, name: str, *ips: str) -> None:
    """Have the maps hold an endpoint."""
    for ip in ips:
        entry = Endpoint(id_, 100 + id_, bytes([2] * 6), bytes([4] * 6), Mode.VETH)
        tables.endpoints.put(EndpointKey(from_text(ip)), entry)
    tables.names.put(NameKey(NameKind.ENDPOINT, id_), Name(name))


# ---- flows, drops, maps, endpoints -----------------------------------------------------


def connection(
    tables: FakeTables,
    client: str,
    state: State,
    service: int = 1,
    masquerade: str | None = None,
    flags: int = FlowFlag.TRANSLATED,
) -> None:
    addr, port = options.ip_and_port(client)
    seen_addr, seen_port = options.ip_and_port(masquerade or client)
    if masquerade:
        flags |= FlowFlag.MASQUERADED
    key = FlowKey(seen_addr, from_text("10.1.0.1"), seen_port, 8080, 6, 0)
    flow = Flow(
        last_seen_ns=NOW_NS - 12 * SEC_NS,
        nat_addr=from_text("10.96.0.2"),
        nat_port=80,
        client_port=port,
        state=state,
        flags=flags,
        tick=0,
        client_ifindex=7,
        backend_ifindex=8,
        client_mac=bytes(6),
        backend_mac=bytes(6),
        epoch=0,
        service=service,
        created_sec=NOW_NS // SEC_NS - 300,
        masq_addr=addr if masquerade else bytes(16),
    )
    tables.flows.put(key, flow)


@pytest.fixture
def connections(node_tables: FakeTables) -> FakeTables:
    serve(node_tables, "default/web:http/IPv4", "10.96.0.2:80", "10.1.0.1:8080")
    connection(node_tables, "10.0.0.1:40000", State.TCP_ESTABLISHED)
    connection(node_tables, "10.0.0.2:40000", State.TCP_NEW)
    connection(node_tables, "10.0.0.3:40000", State.TCP_NEW, service=9)
    outside, seen_as = "203.0.113.9:50000", "10.0.0.4:40000"
    connection(node_tables, outside, State.TCP_ESTABLISHED, 9, seen_as)
    own = FlowFlag.TRANSLATED | FlowFlag.FROM_NODE
    connection(node_tables, "10.0.0.5:40000", State.TCP_CLOSING, 9, flags=own)
    transit = FlowFlag.TRANSLATED | FlowFlag.TRANSIT
    connection(node_tables, "10.0.0.6:40000", State.TCP_ESTABLISHED, 9, flags=transit)
    return node_tables


def test_a_connection_shows_both_addresses_and_its_times(connections: FakeTables, run: Run) -> None:
    line = run("flow", "ls").out.splitlines()[1]
    assert line.split() == [
        "TCP",
        "10.0.0.1:40000",
        "10.96.0.2:80",
        "-",
        "10.1.0.1:8080",
        "default/web:http/IPv4",
        "tcp_established",
        "5m",
        "12s",
    ]


@pytest.mark.parametrize(
    ("filters", "clients"),
    [
        ((), {"10.0.0.1", "10.0.0.2", "10.0.0.3", "203.0.113.9", "10.0.0.5"}),
        (("--backend", "10.1.0.1", "--state", "tcp_new"), {"10.0.0.2", "10.0.0.3"}),
        (("--backend", "10.1.0.2"), set()),
        (("--masqueraded",), {"203.0.113.9"}),
        (("--from-node",), {"10.0.0.5"}),
        (("--transit",), {"10.0.0.6"}),
        (("--service", "default/web"), {"10.0.0.1", "10.0.0.2"}),
        (("--client", "10.0.0.2"), {"10.0.0.2"}),
        (("--state", "tcp_new"), {"10.0.0.2", "10.0.0.3"}),
        (("--state", "tcp_new", "--service", "web"), {"10.0.0.2"}),
    ],
)
def test_connections_are_filtered(
    connections: FakeTables, run: Run, filters: tuple[str, ...], clients: set[str]
) -> None:
    rows = json.loads(run("flow", "ls", "-o", "json", *filters).out)
    assert {row["client"].partition(":")[0] for row in rows} == clients


def test_a_masqueraded_connection_shows_who_the_backend_sees(
    connections: FakeTables, run: Run
) -> None:
    (row,) = json.loads(run("flow", "ls", "--masqueraded", "-o", "json").out)
    assert (row["client"], row["destination"], row["masquerade"], row["backend"]) == (
        "203.0.113.9:50000",
        "10.96.0.2:80",
        "10.0.0.4:40000",
        "10.1.0.1:8080",
    )


def test_an_unknown_state_names_those_there_are(connections: FakeTables, run: Run) -> None:
    refused = run("flow", "ls", "--state", "asleep")
    assert refused.code == 2
    assert "tcp_established" in refused.err


def test_drops_say_whose_why_and_when(node_tables: FakeTables, run: Run) -> None:
    key = DroppedKey(
        from_text("10.0.0.1"),
        from_text("10.96.0.9"),
        80,
        6,
        Hook.FROM_POD,
        Verdict.DROP_NO_BACKEND,
    )
    node_tables.drops.put(key, Dropped(3, NOW_NS - 5 * SEC_NS, 7))
    line = run("drop", "ls").out.splitlines()[1]
    assert line.startswith("no_backend   TCP        10.0.0.1   10.96.0.9:80   3         5s")
    assert line.endswith(Verdict.DROP_NO_BACKEND.caption)
    assert "no_backend" not in run("drop", "ls", "--reason", "no_flow").out
    assert run("drop", "ls", "--reason", "boredom").code == 2


def test_totals_count_what_passed_as_well(node_tables: FakeTables, run: Run) -> None:
    slot = U32(Hook.TO_POD * 128 + Verdict.PASS_REPLY)
    cpus = len(node_tables.counters.get(slot) or [])
    node_tables.counters.put(slot, [Counter(2, 100)] * cpus)
    (row,) = json.loads(run("drop", "ls", "--totals", "-o", "json").out)
    assert (row["hook"], row["verdict"]) == ("to_pod", "reply")
    assert (row["packets"], row["bytes"]) == (2 * cpus, 100 * cpus)


def test_maps_show_pressure_but_arrays_have_none(node_tables: FakeTables, run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("map", "ls", "-o", "json").out)}
    assert rows["frontends"]["percent"] == 0.0
    assert rows["counters"]["percent"] is None


def test_endpoints_have_the_columns_that_the_field_knows(node_tables: FakeTables, run: Run) -> None:
    pod(node_tables, 1, "netns=/run/netns/a ifname=eth0", "10.1.0.1", "fd42::1")
    header, line = run("ep", "ls").out.splitlines()
    assert header.split("   ")[0] == "ID"
    assert [cell.strip() for cell in header.split("   ") if cell.strip()][1:] == [
        "POD",
        "IP",
        "HOST",
        "FOUND",
        "IFINDEX",
        "POD MAC",
        "NODE MAC",
        "MODE",
    ]
    assert "02:02:02:02:02:02" in line
    assert " - " in line, "an interface that is gone has no name"


ENDPOINTS = [
    {"id": 1, "name": "netns=/run/netns/a ifname=eth0 pod=default/web-1", "ips": ["10.1.0.1"]},
    {"id": 2, "name": "netns=/run/netns/b ifname=eth0", "ips": ["10.1.0.2", "fd42::2"]},
    {"id": 3, "name": "netns=/tmp/b ifname=eth0", "ips": ["10.1.0.3"]},
]


@pytest.mark.parametrize(
    ("asked", "id_"),
    [
        ("1", 1),
        ("10.1.0.1", 1),
        ("fd42::2", 2),
        ("veth3", 3),
        ("default/web-1", 1),
        ("web-1", 1),
        ("a", 1),
        ("netns=/run/netns/b ifname=eth0", 2),
    ],
)
def test_an_endpoint_is_found_by_what_people_call_it(asked: str, id_: int) -> None:
    rows = [row | {"host": f"veth{row['id']}"} for row in ENDPOINTS]
    assert ep.choose(rows, asked)["id"] == id_


def test_a_name_that_means_two_endpoints_or_none_is_refused() -> None:
    rows = [row | {"host": None} for row in ENDPOINTS]
    with pytest.raises(Usage, match="several"):
        ep.choose(rows, "b")
    with pytest.raises(NotFound):
        ep.choose(rows, "c")
