"""Uplinks are found on real interfaces, attached, and followed as the node's network changes."""

from __future__ import annotations

import pytest

from kpbpf.address import ZERO, from_text
from kpbpf.datapath import attach
from maps import config
from maps.abi import ABI_VERSION, DeviceFlag
from maps.layout import U32
from tests.lab.uplinked import Daemon, daemon, eventually, pinned, source, world
from tests.lab.world import World

__all__ = ["daemon", "pinned", "source", "world"]


# ---- found ----------------------------------------------------------------------------------


def test_the_interface_of_the_default_route_is_found_and_known(
    world: World, daemon: Daemon
) -> None:
    world.add_pod("a")
    with daemon.running():
        daemon.settles(uplink="wire")
        device = daemon.devices()["uplink"]
        assert (device.masquerade4, device.masquerade6) == (
            from_text("192.168.50.1"),
            from_text("fd50::1"),
        )
        assert device.mac.hex(":") in world.node.run("ip", "link", "show", "uplink")
        assert daemon.addresses() == {"192.168.50.1", "fd50::1"}
        found = config.read(daemon.tables)
        assert (found.uplink_ifindex, found.node4) == (100, device.masquerade4)
        assert found.node_netns != 0
    assert daemon.events == []


def test_a_bridge_is_the_uplink_and_not_its_port(world: World, daemon: Daemon) -> None:
    world.node.links(
        "address flush dev uplink",
        "link add br0 type bridge",
        "link set uplink master br0",
        "link set br0 up",
        "address add 192.168.50.1/24 dev br0",
        "route add default via 192.168.50.2",
    )
    with daemon.running():
        daemon.settles(br0="wire")


def test_a_vxlan_tunnel_with_an_address_is_an_uplink_too(world: World, daemon: Daemon) -> None:
    with daemon.running():
        daemon.settles(uplink="wire")
        world.node.links(
            "link add flannel.1 type vxlan id 1 local 192.168.50.1 dev uplink dstport 8472",
            "link set flannel.1 up",
        )
        daemon.settles(uplink="wire")
        world.node.links("address add 10.42.1.0/32 dev flannel.1")
        daemon.settles(**{"uplink": "wire", "flannel.1": "wire"})
        world.node.links("link set flannel.1 down")
        daemon.settles(uplink="wire")


def test_a_device_without_ethernet_gets_the_programs_for_it(world: World, daemon: Daemon) -> None:
    world.node.run("ip", "tuntap", "add", "mode", "tun", "name", "tun0")
    world.node.links("address add 10.9.0.1/24 dev tun0", "link set tun0 up")
    with daemon.running():
        daemon.settles(uplink="wire", tun0="wire_l3")
        device = daemon.devices()["tun0"]
        assert device.flags == DeviceFlag.NO_ETHERNET
        assert (device.masquerade4, device.masquerade6) == (from_text("10.9.0.1"), ZERO)


def test_names_that_are_asked_for_are_the_uplinks(world: World, daemon: Daemon) -> None:
    world.node.links(
        "link add side0 type veth peer name other0",
        "link add side1 type veth peer name other1",
    )
    with daemon.running("side*", "nothing0"):
        daemon.settles(side0="wire", side1="wire")
        world.node.links("link add side2 type veth peer name other2", "link del side0")
        daemon.settles(side1="wire", side2="wire")
        assert [one.ifname for one in daemon.uplinks.status() if one.why_not] == ["nothing0"]


def test_the_interface_with_the_address_of_the_node_is_an_uplink(
    world: World, daemon: Daemon
) -> None:
    world.node.links(
        "link add side0 type veth peer name other0",
        "address add 192.168.70.1/24 dev side0",
        "link set side0 up",
    )
    with daemon.running():
        daemon.settles(uplink="wire")
        daemon.has_node("192.168.70.1")
        daemon.settles(uplink="wire", side0="wire")
        assert config.read(daemon.tables).node4 == from_text("192.168.70.1")


# ---- followed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["192.168.50.77/24", "fd50::77/64"])
def test_an_address_that_comes_or_goes_is_followed(
    world: World, daemon: Daemon, address: str
) -> None:
    with daemon.running():
        daemon.settles(uplink="wire")
        before, (new, _) = daemon.addresses(), address.split("/")
        world.node.links(f"address add {address} dev uplink{' nodad' * (':' in address)}")
        eventually(lambda: daemon.addresses() == before | {new})
        world.node.links(f"address del {address} dev uplink")
        eventually(lambda: daemon.addresses() == before)


def test_what_a_backend_sees_follows_the_address_of_the_device(
    world: World, daemon: Daemon
) -> None:
    with daemon.running():
        daemon.settles(uplink="wire")
        world.node.links(
            "address add 192.168.51.1/24 dev uplink", "address del 192.168.50.1/24 dev uplink"
        )
        address = from_text("192.168.51.1")
        world.node.links("route replace default dev uplink")
        eventually(lambda: daemon.devices()["uplink"].masquerade4 == address)
        assert config.read(daemon.tables).node4 == address


def test_the_default_route_moves_to_another_device(world: World, daemon: Daemon) -> None:
    world.node.links(
        "link add side0 type veth peer name other0",
        "address add 192.168.70.1/24 dev side0",
        "link set side0 up",
        "link set other0 up",
    )
    with daemon.running():
        daemon.settles(uplink="wire")
        world.node.links(
            "route replace default via 192.168.70.2 dev side0", "route del default via fd50::2"
        )
        daemon.settles(side0="wire")
        index = int(world.node.run("ip", "-o", "link", "show", "side0").partition(":")[0])
        assert config.read(daemon.tables).uplink_ifindex == index


def test_a_device_that_is_deleted_and_made_again_is_found_again(
    world: World, daemon: Daemon
) -> None:
    with daemon.running():
        daemon.settles(uplink="wire")
        world.node.links("link del uplink")
        daemon.settles()
        assert not list(daemon.home.links_dir(ABI_VERSION).iterdir())
        assert [event.reason for event in daemon.events] == ["NoUplink"]
        world.node.links(
            f"link add uplink index 200 type veth peer name near netns {world.router.netns.name}",
            "address add 192.168.50.1/24 dev uplink",
            "link set uplink up",
        )
        world.router.links("link set near up")
        world.node.links("route add default via 192.168.50.2")
        daemon.settles(uplink="wire")
        assert [key for key, _ in daemon.tables.devices.items()] == [U32(200)]


def test_a_restart_takes_over_what_is_there(world: World, daemon: Daemon) -> None:
    with daemon.running():
        daemon.settles(uplink="wire")
    with world.node.inside():
        before = attach.attachments(daemon.home)
    entries = list(daemon.tables.devices.items_raw())
    with daemon.running():
        eventually(lambda: bool(daemon.uplinks.status()))
        daemon.settles(uplink="wire")
        with world.node.inside():
            assert attach.attachments(daemon.home) == before
    assert list(daemon.tables.devices.items_raw()) == entries
