"""Uplinks come, go and change; one that fails harms no other, and damage is put right."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from controllers.endpoints import Force
from controllers.uplinks import GAP_SEC, WAIT_SEC, Uplinks
from kpbpf.address import block_from_text, from_text
from kpbpf.datapath.monitor import News
from kpbpf.datapath.snapshot import UP, DefaultRoute, Link, LocalAddress, Snapshot
from kpbpf.errors import ForeignProgram, LinkGone, Retry
from kpbpf.home import Home
from kpbpf.model.event import Event
from kpbpf.model.objects import Block, Key, Node
from maps import config
from maps.abi import ConfigFlag, Endpoint, EndpointKey, Mode
from maps.fake import FakeTables, fake_tables
from maps.layout import U32
from tests.unit.test_settings import settings

TODAY, YESTERDAY = (True, Force.TODAY), (True, Force.OTHER)
NODE = Node("node-1", addresses=(from_text("10.0.0.2"),))
ELSEWHERE = Key("Node", "", "node-2")


class Kernel:
    """A node's network and what is attached to it; also the hooks, in memory."""

    netns = 77

    def __init__(self, tables: FakeTables) -> None:
        self._tables = tables
        self.seen = Snapshot()
        self.broken = False
        self.looks = 0
        self.asked_again: list[Collection[int] | None] = []
        self.programs: dict[int, tuple[bool, Force]] = {}
        self.refuses: dict[int, Exception] = {}
        self.devices_at_attach: list[set[int]] = []
        self.now = 100.0

    def look(self, changed: Collection[int] | None = None) -> Snapshot:
        self.looks += 1
        self.asked_again.append(changed)
        if self.broken:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self.seen

    def has(self, *indexes: int, ethernet: bool = True) -> None:
        """There are eth2, eth3 and so on, each with an address and a default route."""
        type_ = 1 if ethernet else 0xFFFE
        self.seen = Snapshot(
            tuple(Link(index, f"eth{index}", type=type_, flags=UP) for index in indexes),
            tuple(LocalAddress(index, from_text(f"10.0.0.{index}"), 120) for index in indexes),
            tuple(DefaultRoute(index, True) for index in indexes),
        )

    def attach(self, ifindex: int, ethernet: bool) -> None:
        if ifindex in self.refuses:
            raise self.refuses[ifindex]
        self.devices_at_attach.append({key for key, _ in self._tables.devices.items()})
        self.programs[ifindex] = (ethernet, Force.TODAY)

    def detach(self, ifindex: int) -> None:
        assert U32(ifindex) in {key for key, _ in self._tables.devices.items()}, "deleted too early"
        self.programs.pop(ifindex)

    def attached(self) -> dict[int, tuple[bool, Force]]:
        return dict(self.programs)

    def touch(self, ifindexes: Iterable[int] | None) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def tables() -> FakeTables:
    made = fake_tables()
    config.ensure(made)
    return made


@pytest.fixture
def kernel(tables: FakeTables) -> Kernel:
    made = Kernel(tables)
    made.has(2)
    return made


class Daemon:
    """What one daemon has of uplinks."""

    def __init__(self, tables: FakeTables, kernel: Kernel, path: Path, *words: str) -> None:
        self.events: list[Event] = []
        self.kernel = kernel
        self.uplinks = Uplinks(
            Home(path / "pins", path / "run"),
            tables,
            kernel,
            settings(*words),
            "node-1",
            self.events.append,
            kernel,
            lambda: kernel.now,
        )

    def hears(self, news: News) -> None:
        self.uplinks.heard(news)
        self.kernel.now += GAP_SEC
        assert self.uplinks.work() is None


@pytest.fixture
def daemon(tables: FakeTables, kernel: Kernel, tmp_path: Path) -> Daemon:
    made = Daemon(tables, kernel, tmp_path)
    made.uplinks.synced()
    made.uplinks.reconcile()
    return made


LINKS = News(links=frozenset({2}))


def test_what_programs_need_is_written_before_they_run(daemon: Daemon, kernel: Kernel) -> None:
    assert kernel.programs == {2: TODAY}
    assert kernel.devices_at_attach == [{2}]


def test_uplinks_follow_the_network(daemon: Daemon, kernel: Kernel, tables: FakeTables) -> None:
    kernel.has(2, 3)
    daemon.hears(LINKS)
    assert kernel.programs == {2: TODAY, 3: TODAY}
    kernel.has(3)
    daemon.hears(News(default_routes=True))
    assert kernel.programs == {3: TODAY}
    assert [key for key, _ in tables.devices.items()] == [U32(3)]
    assert config.read(tables).uplink_ifindex == 3


