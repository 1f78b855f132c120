"""Pods are attached as the API names them, and followed: real interfaces, maps and programs."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from controllers import endpoint, endpoints, origin
from controllers.following import Following
from controllers.hooks import KernelHooks
from controllers.loop import Loop
from kpbpf.address import from_text, to_text
from kpbpf.datapath import attach, programs
from kpbpf.datapath.netns import find_host_end
from kpbpf.home import Home
from kpbpf.model.event import Event
from kpbpf.model.objects import Pod
from maps import bpf, config, show
from maps.abi import ABI_VERSION
from maps.table import Tables, open_tables
from tests.lab.manifests import NODE_NAME
from tests.lab.podnet import add_bridge, add_bridged_pod, bare_pod, model
from tests.lab.world import BPFFS, IPV4, IPV6, Place, World

SOON_SEC = 15.0

_homes = count()


class Node:
    """The part of a daemon that follows pods, in the world's node namespace."""

    def __init__(self, world: World, home: Home, tables: Tables) -> None:
        self.world = world
        self.home = home
        self.tables = tables
        self.events: list[Event] = []
        self._pins = programs.ensure_programs(home)

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """A daemon's life, with a loop in a thread of its own; all stays attached at its end."""
        self._loop = loop = Loop()
        with self.world.node.inside():
            hooks = KernelHooks(self.home, self._pins, followed=True)
            tell = self.events.append
            self._following = Following(self.home, self.tables, hooks, NODE_NAME, tell)
            self._following.start(loop)

        def run() -> None:
            with self.world.node.inside():
                loop.run()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            loop.stop()
            thread.join()
            self._following.close()

    def tell(self, *pods: Pod, gone: tuple[Pod, ...] = (), synced: bool = True) -> None:
        """What a source of objects does: changes, then a wake. Waits until it was taken up."""
        taken_up = threading.Event()

        def take_up() -> None:
            for pod in gone:
                self._following.pods.changed(pod.key, None)
            for pod in pods:
                self._following.pods.changed(pod.key, pod)
            if synced:
                self._following.pods.synced()
            self._following.work()
            taken_up.set()

        self._loop.add("objects", take_up)
        assert taken_up.wait(SOON_SEC)

    def why_not(self) -> dict[str, str]:
        return {one.pod: one.why_not for one in self._following.pods.status()}

    def found(self) -> dict[str, tuple[str, str, set[str]]]:
        """The endpoints in the maps: by pod, how it was found, its interface and addresses."""
        found = {}
        with self.world.node.inside():
            for one in endpoint.present(self.tables).values():
                how, pod = origin.of(one.name)
                ips = set(map(to_text, one.addresses))
                found[pod] = (how, show.interface_name(one.ifindex) or "gone", ips)
        return found

    def in_force(self, ifname: str) -> bool:
        """Whether both programs run on an interface."""
        with self.world.node.inside():
            index = socket.if_nametoindex(ifname)
            ours = [one for one in attach.attachments(self.home) if one.ifindex == index]
        return [bool(one.program_id) for one in ours] == [True, True]

    def endpoint_of(self, pod: Place) -> endpoint.Pod:
        found = endpoint.present(self.tables).values()
        address = from_text(pod.addresses[IPV4])
        return next(one for one in found if address in one.addresses)


def expected(pod: Place, how: str, name: str = "") -> dict[str, tuple[str, str, set[str]]]:
    return {f"default/{name or pod.name}": (how, pod.host_ifname, set(pod.addresses.values()))}


