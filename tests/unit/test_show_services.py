"""Rows about Services, from tables in memory."""

from __future__ import annotations

import pytest

from kpbpf.address import from_text
from maps import abi, show_services
from maps.abi import BackendFlag, FrontendFlag, NameKind
from maps.fake import FakeTables, fake_tables
from tests.unit import serving
from tests.unit.serving import wanted, write

SERVICE = from_text("10.96.0.10")
BACKENDS = [from_text("10.1.0.2"), from_text("10.1.0.3")]


@pytest.fixture
def tables() -> FakeTables:
    tables = fake_tables()
    tables.names.put(abi.NameKey(NameKind.SERVICE, 7), abi.Name("default/web:http/IPv4"))
    key = abi.FrontendKey(SERVICE, 80, 6)
    tables.frontends.put(key, abi.Frontend(7, 3, 2, 1, 10_800, FrontendFlag.LOCAL_ONLY))
    flags = [BackendFlag.HERE, 0, BackendFlag.HERE]
    for slot, addr in enumerate([*BACKENDS, BACKENDS[0]]):
        tables.backends.put(abi.BackendKey(3, slot), abi.Backend(addr, 8080, flags[slot]))
    return tables


def test_a_service_shows_both_sets_of_backends(tables: FakeTables) -> None:
    (row,) = show_services.service(tables, "default/web:http/IPv4")
    assert row == {
        "name": "default/web:http/IPv4",
        "id": 7,
        "frontend": "ClusterIP",
        "address": "10.96.0.10",
        "port": 80,
        "protocol": "TCP",
        "endpoints": 2,
        "here": 1,
        "elsewhere": 1,
        "local_endpoints": 1,
        "traffic_policy": "Local",
        "source_ranges": False,
        "affinity_sec": 10_800,
        "backends": ["10.1.0.2:8080", "10.1.0.3:8080"],
        "local_backends": ["10.1.0.2:8080"],
    }


def test_a_list_says_the_same_without_backends(tables: FakeTables) -> None:
    (row,) = show_services.services(tables)
    (whole,) = show_services.service(tables, "default/web:http/IPv4")
    assert row == {**whole, "backends": [], "local_backends": []}


def test_services_are_sorted_and_found_by_name(tables: FakeTables) -> None:
    tables.frontends.put(abi.FrontendKey(SERVICE, 53, 17), abi.Frontend(2, 9, 0, 0, 0, 0))
    rows = show_services.services(tables)
    assert [row["name"] for row in rows] == ["default/web:http/IPv4", "service 2"]
    assert rows[1]["affinity_sec"] is None
    assert show_services.service(tables, "service 2") == rows[1:]
    assert show_services.service(tables, "default/none") == []


def test_a_missing_backend_is_told(tables: FakeTables) -> None:
    tables.backends.delete(abi.BackendKey(3, 1))
    (row,) = show_services.service(tables, "default/web:http/IPv4")
    assert row["backends"][1] == "missing slot 1"


def test_the_maps_tell_kinds_of_frontends_apart_and_what_holds_there() -> None:
    tables = fake_tables()
    external = serving.EXTERNAL
    local = external | serving.EXTERNAL_LOCAL
    service = wanted(
        "default/web/IPv6",
        "[fd96::1]:80",
        ("[fd96::1]:1", serving.WHOLE_ADDRESS),
        ("[::]:30080", local),
        ("[2001:db8::1]:80", external | serving.SOURCE_RANGES),
        here=("[fd42::1]:8080",),
        backends=("[fd42::2]:8080", "[fd42::3]:8080"),
    )
    write(tables, service)
    found = [
        (row["frontend"], row["address"], row["traffic_policy"], row["source_ranges"])
        for row in show_services.services(tables)
    ]
    assert found == [
        ("ClusterIP", "fd96::1", "Cluster", False),
        ("External", "2001:db8::1", "Cluster", True),
        ("NodePort", "::", "Local", False),
    ]
    assert {(row["here"], row["elsewhere"]) for row in show_services.services(tables)} == {(1, 2)}


def test_an_endpoint_here_that_only_the_local_set_has_is_here_and_not_elsewhere() -> None:
    """Another one was preferred for the cluster: by hints, or because this one is terminating."""
    tables = fake_tables()
    tables.frontends.put(abi.FrontendKey(SERVICE, 80, 6), abi.Frontend(7, 3, 2, 1, 0, 0))
    for slot, flags in enumerate((0, 0, BackendFlag.HERE)):
        tables.backends.put(abi.BackendKey(3, slot), abi.Backend(BACKENDS[0], 8080 + slot, flags))
    (row,) = show_services.services(tables)
    assert (row["here"], row["elsewhere"], row["endpoints"]) == (1, 2, 2)


def test_the_flags_of_a_backend_stand_where_they_are_read() -> None:
    packed = abi.Backend(bytes(16), 0, 0x0101).pack()
    at = show_services._BACKEND_FLAGS_AT
    assert packed == bytes(at) + b"\1\1" + bytes(abi.Backend.SIZE - at - 2)
