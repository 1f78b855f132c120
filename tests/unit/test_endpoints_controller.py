"""Endpoints come and go in an order that is safe at every step, and damage is put right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from controllers.endpoint import Pod, present
from controllers.endpoints import Endpoints, Force
from kpbpf.address import Address, from_text
from kpbpf.datapath.netns import PodLink
from kpbpf.errors import ForeignProgram, LinkGone, NotFound, Retry
from kpbpf.home import Home
from maps import config
from maps.abi import EndpointKey, Name, NameKey, NameKind
from maps.fake import FakeTables, fake_tables


class Interfaces:
    """A node's interfaces and what is attached to them; also the hooks, in memory."""

    def __init__(self, tables: FakeTables) -> None:
        self._tables = tables
        self.macs: dict[int, bytes] = {}
        self.programs: dict[int, str] = {}
        self.seen_at_attach: list[set[Address]] = []

    def attach(self, ifindex: int) -> None:
        if ifindex not in self.macs:
            raise LinkGone(ifindex)
        self.seen_at_attach.append({key.addr for key, _ in self._tables.endpoints.items()})
        self.programs[ifindex] = "today"

    def detach(self, ifindex: int) -> None:
        self.programs.pop(ifindex, None)

    def attached(self) -> Mapping[int, Force]:
        versions = {"today": Force.TODAY, "yesterday": Force.OTHER}
        return {ifindex: versions[version] for ifindex, version in self.programs.items()}

    def mac_of(self, ifindex: int) -> bytes | None:
        return self.macs.get(ifindex)

    def add(self, ifindex: int, *ips: str) -> PodLink:
        """A pod's veth appears."""
        mac = bytes([2, 0, 0, 0, 1, ifindex])
        self.macs[ifindex] = mac
        addresses = [from_text(ip) for ip in ips]
        return PodLink("eth0", f"veth{ifindex}", ifindex, bytes(6), mac, addresses)


@pytest.fixture
def tables() -> FakeTables:
    made = fake_tables()
    config.ensure(made)
    return made


@pytest.fixture
def node(tables: FakeTables) -> Interfaces:
    return Interfaces(tables)


@pytest.fixture
def endpoints(tables: FakeTables, node: Interfaces, tmp_path: Path) -> Endpoints:
    return Endpoints(Home(tmp_path / "pins", tmp_path / "run"), tables, node)


def known(tables: FakeTables) -> dict[int, Pod]:
    return present(tables)


def test_every_address_is_known_before_a_program_runs(
    endpoints: Endpoints, node: Interfaces
) -> None:
    endpoints.add(node.add(7, "10.0.0.1", "fd00::1"), "a")
    assert node.seen_at_attach == [{from_text("10.0.0.1"), from_text("fd00::1")}]


def test_ids_are_the_smallest_free_ones(endpoints: Endpoints, node: Interfaces) -> None:
    pods = [endpoints.add(node.add(i, f"10.0.0.{i}"), f"pod {i}") for i in (5, 6, 7)]
    assert [pod.id for pod in pods] == [1, 2, 3]
    endpoints.remove(2)
    assert endpoints.add(node.add(8, "10.0.0.8"), "pod 8").id == 2


