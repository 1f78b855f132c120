"""The socket programs at the root of cgroup2: put on, swapped under load, found, taken off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpf_src import SOURCE
from kpbpf.datapath import cgroup, cgroup_root
from kpbpf.datapath.programs import ensure_programs, present
from kpbpf.errors import ForeignProgram, NoCgroup
from maps import bpf
from maps.abi import ABI_VERSION, Verdict
from tests.lab.agent import ROOT
from tests.lab.host import VIP, Host, own_cgroup, reach, silent

ALL = set(cgroup.ATTACH_TYPE)
MECHANISMS = {"link": "auto", "program": "clsact"}
"""What `state` says, and KPBPF_ATTACH that leads to it."""


@pytest.fixture(params=MECHANISMS)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of being attached in turn."""
    monkeypatch.setenv("KPBPF_ATTACH", MECHANISMS[request.param])
    return str(request.param)


def at_the_root() -> Counter[int]:
    """The numbers of all programs there, whoever's. Others may come and go meanwhile."""
    with cgroup_root.opened() as root:
        return Counter(
            number
            for kind in cgroup.ATTACH_TYPE.values()
            for number, _ in bpf.query(root.fd, kind, tcx=False)
        )


def ours(host: Host) -> set[int]:
    """The numbers of our programs, attached or not."""
    return {program.info.id for program in present(host.home)}


def running(host: Host) -> list[int]:
    """How often each of ours is at the root, where it is there at all."""
    there = at_the_root()
    return [there[number] for number in ours(host) if number in there]


@contextmanager
def root_directory() -> Iterator[Path]:
    with cgroup_root.opened() as root:
        yield Path(root.path)


def pins(host: Host) -> set[str]:
    return {path.name for path in host.home.links_dir(ABI_VERSION).glob("cgroup-*")}


# ---- on and off ---------------------------------------------------------------------------------


def test_attaching_again_changes_nothing(host: Host, how: str) -> None:
    cgroup.attach(host.home, host.pins, "host")
    first = cgroup.state(host.home)
    assert (set(first["attached"]), first["how"], first["why"]) == (ALL, how, "")
    cgroup.attach(host.home, host.pins, "host")
    assert cgroup.state(host.home) == first
    assert running(host) == [1] * len(ALL)


@pytest.mark.parametrize("by", ["detach", "off"])
def test_taken_off_nothing_is_left_and_others_stay(host: Host, how: str, by: str) -> None:
    host.serve(VIP[4], [host.a])
    cgroup.attach(host.home, host.pins, "host")
    assert reach(host.node, VIP[4]) == "a"
    with root_directory() as root, others_program(host, root, "multi") as number:
        if by == "detach":
            assert cgroup.detach(host.home)
            assert not cgroup.detach(host.home)
        else:
            cgroup.attach(host.home, host.pins, cgroup.OFF)
        assert silent(host.node, VIP[4])
        assert at_the_root()[number] == 1
    assert not running(host)
    assert not pins(host)
    assert set(cgroup.state(host.home)["missing"]) == ALL


@contextmanager
def others_program(host: Host, directory: Path, *flags: str) -> Iterator[int]:
    """Another owner's program at a cgroup, one that lets every call go on; yields its number."""
    text = '__attribute__((section("cgroup/connect4"))) int others(void *sock) { return 1; }'
    built, pin = host.home.run / "others.o", host.home.pins / "others"
    clang = ["clang", "-target", "bpf", "-O2", "-x", "c", "-c", "-", "-o", str(built)]
    subprocess.run(clang, input=text, text=True, check=True)
    subprocess.run(["bpftool", "prog", "load", built, pin], check=True)
    where = ["cgroup", "attach", str(directory), "connect4", "pinned", str(pin)]
    try:
        subprocess.run(["bpftool", *where, *flags], check=True)
        fd = bpf.obj_get(pin)
        try:
            yield bpf.prog_info(fd).id
        finally:
            os.close(fd)
            where[1] = "detach"
            subprocess.run(["bpftool", *where], check=True)
    finally:
        pin.unlink()


def test_what_somebody_took_off_is_seen_and_put_on_again(host: Host, how: str) -> None:
    host.serve(VIP[4], [host.a])
    cgroup.attach(host.home, host.pins, "host")
    _break(host, how)
    assert cgroup.state(host.home)["missing"] == ["connect4"]
    assert silent(host.node, VIP[4])
    cgroup.attach(host.home, host.pins, "host")
    assert not cgroup.state(host.home)["missing"]
    assert reach(host.node, VIP[4]) == "a"


def _break(host: Host, how: str) -> None:
    links = host.home.links_dir(ABI_VERSION)
    if how == "link":
        fd = bpf.obj_get(links / "cgroup-connect4")
        bpf.link_detach(fd)
    else:
        fd = bpf.obj_get(links / "cgroup-attached-connect4")
        with cgroup_root.opened() as root:
            bpf.prog_detach(fd, root.fd, cgroup.ATTACH_TYPE["connect4"])
    os.close(fd)


