"""Wanted to present when things go wrong: a kill or a failing write at any point, full maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpbpf.address import UNSPECIFIED4
from kpbpf.errors import MapFull
from maps import config
from maps.abi import BackendKey, FrontendFlag, FrontendKey, RangeKey
from maps.fake import FakeStore, FakeTables, fake_tables
from maps.sync import ServiceSync
from maps.wanted import WantedService
from tests.unit.faulty import Flaky, Killed, KilledError
from tests.unit.wanted import TCP, UDP, dump, ip, service, synced, udp_epoch

BEFORE = [
    service("a", [1, 2], [1, 2, 3], [2]),
    service("b", 3, [4, 5], proto=UDP),
    service("c", 4, [6]),
    service("d", 5, [7], affinity_sec=60),
    service("e", 6, []),
    service("f", [7, 8], [8, 9], proto=UDP),
    service("h", 10, [13], node_port=30001),
    service("i", 11, [13], ranges=[1, 2]),
    service("j", 12, [13], ranges=[1]),
    service("k", 13, [13]),
]
AFTER = [
    service("a", [1, 2], [1, 3, 4], [3]),  # other backends under two addresses
    service("b", 3, [5, 6], proto=UDP, serving=[4]),  # UDP: one comes, one ends
    service("d", [4, 5], [7, 8], affinity_sec=60),  # takes the address of c, which goes
    service("e", 6, [10, 11]),  # its first endpoints
    service("f", 8, [9], proto=UDP),  # an address and a backend less
    service("g", 9, [12], proto=UDP, node_port=30009),  # new
    service("h", 10, [13], node_port=30004),  # another NodePort
    service("i", 11, [13], ranges=[2, 3]),  # other clients
    service("j", 12, [13]),  # anybody may come
    service("k", 13, [13], ranges=[4]),  # not anybody any more
]


#: Where `i` is reached, by 192.0.2.2 before and after.
I_AT = FrontendKey(ip("10.96.0", 11), 80, TCP)


# ---- a kill at any point ---------------------------------------------------------------


def check_every_packet_finds_a_whole_set(tables: FakeTables) -> None:
    names = {key.id for key, _ in tables.names.items()}
    for value in dict(tables.frontends.items()).values():
        assert value.service in names
        for slot in range(value.count + value.local_count):
            assert tables.backends.get(BackendKey(value.base, slot)) is not None
    check_node_ports_and_ranges_are_found(tables)


def check_node_ports_and_ranges_are_found(tables: FakeTables) -> None:
    """Those of before and after alike: whoever might come both times may come all the time."""
    span = config.node_ports(tables)
    restricted = {key.scope for key, _ in tables.ranges.items()}
    for key, value in tables.frontends.items():
        assert key.addr != UNSPECIFIED4 or span.first <= key.port <= span.last
        assert not value.flags & FrontendFlag.SOURCE_RANGES or value.service in restricted
        if key == I_AT:
            always = RangeKey(32 + 128, value.service, ip("192.0.2", 2))
            assert tables.ranges.get(always) is not None


def test_a_kill_after_any_write_is_repaired_without_touching_what_is_right() -> None:
    expected = dump(synced(*AFTER))
    for after in range(1000):
        tables = synced(*BEFORE)
        epoch = udp_epoch(tables)
        killed = Killed(tables, after)
        try:
            ServiceSync(tables).apply(AFTER, ["c"])
        except KilledError:
            pass
        else:
            break
        check_every_packet_finds_a_whole_set(tables)
        before = {name: dict(store.entries) for name, store in tables.stores.items()}
        killed.left = -1
        rewritten = note_rewrites(tables)
        assert not ServiceSync(tables).apply(AFTER, ["c"]).failed
        assert dump(tables) == expected, f"killed after write {after}"
        assert udp_epoch(tables) > epoch, f"UDP flows forgotten, killed after write {after}"
        for name, key, value in rewritten:
            assert before[name].get(key) != value, f"{name} rewritten, killed after write {after}"
    else:
        pytest.fail("never came to its end")
    assert after > 40


def note_rewrites(tables: FakeTables) -> list[tuple[str, bytes, bytes]]:
    """Every entry put from now on."""
    noted: list[tuple[str, bytes, bytes]] = []
    for name, store in tables.stores.items():

        def put(key: bytes, value: bytes, flags: int = 0, name: str = name) -> None:
            noted.append((name, key, value))
            FakeStore._put(tables.stores[name], key, value, flags)

        store._put = put  # type: ignore[method-assign]
    return noted


def test_a_kill_in_the_first_run_leaves_no_frontend_without_its_backends() -> None:
    for after in range(1000):
        tables = fake_tables()
        killed = Killed(tables, after)
        try:
            ServiceSync(tables).apply(BEFORE)
            break
        except KilledError:
            check_every_packet_finds_a_whole_set(tables)
        killed.left = -1
        # Meanwhile nothing of it is wanted any more: what was half written goes as well.
        sync = ServiceSync(tables)
        sync.load()
        sync.apply([], sync.names())
        assert dump(tables) == {}


# ---- failing writes --------------------------------------------------------------------


def apply_until_done(sync: ServiceSync, wanted: list[WantedService], gone: list[str]) -> None:
    """As the loop does: what failed is asked for again."""
    for _ in range(200):
        failed = sync.apply(wanted, gone).failed
        if not failed:
            return
        wanted = [item for item in wanted if item.name in failed]
        gone = [name for name in gone if name in failed]
    raise AssertionError("still failing")


@pytest.mark.parametrize("every", range(8, 14))
def test_failing_writes_are_made_good_by_asking_again(every: int) -> None:
    tables = synced(*BEFORE)
    sync = ServiceSync(tables)
    tables.fail_every(every)
    apply_until_done(sync, AFTER, ["c"])
    tables.fail_every(0)
    assert dump(tables) == dump(synced(*AFTER))
    assert sync.apply(AFTER, ["c"]).writes == 0


@pytest.mark.parametrize("seed", range(30))
def test_a_batch_that_fails_half_way_is_made_good_by_asking_again(seed: int) -> None:
    tables = synced(*BEFORE)
    flaky = Flaky(tables, 10, seed)
    sync = ServiceSync(tables)
    report = sync.apply(AFTER, ["c"])
    check_every_packet_finds_a_whole_set(tables)
    apply_until_done(sync, [item for item in AFTER if item.name in report.failed], ["c"])
    flaky.out_of = 0
    # What it believes and what is there are the same thing.
    assert sync.apply(BEFORE, ["g"]).failed == {}
    assert dump(tables) == dump(synced(*BEFORE))


SERVICES = st.builds(
    service,
    name=st.sampled_from("abcd"),
    vip=st.just(0),
    backends=st.sets(st.integers(1, 6), max_size=4),
    local=st.sets(st.integers(1, 6), max_size=2),
    proto=st.sampled_from((TCP, UDP)),
    affinity_sec=st.sampled_from((0, 60)),
    serving=st.sets(st.integers(7, 9), max_size=2),
    ranges=st.sets(st.integers(1, 4), max_size=2),
)


@st.composite
def states(draw: st.DrawFn) -> list[WantedService]:
    """Some Services, each address and NodePort with one of them."""
    chosen = draw(st.lists(SERVICES, unique_by=lambda item: item.name, max_size=4))
    numbers = iter(draw(st.permutations(range(1, 17))))

    def frontends(item: WantedService) -> Iterator[tuple[bytes, int]]:
        flags = int(FrontendFlag.SOURCE_RANGES) if item.ranges else 0
        for _ in range(draw(st.integers(1, 2))):
            yield FrontendKey(ip("10.96.0", next(numbers)), 80, item.proto).pack(), flags
        if draw(st.booleans()):
            key = FrontendKey(UNSPECIFIED4, 30000 + next(numbers), item.proto)
            yield key.pack(), int(FrontendFlag.EXTERNAL)

    return [replace(item, frontends=tuple(frontends(item))) for item in chosen]


@given(
    steps=st.lists(st.tuples(states(), st.sampled_from((0, 9, 10, 11))), max_size=5),
    seed=st.integers(0, 1000),
)
def test_any_run_of_states_and_faults_ends_as_a_first_run_would(
    steps: list[tuple[list[WantedService], int]], seed: int
) -> None:
    tables = fake_tables()
    flaky = Flaky(tables, 0, seed)
    sync = ServiceSync(tables)
    for wanted, out_of in steps:
        gone = sorted(sync.names() - {item.name for item in wanted})
        flaky.out_of = out_of
        apply_until_done(sync, wanted, gone)
        flaky.out_of = 0
        assert dump(tables) == dump(synced(*wanted))
        assert ServiceSync(tables).apply(wanted).writes == 0


# ---- full maps -------------------------------------------------------------------------


@pytest.mark.parametrize("full", ["names", "members", "backends", "frontends", "ranges"])
def test_a_full_map_leaves_each_service_whole_and_is_reported(full: str) -> None:
    old = [
        service("a", [1, 2], [1, 2], proto=UDP, ranges=[1]),
        service("b", 3, [3], proto=UDP, ranges=[1, 2]),
    ]
    room = len(synced(*old).stores[full].entries)
    tables = fake_tables(entries={full: room + 1})
    sync = ServiceSync(tables)
    assert not sync.apply(old).failed
    before = dump(tables)
    big = [
        service(f"new-{n}", [20 + 2 * n, 21 + 2 * n], [9, 8], proto=UDP, ranges=[3, 4])
        for n in range(2)
    ]
    report = sync.apply(big)
    assert set(report.failed) >= {"new-1"}
    assert all(isinstance(error, MapFull) for error in report.failed.values())
    assert all("is full" in str(error) for error in report.failed.values())
    sync.apply([], ["new-0"])
    assert dump(tables) == before
    # Room again: what failed is written.
    sync.apply([], ["a"])
    assert not sync.apply([service("new-1", 40, [9])]).failed


def test_of_two_addresses_of_which_one_fits_none_is_served() -> None:
    tables = fake_tables(entries={"frontends": 3})
    sync = ServiceSync(tables)
    sync.apply([service("a", 1, [1]), service("b", 2, [2])])
    before = dump(tables)
    assert set(sync.apply([service("c", [3, 4], [1])]).failed) == {"c"}
    assert dump(tables) == before
    assert set(sync.apply([service("b", [2, 3, 4], [1])]).failed) == {"b"}
    assert dump(tables) == before


def test_a_change_that_does_not_fit_leaves_the_old_set_in_place() -> None:
    tables = fake_tables(entries={"backends": 5})
    sync = ServiceSync(tables)
    sync.apply([service("a", 1, [1, 2, 3])])
    before = dump(tables)
    assert set(sync.apply([service("a", 1, [1, 2, 4])]).failed) == {"a"}
    assert dump(tables) == before
