"""Attaching, by tcx and by clsact: ours first, nobody else's touched, swapped without a loss.

The programs here only count packets of an EtherType that nobody uses, which a raw socket at the
other end of a veth sends.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from kpbpf.datapath import attach, clsact, programs
from kpbpf.datapath.attached import Attached
from kpbpf.datapath.monitor import Monitor
from kpbpf.datapath.netns import in_netns
from kpbpf.errors import ForeignProgram, LinkGone, NotFound, Usage
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION
from maps.layout import U32
from maps.table import open_tables
from tests.datapath.conftest import fresh_home
from tests.datapath.pair import Pair, run

ETHERTYPE = 0x88B5
"""IEEE 802.1, for local experiments."""

COUNTING = f"""
#define MAP(name) ((void *)bpf_pseudo_fd(1, name##_FD))
static void *(*lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
#define PROGRAM __attribute__((section(".bpf.fn.NAME"), used))
PROGRAM int NAME(struct __sk_buff *skb)
{{
	u32 slot = SLOT;
	u64 *packets = lookup(MAP(kp_counters), &slot);
	if (packets && skb->protocol == __builtin_bswap16({ETHERTYPE}))
		__sync_fetch_and_add(packets, 1);
	return -1;
}}
"""


class Node(NamedTuple):
    """A network namespace with one pod's veth, and two sets of programs to run there."""

    home: Home
    netns: Path
    pod: Path
    ifindex: int
    first: dict[str, Path]
    """Counts from_pod in slot 0 and to_pod in slot 1."""
    second: dict[str, Path]
    """Counts them in slots 2 and 3."""

    def counted(self, slot: int) -> int:
        with open_tables(self.home) as tables:
            counter = tables.counters.sum(U32(slot))
        assert counter is not None
        return counter.packets

    def send(self, frames: int) -> None:
        """Send from the pod to the node."""
        with in_netns(self.pod), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for _ in range(frames):
                raw.send(b"\xff" * 12 + ETHERTYPE.to_bytes(2, "big") + bytes(50))


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Home, list[dict[str, Path]]]]:
    """Two sets of counting programs; loading takes a second, so all tests share them."""
    source = tmp_path_factory.mktemp("source")
    with ExitStack() as stack:
        home = next(homes := fresh_home(tmp_path_factory.mktemp("home")))
        stack.callback(lambda: next(homes, None))
        open_tables(home, create=True).close()
        sets = []
        for first_slot in (0, 2):
            for slot, name in enumerate(("from_pod", "to_pod"), first_slot):
                text = COUNTING.replace("NAME", name).replace("SLOT", str(slot))
                (source / f"{name}.c").write_text(text)
            sets.append(programs.ensure_programs(home, source))
        yield home, sets


@pytest.fixture
def node(pair: Pair, loaded: tuple[Home, list[dict[str, Path]]]) -> Iterator[Node]:
    """The programs at hand beside a pod's veth; what a test attached is taken off again."""
    home, (first, second) = loaded
    yield Node(home, pair.netns, pair.pod, pair.ifindex, first, second)
    for one in attach.attachments(home):
        attach.detach(home, one.ifindex)


@pytest.fixture(params=["tcx", "clsact"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen: str = request.param
    monkeypatch.setenv("KPBPF_ATTACH", chosen)
    return chosen


def program_id(pin: Path) -> int:
    return using(pin, lambda fd: bpf.prog_info(fd).id)


def using(pin: Path, do: Callable[[int], int]) -> int:
    fd = bpf.obj_get(pin)
    try:
        return do(fd)
    finally:
        os.close(fd)


def filters(ifindex: int, program: str = "from_pod") -> list[clsact.Filter]:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        return clsact.filters(netlink, ifindex, program)


def foreign_filter(ifindex: int, pin: Path, priority: int, handle: int) -> None:
    """Attach as somebody else would, by clsact."""
    from pyroute2 import IPRoute

    def add(fd: int) -> int:
        options = {"fd": fd, "name": "foreign", "direct_action": True, "protocol": 3}
        with IPRoute() as netlink:
            parent = clsact.PARENT["from_pod"]
            netlink.tc(
                "add-filter", "bpf", ifindex, handle, parent=parent, prio=priority, **options
            )
        return fd

    using(pin, add)


def clsact_is_there(ifindex: int) -> bool:
    return "qdisc clsact" in run("tc", "qdisc", "show", "dev", socket.if_indextoname(ifindex))


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


def take_off(node: Node, mechanism: str) -> None:
    """Remove from_pod as somebody else would."""
    if mechanism == "clsact":
        run("tc", "filter", "del", "dev", "host0", "ingress")
        return
    pin = node.home.links_dir(ABI_VERSION) / f"{node.ifindex}-from_pod"
    link = bpf.obj_get(pin)
    bpf.link_detach(link)
    os.close(link)


def test_looking_again_sees_what_a_first_look_would(node: Node, mechanism: str) -> None:
    whole = {name: program_id(pin) for name, pin in node.first.items()}
    with closing(Attached(node.home)) as attached:
        assert attached.look() == {}
        attach.attach(node.home, node.ifindex, node.first)
        assert attached.look() == attached.look() == {node.ifindex: whole}
        take_off(node, mechanism)
        assert attached.look() == {node.ifindex: whole | {"from_pod": 0}}
        attach.attach(node.home, node.ifindex, node.second)
        swapped = {name: program_id(pin) for name, pin in node.second.items()}
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