def test_the_ways_give_way_to_each_other(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.serve(VIP[4], [host.a])
    for how in ("program", "link", "program"):
        monkeypatch.setenv("KPBPF_ATTACH", MECHANISMS[how])
        cgroup.attach(host.home, host.pins, "host")
        assert cgroup.state(host.home)["how"] == how
        assert running(host) == [1] * len(ALL)
        assert reach(host.node, VIP[4]) == "a"


def test_a_program_that_allows_none_beside_it_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup.detach(host.home)
    with own_cgroup() as mine, others_program(host, mine) as number:
        monkeypatch.setenv(cgroup_root.CHOSEN, str(mine))
        with pytest.raises(ForeignProgram, match=f"{mine} is taken") as raised:
            cgroup.attach(host.home, host.pins, "host")
        assert str(number) in raised.value.why
        assert "connect4" in cgroup.state(host.home)["missing"]
        cgroup.detach(host.home)


# ---- an upgrade ---------------------------------------------------------------------------------


def test_an_upgrade_swaps_the_programs_and_no_connection_fails(
    host: Host, how: str, tmp_path: Path
) -> None:
    host.serve(VIP[4], [host.a])
    cgroup.attach(host.home, host.pins, "host")
    before = cgroup.state(host.home)["attached"]
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    (source / "socket.c").write_text((source / "socket.c").read_text() + "/* newer */\n")
    newer = ensure_programs(host.home, source)
    answers: list[str] = []
    translated = host.counted(Verdict.PASS_TO_BACKEND)
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            answers.append(reach(host.node, VIP[4]))

    client = threading.Thread(target=ask)
    client.start()
    try:
        for _ in range(50):
            cgroup.attach(host.home, newer, "host")
            cgroup.attach(host.home, host.pins, "host")
        cgroup.attach(host.home, newer, "host")
    finally:
        ended.set()
        client.join()
    after = cgroup.state(host.home)["attached"]
    assert set(after) == ALL
    assert not set(after.values()) & set(before.values())
    assert len(answers) > 10
    assert set(answers) == {"a"}
    assert host.counted(Verdict.PASS_TO_BACKEND) - translated == len(answers)


# ---- where the root is --------------------------------------------------------------------------


def state_inside(host: Host, *unshare: str, before: str = "") -> dict[str, Any]:
    """What `state` says in other namespaces, where process 1 is not the machine's either."""
    code = (
        "import json, sys; from kpbpf.home import Home; from kpbpf.datapath import cgroup; "
        "print(json.dumps(cgroup.state(Home.choose(*sys.argv[1:]))))"
    )
    ours = f"{sys.executable} -c '{code}' {host.home.pins} {host.home.run}"
    script = f"umount -a -t cgroup2; {before} {ours}"
    outer = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", *unshare]
    done = subprocess.run(
        [*outer, "sh", "-ec", script], check=True, capture_output=True, text=True, cwd=ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_root_is_found_where_it_is_mounted(host: Host) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    assert cgroup.state(host.home)["cgroup"] in {m[1] for m in mounts if m[2] == "cgroup2"}


def test_a_mount_of_our_own_serves_where_there_is_none(host: Host) -> None:
    found = state_inside(host)
    assert found["cgroup"] == "a mount of our own"
    assert set(found["attached"]) == ALL


def test_a_container_that_sees_a_part_goes_by_the_namespace_of_process_1(host: Host) -> None:
    with own_cgroup():
        found = state_inside(host, before="unshare --cgroup")
    assert found["cgroup"] == "a mount of our own"
    assert set(found["attached"]) == ALL


def test_a_container_that_sees_a_part_says_so(host: Host) -> None:
    with own_cgroup():
        mount = "mount -t cgroup2 none /mnt;"
        found = state_inside(host, "--cgroup", before=mount)
    assert set(found["missing"]) == ALL
    assert "holds only a part of it" in found["why"]
    assert "--socket-lb=off" in found["why"]


def test_a_chosen_directory_has_to_be_one_of_cgroup2(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(cgroup_root.CHOSEN, str(tmp_path))
    with pytest.raises(NoCgroup, match="cgroup"):
        cgroup.attach(host.home, host.pins, "host")
    assert str(tmp_path) in cgroup.state(host.home)["why"]


def test_the_daemon_goes_on_without_a_cgroup_and_says_so_once(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(cgroup_root.CHOSEN, str(tmp_path))
    for _ in range(3):
        host.sockets.keep(host.pins, "host")
    (line,) = (record.getMessage() for record in caplog.records)
    assert "has no cgroup to attach to" in line
    assert "do:" in line
    monkeypatch.delenv(cgroup_root.CHOSEN)
    host.sockets.keep(host.pins, "host")
    assert not host.sockets.state()["missing"]
    host.sockets.keep(host.pins, "off")
    assert set(host.sockets.state()["missing"]) == ALL
