"""A start with half a view takes nothing from anybody who was served before it.

What a source says of its view, what the controller makes of it, and that no state of the maps
and no half of the objects leads to a loss. The stories are in scenarios/restart-*.txt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.services import ServicesController
from kpbpf.kube.manifests import ManifestSource
from kpbpf.kube.source import Unread
from kpbpf.model.objects import Key
from maps.abi import Backend, BackendFlag, FrontendFlag, FrontendKey
from maps.fake import FakeTables
from maps.sync import ServiceSync
from maps.wanted import WantedService
from tests import make
from tests.unit.reading import service_lines
from tests.unit.test_sync_faults import states
from tests.unit.wanted import UDP, dump, service, synced

BAD = make.service("bad", ports=[0])

# ---- the source ------------------------------------------------------------------------


def broken(directory: Path) -> None:
    (directory / "x.yaml").write_text("kind: [")


def a_bad_object(directory: Path) -> None:
    (directory / "x.yaml").write_text(make.text(make.service(), BAD))


def an_object_without_a_name(directory: Path) -> None:
    (directory / "x.yaml").write_text(make.text(make.service(""), make.service()))


def a_directory_in_place_of_a_file(directory: Path) -> None:
    (directory / "x.yaml").mkdir()


def a_link_to_nothing(directory: Path) -> None:
    (directory / "x.yaml").symlink_to(directory / "nothing")


@pytest.mark.parametrize(
    "spoil",
    [
        broken,
        a_bad_object,
        an_object_without_a_name,
        a_directory_in_place_of_a_file,
        a_link_to_nothing,
    ],
)
def test_what_may_hold_an_unknown_object_is_named_until_it_is_mended(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "good.yaml").write_text(make.text(make.service("good")))
    spoil(tmp_path)
    source = ManifestSource([tmp_path])
    source.refresh()
    path = tmp_path / "x.yaml"
    assert source.unread() == Unread((str(path),))
    path.rmdir() if path.is_dir() else path.unlink()
    path.write_text(make.text(make.service()))
    source.directories.look_again()
    source.refresh()
    assert source.unread() == Unread()
    source.close()


def test_a_file_that_is_being_written_at_the_start_has_not_been_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(make.text(make.service()))
    source = ManifestSource([tmp_path])
    with path.open("a") as file:
        file.write("---\n")
        file.flush()
        assert source.refresh() == []
        assert source.unread() == Unread((str(path),))
    assert len(source.refresh()) == 1
    assert source.unread() == Unread()
    source.close()


def test_a_directory_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.write_text("")
    source = ManifestSource([directory])
    source.refresh()
    assert source.unread() == Unread((str(directory),))
    source.close()


def test_what_is_wrong_but_hides_nothing_leaves_the_view_whole(tmp_path: Path) -> None:
    remarkable = make.service(externalIPs=["x"])
    (tmp_path / "a.yaml").write_text(make.text(remarkable, remarkable))
    (tmp_path / "b.yaml").write_text(make.text(make.service()))
    source = ManifestSource([tmp_path])
    source.refresh()
    assert len(source.problems()) == 3
    assert source.unread() == Unread()
    source.close()


# ---- the controller --------------------------------------------------------------------


class Restarted:
    """A daemon on the tables of another one; it knows no object yet, and `unread` is unread."""

    def __init__(self, *before: make.Raw) -> None:
        first = ServicesController(tables := synced(), "node-a")
        tell(first, *before)
        first.work()
        self.tables: FakeTables = tables
        self.unread = Unread(("x.yaml",))
        self.controller = ServicesController(tables, "node-a", unread=lambda: self.unread)

    def sync(self, *raws: make.Raw) -> list[str]:
        tell(self.controller, *raws)
        self.controller.work()
        return service_lines(self.tables)


def tell(controller: ServicesController, *raws: make.Raw) -> None:
    for raw in raws:
        model = make.model(raw)
        controller.changed(model.key, model)


WEB = "10.96.0.10:80/TCP default/web/IPv4: 10.1.0.1:8080"


def test_held_ports_are_pending_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = Restarted(make.service(), make.slice_())
    for _ in range(3):
        assert node.sync() == [WEB]
    assert node.controller.status().pending == 1
    told = [record for record in caplog.records if "x.yaml" in record.message]
    assert len(told) == 1
    assert "default/web/IPv4" in told[0].message
    node.unread = Unread()
    assert node.sync() == []
    assert node.controller.status().pending == 0
    assert node.controller.status().held == ""


def test_a_service_that_lost_nothing_at_the_start_may_lose_anything_later() -> None:
    node = Restarted(make.service(), make.slice_(["10.1.0.1", "10.1.0.2"]))
    assert node.sync(make.service(), make.slice_(["10.1.0.1", "10.1.0.2", "10.1.0.3"]))
    assert node.sync(make.slice_()) == [WEB]
    node.controller.changed(make.model(make.service()).key, None)
    assert node.sync() == []


def test_once_the_view_was_whole_it_need_not_be_so_again() -> None:
    node = Restarted(make.service(), make.slice_())
    node.unread = Unread()
    node.sync(make.service(), make.slice_())
    node.unread = Unread(("x.yaml",))
    assert node.sync(make.slice_(["10.1.0.2"])) == [WEB.replace("10.1.0.1", "10.1.0.2")]


def test_what_was_half_written_and_serves_nobody_is_no_reason_to_wait() -> None:
    node = Restarted(make.service(), make.slice_())
    for key, _ in list(node.tables.frontends.items()):
        node.tables.frontends.delete(key)
    assert node.sync(make.service(), make.slice_(["10.1.0.2"])) == [
        WEB.replace("10.1.0.1", "10.1.0.2")
    ]


OTHER = make.service("other", "10.96.0.11")
OTHER_SLICE = make.slice_(["10.1.1.1"], of="other")


def test_an_object_that_stays_unread_holds_its_own_service_only() -> None:
    node = Restarted(make.service(), make.slice_(), OTHER, OTHER_SLICE)
    node.unread = Unread(keys=(Key("Service", "default", "web"),))
    for address in ("10.1.1.2", "10.1.1.3"):
        assert node.sync(OTHER, make.slice_([address], of="other")) == [
            WEB,
            f"10.96.0.11:80/TCP default/other/IPv4: {address}:8080",
        ]
    assert node.controller.status().held == (
        "left as before this start until all of Service default/web can be read: default/web/IPv4"
    )
    node.controller.changed(make.model(OTHER).key, None)
    assert node.sync() == [WEB]
    assert node.controller.status().pending == 1
    assert node.controller.status().oldest_pending == 0.0


def test_a_slice_that_stays_unread_keeps_its_endpoints_and_lets_new_ones_in() -> None:
    node = Restarted(make.service(), make.slice_(), make.slice_(["10.1.0.2"], name="broken"))
    node.unread = Unread(keys=(Key("Service", "default", "web"),))
    both = f"{WEB} 10.1.0.2:8080"
    assert node.sync(make.service(), make.slice_()) == [both]
    third = make.slice_(["10.1.0.2", "10.1.0.3"], name="more")
    assert node.sync(third) == [f"{both} 10.1.0.3:8080"]


def test_places_hide_everything_until_only_objects_are_left_unread() -> None:
    node = Restarted(make.service(), make.slice_(), OTHER, OTHER_SLICE)
    web, other = make.model(make.service()).key, make.model(OTHER).key
    node.unread = Unread(("x.yaml",), (web,))
    assert len(node.sync()) == 2
    node.unread = Unread((), (web,))
    assert node.sync() == [WEB]
    # What becomes unreadable from now on is in good hands: its last state is known.
    node.unread = Unread(("x.yaml",), (web, other))
    assert node.sync() == [WEB]
    node.unread = Unread((), (other,))
    assert node.sync() == []


def test_an_address_stays_with_the_service_that_cannot_be_read() -> None:
    node = Restarted(make.service(), make.slice_())
    node.unread = Unread(keys=(Key("Service", "default", "web"),))
    rival = make.service("rival", ["10.96.0.10", "fd96::1"])
    six = make.slice_(["fd00::1"], of="rival", family="IPv6", name="six")
    served = "[fd96::1]:80/TCP default/rival/IPv6: [fd00::1]:8080"
    assert node.sync(rival, six, make.slice_(of="rival")) == [WEB, served]
    node.unread = Unread()
    assert node.sync() == [WEB.replace("web", "rival"), served]


# ---- the maps --------------------------------------------------------------------------


def here(wanted: WantedService) -> WantedService:
    """The same, its only backend on this node."""
    backend = Backend.unpack(wanted.backends)._replace(flags=BackendFlag.HERE)
    return replace(wanted, backends=backend.pack())


def whole(wanted: WantedService) -> WantedService:
    """The same with all the rest of its first address."""
    key = FrontendKey.unpack(wanted.keys[0])._replace(port=0, proto=0).pack()
    frontends = (*wanted.frontends, (key, int(FrontendFlag.WHOLE_ADDRESS)))
    return replace(wanted, frontends=frontends)


@pytest.mark.parametrize(
    ("before", "now", "held"),
    [
        (service("a", 1, [1, 2]), service("a", 1, [1, 2, 3]), False),
        (service("a", 1, [1, 2]), service("a", 1, [1, 3]), True),
        (service("a", 1, [1, 2], [1]), service("a", 1, [1, 2], [1, 2]), False),
        (service("a", 1, [1, 2], [1]), service("a", 1, [1, 2], [2]), True),
        (service("a", 1, [1]), service("a", [1, 2], [1]), False),
        (service("a", [1, 2], [1]), service("a", 2, [1]), True),
        (service("a", 1, [1]), replace(service("a", 1, [1]), frontends=()), True),
        (service("a", 1, [1]), service("b", 1, [1]), True),
        (service("a", 1, [1]), service("b", 2, [1]), False),
        (service("a", 1, [], proto=UDP, serving=[1]), service("a", 1, [1, 2], proto=UDP), False),
        (service("a", 1, [1], proto=UDP, serving=[2]), service("a", 1, [1], proto=UDP), True),
        (service("a", 1, [1], proto=UDP), service("a", 1, [], proto=UDP, serving=[1]), True),
        (service("a", 1, [1], affinity_sec=9), service("a", 1, [1, 2], affinity_sec=5), False),
        (service("a", 1, [1]), service("a", 1, [1], node_port=30000), False),
        (service("a", 1, [1], node_port=30000), service("a", 1, [1]), True),
        (service("a", 1, [1], node_port=30000), service("a", 1, [1], node_port=30001), True),
        (service("a", 1, [1], node_port=30000), service("b", (), [1], node_port=30000), True),
        (service("a", 1, [1], ranges=[1]), service("a", 1, [1], ranges=[1, 2]), False),
        (service("a", 1, [1], ranges=[1]), service("a", 1, [1]), False),
        (service("a", 1, [1], ranges=[1, 2]), service("a", 1, [1], ranges=[1]), True),
        (service("a", 1, [1]), service("a", 1, [1], ranges=[1]), True),
        (service("a", 1, [1]), here(service("a", 1, [1])), False),
        (whole(service("a", 1, [1])), service("a", 1, [1, 2]), False),
    ],
)
def test_a_port_is_held_if_anybody_would_lose_by_it(
    before: WantedService, now: WantedService, held: bool
) -> None:
    tables = synced(before)
    report = ServiceSync(tables).apply([now], keeps=everything)
    assert report.held == ({now.name} if held else set())
    assert (report.writes == 0) == held


@given(before=states(), after=states())
def test_half_a_view_loses_nothing_and_the_whole_one_settles_all(
    before: list[WantedService], after: list[WantedService]
) -> None:
    tables = synced(*before)
    served = served_backends(tables)
    sync = ServiceSync(tables)
    sync.load()
    gone = sync.names() - {wanted.name for wanted in after}
    half = sync.apply(after, gone, keeps=everything)
    now = served_backends(tables)
    assert all(backends <= now[frontend] for frontend, backends in served.items())
    waiting = [wanted for wanted in after if wanted.name in half.held]
    assert not sync.apply(waiting, gone & half.held).held
    assert dump(tables) == dump(synced(*after))


def everything(_name: str) -> bool:
    """Every port keeps what it was served with."""
    return True


@given(before=states(), after=states(), kept=st.sets(st.sampled_from("abcd")))
def test_who_must_keep_what_it_had_does_and_the_others_get_what_they_want(
    before: list[WantedService], after: list[WantedService], kept: set[str]
) -> None:
    tables = synced(*before)
    served = served_backends(tables)
    sync = ServiceSync(tables)
    sync.load()
    gone = sync.names() - {wanted.name for wanted in after}
    report = sync.apply(after, gone, keeps=kept.__contains__)
    now = served_backends(tables)
    for (frontend, name), backends in served.items():
        if name in kept:
            assert backends <= now[frontend, name]
    spared = {frontend for frontend, name in served if name in kept}
    settled, found = dump(synced(*after)), dump(tables)
    for wanted in (one for one in after if one.name not in kept):
        for key in wanted.keys:
            frontend = str(FrontendKey.unpack(key))
            assert frontend in spared or found[frontend] == settled[frontend]
    waiting = [wanted for wanted in after if wanted.name in report.held]
    assert not sync.apply(waiting, gone & report.held).held
    assert dump(tables) == settled


def served_backends(tables: FakeTables) -> dict[tuple[str, str], set[bytes]]:
    """The backends behind each frontend, and whose it is."""
    names = {key.id: name.text for key, name in tables.names.items()}
    found = {}
    backends = dict(tables.backends.items())
    for key, value in tables.frontends.items():
        mine = {backend.pack() for place, backend in backends.items() if place.base == value.base}
        found[str(key), names[value.service]] = mine
    return found
