"""What is written of this node and its surroundings, as it follows from settings and network."""

from __future__ import annotations

import pytest

from controllers.outside import Outside, Writer, follows
from kpbpf.address import ZERO, Address, block_from_text, from_text
from kpbpf.datapath.snapshot import DefaultRoute, Link, LocalAddress, Snapshot
from kpbpf.datapath.uplinks import choose
from kpbpf.errors import MapFull
from kpbpf.model.objects import Block, Node
from kpbpf.settings import Settings
from maps import config
from maps.abi import AddressFlag, ConfigFlag, DeviceFlag, RangeKey, RangeScope
from maps.fake import fake_tables
from maps.layout import U32
from tests.unit.test_settings import settings

NODE4, NODE6, OTHER4, TUNNEL4 = map(from_text, ("10.0.0.1", "fd00::1", "10.1.0.1", "10.9.0.1"))
PODS4, PODS6, SERVICES = (
    Block(*block_from_text(text)) for text in ("10.244.1.0/24", "fd42::/64", "10.96.0.0/12")
)
SEEN = Snapshot(
    (Link(2, "eth0", mac=b"\2\0\0\0\0\1"), Link(3, "eth1"), Link(4, "wg0", "wireguard", 0xFFFE)),
    (
        LocalAddress(2, NODE4, 120),
        LocalAddress(2, NODE6, 64),
        LocalAddress(3, OTHER4, 120),
        LocalAddress(4, TUNNEL4, 120),
    ),
    (DefaultRoute(2, True),),
)
NODE = Node("node-1", addresses=(NODE4, NODE6))


def outside(*words: str, node: Node | None = NODE, services: tuple[Block, ...] = ()) -> Outside:
    asked: Settings = settings(*words)
    choice = choose(SEEN, asked.uplinks, node.addresses if node else ())
    return follows(asked, node, SEEN, choice, services, 77)


def node_ports(found: Outside) -> set[Address]:
    return {
        key.addr for key, value in found.addresses.items() if value.flags & AddressFlag.NODE_PORT
    }


def test_devices_and_fields_follow_from_the_uplinks() -> None:
    found = outside("--masquerade-ports=40000-50000")
    assert (found.node4, found.node6) == (NODE4, NODE6)
    assert (found.node_netns, found.uplink_ifindex) == (77, 2)
    assert found.masquerade_ports == (40000, 50000)
    assert list(found.devices) == [U32(2), U32(4)]
    assert found.devices[U32(2)] == (NODE4, NODE6, DeviceFlag(0), b"\2\0\0\0\0\1")
    assert found.devices[U32(4)] == (TUNNEL4, ZERO, DeviceFlag.NO_ETHERNET, bytes(6))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), {NODE4, NODE6, OTHER4, TUNNEL4}),
        (("--nodeport-addresses=primary",), {NODE4, NODE6}),
        (("--nodeport-addresses=10.0.0.0/15",), {NODE4, OTHER4}),
        (("--nodeport-addresses=10.1.0.0/16,primary",), {NODE4, NODE6, OTHER4}),
        (("--nodeport-addresses=192.168.0.0/16",), set()),
        (("--nodeport-addresses=localhost",), set()),
    ],
    ids=str,
)
def test_node_ports_are_at_the_addresses_that_were_chosen(
    words: tuple[str, ...], wanted: set[Address]
) -> None:
    found = outside(*words)
    assert node_ports(found) == wanted
    assert {key.addr for key in found.addresses} == {NODE4, NODE6, OTHER4, TUNNEL4}


def test_without_a_node_object_its_address_is_that_of_the_default_route() -> None:
    found = outside("--nodeport-addresses=primary", node=None)
    assert (found.node4, found.node6) == (NODE4, NODE6)
    assert node_ports(found) == {NODE4, NODE6}


def test_an_address_of_the_node_that_is_not_here_does_not_stand_for_it() -> None:
    found = outside(node=Node("node-1", addresses=(from_text("203.0.113.1"), OTHER4)))
    assert (found.node4, found.node6) == (OTHER4, NODE6)


LOCAL, RANGED = ConfigFlag.DETECT_LOCAL, ConfigFlag.DETECT_LOCAL | ConfigFlag.DETECT_BY_RANGE
WITH_CIDRS = NODE._replace(pod_cidrs=(PODS4, Block(*block_from_text("10.9.0.0/16")), PODS6))


