"""The pods that the API names are endpoints: found, followed, let go, and told of when it fails."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from controllers import pods as pods_
from controllers.endpoints import Force
from kpbpf.address import from_text
from kpbpf.datapath.monitor import News
from kpbpf.errors import ForeignProgram
from kpbpf.model.objects import Pod
from tests.unit.pods import Node, addresses, pod

A, B = "10.0.0.1", "10.0.0.2"
A6 = "fd00::1"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_pods_that_run_already_are_attached_at_once(node: Node) -> None:
    node.veth(7, A, A6)
    node.veth(8, B)
    node.tell(pod("a", A, A6), pod("b", B))
    node.pods.work()
    assert node.served() == {
        7: ("found=route pod=default/a", addresses(A, A6)),
        8: ("found=route pod=default/b", addresses(B)),
    }
    assert node.programs == {7: Force.TODAY, 8: Force.TODAY}


@pytest.mark.parametrize(
    "other",
    [
        pod("a", A, node="elsewhere"),
        pod("a", A)._replace(host_network=True),
        pod("a", A)._replace(finished=True),
    ],
    ids=["of another node", "on the host's network", "finished"],
)
def test_a_pod_that_has_no_interface_here_is_no_concern(node: Node, other: Pod) -> None:
    node.veth(7, A)
    node.tell(other)
    assert node.pods.work() is None
    assert node.served() == {}
    assert node.pods.status() == ()


def test_a_pod_without_an_address_waits_for_one_and_is_never_told(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a"))
    node.settle()
    assert node.why_not() == {"default/a": "it has no address yet"}
    assert (node.events, node.searches) == ([], [])
    node.tell(pod("a", A))
    node.pods.work()
    assert set(node.served()) == {7}


def test_working_again_writes_nothing(node: Node) -> None:
    node.veth(7, A, A6)
    node.tell(pod("a", A, A6))
    node.settle(1)
    writes = node.tables.writes
    node.settle(200)
    assert node.tables.writes == writes


def test_an_interface_that_comes_late_is_found_by_asking_again(node: Node) -> None:
    node.tell(pod("a", A))
    node.settle(20)
    node.veth(7, A)
    node.settle(pods_.LAST_RETRY_SEC)
    assert set(node.served()) == {7}


def test_news_about_interfaces_leads_to_an_attempt_at_once_but_not_to_a_flood(node: Node) -> None:
    node.tell(pod("a", A))
    node.settle(60)
    node.veth(7, A)
    node.pods.heard(News(links=frozenset({7})))
    node.pods.work()
    assert set(node.served()) == {7}
    node.gone(7)
    node.settle(60)
    before = len(node.searches)
    for _ in range(100):
        node.pods.heard(News(routes=True))
        node.pods.work()
    assert len(node.searches) <= before + 1


def test_news_about_an_address_is_only_for_its_pod(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A), pod("b", B))
    node.settle(60)
    before = len(node.searches)
    node.veth(7, A, mac=9)
    node.pods.heard(News(addresses=frozenset(addresses(A))))
    node.pods.work()
    assert node.searches[before:] == [((from_text(A),), False)]
    assert node.endpoint(7).pod_mac[4] == 9


def test_a_changed_mac_is_found_sooner_or_later_without_news(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.veth(7, A, mac=9)
    node.settle(pods_.LOOK_AGAIN_SEC + 1)
    assert node.endpoint(7).pod_mac[4] == 9


def test_a_search_becomes_thorough_when_the_kernel_keeps_asking(node: Node) -> None:
    node.veth(7, A)
    node.asking = addresses(A)
    node.tell(pod("a", A))
    node.settle(2)
    assert set(node.served()) == {7}
    assert [thorough for _, thorough in node.searches][-2:] == [False, True]
    assert node.events == []


def test_a_pod_that_goes_takes_its_endpoint_along(node: Node) -> None:
    node.veth(7, A)
    node.veth(8, B)
    node.tell(pod("a", A), pod("b", B))
    node.settle(1)
    node.forget("a")
    node.tell(pod("b", B)._replace(finished=True))
    node.pods.work()
    assert (node.served(), node.programs) == ({}, {})


def test_other_addresses_of_a_pod_take_the_place_of_the_old_ones(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.veth(7, B, A6)
    node.tell(pod("a", B, A6))
    node.pods.work()
    assert node.served() == {7: ("found=route pod=default/a", addresses(B, A6))}


def test_addresses_that_a_pod_has_no_more_are_not_served_on(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.tell(pod("a", B))
    node.settle(10)
    assert (node.served(), node.programs) == ({}, {})
    assert node.why_not() == {"default/a": "no route leads there"}


def test_a_pod_whose_address_is_not_known_for_a_moment_is_served_on(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.tell(pod("a"))
    node.settle()
    assert set(node.served()) == {7}
    assert node.why_not() == {"default/a": ""}


def test_a_new_interface_of_the_same_pod_takes_the_place_of_the_old_one(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.veth(7)  # still there, and nothing leads to it any more
    node.veth(8, B)
    node.tell(pod("a", B))
    node.pods.work()
    assert node.served() == {8: ("found=route pod=default/a", addresses(B))}
    assert set(node.programs) == {8}


def test_a_new_pod_of_the_same_name_and_address_is_looked_for_anew(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A, uid="first"))
    node.settle(1)
    node.gone(7)
    node.veth(8, A)
    node.tell(pod("a", A, uid="second"))
    node.pods.work()
    assert node.served() == {8: ("found=route pod=default/a", addresses(A))}


def test_an_address_belongs_to_the_pod_that_claimed_it_last(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("old", A))
    node.settle(1)
    node.gone(7)
    node.veth(8, A)
    node.tell(pod("new", A))
    node.settle(2)
    assert node.served() == {8: ("found=route pod=default/new", addresses(A))}
    assert node.why_not() == {
        "default/new": "",
        "default/old": f"its address {A} was given to default/new",
    }
    node.forget("new")
    node.settle(2)
    assert node.served() == {8: ("found=route pod=default/old", addresses(A))}


def test_an_endpoint_that_only_changes_its_pod_keeps_its_programs(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the API names two pods with one address in the wrong order, and one then goes."""
    node.veth(7, A)
    node.tell(pod("new", A), pod("old", A))
    node.settle(1)
    assert node.served()[7][0] == "found=route pod=default/old"
    detached: list[int] = []
    monkeypatch.setattr(node, "detach", detached.append)
    node.forget("old")
    node.settle(1)
    assert node.served()[7][0] == "found=route pod=default/new"
    assert detached == []


