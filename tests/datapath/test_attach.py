"""Attaching, by tcx and by clsact: ours first, nobody else's touched, swapped without a loss.

The programs here only count packets of an EtherType that nobody uses, which a raw socket at the
other end of a veth sends (attaching.py).
"""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kpbpf.datapath import attach
from kpbpf.datapath.attached import Attached
from kpbpf.datapath.monitor import Monitor
from kpbpf.errors import ForeignProgram, LinkGone, NotFound, Usage
from maps import bpf
from maps.abi import ABI_VERSION
from tests.datapath.attaching import (
    ETHERTYPE,
    Node,
    clsact_is_there,
    filters,
    foreign_filter,
    loaded,
    mechanism,
    node,
    program_id,
    take_off,
    using,
)
from tests.datapath.pair import run

__all__ = ["loaded", "mechanism", "node"]


def test_attached_programs_run_and_are_listed(node: Node, mechanism: str) -> None:
    attach.attach(node.home, node.ifindex, node.first)
    assert attach.attachments(node.home) == [
        attach.Attachment(node.ifindex, name, mechanism, program_id(node.first[name]), True)
        for name in ("from_pod", "to_pod")
    ]
    before = node.counted(0)
    node.send(10)
    assert node.counted(0) == before + 10


def test_attaching_again_changes_nothing(node: Node, mechanism: str) -> None:
    attach.attach(node.home, node.ifindex, node.first)
    listed = attach.attachments(node.home)
    links = bpf.query(node.ifindex, bpf.TCX_INGRESS)
    attach.attach(node.home, node.ifindex, node.first)
    assert attach.attachments(node.home) == listed
    assert bpf.query(node.ifindex, bpf.TCX_INGRESS) == links
    assert len(filters(node.ifindex)) == (mechanism == "clsact")


def test_detached_programs_leave_no_trace(node: Node, mechanism: str) -> None:
    attach.attach(node.home, node.ifindex, node.first)
    assert attach.detach(node.home, node.ifindex) is True
    assert attach.detach(node.home, node.ifindex) is False
    assert attach.attachments(node.home) == []
    assert bpf.query(node.ifindex, bpf.TCX_INGRESS) == bpf.query(node.ifindex, bpf.TCX_EGRESS) == []
    assert not clsact_is_there(node.ifindex)
    assert list(node.home.links_dir(ABI_VERSION).iterdir()) == []


