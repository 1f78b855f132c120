"""Endpoints that people made by hand, and the API's pods: what was made stays as it was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from controllers import pods as pods_
from kpbpf.address import from_text
from kpbpf.datapath.netns import PodLink
from tests.unit.pods import Node, pod

A, B = "10.0.0.1", "10.0.0.2"
A6 = "fd00::1"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def by_hand(node: Node, ifindex: int, *ips: str) -> None:
    veth = node.veths[ifindex]
    of = [from_text(ip) for ip in ips]
    link = PodLink("eth0", "veth", ifindex, veth.pod_mac, veth.node_mac, of)
    node.endpoints.add(link, "netns=/a ifname=eth0")


def test_what_was_made_by_hand_serves_the_pod_and_stays_when_it_goes(node: Node) -> None:
    node.veth(7, A, A6)
    by_hand(node, 7, A, A6)
    served = node.served()
    node.tell(pod("a", A))
    node.pods.synced()
    node.settle()
    assert [(one.host, one.found, one.why_not) for one in node.pods.status()] == [
        ("veth7", "by hand", "")
    ]
    node.forget("a")
    node.settle()
    assert node.served() == served


@pytest.mark.parametrize("ifindex", [7, 8], ids=["same interface", "other interface"])
def test_what_was_made_by_hand_and_contradicts_is_named_and_left(node: Node, ifindex: int) -> None:
    node.veth(7, A)
    by_hand(node, 7, A)
    node.veths[7] = node.veths[7]._replace(addresses=frozenset())
    node.veth(ifindex, A, B)
    served = node.served()
    node.tell(pod("a", A, B))
    node.settle()
    assert node.served() == served
    assert "`kpbpf ep rm 1` takes it off" in node.why_not()["default/a"]
    assert len(node.events) == 1


def test_what_somebody_removed_by_hand_is_attached_again(node: Node) -> None:
    node.veth(7, A)
    node.tell(pod("a", A))
    node.settle(1)
    node.endpoints.remove(1)
    node.settle(pods_.LOOK_AGAIN_SEC)
    assert set(node.served()) == {7}
