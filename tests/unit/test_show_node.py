"""Rows about the node itself, from tables in memory."""

from __future__ import annotations

from typing import Any

import pytest

from kpbpf.address import ZERO, from_text, mac_bytes
from maps import abi, config, show_node
from maps.abi import AddressFlag, ConfigFlag, DeviceFlag, FlowFlag, NameKind, RangeScope, Way
from maps.fake import FakeTables, fake_tables
from maps.layout import U32

SECOND = 1_000_000_000
NODE4, NODE6 = from_text("192.0.2.1"), from_text("2001:db8::1")
MAC = mac_bytes("02:00:00:00:00:07")
NAMES = {7: "eth0", 8: "tun0"}


@pytest.fixture
def tables() -> FakeTables:
    made = fake_tables()
    config.ensure(made)
    made.devices.put(U32(8), abi.Device(ZERO, NODE6, DeviceFlag.NO_ETHERNET, bytes(6)))
    made.devices.put(U32(7), abi.Device(NODE4, NODE6, 0, MAC))
    return made


def configure(tables: FakeTables, **fields: Any) -> None:
    config.write(tables, config.read(tables)._replace(**fields))


def test_uplinks_come_by_name_and_say_what_backends_see(tables: FakeTables) -> None:
    assert show_node.uplinks(tables, NAMES.get) == [
        {
            "name": "eth0",
            "ifindex": 7,
            "kind": "ethernet",
            "mac": "02:00:00:00:00:07",
            "masquerade": ["192.0.2.1", "2001:db8::1"],
        },
        {"name": "tun0", "ifindex": 8, "kind": "ip", "mac": None, "masquerade": ["2001:db8::1"]},
    ]
    assert [row["name"] for row in show_node.uplinks(tables, lambda _: None)] == [None, None]


def test_addresses_that_serve_node_ports_come_first(tables: FakeTables) -> None:
    node, both = int(AddressFlag.NODE), int(AddressFlag.NODE | AddressFlag.NODE_PORT)
    tables.addresses.put(abi.AddressKey(from_text("10.0.0.1")), abi.Address(node))
    tables.addresses.put(abi.AddressKey(NODE6), abi.Address(both))
    tables.addresses.put(abi.AddressKey(NODE4), abi.Address(both))
    found = show_node.addresses(tables)
    assert [row["address"] for row in found] == ["192.0.2.1", "2001:db8::1", "10.0.0.1"]
    assert [row["node_ports"] for row in found] == [True, True, False]
    assert all(row["node"] for row in found)


def test_a_new_node_has_nothing_but_defaults(tables: FakeTables) -> None:
    assert show_node.configuration(tables, NAMES.get) == {
        "flags": ["ready", "local_fast_path"],
        "socket_lb": "off",
        "detect_local": "off",
        "node_addresses": [],
        "hairpin_addresses": ["169.254.107.112", "fd6b:7062:7066::1"],
        "uplink": None,
        "uplink_ifindex": 0,
        "node_ports": [],
        "masquerade_ports": [10240, 29999],
        "refusals_per_sec": 500,
        "pod_ranges": [],
        "service_ranges": [],
    }


def test_a_configured_node_says_so_in_words(tables: FakeTables) -> None:
    flags = ConfigFlag.DETECT_LOCAL | ConfigFlag.DETECT_BY_RANGE | ConfigFlag.SOCKET_HOST
    configure(tables, flags=flags, node4=NODE4, uplink_ifindex=7)
    configure(tables, node_port_first=30000, node_port_last=30080)
    for text, bits, scope in (
        ("10.96.0.0", 108, RangeScope.RANGE_SERVICES),
        ("10.42.0.0", 112, RangeScope.RANGE_PODS),
        ("fd42::", 48, RangeScope.RANGE_PODS),
        ("198.51.100.0", 120, 5),
    ):
        tables.ranges.put(abi.RangeKey(32 + bits, scope, from_text(text)), U32(1))
    found = show_node.configuration(tables, NAMES.get)
    assert (found["socket_lb"], found["detect_local"]) == ("host", "range")
    assert (found["uplink"], found["node_addresses"]) == ("eth0", ["192.0.2.1"])
    assert found["node_ports"] == [30000, 30080]
    assert found["pod_ranges"] == ["10.42.0.0/16", "fd42::/48"]
    assert found["service_ranges"] == ["10.96.0.0/12"]
    assert show_node.source_ranges(tables, 5) == ["198.51.100.0/24"]


