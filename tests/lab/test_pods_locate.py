"""Pods are found from their addresses, whatever kind of CNI made them; or it is told why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from kpbpf.address import from_text, mac_text
from kpbpf.datapath.locate import FAR_ENDS_AGE_SEC, Located, Locator, NotLocated
from tests.lab.podnet import add_bridge, add_bridged_pod, addresses, bare_pod
from tests.lab.world import IPV4, IPV6, Place, World

SOON_SEC = 10.0


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made, made.node.inside():
        yield made


Make = Callable[..., Locator]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make a Locator that is closed at the end."""
    with ExitStack() as stack:

        def made(*arguments: Any, **keywords: Any) -> Locator:
            return stack.enter_context(closing(Locator(*arguments, **keywords)))

        yield made


@pytest.fixture
def locator(make: Make) -> Locator:
    return make()


def patiently(locator: Locator, pod: Place, *families: int) -> Located:
    """Ask again for as long as the kernel is asking, as the controller does."""
    deadline = time.monotonic() + SOON_SEC
    while True:
        try:
            return locator.locate(addresses(pod, *families))
        except NotLocated as failure:
            if not failure.soon or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def why_not(locator: Locator, *texts: str) -> str:
    with pytest.raises(NotLocated) as failure:
        locator.locate([from_text(text) for text in texts])
    return str(failure.value)


def assert_is(found: Located, world: World, pod: Place, how: str, *families: int) -> None:
    assert (found.how, found.host_ifname) == (how, pod.host_ifname)
    assert f"ether {mac_text(found.pod_mac)} " in pod.run("ip", "link", "show", "eth0")
    on_node = world.node.run("ip", "link", "show", pod.host_ifname)
    assert f"ether {mac_text(found.node_mac)} " in on_node
    assert on_node.startswith(f"{found.ifindex}: ")
    assert found.addresses == list(addresses(pod, *families))


def test_a_route_leads_to_the_pod(world: World, locator: Locator, family: int) -> None:
    for pod in (world.add_pod("a"), world.add_pod("b")):
        assert_is(locator.locate(addresses(pod, family)), world, pod, "route", family)


def test_both_addresses_of_a_pod_are_one_endpoint(world: World, locator: Locator) -> None:
    pod = world.add_pod("a")
    assert_is(locator.locate(addresses(pod)), world, pod, "route")


def test_behind_a_bridge_the_kernel_is_made_to_ask_for_the_neighbour(
    world: World, locator: Locator, family: int
) -> None:
    add_bridge(world)
    pods = [add_bridged_pod(world, name, number) for number, name in enumerate("abc", 2)]
    with pytest.raises(NotLocated, match="bridge cni0 knows no MAC for") as failure:
        locator.locate(addresses(pods[0]))
    assert failure.value.soon
    for pod in pods:
        assert_is(patiently(locator, pod, family), world, pod, "neighbour", family)


def test_a_bridge_that_forgot_the_port_learns_it_again(world: World, locator: Locator) -> None:
    add_bridge(world)
    pod = add_bridged_pod(world, "a", 2)
    found = patiently(locator, pod, IPV4)
    world.node.run("bridge", "fdb", "del", mac_text(found.pod_mac), "dev", "veth-a", "master")
    with pytest.raises(NotLocated, match=f"not know yet which port {mac_text(found.pod_mac)}"):
        locator.locate(addresses(pod, IPV4))
    assert_is(patiently(locator, pod, IPV4), world, pod, "neighbour", IPV4)


def test_a_thorough_search_does_not_wait_for_neighbours(world: World, locator: Locator) -> None:
    add_bridge(world)
    pod = add_bridged_pod(world, "a", 2)
    assert_is(locator.locate(addresses(pod), thorough=True), world, pod, "far-end")


def test_without_any_route_the_far_ends_of_veths_are_looked_at(
    world: World, locator: Locator
) -> None:
    world.node.links("route del default")
    bare_pod(world, "other", "10.45.0.9/32", "fd45::9/128")
    pod = bare_pod(world, "a", "10.45.0.2/32", "fd45::2/128")
    assert_is(locator.locate(addresses(pod)), world, pod, "far-end")


def test_a_prefix_names_the_interfaces_that_are_pods(world: World, make: Make) -> None:
    pod = bare_pod(world, "a", "10.45.0.2/32", "fd45::2/128", prefix="lxc")
    bare_pod(world, "twin", "10.45.0.2/32", "fd45::2/128")
    locator = make(["ens", "lxc"])
    assert_is(locator.locate(addresses(pod)), world, pod, "prefix")


