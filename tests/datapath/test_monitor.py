"""What the kernel tells of its network is noted, and wakes with the right reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from kpbpf.address import from_text
from kpbpf.datapath import monitor
from kpbpf.datapath.monitor import (
    ADDRESSES,
    EVERYTHING,
    FILTERS,
    LINKS,
    NEIGHBOURS,
    ROUTES,
    Monitor,
    News,
)
from tests.datapath.pair import Pair, run

SOON_SEC = 10.0


class Ears:
    """A monitor, the reasons it woke for, and all its news put together."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.monitor = Monitor(self.reasons.extend)
        self.news = News()

    def hears(self, what: Callable[[News], object]) -> None:
        deadline = time.monotonic() + SOON_SEC
        while not what(self.news):
            assert time.monotonic() < deadline, self.news
            time.sleep(0.01)
            one = self.monitor.take()
            self.news = News(
                self.news.links | one.links,
                self.news.addresses | one.addresses,
                self.news.routes or one.routes,
                self.news.default_routes or one.default_routes,
                self.news.own_addresses or one.own_addresses,
                self.news.filters | one.filters,
                self.news.everything or one.everything,
            )


@pytest.fixture
def ears(pair: Pair) -> Iterator[Ears]:
    """In the node's namespace of the pair."""
    made = Ears()
    with closing(made.monitor):
        made.monitor.start()
        yield made


def test_links_that_come_and_go_are_told(ears: Ears) -> None:
    run("ip", "link", "add", "other", "index", "77", "type", "veth", "peer", "name", "far")
    ears.hears(lambda news: 77 in news.links)
    run("ip", "link", "del", "other")
    ears.hears(lambda news: 77 in news.links)
    assert LINKS in ears.reasons


@pytest.mark.parametrize(
    ("address", "wide"), [("10.9.0.2", "10.9.0.0/24"), ("fd09::2", "fd09::/64")]
)
def test_a_route_of_one_address_is_told_by_the_address(ears: Ears, address: str, wide: str) -> None:
    run("ip", "route", "add", address, "dev", "host0")
    ears.hears(lambda news: from_text(address) in news.addresses)
    run("ip", "route", "add", wide, "dev", "host0")
    ears.hears(lambda news: news.routes)
    assert ROUTES in ears.reasons


@pytest.mark.parametrize(
    ("wide", "default"), [("10.9.0.0/24", "default"), ("fd09::/64", "::/0")], ids=["ipv4", "ipv6"]
)
def test_a_default_route_is_told_from_other_wide_ones(ears: Ears, wide: str, default: str) -> None:
    run("ip", "route", "add", wide, "dev", "host0")
    ears.hears(lambda news: news.routes)
    assert not ears.news.default_routes
    run("ip", "route", "add", default, "dev", "host0")
    ears.hears(lambda news: news.default_routes)


@pytest.mark.parametrize("address", ["10.9.0.2/24", "fd09::2/64"])
def test_addresses_of_this_node_that_come_and_go_are_told(ears: Ears, address: str) -> None:
    for what in ("add", "del"):
        run("ip", "address", what, address, "dev", "host0")
        ears.hears(lambda news: news.own_addresses)
        assert ADDRESSES in ears.reasons
        ears.reasons.clear()
        ears.news = News()


@pytest.mark.parametrize("address", ["10.9.0.2", "fd09::2"])
def test_a_neighbour_is_news_when_its_mac_is(ears: Ears, address: str) -> None:
    def learn(mac: str, state: str = "reachable") -> None:
        run("ip", "neighbour", "replace", address, "lladdr", mac, "dev", "host0", "nud", state)

    learn("02:00:00:00:00:01")
    ears.hears(lambda news: from_text(address) in news.addresses)
    heard = ears.reasons.count(NEIGHBOURS)
    learn("02:00:00:00:00:01", "stale")
    run("ip", "route", "add", "10.8.0.0/24", "dev", "host0")
    ears.hears(lambda news: news.routes)
    assert ears.reasons.count(NEIGHBOURS) == heard
    ears.news = News()
    learn("02:00:00:00:00:02")
    ears.hears(lambda news: from_text(address) in news.addresses)


def test_a_neighbour_that_was_forgotten_is_news_when_it_is_back(ears: Ears) -> None:
    address = from_text("10.9.0.2")
    for _ in range(2):
        ears.news = News()
        words = "ip neighbour add 10.9.0.2 lladdr 02:00:00:00:00:01 dev host0"
        run(*words.split())
        ears.hears(lambda news: address in news.addresses)
        run("ip", "neighbour", "del", "10.9.0.2", "dev", "host0")


def test_a_place_for_filters_that_comes_or_goes_is_told(ears: Ears, pair: Pair) -> None:
    run("tc", "qdisc", "add", "dev", "host0", "clsact")
    ears.hears(lambda news: pair.ifindex in news.filters)
    ears.news = News()
    run("tc", "qdisc", "del", "dev", "host0", "clsact")
    ears.hears(lambda news: pair.ifindex in news.filters)
    assert FILTERS in ears.reasons


def test_what_changes_before_it_listens_is_told_too(pair: Pair) -> None:
    ears = Ears()
    with closing(ears.monitor):
        run("ip", "route", "add", "10.9.0.0/24", "dev", "host0")
        ears.monitor.start()
        ears.hears(lambda news: news.routes)


def test_lost_messages_mean_look_at_everything(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_BUFFER", 1)
    ears = Ears()
    with closing(ears.monitor):
        for i in range(50):
            run("ip", "route", "add", f"10.{i}.0.0/16", "dev", "host0")
        ears.monitor.start()
        ears.hears(lambda news: news.everything)
        assert EVERYTHING in ears.reasons
        ears.news = News()
        run("ip", "route", "add", "10.99.0.0/16", "dev", "host0")
        ears.hears(lambda news: news.routes)


def test_news_is_told_once(ears: Ears) -> None:
    run("ip", "route", "add", "10.9.0.0/24", "dev", "host0")
    ears.hears(lambda news: news.routes)
    assert ears.monitor.take() == News()


@pytest.mark.usefixtures("pair")
def test_a_monitor_that_never_started_can_be_closed() -> None:
    Monitor(print).close()