def test_a_node_may_serve_the_sockets_of_pods_and_know_pods_by_interface(
    tables: FakeTables,
) -> None:
    flags = ConfigFlag.SOCKET_HOST | ConfigFlag.SOCKET_PODS | ConfigFlag.DETECT_LOCAL
    configure(tables, flags=int(flags) | 0x4000_0000)
    found = show_node.configuration(tables)
    assert (found["socket_lb"], found["detect_local"]) == ("all", "interface")
    assert found["flags"][-1] == "0x40000000"


# ---- masquerade -------------------------------------------------------------------------


def masqueraded(tables: FakeTables, port: int, backend: str, more: int = 0, proto: int = 6) -> None:
    """A connection that its backend sees as one of NODE4."""
    ends = sorted([(NODE4, port), (from_text(backend), 8080)])
    flags = FlowFlag.TRANSLATED | FlowFlag.MASQUERADED | more
    if ends[1][0] == NODE4:
        flags |= FlowFlag.CLIENT_IS_HIGH
    key = abi.FlowKey(ends[0][0], ends[1][0], ends[0][1], ends[1][1], proto, 0)
    tables.flows.put(key, abi.Flow.unpack(bytes(abi.Flow.SIZE))._replace(flags=flags))


def test_the_backend_that_holds_the_most_ports_comes_first(tables: FakeTables) -> None:
    configure(tables, masquerade_first=40000, masquerade_last=40009)
    for port in (40000, 40001, 40002):
        masqueraded(tables, port, "198.51.100.7")
    masqueraded(tables, 40000, "10.1.1.1")
    masqueraded(tables, 40000, "10.1.1.1", proto=17)
    masqueraded(tables, 40003, "10.1.1.1", more=FlowFlag.ALIAS)
    masqueraded(tables, 40004, "10.1.1.1", more=FlowFlag.TRANSIT)
    direct = abi.FlowKey(NODE4, from_text("10.1.1.2"), 1, 2, 6, 0)
    tables.flows.put(direct, abi.Flow.unpack(bytes(abi.Flow.SIZE)))
    found = show_node.masquerade(tables)
    assert found[0] == {
        "address": "192.0.2.1",
        "protocol": "TCP",
        "backend": "198.51.100.7:8080",
        "used": 3,
        "limit": 10,
        "percent": 30.0,
    }
    assert {(row["backend"], row["protocol"], row["used"]) for row in found[1:]} == {
        ("10.1.1.1:8080", "TCP", 1),
        ("10.1.1.1:8080", "UDP", 1),
    }
    assert show_node.masquerade(tables, 1) == found[:1]


def test_the_flags_of_a_flow_stand_where_they_are_read() -> None:
    packed = abi.Flow.unpack(bytes(abi.Flow.SIZE))._replace(flags=0x0101).pack()
    at = show_node._FLOW_FLAGS_AT
    assert packed == bytes(at) + b"\1\1" + bytes(abi.Flow.SIZE - at - 2)


# ---- sockets ----------------------------------------------------------------------------


def test_a_socket_is_one_row_in_whichever_direction_it_stands(tables: FakeTables) -> None:
    tables.names.put(abi.NameKey(NameKind.SERVICE, 5), abi.Name("kube-system/dns/IPv4"))
    vip, backend = from_text("10.96.0.10"), from_text("10.1.0.2")
    for cookie, proto, ways in (
        (77, 17, (Way.TO_BACKEND, Way.TO_SERVICE)),
        (78, 6, (Way.TO_SERVICE,)),
    ):
        for way in ways:
            service, end = (
                abi.Socket(0, 9, vip, 53, 5),
                abi.Socket(90 * SECOND, 9, backend, 5353, 5),
            )
            far, value = ((vip, 53), end) if way == Way.TO_BACKEND else ((backend, 5353), service)
            key = abi.SocketKey(cookie=cookie, addr=far[0], port=far[1], proto=proto, way=way)
            tables.sockets.put(key, value)
    datagrams, stream = show_node.sockets(tables, 100 * SECOND)
    assert datagrams == {
        "protocol": "UDP",
        "destination": "10.96.0.10:53",
        "backend": "10.1.0.2:5353",
        "service": "kube-system/dns/IPv4",
        "cookie": 77,
        "netns": 9,
        "idle_sec": 10,
    }
    assert stream == datagrams | {"protocol": "TCP", "cookie": 78, "idle_sec": 100}
