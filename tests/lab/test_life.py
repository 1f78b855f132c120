"""The daemon may come, go, crash and change; packets and entries do not suffer."""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from tests.lab.agent import ROOT, until
from tests.lab.lab import Lab, LabService
from tests.lab.manifests import Endpoint
from tests.lab.sockets import Download, Load, ask_tcp, ask_udp
from tests.lab.world import FAMILIES, IPV4, IPV6, Place

WRITTEN_BY_THE_DAEMON = ("frontends", "backends", "members", "names", "endpoints", "configs")


def test_a_download_loses_no_byte_while_the_daemon_restarts(lab: Lab, family: int) -> None:
    for backend in (lab.a, lab.remote):
        with (
            lab.service(backend) as service,
            Download(lab.client, service.addresses[family], service.port) as download,
        ):
            assert download.grows(), download.fault
            assert lab.kpbpf.stop() == 0
            assert download.grows(), download.fault
            lab.kpbpf.start()
            assert download.grows(), download.fault
        assert not download.fault


def test_services_are_reached_while_no_daemon_runs(lab: Lab, family: int) -> None:
    with lab.service(lab.a, lab.remote) as service:
        lab.kpbpf.stop(signal.SIGKILL)
        try:
            servers = {
                ask_tcp(lab.client, service.addresses[family], service.port).server
                for _ in range(40)
            }
        finally:
            lab.kpbpf.start()
    assert servers == {"pod-a", "remote"}


def test_what_changed_while_no_daemon_ran_is_caught_up(lab: Lab, family: int) -> None:
    with lab.service(lab.a) as changed, lab.service(lab.a) as removed:
        lab.kpbpf.stop()
        changed.write([Endpoint(lab.b)])
        removed.path.unlink()
        lab.kpbpf.start()
        changed.settle()
        assert ask_tcp(lab.client, changed.addresses[family], changed.port).server == "pod-b"
        assert removed.backends(family, "TCP") is None


def test_a_restart_without_a_change_leaves_every_entry_as_it_was(lab: Lab) -> None:
    with lab.service(lab.a, lab.b), lab.service(lab.remote, sessionAffinity="ClientIP"):
        before = lab.kpbpf.entries(*WRITTEN_BY_THE_DAEMON)
        for how in (signal.SIGTERM, signal.SIGKILL):
            lab.kpbpf.stop(how)
            lab.kpbpf.start()
            assert lab.kpbpf.entries(*WRITTEN_BY_THE_DAEMON) == before


def test_a_daemon_started_twice_says_so_and_exits(lab: Lab) -> None:
    assert lab.kpbpf.daemon is not None
    second = lab.kpbpf.cli("run", "--manifests", str(lab.kpbpf.manifests), "--node", "node-1")
    assert second.returncode == 1
    assert str(lab.kpbpf.daemon.pid) in second.stderr
    assert lab.kpbpf.daemon.poll() is None


