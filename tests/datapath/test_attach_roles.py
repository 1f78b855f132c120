"""An interface is a pod's or an uplink, and may change its role: each sees only its own."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from controllers.endpoints import Force
from controllers.hooks import KernelHooks, WireHooks
from kpbpf.datapath import attach
from maps.abi import ABI_VERSION
from tests.datapath.attaching import (
    Node,
    clsact_is_there,
    loaded,
    mechanism,
    node,
    program_id,
    take_off,
)
from tests.datapath.pair import run

__all__ = ["loaded", "mechanism", "node"]


@pytest.mark.parametrize("place", [attach.WIRE, attach.WIRE_L3])
def test_an_interface_may_change_its_role_and_never_runs_both(
    node: Node, mechanism: str, place: attach.Place
) -> None:
    both = node.first | node.wire
    for wanted, slot in ((attach.POD, 0), (place, 2), (attach.POD, 0)):
        attach.attach(node.home, node.ifindex, both, wanted)
        listed = {(one.program, one.program_id) for one in attach.attachments(node.home)}
        assert listed == {(name, program_id(both[name])) for name in wanted}
        before = node.counted(0), node.counted(2)
        node.send(5)
        after = node.counted(0), node.counted(2)
        assert (after[0] - before[0], after[1] - before[1]) == ((5, 0) if slot == 0 else (0, 5))
    assert attach.detach(node.home, node.ifindex)
    assert list(node.home.links_dir(ABI_VERSION).iterdir()) == []
    assert not clsact_is_there(node.ifindex)


def test_a_role_is_taken_off_only_by_its_own_name(node: Node, mechanism: str) -> None:
    attach.attach(node.home, node.ifindex, node.wire, attach.WIRE)
    assert not attach.detach(node.home, node.ifindex, (attach.POD,))
    assert len(attach.attachments(node.home)) == 2
    assert attach.detach(node.home, node.ifindex, (attach.WIRE, attach.WIRE_L3))
    assert attach.attachments(node.home) == []


def test_an_upgrade_swaps_the_programs_of_all_roles(node: Node, mechanism: str) -> None:
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0")
    uplink = socket.if_nametoindex("up0")
    attach.attach(node.home, node.ifindex, node.first)
    old = {name: node.first[name.replace("wire", "pod")] for name in attach.WIRE}
    attach.attach(node.home, uplink, old, attach.WIRE)
    assert attach.replace(node.home, node.second | node.wire) == 4
    assert attach.replace(node.home, node.second | node.wire) == 0


def test_hooks_of_one_role_never_see_the_other(node: Node, mechanism: str) -> None:
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0")
    uplink = socket.if_nametoindex("up0")
    both = node.first | node.wire
    with (
        closing(KernelHooks(node.home, both)) as pods,
        closing(WireHooks(node.home, both)) as wire,
    ):
        pods.attach(node.ifindex)
        wire.attach(uplink, ethernet=False)
        assert pods.attached() == {node.ifindex: Force.TODAY}
        assert wire.attached() == {uplink: (False, Force.TODAY)}
        pods.detach(uplink)
        wire.detach(node.ifindex)
        assert pods.attached() == {node.ifindex: Force.TODAY}
        wire.attach(uplink, ethernet=True)
        assert wire.attached() == {uplink: (True, Force.TODAY)}
        wire.attach(node.ifindex, ethernet=True)
        assert pods.attached() == {}
        pods.detach(node.ifindex)
        assert wire.attached().keys() == {uplink, node.ifindex}


def test_what_another_version_left_is_told_from_what_somebody_removed(
    node: Node, mechanism: str
) -> None:
    with closing(WireHooks(node.home, node.wire)) as wire:
        wire.attach(node.ifindex, ethernet=True)
    old = {name: node.first[name.replace("wire", "pod")] for name in attach.WIRE}
    with closing(WireHooks(node.home, old)) as wire:
        assert wire.attached() == {node.ifindex: (True, Force.OTHER)}
        take_off(node, mechanism, "from_wire")
        assert wire.attached() == {node.ifindex: (True, Force.REMOVED)}