def test_a_device_that_loses_its_ethernet_header_gets_other_programs(
    daemon: Daemon, kernel: Kernel
) -> None:
    kernel.has(2, ethernet=False)
    daemon.hears(LINKS)
    assert kernel.programs == {2: (False, Force.TODAY)}


@pytest.mark.parametrize(
    "news",
    [News(own_addresses=True), News(everything=True), LINKS, News(default_routes=True)],
    ids=str,
)
def test_news_that_may_matter_lead_to_a_look(daemon: Daemon, kernel: Kernel, news: News) -> None:
    before = kernel.looks
    daemon.hears(news)
    assert kernel.looks == before + 1


@pytest.mark.parametrize(
    "news", [News(), News(routes=True), News(filters=frozenset({2})), News(addresses=frozenset())]
)
def test_other_news_do_not(daemon: Daemon, kernel: Kernel, news: News) -> None:
    before = kernel.looks
    daemon.hears(news)
    daemon.uplinks.reconcile()
    assert kernel.looks == before


def test_only_links_that_changed_are_looked_at_again(daemon: Daemon, kernel: Kernel) -> None:
    daemon.uplinks.heard(News(links=frozenset({7})))
    daemon.hears(LINKS)
    daemon.hears(News(own_addresses=True))
    daemon.hears(News(everything=True))
    assert kernel.asked_again == [None, {2, 7}, set(), None]


def test_news_in_rows_lead_to_one_look(daemon: Daemon, kernel: Kernel) -> None:
    daemon.hears(LINKS)
    before = kernel.looks
    daemon.uplinks.heard(LINKS)
    rest = daemon.uplinks.work()
    assert rest is not None
    assert 0 < rest < GAP_SEC + 0.001
    kernel.now += rest
    assert daemon.uplinks.work() is None
    assert daemon.uplinks.work() is None
    assert kernel.looks == before + 1


def test_a_restart_without_changes_writes_nothing(
    daemon: Daemon, kernel: Kernel, tables: FakeTables, tmp_path: Path
) -> None:
    writes, attached = tables.writes, len(kernel.devices_at_attach)
    again = Daemon(tables, kernel, tmp_path)
    again.uplinks.reconcile()
    assert kernel.looks == 1
    again.uplinks.synced()
    again.uplinks.reconcile()
    assert (tables.writes, len(kernel.devices_at_attach)) == (writes, attached)
    assert [one.attached for one in again.uplinks.status()] == [True]


def test_nothing_is_taken_away_before_the_node_is_known(
    daemon: Daemon, kernel: Kernel, tables: FakeTables, tmp_path: Path
) -> None:
    kernel.seen = Snapshot()
    kernel.programs = {2: YESTERDAY, 3: (False, Force.REMOVED)}
    again = Daemon(tables, kernel, tmp_path)
    again.uplinks.heard(LINKS)
    assert again.uplinks.work() is None
    again.uplinks.changed(ELSEWHERE, Node("node-2"))
    again.uplinks.reconcile()
    assert kernel.programs == {2: TODAY, 3: (False, Force.TODAY)}
    assert (kernel.looks, again.uplinks.swapped) == (1, 1)


def test_the_address_of_the_node_makes_an_uplink_and_its_deletion_changes_nothing(
    daemon: Daemon, kernel: Kernel, tables: FakeTables
) -> None:
    kernel.has(2, 3)
    kernel.seen = kernel.seen._replace(routes=(DefaultRoute(3, True),))
    daemon.hears(LINKS)
    assert kernel.programs == {3: TODAY}
    daemon.uplinks.changed(NODE.key, NODE)
    daemon.hears(News())
    assert kernel.programs == {2: TODAY, 3: TODAY}
    assert config.read(tables).node4 == from_text("10.0.0.2")
    looks = kernel.looks
    daemon.uplinks.changed(NODE.key, NODE._replace(zone="other"))
    daemon.uplinks.changed(NODE.key, None)
    daemon.hears(News())
    assert kernel.looks == looks


def test_removed_programs_are_put_back_and_told_once(daemon: Daemon, kernel: Kernel) -> None:
    for _ in range(3):
        kernel.programs[2] = (True, Force.REMOVED)
        daemon.uplinks.reconcile()
        assert kernel.programs == {2: TODAY}
    assert daemon.uplinks.restored == 3
    assert [event.reason for event in daemon.events] == ["ProgramsRestored"]


def test_programs_of_yesterday_are_replaced_without_a_word(daemon: Daemon, kernel: Kernel) -> None:
    kernel.programs[2] = YESTERDAY
    daemon.uplinks.reconcile()
    assert (kernel.programs, daemon.uplinks.swapped) == ({2: TODAY}, 1)
    assert daemon.events == []