def test_adding_it_again_writes_nothing_and_judges_no_flow_again(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    link = node.add(7, "10.0.0.1", "fd00::1")
    first = endpoints.add(link, "a")
    writes = tables.writes
    assert endpoints.add(link, "a") == first
    assert tables.writes == writes


def test_an_address_that_changed_replaces_the_old_one(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    endpoints.add(node.add(7, "10.0.0.1", "10.0.0.2"), "a")
    epoch = config.read(tables).epoch
    pod = endpoints.add(node.add(7, "10.0.0.2", "10.0.0.3"), "a")
    assert pod.addresses == (from_text("10.0.0.2"), from_text("10.0.0.3"))
    assert config.read(tables).epoch > epoch


def test_a_newer_pod_takes_an_address_over(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    endpoints.add(node.add(7, "10.0.0.1"), "old")
    newer = endpoints.add(node.add(8, "10.0.0.1"), "new")
    assert known(tables) == {newer.id: newer}
    assert node.programs == {8: "today"}


def test_a_new_interface_with_the_index_of_an_old_one_is_a_new_pod(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    endpoints.add(node.add(7, "10.0.0.1", "10.0.0.2"), "old")
    link = node.add(7, "10.0.0.1")._replace(node_mac=bytes(6))
    pod = endpoints.add(link, "new")
    assert known(tables) == {pod.id: pod}
    assert pod.name == "new"
    assert node.programs == {7: "today"}


def test_a_pod_without_an_address_is_refused(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    with pytest.raises(NotFound, match="no address"):
        endpoints.add(node.add(7), "a")
    assert tables.writes == 1, "only the configuration"


def test_one_pod_that_cannot_be_attached_harms_no_other(
    endpoints: Endpoints,
    node: Interfaces,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for ifindex in (7, 8):
        endpoints.add(node.add(ifindex, f"10.0.0.{ifindex}"), f"pod {ifindex}")
    node.programs.clear()
    attach = node.attach

    def taken(ifindex: int) -> None:
        if ifindex == 7:
            raise ForeignProgram("interface 7", "another's filter")
        attach(ifindex)

    monkeypatch.setattr(node, "attach", taken)
    for _ in range(3):
        endpoints.reconcile(node.mac_of)
    assert node.programs == {8: "today"}
    assert len([line for line in caplog.messages if "cannot be attached" in line]) == 1


def test_removing_leaves_nothing(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    pod = endpoints.add(node.add(7, "10.0.0.1", "fd00::1"), "a")
    assert endpoints.remove(pod.id) == pod
    assert not list(tables.endpoints.items())
    assert not list(tables.names.items())
    assert node.programs == {}
    with pytest.raises(NotFound, match="no endpoint 1"):
        endpoints.remove(pod.id)


def test_an_interface_that_vanished_takes_its_endpoint_along(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    endpoints.add(node.add(7, "10.0.0.1"), "gone")
    stays = endpoints.add(node.add(8, "10.0.0.2"), "stays")
    del node.macs[7], node.programs[7]
    endpoints.reconcile(node.mac_of)
    assert known(tables) == {stays.id: stays}
    assert node.programs == {8: "today"}


def test_programs_that_somebody_removed_come_back(endpoints: Endpoints, node: Interfaces) -> None:
    endpoints.add(node.add(7, "10.0.0.1"), "a")
    node.programs.clear()
    endpoints.reconcile(node.mac_of)
    assert node.programs == {7: "today"}


def test_programs_of_another_version_are_swapped(endpoints: Endpoints, node: Interfaces) -> None:
    endpoints.add(node.add(7, "10.0.0.1"), "a")
    node.programs[7] = "yesterday"
    endpoints.reconcile(node.mac_of)
    assert node.programs == {7: "today"}


def test_a_stranger_that_got_the_same_index_is_left_alone(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    endpoints.add(node.add(7, "10.0.0.1"), "a")
    node.macs[7] = bytes(6)
    node.programs.clear()
    endpoints.reconcile(node.mac_of)
    assert known(tables) == {}
    assert node.programs == {}


def test_nothing_to_put_right_means_nothing_written(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    endpoints.add(node.add(7, "10.0.0.1"), "a")
    writes = tables.writes
    endpoints.reconcile(node.mac_of)
    assert tables.writes == writes


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("10.0.0.1", "fd00::1")])
def test_what_a_killed_process_left_half_done_is_undone(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables, addresses: tuple[str, ...]
) -> None:
    pod = endpoints.add(node.add(7, *addresses), "a")
    tables.names.delete(NameKey(NameKind.ENDPOINT, pod.id))
    tables.endpoints.delete(EndpointKey(pod.addresses[-1]))
    endpoints.reconcile(node.mac_of)
    assert known(tables) == {}
    assert node.programs == {}


def test_programs_without_an_endpoint_are_taken_off(endpoints: Endpoints, node: Interfaces) -> None:
    node.add(9)
    node.programs[9] = "today"
    endpoints.reconcile(node.mac_of)
    assert node.programs == {}


def test_a_pod_that_vanishes_while_it_is_added_leaves_nothing(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    link = node.add(7, "10.0.0.1")
    del node.macs[7]
    with pytest.raises(LinkGone):
        endpoints.add(link, "a")
    assert known(tables) == {}
    assert not list(tables.names.items())


def test_after_any_failed_write_the_next_round_has_all_or_nothing(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    link = node.add(7, "10.0.0.1", "fd00::1")
    for nth in range(1, 12):
        tables.fail_every(nth)
        try:
            endpoints.add(link, "a")
            for id_ in known(tables):
                endpoints.remove(id_)
        except (Retry, OSError):
            pass
        tables.fail_every(0)
        endpoints.reconcile(node.mac_of)
        for pod in known(tables).values():
            assert len(pod.addresses) == 2
            assert node.programs == {7: "today"}
            endpoints.remove(pod.id)
        assert not list(tables.endpoints.items())


def test_service_names_are_never_mistaken_for_endpoints(
    endpoints: Endpoints, node: Interfaces, tables: FakeTables
) -> None:
    service = NameKey(NameKind.SERVICE, 1)
    tables.names.put(service, Name("default/web/IPv4"))
    endpoints.remove(endpoints.add(node.add(7, "10.0.0.1"), "a").id)
    assert tables.names.get(service) == Name("default/web/IPv4")
