"""On uplinks, other people's filters and XDP programs stay; ours come back when removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpbpf.datapath import attach
from maps import bpf
from maps.abi import ABI_VERSION
from tests.lab.uplinked import Daemon, daemon, eventually, pinned, source, world
from tests.lab.world import BPFFS, World

__all__ = ["daemon", "pinned", "source", "world"]


@pytest.mark.parametrize("mechanism", ["tcx", "clsact"])
def test_a_program_that_somebody_removes_is_back(
    world: World, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", mechanism)
    with daemon.running():
        daemon.settles(uplink="wire")
        if mechanism == "clsact":
            world.node.run("tc", "filter", "del", "dev", "uplink", "ingress")
        else:
            link = bpf.obj_get(daemon.home.links_dir(ABI_VERSION) / "100-from_wire")
            bpf.link_detach(link)
            os.close(link)
        daemon.settles(uplink="wire")
        eventually(lambda: daemon.uplinks.restored == 1)
    assert [event.reason for event in daemon.events] == ["ProgramsRestored"]


@pytest.fixture
def others(world: World) -> Iterator[Path]:
    """Somebody else's pinned programs, `xdp` and `tc`, which count in slots 0 and 1 of `seen`."""
    directory = BPFFS / f"{world.prefix}-others"
    directory.mkdir()
    try:
        subprocess.run([sys.executable, "-c", OTHERS, str(directory)], check=True, cwd=ROOT)
        yield directory
    finally:
        shutil.rmtree(directory)


def counted(others: Path, slot: int) -> int:
    fd = bpf.obj_get(others / "seen")
    try:
        value = bpf.lookup(fd, slot.to_bytes(4, sys.byteorder), 8)
    finally:
        os.close(fd)
    return int.from_bytes(value or b"", sys.byteorder)


def count_on(world: World, others: Path, slot: int, least: int) -> None:
    """Packets of the router still come by the others' program."""
    before = counted(others, slot)
    world.node.run("ping", "-c3", "-i0.1", "-W2", "192.168.50.2")
    assert counted(others, slot) >= before + least


@pytest.mark.parametrize("mechanism", ["tcx", "clsact"])
def test_filters_of_others_stay_and_count_on(
    world: World, daemon: Daemon, others: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    monkeypatch.setenv("KPBPF_ATTACH", mechanism)
    world.node.run("tc", "qdisc", "add", "dev", "uplink", "clsact")
    for hook in ("ingress", "egress"):
        words = f"tc filter add dev uplink {hook} prio 50 bpf da pinned {others}/tc"
        world.node.run(*words.split())
    with daemon.running():
        daemon.settles(uplink="wire")
        count_on(world, others, 1, 6)
    with world.node.inside():
        attach.detach(daemon.home, 100)
    count_on(world, others, 1, 6)


def test_an_xdp_program_of_somebody_else_stays_and_counts_on(
    world: World, daemon: Daemon, others: Path
) -> None:
    world.node.run("ip", "link", "set", "uplink", "xdpgeneric", "pinned", str(others / "xdp"))
    with daemon.running():
        daemon.settles(uplink="wire")
        count_on(world, others, 0, 3)
    assert "xdpgeneric" in world.node.run("ip", "link", "show", "uplink")


ROOT = Path(__file__).resolve().parents[2]

OTHERS = """
import os, sys
from pathlib import Path
from bpf_src import SOURCE
from kpbpf.datapath.build import import_bcc
from maps import bpf
os.environ["BCC_KERNEL_SOURCE"] = str(SOURCE / "stub")
bcc = import_bcc()
made = bcc.BPF(text=b'''
BPF_ARRAY(seen, u64, 2);
static inline void count(u32 slot)
{
	u64 *packets = seen.lookup(&slot);
	if (packets)
		__sync_fetch_and_add(packets, 1);
}
int xdp(struct xdp_md *context) { count(0); return XDP_PASS; }
int tc(struct __sk_buff *packet) { count(1); return -1; }
''')
for name, kind in (("xdp", bcc.BPF.XDP), ("tc", bcc.BPF.SCHED_CLS)):
    bpf.obj_pin(made.load_func(name, kind).fd, Path(sys.argv[1], name))
bpf.obj_pin(made["seen"].map_fd, Path(sys.argv[1], "seen"))
"""