def test_killed_at_random_moments_it_never_leaves_a_wrong_entry(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    places = (lab.a, lab.b, lab.remote, lab.narrow)
    with ExitStack() as stack:
        bystander = stack.enter_context(lab.service(lab.a, lab.remote))
        changing = [stack.enter_context(lab.service(lab.a)) for _ in range(20)]
        untouched = entries_of(lab, bystander)
        for _ in range(6):
            stopping = threading.Event()
            churn = threading.Thread(target=rewrite, args=(changing, places, dice, stopping))
            churn.start()
            time.sleep(dice.uniform(0.0, 0.25))
            lab.kpbpf.stop(signal.SIGKILL)
            stopping.set()
            churn.join()
            lab.kpbpf.start()
            assert entries_of(lab, bystander) == untouched
            for service in (bystander, *changing):
                service.settle()
            assert_no_orphans(lab)


def rewrite(
    services: list[LabService],
    places: tuple[Place, ...],
    dice: random.Random,
    stopping: threading.Event,
) -> None:
    """Give random Services random endpoints, over and over."""
    while not stopping.is_set():
        some = dice.sample(places, dice.randrange(len(places) + 1))
        dice.choice(services).write([Endpoint(place) for place in some])
        time.sleep(0.002)


def entries_of(lab: Lab, service: LabService) -> list[object]:
    """The raw frontends and backends of a Service: which ids and which base it has."""
    with lab.kpbpf.tables() as tables:
        found = sorted(
            (key, value)
            for key, value in tables.frontends.items()
            if key.addr in service.packed_addresses()
        )
        bases = {value.base for _, value in found}
        return [*found, *sorted(item for item in tables.backends.items() if item[0].base in bases)]


def assert_no_orphans(lab: Lab) -> None:
    """Every backend belongs to a frontend's set, every member and name to a Service port."""
    with lab.kpbpf.tables() as tables:
        frontends = [value for _, value in tables.frontends.items()]
        services = {frontend.service for frontend in frontends}
        slots = {
            (frontend.base, slot)
            for frontend in frontends
            for slot in range(frontend.count + frontend.local_count)
        }
        assert {(key.base, key.slot) for key, _ in tables.backends.items()} == slots
        assert {key.service for key, _ in tables.members.items()} <= services
        assert {key.id for key, _ in tables.names.items() if key.kind == 0} == services


@pytest.mark.parametrize("mechanism", ["tcx", "clsact"])
def test_programs_are_swapped_under_load_without_losing_a_packet(
    make_lab: Callable[..., Lab], mechanism: str, tmp_path: Path
) -> None:
    lab = make_lab(KPBPF_ATTACH=mechanism)
    versions = {programs(lab)}
    with lab.service(lab.a) as local, lab.service(lab.remote) as far, ExitStack() as stack:
        loads = [
            stack.enter_context(Load(lab.client, service.addresses[family], service.port))
            for service, family in product((local, far), FAMILIES)
        ]
        for number in range(2):
            lab.kpbpf.stop()
            lab.kpbpf.root = edited_sources(tmp_path, number)
            lab.kpbpf.start()
            versions.add(programs(lab))
        time.sleep(0.2)
        stack.close()
        for load in loads:
            assert load.sent > 1000
            assert load.lost == []
    assert len(versions) == 3, "each start swapped the programs"


def edited_sources(directory: Path, number: int) -> Path:
    """Return a directory with a copy of bpf_src that differs in a comment."""
    root = directory / f"build-{number}"
    copy = shutil.copytree(ROOT / "bpf_src", root / "bpf_src")
    with (copy / "from_pod.c").open("a") as source:
        source.write(f"/* build {number} */\n")
    return root


def programs(lab: Lab) -> str:
    """Which programs are pinned now: the name of the directory made of their hash."""
    (directory,) = lab.kpbpf.home.pins.glob("v*/progs/*")
    return directory.name


@pytest.mark.parametrize("mechanism", ["tcx", "clsact"])
def test_cleanup_takes_off_everything_of_ours_and_nothing_else(
    make_lab: Callable[..., Lab], mechanism: str
) -> None:
    lab = make_lab(KPBPF_ATTACH=mechanism)
    node, veth = lab.world.node, lab.client.host_ifname
    put_foreign_filter(lab, veth)
    with lab.service(lab.a) as service:
        ask_tcp(lab.client, service.addresses[IPV4], service.port)
        assert foreign_filter_works(lab), "a program that is not ours still runs behind ours"
        lab.kpbpf.stop()
        lab.kpbpf.ask("cleanup", "--yes")
        with pytest.raises(OSError, match=r"timed out|Network is unreachable|No route"):
            ask_udp(lab.client, service.addresses[IPV4], service.port)
    assert not lab.kpbpf.home.pins.exists()
    assert "kpbpf" not in node.run("tc", "filter", "show", "dev", veth, "ingress")
    assert foreign_filter_works(lab), "a program that is not ours is still there"
    others = json.loads(node.run("tc", "-j", "qdisc", "show", "dev", lab.a.host_ifname))
    assert "clsact" not in {qdisc["kind"] for qdisc in others}
    assert ask_tcp(lab.client, lab.a.addresses[IPV6], 8080).server == "pod-a"


def put_foreign_filter(lab: Lab, veth: str) -> None:
    """Somebody else's tc program: it drops IPv4 packets with the type of service 4."""
    drops_tos_4 = "4,48 0 0 15,21 0 1 4,6 0 0 2,6 0 0 4294967295"
    if "clsact" not in lab.world.node.run("tc", "qdisc", "show", "dev", veth):
        lab.world.node.run("tc", "qdisc", "add", "dev", veth, "clsact")
    lab.world.node.run(
        *f"tc filter add dev {veth} ingress prio 500 protocol all bpf".split(),
        *("bytecode", drops_tos_4, "direct-action"),
    )


def foreign_filter_works(lab: Lab) -> bool:
    """Whether packets with that type of service are dropped, and others pass."""
    passed = []
    for tos in (0, 4):
        with lab.client.socket(4, 2) as sock:
            sock.setsockopt(0, 1, tos)  # IPPROTO_IP, IP_TOS
            sock.settimeout(0.3)
            sock.sendto(b"hello", (lab.remote.addresses[IPV4], 8080))
            try:
                passed.append(sock.recv(100).endswith(b"hello"))
            except TimeoutError:
                passed.append(False)
    return passed == [True, False]


def test_a_pod_that_vanished_leaves_no_entry_behind(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab()
    gone = lab.world.add_pod("gone")
    lab.kpbpf.attach(gone)
    assert gone.addresses[IPV4] in lab.kpbpf.ask("ep", "ls")
    lab.world.node.links(f"link delete {gone.host_ifname}")
    until(
        lambda: gone.addresses[IPV4] not in lab.kpbpf.ask("ep", "ls"),
        "the endpoint is gone from ep ls",
        timeout_sec=30,
    )