def eventually(holds: Callable[[], bool], otherwise: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + SOON_SEC
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture(scope="module")
def pins() -> Iterator[Path]:
    """Maps and programs for all tests here, since loading takes a second."""
    made = BPFFS / f"kpt-{os.getpid()}-follow{next(_homes)}"
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def node(world: World, pins: Path, tmp_path: Path) -> Iterator[Node]:
    home = Home(pins, tmp_path / "run")
    home.ensure_run()
    with open_tables(home, create=True) as tables:
        config.ensure(tables)
        yield Node(world, home, tables)
        with world.node.inside():
            for one in attach.attachments(home):
                attach.detach(home, one.ifindex)
        for key, _ in list(tables.endpoints.items()):
            tables.endpoints.delete(key)
        for name, _ in list(tables.names.items()):
            tables.names.delete(name)


def settles(node: Node, *wanted: dict[str, tuple[str, str, set[str]]]) -> None:
    """Wait until the endpoints in the maps are these, with their programs."""
    whole = {pod: found for one in wanted for pod, found in one.items()}
    eventually(lambda: node.found() == whole, lambda: (node.found(), node.why_not()))
    eventually(lambda: all(node.in_force(host) for _, host, _ in whole.values()))


def test_pods_that_ran_before_are_attached_at_start(world: World, node: Node) -> None:
    pods = [world.add_pod("a"), world.add_pod("b")]
    with node.daemon():
        node.tell(*map(model, pods))
        settles(node, *(expected(pod, "route") for pod in pods))
    assert node.events == []


def test_bridged_pods_are_attached_though_their_neighbours_are_unknown(
    world: World, node: Node
) -> None:
    add_bridge(world)
    pods = [add_bridged_pod(world, name, number) for number, name in enumerate("abc", 2)]
    with node.daemon():
        node.tell(*map(model, pods))
        settles(node, *(expected(pod, "neighbour") for pod in pods))


def test_a_pod_whose_interface_comes_late_is_attached_when_it_comes(
    world: World, node: Node
) -> None:
    late = Pod("default", "pod-a", NODE_NAME, (from_text("10.42.0.2"),), (), False, False, "uid")
    with node.daemon():
        node.tell(late)
        assert "leads to uplink" in node.why_not()["default/pod-a"]
        pod = world.add_pod("a")
        eventually(lambda: node.found() == {"default/pod-a": ("route", "veth-a", {"10.42.0.2"})})
        node.tell(model(pod, uid="uid"))
        settles(node, expected(pod, "route"))


def test_a_pod_that_goes_takes_its_endpoint_along(world: World, node: Node) -> None:
    stays, goes, finishes = (world.add_pod(name) for name in "abc")
    with node.daemon():
        node.tell(*map(model, (stays, goes, finishes)))
        settles(node, *(expected(pod, "route") for pod in (stays, goes, finishes)))
        node.tell(model(finishes, finished=True), gone=(model(goes),))
        settles(node, expected(stays, "route"))
        assert not node.in_force(goes.host_ifname)


def test_an_address_is_given_again_to_a_new_pod_while_the_old_one_is_still_known(
    world: World, node: Node
) -> None:
    old = bare_pod(world, "old", "10.45.0.2/32", "fd45::2/128")
    world.node.links("route add 10.45.0.2/32 dev veth-old", "route add fd45::2/128 dev veth-old")
    with node.daemon():
        node.tell(model(old))
        settles(node, expected(old, "route"))
        world.node.links("link del veth-old")
        new = bare_pod(world, "new", "10.45.0.2/32", "fd45::2/128")
        world.node.links(
            "route add 10.45.0.2/32 dev veth-new", "route add fd45::2/128 dev veth-new"
        )
        node.tell(model(new))
        settles(node, expected(new, "route"))
        eventually(lambda: node.why_not()["default/old"].endswith("was given to default/new"))
        node.tell(gone=(model(old),))
        settles(node, expected(new, "route"))


def test_changed_addresses_are_followed(world: World, node: Node) -> None:
    pod = world.add_pod("a")
    with node.daemon():
        node.tell(model(pod))
        settles(node, expected(pod, "route"))
        pod.links("address add 10.42.0.77/32 dev eth0")
        world.node.links("route add 10.42.0.77/32 dev veth-a")
        changed = Place(pod.name, pod.netns, pod.addresses | {IPV4: "10.42.0.77"}, "veth-a")
        node.tell(model(changed))
        settles(node, expected(changed, "route"))


def test_a_new_interface_of_the_same_pod_is_followed(world: World, node: Node) -> None:
    pod = world.add_pod("a")
    with node.daemon():
        node.tell(model(pod))
        settles(node, expected(pod, "route"))
        before = node.endpoint_of(pod)
        world.node.links("link del veth-a")
        eventually(lambda: node.found() == {})
        world.node.links(
            f"link add veth-a index 170 type veth peer name eth0 netns {pod.netns.name}",
            "link set veth-a up",
        )
        pod.links("link set eth0 up", "address add 10.42.0.2/32 dev eth0")
        pod.links("address add fd42::2/128 dev eth0 nodad")
        world.node.links("route add 10.42.0.2/32 dev veth-a", "route add fd42::2/128 dev veth-a")
        settles(node, expected(pod, "route"))
        assert node.endpoint_of(pod).ifindex == 170 != before.ifindex


def test_a_changed_mac_is_followed_as_soon_as_the_node_hears_of_it(
    world: World, node: Node
) -> None:
    pod = world.add_pod("a")
    with node.daemon():
        node.tell(model(pod))
        settles(node, expected(pod, "route"))
        pod.links("link set eth0 address 02:00:00:00:00:77")
        pod.run("ip", "neighbour", "flush", "all")
        pod.run("ping", "-c1", "-W1", world.node.addresses[IPV4])
        eventually(lambda: node.endpoint_of(pod).pod_mac.hex(":") == "02:00:00:00:00:77")


def test_what_a_restart_finds_goes_only_when_all_pods_were_read(world: World, node: Node) -> None:
    stays, goes = world.add_pod("a"), world.add_pod("b")
    both = [expected(pod, "route") for pod in (stays, goes)]
    with node.daemon():
        node.tell(*map(model, (stays, goes)))
        settles(node, *both)
    settles(node, *both)
    with node.daemon():
        node.tell(model(stays), synced=False)
        settles(node, *both)
        node.tell()
        settles(node, expected(stays, "route"))


def test_what_was_made_by_hand_is_left_as_it_is(world: World, node: Node) -> None:
    pod = world.add_pod("a")
    with node.daemon():
        with world.node.inside():
            hooks = KernelHooks(node.home, programs.ensure_programs(node.home))
            link = find_host_end("eth0", pod.netns)
            endpoints.Endpoints(node.home, node.tables, hooks).add(link, "netns=/a pod=mine/own")
        node.tell(model(pod))
        settles(node, {"mine/own": (origin.BY_HAND, "veth-a", set(pod.addresses.values()))})
        assert node.why_not() == {"default/pod-a": ""}
        node.tell(gone=(model(pod),))
        settles(node, {"mine/own": (origin.BY_HAND, "veth-a", set(pod.addresses.values()))})


@pytest.fixture(params=["tcx", "clsact"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen: str = request.param
    monkeypatch.setenv("KPBPF_ATTACH", chosen)
    return chosen


def test_programs_that_somebody_removed_are_back_and_an_event_says_so(
    world: World, node: Node, mechanism: str
) -> None:
    pod = world.add_pod("a")
    with node.daemon():
        node.tell(model(pod, uid="the-uid"))
        settles(node, expected(pod, "route"))
        take_off(node, pod, mechanism)
        eventually(lambda: bool(node.events) and node.in_force("veth-a"))
    (event,) = node.events
    assert (event.regarding, event.uid) == (model(pod).key, "the-uid")
    assert (event.reason, event.action) == ("ProgramsRestored", "RestorePrograms")
    assert event.warning
    assert "removed from interface 102" in event.note


def take_off(node: Node, pod: Place, mechanism: str) -> None:
    """Remove from_pod as somebody else would."""
    if mechanism == "clsact":
        node.world.node.run("tc", "filter", "del", "dev", pod.host_ifname, "ingress")
        return
    with node.world.node.inside():
        ifindex = socket.if_nametoindex(pod.host_ifname)
    link = bpf.obj_get(node.home.links_dir(ABI_VERSION) / f"{ifindex}-from_pod")
    bpf.link_detach(link)
    os.close(link)


def test_a_hundred_pods_are_attached_and_let_go(world: World, node: Node) -> None:
    crowd = bare_pod(world, "crowd", "10.45.255.1/32", "fd45::ffff/128")
    numbers = range(1, 101)
    world.node.links(
        *(
            f"link add v{i} index {1000 + i} type veth peer name e{i} netns {crowd.netns.name}"
            for i in numbers
        ),
        *(f"link set v{i} up" for i in numbers),
    )
    crowd.links(
        *(f"link set e{i} up" for i in numbers),
        *(f"address add 10.45.0.{i}/32 dev e{i}" for i in numbers),
        *(f"address add fd45::{i:x}/128 dev e{i} nodad" for i in numbers),
    )
    world.node.links(*(f"route add 10.45.0.{i}/32 dev v{i}" for i in numbers))
    pods = [
        Place(f"p{i}", crowd.netns, {IPV4: f"10.45.0.{i}", IPV6: f"fd45::{i:x}"}, f"v{i}")
        for i in numbers
    ]
    with node.daemon():
        node.tell(*map(model, pods))
        eventually(lambda: len(node.found()) == len(pods), node.why_not)
        settles(node, *(expected(pod, "route") for pod in pods))
        node.tell(gone=tuple(map(model, pods[1:])))
        settles(node, expected(pods[0], "route"))