@pytest.mark.parametrize(
    ("words", "node", "flags", "ranges"),
    [
        ((), NODE, LOCAL, set()),
        (("--detect-local-mode=ClusterCIDR",), NODE, ConfigFlag(0), set()),
        (("--cluster-cidr=10.244.1.0/24",), NODE, RANGED, {PODS4}),
        (("--detect-local-mode=NodeCIDR",), NODE, LOCAL, set()),
        (("--detect-local-mode=NodeCIDR",), None, LOCAL, set()),
        (("--detect-local-mode=NodeCIDR",), WITH_CIDRS, RANGED, {PODS4, PODS6}),
        (
            ("--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"),
            NODE,
            LOCAL,
            set(),
        ),
    ],
    ids=str,
)
def test_local_pods_are_told_apart_as_asked(
    words: tuple[str, ...], node: Node | None, flags: ConfigFlag, ranges: set[Block]
) -> None:
    found = outside(*words, node=node)
    assert found.flags & RANGED == flags
    assert set(found.ranges) == {
        RangeKey(32 + block.prefix, RangeScope.RANGE_PODS, block.base) for block in ranges
    }


@pytest.mark.parametrize(
    ("words", "has"),
    [
        ((), ConfigFlag.SOCKET_HOST | ConfigFlag.LOCALHOST_NODE_PORTS),
        (
            ("--socket-lb=all", "--masquerade-all"),
            ConfigFlag.SOCKET_PODS | ConfigFlag.MASQUERADE_ALL,
        ),
        (("--nodeport-addresses=127.0.0.0/8",), ConfigFlag.LOCALHOST_NODE_PORTS),
    ],
)
def test_flags_that_were_asked_for_are_set(words: tuple[str, ...], has: ConfigFlag) -> None:
    assert outside(*words).flags & has == has


@pytest.mark.parametrize(
    ("words", "lacks"),
    [
        ((), ConfigFlag.SOCKET_PODS | ConfigFlag.MASQUERADE_ALL | ConfigFlag.SERVICE_RANGES),
        (("--socket-lb=off",), ConfigFlag.SOCKET_HOST),
        (("--nodeport-addresses=10.0.0.0/8",), ConfigFlag.LOCALHOST_NODE_PORTS),
        (("--nodeport-addresses=primary",), ConfigFlag.LOCALHOST_NODE_PORTS),
        (("--iptables-localhost-nodeports=false",), ConfigFlag.LOCALHOST_NODE_PORTS),
    ],
)
def test_flags_that_were_not_asked_for_are_not(words: tuple[str, ...], lacks: ConfigFlag) -> None:
    assert not outside(*words).flags & lacks


def test_ranges_of_services_have_their_host_bits_cleared() -> None:
    found = outside(services=(Block(from_text("10.96.0.1"), SERVICES.prefix),))
    assert found.flags & ConfigFlag.SERVICE_RANGES
    assert list(found.ranges) == [RangeKey(32 + 108, RangeScope.RANGE_SERVICES, SERVICES.base)]


# ---- writing -----------------------------------------------------------------------------------


def test_only_differences_are_written_also_by_the_next_process() -> None:
    tables = fake_tables()
    config.ensure(tables)
    first = outside("--cluster-cidr=10.244.1.0/24", services=(SERVICES,))
    writer = Writer(tables)
    assert writer.add(first) == 1 + 2 + 4 + 2
    assert writer.take_away(first) == 0
    for again in (writer, Writer(tables)):
        assert again.add(first) == again.take_away(first) == 0
    second = outside("--uplink=eth1")
    assert writer.add(second) == 1 + 1
    assert writer.take_away(second) == 2 + 2
    assert [key for key, _ in tables.devices.items()] == [U32(3)]
    assert not list(tables.ranges.items())


def test_what_belongs_to_others_stays() -> None:
    tables = fake_tables()
    before = config.ensure(tables)
    of_a_service = RangeKey(32 + 108, 9, SERVICES.base)
    tables.ranges.put(of_a_service, U32(1))
    config.write(tables, before._replace(node_port_first=30000, node_port_last=30001))
    writer = Writer(tables)
    writer.add(outside())
    writer.take_away(outside())
    after = config.read(tables)
    assert after.flags & before.flags == before.flags
    assert (after.node_port_first, after.epoch) == (30000, before.epoch)
    assert [key for key, _ in tables.ranges.items()] == [of_a_service]


def test_a_full_map_is_told_after_everything_else_was_written() -> None:
    tables = fake_tables({"addresses": 1})
    config.ensure(tables)
    with pytest.raises(MapFull):
        Writer(tables).add(outside(services=(SERVICES,)))
    assert len(list(tables.devices.items())) == 2
    assert len(list(tables.ranges.items())) == 1