def test_one_that_cannot_be_attached_harms_no_other(
    daemon: Daemon, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.has(2, 3, 4)
    kernel.refuses = {2: LinkGone(2), 3: ForeignProgram("tc priority 1", "a filter")}
    kernel.programs.clear()
    daemon.hears(LINKS)
    daemon.uplinks.reconcile()
    assert kernel.programs == {4: TODAY}
    failed, refused, fine = daemon.uplinks.status()
    assert (failed.attached, refused.attached, fine.attached) == (False, False, True)
    assert refused.why_not.startswith("tc priority 1 is taken by a program")
    assert [event.reason for event in daemon.events] == ["FailedToAttach"]
    assert sum("eth3 cannot be attached" in line for line in caplog.messages) == 1
    kernel.refuses.clear()
    daemon.uplinks.reconcile()
    assert kernel.programs.keys() == {2, 3, 4}


def test_the_interface_of_a_pod_is_no_uplink_any_more(
    daemon: Daemon, kernel: Kernel, tables: FakeTables
) -> None:
    kernel.has(2, 3)
    daemon.hears(LINKS)
    entry = Endpoint(1, 3, bytes(6), bytes(6), Mode.VETH)
    tables.endpoints.put(EndpointKey(from_text("10.42.0.2")), entry)
    del kernel.programs[3]  # a pod's took over
    daemon.uplinks.reconcile()
    assert kernel.programs == {2: TODAY}
    assert [(one.ifname, one.why_not) for one in daemon.uplinks.status()] == [
        ("eth2", ""),
        ("eth3", "it is a pod's"),
    ]


def test_a_node_without_any_uplink_is_told(
    daemon: Daemon, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.seen = Snapshot()
    with caplog.at_level(logging.WARNING):
        daemon.hears(LINKS)
        daemon.hears(LINKS)
    assert sum("this node has no uplink" in line for line in caplog.messages) == 1
    assert [event.reason for event in daemon.events] == ["NoUplink"]
    assert daemon.uplinks.status() == ()


def test_a_node_whose_addresses_are_not_here_is_told(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.uplinks.changed(NODE.key, NODE._replace(addresses=(from_text("203.0.113.1"),)))
    daemon.hears(News())
    assert any("none of the Node's addresses is here" in line for line in caplog.messages)


def test_a_kernel_that_does_not_answer_is_asked_again(daemon: Daemon, kernel: Kernel) -> None:
    kernel.broken = True
    kernel.has(3)
    with pytest.raises(Retry, match="asking the kernel"):
        daemon.hears(LINKS)
    assert kernel.programs == {2: TODAY}
    kernel.broken = False
    daemon.uplinks.reconcile()
    assert kernel.programs == {3: TODAY}


def test_a_map_that_is_full_hinders_no_programs(kernel: Kernel, tmp_path: Path) -> None:
    tables = fake_tables({"addresses": 1})
    config.ensure(tables)
    kernel = Kernel(tables)
    kernel.has(2, 3)
    daemon = Daemon(tables, kernel, tmp_path)
    daemon.uplinks.synced()
    with pytest.raises(Retry, match="addresses is full"):
        daemon.uplinks.reconcile()
    assert kernel.programs == {2: TODAY, 3: TODAY}


def test_pod_cidrs_are_waited_for_and_followed(
    tables: FakeTables, kernel: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(tables, kernel, tmp_path, "--detect-local-mode=NodeCIDR")
    daemon.uplinks.changed(NODE.key, NODE)
    daemon.uplinks.reconcile()
    assert any("meanwhile pods are known by their interfaces" in line for line in caplog.messages)
    assert daemon.events == []
    kernel.now += WAIT_SEC + 1
    daemon.uplinks.reconcile()
    assert [event.reason for event in daemon.events] == ["NoPodCIDR"]
    for text in ("10.244.1.0/24", "10.244.2.0/24"):
        block = Block(*block_from_text(text))
        daemon.uplinks.changed(NODE.key, NODE._replace(pod_cidrs=(block,)))
        daemon.uplinks.reconcile()
        assert [key.addr for key, _ in tables.ranges.items()] == [block.base]
    assert any("other podCIDRs than before" in line for line in caplog.messages)


def test_ranges_of_services_are_followed_and_outlive_a_restart(
    daemon: Daemon, kernel: Kernel, tables: FakeTables, tmp_path: Path
) -> None:
    block = Block(*block_from_text("10.96.0.0/12"))
    daemon.uplinks.service_ranges((block,))
    daemon.hears(News())
    assert [key.addr for key, _ in tables.ranges.items()] == [block.base]
    writes = tables.writes
    again = Daemon(tables, kernel, tmp_path)
    again.uplinks.synced()
    again.uplinks.reconcile()
    assert tables.writes == writes
    again.uplinks.service_ranges(())
    again.hears(News())
    assert not list(tables.ranges.items())
    assert not config.read(tables).flags & ConfigFlag.SERVICE_RANGES