def test_a_prefix_finds_by_the_neighbour_what_is_no_address_of_the_far_end(
    world: World, make: Make
) -> None:
    """As where a virtual machine in the pod has the address."""
    pod = bare_pod(world, "a", "10.45.0.2/32", "fd45::2/128", prefix="lxc")
    pod.links("address flush dev eth0")
    mac = "02:00:00:00:00:99"
    world.node.links(f"neighbour add 10.45.0.2 lladdr {mac} dev lxca nud permanent")
    locator = make(["lxc"])
    found = locator.locate(addresses(pod, IPV4))
    assert (found.how, found.host_ifname) == ("prefix", "lxca")
    assert mac_text(found.pod_mac) == mac


def test_one_of_several_interfaces_with_the_address_is_not_guessed(
    world: World, locator: Locator
) -> None:
    for name in ("a", "b"):
        bare_pod(world, name, "10.45.0.2/32", "fd45::2/128")
    why = why_not(locator, "10.45.0.2")
    assert why == "several interfaces have 10.45.0.2 behind them: veth-a, veth-b"


def test_a_changed_mac_is_seen_at_the_next_look(world: World, locator: Locator) -> None:
    pod = world.add_pod("a")
    before = locator.locate(addresses(pod))
    pod.links("link set eth0 address 02:00:00:00:00:77")
    after = locator.locate(addresses(pod))
    assert mac_text(after.pod_mac) == "02:00:00:00:00:77"
    assert after == before._replace(pod_mac=after.pod_mac)


def test_a_changed_address_leads_to_the_same_interface(world: World, locator: Locator) -> None:
    pod = world.add_pod("a")
    before = locator.locate(addresses(pod))
    pod.links("address add 10.42.0.77/32 dev eth0")
    world.node.links("route add 10.42.0.77/32 dev veth-a")
    new = from_text("10.42.0.77")
    assert locator.locate([new]) == before._replace(addresses=[new])


def test_an_address_that_leads_to_another_pod_is_left_out(world: World, locator: Locator) -> None:
    first, second = world.add_pod("a"), world.add_pod("b")
    mixed = [*addresses(first, IPV4), *addresses(second, IPV6)]
    found = locator.locate(mixed)
    assert (found.host_ifname, found.addresses) == ("veth-a", mixed[:1])


def test_a_stale_route_to_another_pods_interface_is_not_believed(
    world: World, locator: Locator
) -> None:
    world.add_pod("a")
    world.node.links("route add 10.42.0.99/32 dev veth-a")
    why = why_not(locator, "10.42.0.99")
    assert why == "10.42.0.99 leads to veth-a, but behind it is 10.42.0.2, fd42::2"


def test_reasons_say_what_is_the_matter(world: World, locator: Locator) -> None:
    # The uplink is a veth here, as it is on a node that is a container itself.
    assert why_not(locator, "10.77.0.1") == (
        "the route to 10.77.0.1 leads to uplink, which is no pod's interface"
    )
    assert why_not(locator, "192.168.50.77") == (
        "the route to 192.168.50.77 leads to uplink, which is no pod's interface"
    )
    assert why_not(locator, "192.168.50.1") == "192.168.50.1 is an address of this node itself"
    assert why_not(locator) == "it has no address yet"
    world.node.links("route add blackhole 10.78.0.0/16", "route del default")
    assert why_not(locator, "10.78.0.1") == "the route to 10.78.0.1 refuses what is sent there"
    assert why_not(locator, "10.77.0.1") == "no route leads to 10.77.0.1"
    world.node.links(
        "link add inner type veth peer name outer",
        "link set inner up",
        "link set outer up",
        "route add 10.79.0.1/32 dev inner",
        "link add mv0 link uplink type macvlan",
        "link set mv0 up",
        "route add 10.80.0.1/32 dev mv0",
    )
    assert why_not(locator, "10.79.0.1") == (
        "10.79.0.1 leads to inner, whose other end is on this node itself"
    )
    assert why_not(locator, "10.80.0.1") == (
        "the route to 10.80.0.1 leads to mv0, and mv0 is macvlan: not supported in this version"
    )


def test_what_vanished_is_not_found_for_long(world: World, locator: Locator) -> None:
    pod = bare_pod(world, "a", "10.45.0.2/32", "fd45::2/128")
    assert locator.locate(addresses(pod)).how == "far-end"
    world.node.links("link del veth-a")
    locator.forget()
    assert "leads to uplink" in why_not(locator, "10.45.0.2")


def test_looks_behind_all_veths_are_shared_for_a_moment(world: World, make: Make) -> None:
    now = 100.0
    locator = make(clock=lambda: now)
    pod = bare_pod(world, "a", "10.45.0.2/32", "fd45::2/128")
    assert locator.locate(addresses(pod)).how == "far-end"
    late = bare_pod(world, "late", "10.45.0.3/32", "fd45::3/128")
    assert "leads to uplink" in why_not(locator, "10.45.0.3")
    now += FAR_ENDS_AGE_SEC + 0.1
    assert_is(locator.locate(addresses(late)), world, late, "far-end")