def test_what_a_restart_finds_is_taken_away_only_after_all_pods_were_read(node: Node) -> None:
    node.veth(7, A)
    node.veth(8, B)
    node.tell(pod("a", A), pod("b", B))
    node.settle(1)
    node.restart()
    node.tell(pod("a", A))
    node.settle()
    assert set(node.served()) == {7, 8}
    node.pods.synced()
    node.pods.work()
    assert set(node.served()) == {7}


def test_a_restart_without_change_writes_nothing(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.restart()
    writes = node.tables.writes
    node.tell(pod("a", A))
    node.pods.synced()
    node.settle(1)
    assert node.tables.writes == writes
    assert node.why_not() == {"default/a": ""}


def test_programs_that_were_put_back_are_counted_and_told_on_the_pod(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A, uid="the-uid"))
    node.settle(1)
    node.programs[7] = Force.OTHER
    node.settle(1)
    assert (node.pods.restored, node.events) == (0, []), "an upgrade is no removal"
    node.programs[7] = Force.REMOVED
    node.settle(1)
    assert node.programs == {7: Force.TODAY}
    assert node.pods.restored == 1
    assert [(str(event.regarding), event.uid) for event in node.events] == [
        ("Pod default/a", "the-uid")
    ]


def test_a_pod_that_only_the_daemon_before_could_find_is_served_on(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.restart()
    node.veth(7)
    node.tell(pod("a", A))
    node.pods.synced()
    node.settle(60)
    assert set(node.served()) == {7}
    assert node.why_not() == {"default/a": ""}
    assert node.events == []


# ---- what cannot be attached ------------------------------------------------------------


def test_one_pod_that_cannot_be_attached_holds_up_no_other(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = node.attach

    def taken(ifindex: int) -> None:
        if ifindex == 7:
            raise ForeignProgram("tc priority 1 of interface 7", "another's filter")
        attach(ifindex)

    monkeypatch.setattr(node, "attach", taken)
    node.veth(7, A)
    node.veth(8, B)
    node.tell(pod("a", A), pod("b", B), pod("c", "10.0.0.3"))
    node.settle()
    assert set(node.served()) == {8}
    assert node.why_not() == {
        "default/a": "tc priority 1 of interface 7 is taken by a program that is not kpbpf's: "
        "found another's filter; kpbpf never replaces or removes what others attached",
        "default/b": "",
        "default/c": "no route leads there",
    }


def test_a_failure_that_lasts_is_told_once_for_each_reason(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.tell(pod("a", A, uid="the-uid"))
    node.settle(pods_.TELL_AFTER_SEC - 1)
    assert node.events == []
    node.settle(600)
    (event,) = node.events
    assert str(event.regarding) == "Pod default/a"
    assert (event.reason, event.action, event.uid) == ("FailedToAttach", "AttachPod", "the-uid")
    assert event.note == "no route leads there"
    assert event.warning
    lines = [line for line in caplog.messages if "cannot be attached" in line]
    assert lines == ["pod default/a cannot be attached: no route leads there"]


def test_attempts_become_rarer(node: Node) -> None:
    node.tell(pod("a", A))
    node.settle(600)
    assert len(node.searches) < 50


def test_many_failures_and_successes_are_a_few_lines_in_the_log(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for i in range(100):
        node.veth(i + 1, f"10.0.1.{i}")
    node.tell(*(pod(f"good-{i}", f"10.0.1.{i}") for i in range(100)))
    node.tell(*(pod(f"bad-{i}", f"10.0.2.{i}") for i in range(100)))
    node.settle(60)
    assert len(node.served()) == 100
    assert len(caplog.messages) < 20
    assert "and 95 pods more: see `kpbpf ep ls`" in caplog.messages


def test_a_failed_look_at_a_pod_that_is_served_takes_nothing_away(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.veth(7)  # still there, but the bridge has forgotten the way
    node.settle(600)
    assert set(node.served()) == {7}
    assert node.events == []
    assert node.why_not() == {"default/a": ""}


def test_long_names_are_told_apart(node: Node) -> None:
    names = [f"{'x' * 240}-{i}" for i in range(2)]
    for i, name in enumerate(names):
        node.veth(7 + i, f"10.0.0.{i}")
        node.tell(pod(name, f"10.0.0.{i}"))
    node.settle(1)
    assert set(node.served()) == {7, 8}
    node.forget(names[0])
    node.settle(1)
    assert set(node.served()) == {8}
