"""A node with one pod's veth and programs that count, for tests of attaching.

Import the fixtures `loaded`, `node` and `mechanism` by name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from kpbpf.datapath import attach, build, clsact, programs
from kpbpf.datapath.netns import in_netns
from kpbpf.home import Home
from maps import bpf
from maps.abi import ABI_VERSION
from maps.layout import U32
from maps.table import open_tables
from tests.datapath.conftest import fresh_home
from tests.datapath.pair import Pair, run

ETHERTYPE = 0x88B5
"""IEEE 802.1, for local experiments."""

HEAD = """
#define MAP(name) ((void *)bpf_pseudo_fd(1, name##_FD))
static void *(*lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
#define TEXT(name) #name
#define PROGRAM(name) __attribute__((section(".bpf.fn." TEXT(name)), used))
"""
COUNTING = f"""
PROGRAM(NAME) int NAME(struct __sk_buff *skb)
{{
	u32 slot = SLOT;
	u64 *packets = lookup(MAP(kp_counters), &slot);
	if (packets && skb->protocol == __builtin_bswap16({ETHERTYPE}))
		__sync_fetch_and_add(packets, 1);
	return -1;
}}
"""
NOTHING = """
PROGRAM(NAME) int NAME(void *context)
{
	return 1;
}
"""
SLOTS = {"from_pod": 0, "to_pod": 1}
"""Where they count; programs for other places do so elsewhere."""


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
    wire: dict[str, Path]
    """The same under the names of programs for uplinks."""

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
            write_counting(source, first_slot)
            sets.append(programs.ensure_programs(home, source))
        yield home, sets


def write_counting(source: Path, first_slot: int) -> None:
    """Put a program in place of each of ours; those at sockets do nothing."""
    texts: dict[str, str] = {}
    for name, program in build.PROGRAMS.items():
        if program.file in texts and any("=" in option for option in program.options):
            continue  # the same function, which an option calls otherwise
        text = COUNTING if program.kind == "SCHED_CLS" else NOTHING
        text = text.replace("NAME", name).replace("SLOT", str(first_slot + SLOTS.get(name, 10)))
        texts[program.file] = texts.get(program.file, HEAD) + text
    for file, text in texts.items():
        (source / file).write_text(text)


@pytest.fixture
def node(pair: Pair, loaded: tuple[Home, list[dict[str, Path]]]) -> Iterator[Node]:
    """The programs at hand beside a pod's veth; what a test attached is taken off again."""
    home, (first, second) = loaded
    wire = {
        name: second["from_pod" if name.startswith("from") else "to_pod"]
        for name in (*attach.WIRE, *attach.WIRE_L3)
    }
    yield Node(home, pair.netns, pair.pod, pair.ifindex, first, second, wire)
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


def take_off(node: Node, mechanism: str, program: str = "from_pod") -> None:
    """Remove a program at ingress as somebody else would."""
    if mechanism == "clsact":
        run("tc", "filter", "del", "dev", "host0", "ingress")
        return
    pin = node.home.links_dir(ABI_VERSION) / f"{node.ifindex}-{program}"
    link = bpf.obj_get(pin)
    bpf.link_detach(link)
    os.close(link)
