"""Wanted to present: only differences are written, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

from maps import config
from maps.abi import (
    Backend,
    BackendKey,
    Frontend,
    FrontendKey,
    Member,
    MemberKey,
    Name,
    NameKey,
    NameKind,
    RangeKey,
    RangeScope,
)
from maps.fake import FakeTables, fake_tables
from maps.layout import U32
from maps.sync import ServiceSync
from tests.unit.faulty import Fate
from tests.unit.wanted import IN_SET, TCP, UDP, dump, ip, service, synced, udp_epoch


def watch_frontend(tables: FakeTables, vip: int) -> list[Frontend | None]:
    """What a packet to 10.96.0.<vip>:80 would find after every write, once it found something."""
    seen: list[Frontend | None] = []
    key = FrontendKey(ip("10.96.0", vip), 80, TCP)

    class Watch(Fate):
        def write(self) -> None:
            value = tables.frontends.get(key)
            if value is not None or seen:
                seen.append(value)

    Watch(tables)
    return seen


# ---- the plain way ---------------------------------------------------------------------


def test_a_new_service_is_written_in_whole() -> None:
    tables = synced(service("a", 1, [1, 2], [2], UDP))
    assert len(tables.stores["backends"].entries) == 3
    ((key, value),) = tables.frontends.items()
    assert key == FrontendKey(ip("10.96.0", 1), 80, UDP)
    assert (value.count, value.local_count) == (2, 1)
    name_key = NameKey(NameKind.SERVICE, value.service)
    assert tables.names.get(name_key) == Name("a")
    member = MemberKey(ip("10.1.0", 2), value.service, 8080)
    assert tables.members.get(member) == Member(IN_SET)


def test_the_same_again_writes_nothing() -> None:
    wanted = [service("a", 1, [1, 2]), service("b", 2, [1], proto=UDP), service("c", 3)]
    tables = fake_tables()
    sync = ServiceSync(tables)
    sync.apply(wanted)
    before = tables.writes
    assert sync.apply(wanted).writes == 0
    assert ServiceSync(tables).apply(wanted).writes == 0
    assert tables.writes == before


def test_a_report_counts_the_entries_written() -> None:
    tables = fake_tables()
    sync = ServiceSync(tables)
    for wanted in ([service("a", 1, [1, 2], proto=UDP)], [service("a", 1, [2, 3], proto=UDP)]):
        before = tables.writes
        assert sync.apply(wanted).writes == tables.writes - before


def test_one_endpoint_more_is_a_new_set_and_one_flip() -> None:
    tables = synced(service("a", 1, [1, 2]))
    sync = ServiceSync(tables)
    sync.load()
    # 3 new backends, 1 frontend, 2 old backends.
    assert sync.apply([service("a", 1, [1, 2, 3])]).writes == 6
    assert dump(tables) == dump(synced(service("a", 1, [1, 2, 3])))


def test_a_set_that_is_right_is_not_written_again() -> None:
    tables = synced(service("a", 1, [1, 2]))
    assert ServiceSync(tables).apply([service("a", 1, [1, 2], affinity_sec=9)]).writes == 3


def test_what_is_gone_leaves_nothing() -> None:
    tables = synced(service("a", 1, [1], proto=UDP), service("b", 2, [2]))
    ServiceSync(tables).apply([], ["a"])
    assert dump(tables) == dump(synced(service("b", 2, [2])))


def test_others_stay_as_they_are() -> None:
    tables = synced(service("a", 1, [1]), service("b", 2, [2]))
    report = ServiceSync(tables).apply([service("a", 1, [3])])
    assert report.writes == 3
    assert dump(tables) == dump(synced(service("a", 1, [3]), service("b", 2, [2])))


def test_an_address_moves_from_one_service_to_another_in_one_update() -> None:
    old = [service("a", [1, 2], [1]), service("b", 3, [2])]
    new = [service("a", 2, [1]), service("b", [1, 3], [2])]
    tables = fake_tables()
    seen = watch_frontend(tables, 1)
    sync = ServiceSync(tables)
    sync.apply(old)
    sync.apply(new)
    assert None not in seen
    assert dump(tables) == dump(synced(*new))


def test_a_service_without_frontends_is_gone() -> None:
    tables = synced(service("a", 1, [1]))
    ServiceSync(tables).apply([replace(service("a", 1, [1]), frontends=())])
    assert dump(tables) == {}


def test_ids_outlive_a_restart_and_are_not_given_again_at_once() -> None:
    tables = synced(service("a", 1, [1]), service("b", 2, [2]))
    ids = {name.text: key.id for key, name in tables.names.items()}
    sync = ServiceSync(tables)
    sync.apply([service("c", 3, [3])], ["a"])
    now = {name.text: key.id for key, name in tables.names.items()}
    assert now["b"] == ids["b"]
    assert now["c"] > max(ids.values())


def test_every_set_has_a_base_of_its_own() -> None:
    tables = fake_tables()
    sync = ServiceSync(tables)
    bases = []
    for n in range(4):
        sync.apply([service("a", 1, [n])])
        bases += [value.base for _, value in tables.frontends.items()]
    assert len(set(bases)) == 4


# ---- UDP flows -------------------------------------------------------------------------


def test_udp_flows_are_judged_again_when_a_backend_no_longer_serves() -> None:
    tables = synced(service("a", 1, [1, 2], proto=UDP))
    before = udp_epoch(tables)
    ServiceSync(tables).apply([service("a", 1, [1], proto=UDP)])
    assert udp_epoch(tables) == before + 1


def test_udp_flows_stay_while_their_backend_serves() -> None:
    tables = synced(service("a", 1, [1, 2], proto=UDP))
    before = udp_epoch(tables)
    ServiceSync(tables).apply([service("a", 1, [1], proto=UDP, serving=[2])])
    ServiceSync(tables).apply([service("a", 1, [1, 3], proto=UDP, serving=[2])])
    assert udp_epoch(tables) == before


def test_udp_flows_to_an_address_are_judged_again_when_a_service_takes_it() -> None:
    tables = synced(service("a", 1, [1], proto=UDP))
    before = udp_epoch(tables)
    ServiceSync(tables).apply([service("b", 2, [1], proto=UDP)])
    assert udp_epoch(tables) == before + 1


def test_udp_flows_are_judged_again_when_their_port_becomes_one_of_tcp() -> None:
    tables = synced(service("a", 1, [1], proto=UDP))
    before = udp_epoch(tables)
    ServiceSync(tables).apply([service("a", 1, [1])])
    assert udp_epoch(tables) == before + 1
    assert dump(tables) == dump(synced(service("a", 1, [1])))


def test_tcp_changes_leave_udp_flows_alone() -> None:
    tables = synced(service("a", 1, [1, 2], affinity_sec=9))
    before = udp_epoch(tables)
    sync = ServiceSync(tables)
    sync.apply([service("a", 1, [2], affinity_sec=9), service("b", 2, [1])])
    sync.apply([], ["a"])
    assert udp_epoch(tables) == before


# ---- NodePorts and source ranges -------------------------------------------------------


def span(tables: FakeTables) -> tuple[int, int]:
    return config.node_ports(tables)


def test_the_span_of_node_ports_is_as_wide_as_it_must_be() -> None:
    tables = fake_tables()
    sync = ServiceSync(tables)
    seen = []
    for ports in ([], [30005], [30005, 30001], [30005, 30009], [30005], []):
        wanted = [service(f"s{port}", port % 100, [1], node_port=port) for port in ports]
        gone = sync.names() - {one.name for one in wanted}
        sync.apply(wanted, gone)
        seen.append(span(tables))
    assert seen == [
        (0, 0),
        (30005, 30005),
        (30001, 30005),
        (30005, 30009),
        (30005, 30005),
        (0, 0),
    ]


def test_a_number_that_two_protocols_share_goes_with_the_last_of_them() -> None:
    tables = fake_tables()
    sync = ServiceSync(tables)
    sync.apply([service("t", 1, node_port=30053), service("u", 2, node_port=30053, proto=UDP)])
    sync.apply([service("t", 1)])
    assert span(tables) == (30053, 30053)
    sync.apply([], ["u"])
    assert span(tables) == (0, 0)


def test_a_span_that_somebody_broke_is_mended_by_the_next_write() -> None:
    tables = synced(service("a", 1, node_port=30001))
    sync = ServiceSync(tables)
    sync.load()
    config.set_node_ports(tables, config.Span())
    assert sync.apply([]).writes == 1
    assert span(tables) == (30001, 30001)


def test_the_rest_of_the_configuration_stays_and_may_come_later() -> None:
    tables = synced(service("a", 1, node_port=30001))
    made = config.ensure(tables)
    assert made == config.default_config()._replace(node_port_first=30001, node_port_last=30001)
    ServiceSync(tables).apply([], ["a"])
    assert config.read(tables) == config.default_config()


def test_only_the_difference_of_ranges_is_written_and_none_after_a_restart() -> None:
    tables = fake_tables()
    sync = ServiceSync(tables)
    sync.apply([service("a", 1, [1], ranges=[1, 2])])
    assert sync.apply([service("a", 1, [1], ranges=[2, 3])]).writes == 2
    assert ServiceSync(tables).apply([service("a", 1, [1], ranges=[2, 3])]).writes == 0
    assert dump(tables) == dump(synced(service("a", 1, [1], ranges=[2, 3])))


def test_ranges_of_nobody_go_and_those_that_are_no_services_stay() -> None:
    tables = fake_tables()
    pods = RangeKey(32 + 128, RangeScope.RANGE_PODS, ip("10.1.0", 0))
    tables.ranges.put(pods, U32(1))
    tables.ranges.put(RangeKey(32 + 128, 1, ip("192.0.2", 9)), U32(1))
    sync = ServiceSync(tables)
    sync.apply([service("a", 1, [1], ranges=[1])])
    # Nor does the new port get the id of what stood there.
    assert {key.scope: key.addr for key, _ in tables.ranges.items()} == {
        RangeScope.RANGE_PODS: ip("10.1.0", 0),
        2: ip("192.0.2", 1),
    }
    sync.apply([], ["a"])
    assert dict(tables.ranges.items()) == {pods: 1}


# ---- what others left ------------------------------------------------------------------


def test_entries_of_nobody_are_removed_by_the_first_apply() -> None:
    wanted = [service("a", 1, [1], proto=UDP)]
    tables = synced(*wanted)
    expected = dump(tables)
    tables.names.put(NameKey(NameKind.SERVICE, 77), Name("left"))
    tables.names.put(NameKey(NameKind.SERVICE, 78), Name("a"))
    tables.backends.put(BackendKey(99, 0), Backend(ip("10.1.0", 1), 1, 0))
    tables.backends.put(BackendKey(1, 500), Backend(ip("10.1.0", 1), 1, 0))
    tables.members.put(MemberKey(ip("10.1.0", 1), 88, 1), Member(1))
    assert ServiceSync(tables).apply(wanted).writes == 5
    assert dump(tables) == expected


def test_a_frontend_without_a_name_is_seen_and_can_be_taken_over() -> None:
    tables = synced(service("a", 1, [1]))
    tables.frontends.put(FrontendKey(ip("10.96.0", 9), 80, TCP), Frontend(55, 0, 0, 0, 0, 0))
    tables.frontends.put(FrontendKey(ip("10.96.0", 8), 80, TCP), Frontend(56, 0, 0, 0, 0, 0))
    sync = ServiceSync(tables)
    sync.load()
    assert sync.names() == {"a", "unnamed 55", "unnamed 56"}
    sync.apply([service("b", 8, [2])], ["unnamed 55", "unnamed 56"])
    assert dump(tables) == dump(synced(service("a", 1, [1]), service("b", 8, [2])))


def test_a_set_with_a_hole_is_replaced() -> None:
    tables = synced(service("a", 1, [1, 2]))
    ((_, value),) = tables.frontends.items()
    tables.backends.delete(BackendKey(value.base, 1))
    ServiceSync(tables).apply([service("a", 1, [1, 2])])
    assert dump(tables) == dump(synced(service("a", 1, [1, 2])))


def test_names_of_other_kinds_are_left_alone() -> None:
    tables = synced(service("a", 1, [1]))
    tables.names.put(NameKey(NameKind.ENDPOINT, 1), Name("pod"))
    ServiceSync(tables).apply([], ["a"])
    assert [name.text for _, name in tables.names.items()] == ["pod"]