def test_swapping_under_load_loses_no_packet(node: Node, mechanism: str) -> None:
    attach.attach(node.home, node.ifindex, node.first)
    before = node.counted(0) + node.counted(2)
    sender = subprocess.Popen(
        ["nsenter", f"--net={node.pod}", "python3", "-c", SENDER], stdout=subprocess.PIPE, text=True
    )
    swaps = 0
    while sender.poll() is None:
        swaps += attach.replace(node.home, (node.second, node.first)[swaps // 2 % 2])
    sent = int(sender.communicate()[0])
    assert swaps > 10
    assert node.counted(0) + node.counted(2) == before + sent
    assert node.counted(2) > 0
    assert attach.replace(node.home, node.first) in (0, 2)
    assert attach.replace(node.home, node.first) == 0


SENDER = f"""
import socket, time
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
frame = b"\\xff" * 12 + ({ETHERTYPE}).to_bytes(2, "big") + bytes(50)
end, sent = time.monotonic() + 0.7, 0
while time.monotonic() < end:
    sent += raw.send(frame) == len(frame)
print(sent)
"""


def test_what_somebody_took_off_is_told_and_put_back(node: Node, mechanism: str) -> None:
    attach.attach(node.home, node.ifindex, node.first)
    take_off(node, mechanism)
    gone, there = attach.attachments(node.home)
    assert (gone.program, gone.program_id, gone.exists) == ("from_pod", 0, True)
    assert there.program_id == program_id(node.first["to_pod"])
    assert attach.replace(node.home, node.first) == 0
    attach.attach(node.home, node.ifindex, node.first)
    assert all(one.program_id for one in attach.attachments(node.home))


def test_interface_that_is_gone_is_told_and_can_be_cleared(node: Node, mechanism: str) -> None:
    attach.attach(node.home, node.ifindex, node.first)
    run("ip", "link", "del", "host0")
    assert {(one.program_id, one.exists) for one in attach.attachments(node.home)} == {(0, False)}
    assert attach.detach(node.home, node.ifindex) is True
    assert list(node.home.links_dir(ABI_VERSION).iterdir()) == []
    with pytest.raises(LinkGone):
        attach.attach(node.home, node.ifindex, node.first)
    assert list(node.home.links_dir(ABI_VERSION).iterdir()) == []


def test_other_mechanism_takes_over_and_nothing_runs_twice(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chosen in ("clsact", "tcx", "clsact"):
        monkeypatch.setenv("KPBPF_ATTACH", chosen)
        attach.attach(node.home, node.ifindex, node.first)
        assert {one.mechanism for one in attach.attachments(node.home)} == {chosen}
        before = node.counted(0)
        node.send(5)
        assert node.counted(0) == before + 5


def test_unknown_mechanism_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", "xdp")
    with pytest.raises(Usage, match="'xdp', expected tcx, clsact or auto"):
        attach.mechanism()
    monkeypatch.delenv("KPBPF_ATTACH")
    assert attach.mechanism() == "tcx"


def test_missing_program_attaches_nothing(node: Node, mechanism: str) -> None:
    with pytest.raises(NotFound, match="no program"):
        attach.attach(node.home, node.ifindex, node.first | {"from_pod": Path("/sys/fs/bpf/none")})
    assert attach.attachments(node.home) == []
    assert not clsact_is_there(node.ifindex)


# ---- looking again and again ----------------------------------------------------------------


def test_looking_again_sees_what_a_first_look_would(node: Node, mechanism: str) -> None:
    whole = {name: program_id(node.first[name]) for name in attach.POD}
    with closing(Attached(node.home)) as attached:
        assert attached.look() == {}
        attach.attach(node.home, node.ifindex, node.first)
        assert attached.look() == attached.look() == {node.ifindex: whole}
        take_off(node, mechanism)
        assert attached.look() == {node.ifindex: whole | {"from_pod": 0}}
        attach.attach(node.home, node.ifindex, node.second)
        swapped = {name: program_id(node.second[name]) for name in attach.POD}
        assert attached.look() == {node.ifindex: swapped}
        attach.detach(node.home, node.ifindex)
        assert attached.look() == {}


def test_a_removed_filter_is_seen_as_soon_as_the_kernel_tells(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", "clsact")
    attach.attach(node.home, node.ifindex, node.first)
    told = threading.Event()
    with ExitStack() as stack:
        attached = stack.enter_context(closing(Attached(node.home, followed=True)))
        attached.look()
        monitor = stack.enter_context(closing(Monitor(lambda _: told.set())))
        monitor.start()
        take_off(node, "clsact")
        assert told.wait(10)
        attached.touch(monitor.take().filters)
        assert attached.look()[node.ifindex]["from_pod"] == 0


def test_links_stay_open_only_as_far_as_the_limit_of_files_allows(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", "tcx")
    monkeypatch.setattr("kpbpf.datapath.attached._SPARE_FILES", 1 << 40)
    attach.attach(node.home, node.ifindex, node.first)
    with closing(Attached(node.home)) as attached:
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert all(attached.look()[node.ifindex].values())
        assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- others -------------------------------------------------------------------------------


def test_foreign_tcx_program_stays_and_runs_after_ours(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", "tcx")
    foreign = node.second["from_pod"]
    link = using(foreign, lambda fd: bpf.link_create(fd, node.ifindex, bpf.TCX_INGRESS))
    try:
        attach.attach(node.home, node.ifindex, node.first)
        order = [number for number, _ in bpf.query(node.ifindex, bpf.TCX_INGRESS)]
        assert order == [program_id(node.first["from_pod"]), program_id(foreign)]
        before = node.counted(2)
        node.send(5)
        assert node.counted(2) == before + 5
        attach.detach(node.home, node.ifindex)
        left = [number for number, _ in bpf.query(node.ifindex, bpf.TCX_INGRESS)]
        assert left == [program_id(foreign)]
    finally:
        os.close(link)


@pytest.mark.parametrize(("priority", "handle"), [(1, 2), (5, 1)])
def test_foreign_filter_stays_and_runs_after_ours(
    node: Node, monkeypatch: pytest.MonkeyPatch, priority: int, handle: int
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", "clsact")
    run("tc", "qdisc", "add", "dev", "host0", "clsact")
    foreign_filter(node.ifindex, node.second["from_pod"], priority, handle)
    attach.attach(node.home, node.ifindex, node.first)
    assert [one.name for one in filters(node.ifindex)] == ["kpbpf", "foreign"]
    before = node.counted(2)
    node.send(5)
    assert node.counted(2) == before + 5
    attach.replace(node.home, node.second)
    attach.detach(node.home, node.ifindex)
    assert [one.name for one in filters(node.ifindex)] == ["foreign"]
    assert clsact_is_there(node.ifindex)


def test_place_that_is_taken_is_left_alone_unless_another_priority_is_set(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", "clsact")
    run("tc", "qdisc", "add", "dev", "host0", "clsact")
    foreign_filter(node.ifindex, node.second["from_pod"], 1, 1)
    before = filters(node.ifindex)
    with pytest.raises(ForeignProgram, match="tc priority 1") as caught:
        attach.attach(node.home, node.ifindex, node.first)
    assert "filter foreign, handle 1" in caught.value.why
    assert filters(node.ifindex) == before
    assert filters(node.ifindex, "to_pod") == []
    assert attach.attachments(node.home) == []
    monkeypatch.setenv("KPBPF_TC_PRIORITY", "7")
    attach.attach(node.home, node.ifindex, node.first)
    assert [one.name for one in filters(node.ifindex)] == ["foreign", "kpbpf"]
    monkeypatch.delenv("KPBPF_TC_PRIORITY")
    attach.replace(node.home, node.second)
    assert [one.priority for one in filters(node.ifindex)] == [1, 7]
    attach.detach(node.home, node.ifindex)
    monkeypatch.setenv("KPBPF_TC_PRIORITY", "0")
    with pytest.raises(Usage, match="KPBPF_TC_PRIORITY"):
        attach.attach(node.home, node.ifindex, node.first)


def test_qdisc_made_later_by_somebody_else_stays(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", "clsact")
    attach.attach(node.home, node.ifindex, node.first)
    foreign_filter(node.ifindex, node.second["from_pod"], 5, 1)
    attach.detach(node.home, node.ifindex)
    assert clsact_is_there(node.ifindex)
    assert [one.name for one in filters(node.ifindex)] == ["foreign"]
