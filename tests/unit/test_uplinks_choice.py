"""Which interfaces are uplinks, and what a backend sees of them: from what the kernel says."""

from __future__ import annotations

import pytest

from kpbpf.address import ZERO, block_from_text, from_text
from kpbpf.datapath.snapshot import (
    DADFAILED,
    DEPRECATED,
    LOOPBACK,
    SECONDARY,
    TENTATIVE,
    UP,
    DefaultRoute,
    Link,
    LocalAddress,
    Snapshot,
)
from kpbpf.datapath.uplinks import MOST, Choice, Unfit, choose, served, told

LO = Link(1, "lo", type=772, flags=UP | LOOPBACK)
ETH0, ETH1 = Link(2, "eth0"), Link(3, "eth1")
NONE, POINT_TO_POINT, INFINIBAND = 0xFFFE, 768, 32


def at(link: Link, text: str, scope: int = 0, flags: int = 0) -> LocalAddress:
    """An address of a link, "10.0.0.1/24" or "10.0.0.1" alone."""
    host, _, length = text.partition("/")
    bits = 128 if ":" in host else 32
    _, prefix = block_from_text(f"{host}/{length or bits}")
    return LocalAddress(link.ifindex, from_text(host), prefix, scope, flags)


def default(link: Link, metric: int = 0, table: int = 254, ipv4: bool = True) -> DefaultRoute:
    return DefaultRoute(link.ifindex, ipv4, table, metric)


def names(choice: Choice) -> dict[str, str]:
    return {one.name: one.why for one in choice.uplinks}


PLAIN = Snapshot((LO, ETH0, ETH1), (at(ETH0, "10.0.0.1/24"), at(ETH1, "10.1.0.1/24")))

CASES = {
    "the interface of the default route": (PLAIN._replace(routes=(default(ETH0),)), ["eth0"]),
    "all interfaces of default routes, of any table and family": (
        PLAIN._replace(routes=(default(ETH0), default(ETH1, table=100, ipv4=False))),
        ["eth0", "eth1"],
    ),
    "a bridge, not its port": (
        Snapshot(
            (LO, ETH0._replace(master=9), Link(9, "br0", "bridge")),
            routes=(default(ETH0), DefaultRoute(9, True)),
        ),
        ["br0"],
    ),
    "the bond of a bond, not the links within": (
        Snapshot(
            (LO, ETH0._replace(master=8), Link(8, "bond0", "bond", master=9), Link(9, "br0")),
            routes=(default(ETH0),),
        ),
        ["br0"],
    ),
    "the part of a VRF itself": (
        Snapshot(
            (ETH0._replace(master=9), Link(9, "red", "vrf")), routes=(default(ETH0, table=10),)
        ),
        ["eth0"],
    ),
    "a VLAN beside its parent": (
        Snapshot((ETH0, Link(7, "eth0.5", "vlan")), routes=(default(ETH0), DefaultRoute(7, True))),
        ["eth0", "eth0.5"],
    ),
    "tunnels that have an address": (
        Snapshot(
            (Link(5, "vxlan0", "vxlan"), Link(6, "wg0", "wireguard", NONE), Link(7, "tun0", "tun")),
            (at(Link(5, ""), "10.244.1.0/32"), at(Link(6, ""), "10.9.0.1/24")),
        ),
        ["vxlan0", "wg0"],
    ),
    "no tunnel that is down": (
        Snapshot((Link(5, "vxlan0", "vxlan", flags=0),), (at(Link(5, ""), "10.244.1.0/32"),)),
        [],
    ),
    "no bridge of pods, though it has an address": (
        Snapshot((Link(5, "cni0", "bridge"),), (at(Link(5, ""), "10.244.1.1/24"),)),
        [],
    ),
    "nothing where nothing leads": (PLAIN, []),
    "not loopback, though it has the Node's address": (
        Snapshot((LO, ETH0), (at(LO, "10.0.0.7"),), (default(ETH0),)),
        ["eth0"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_uplinks_are(case: str) -> None:
    seen, wanted = CASES[case]
    assert list(names(choose(seen, (), (from_text("10.0.0.7"),)))) == wanted


def test_an_address_of_the_node_makes_an_uplink() -> None:
    seen = PLAIN._replace(routes=(default(ETH0),))
    found = choose(seen, (), (from_text("10.1.0.1"),))
    assert names(found) == {"eth0": "default route", "eth1": "node address"}


def test_names_that_are_asked_for_replace_what_would_be_found() -> None:
    seen = Snapshot((ETH0, ETH1, Link(4, "wg0", flags=0), Link(5, "wg1")), routes=(default(ETH0),))
    found = choose(seen, ("eth1", "wg*", "eth7", "tun*"))
    assert names(found) == dict.fromkeys(("eth1", "wg0", "wg1"), "asked for")
    assert found.unfit == (Unfit("eth7", "there is none"),)


def test_what_cannot_be_an_uplink_is_told_with_the_reason() -> None:
    seen = Snapshot((LO, Link(2, "ib0", type=INFINIBAND), Link(3, "veth1", "veth")))
    found = choose(seen, ("lo", "ib0", "veth*"), pods={3})
    assert found.uplinks == ()
    assert [(one.name, one.why_not.split(" (")[0]) for one in found.unfit] == [
        ("lo", "it is loopback"),
        ("ib0", "frames of its kind"),
        ("veth1", "it is a pod's"),
    ]


def test_more_uplinks_than_fit_are_left_out_and_told() -> None:
    links = tuple(Link(index, f"eth{index}") for index in range(2, MOST + 4))
    found = choose(Snapshot(links), ("eth*",))
    assert len(found.uplinks) == MOST
    assert [one.name for one in found.unfit] == [f"eth{MOST + 2}", f"eth{MOST + 3}"]


@pytest.mark.parametrize("type_", [NONE, POINT_TO_POINT, 512, 519, 776])
def test_devices_without_an_ethernet_header_are_known(type_: int) -> None:
    tunnel = Link(5, "t0", "tun", type_, mac=b"\x0a\0\0\1")
    (found,) = choose(Snapshot((tunnel,)), ("t0",)).uplinks
    assert (found.ethernet, found.mac) == (False, bytes(6))


# ---- the first, and masquerading --------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "first"),
    [
        ((default(ETH0, 100), default(ETH1, 50)), "eth1"),
        ((default(ETH0, 0, ipv4=False), default(ETH1, 50)), "eth1"),
        ((default(ETH0, 0, table=7), default(ETH1, 50)), "eth1"),
        ((default(ETH0), default(Link(9, "gone"))), "eth0"),
    ],
)
def test_the_first_uplink_is_that_of_the_main_default_route(
    routes: tuple[DefaultRoute, ...], first: str
) -> None:
    found = choose(PLAIN._replace(routes=routes))
    assert next(one.name for one in found.uplinks if one.ifindex == found.first) == first


MASQUERADES = {
    "the first address": (["10.0.0.1/24", "10.0.0.2/24"], "10.0.0.1"),
    "the Node's address": (["10.0.0.1/24", "10.0.0.7/24"], "10.0.0.7"),
    "the Node's address, though it is a single one": (["10.0.0.1/24", "10.0.0.7/32"], "10.0.0.7"),
    "an address of a network before a virtual one": (["10.0.0.9/32", "10.0.0.2/24"], "10.0.0.2"),
    "a single address where there is no other": (["10.244.1.0/32"], "10.244.1.0"),
}


@pytest.mark.parametrize("case", MASQUERADES)
def test_a_backend_sees(case: str) -> None:
    texts, wanted = MASQUERADES[case]
    seen = Snapshot((ETH0,), tuple(at(ETH0, text) for text in texts), (default(ETH0),))
    (found,) = choose(seen, (), (from_text("10.0.0.7"),)).uplinks
    assert (found.masquerade4, found.masquerade6) == (from_text(wanted), ZERO)


def test_a_backend_sees_a_lasting_address_and_none_of_the_link_alone() -> None:
    seen = Snapshot(
        (ETH0,),
        (
            at(ETH0, "fd00::a/64", flags=TENTATIVE),
            at(ETH0, "fd00::b/64", flags=DEPRECATED),
            at(ETH0, "fd00::c/64", flags=SECONDARY),
            at(ETH0, "fd00::d/64"),
            at(ETH0, "fe80::1/64", scope=253),
        ),
        (default(ETH0),),
    )
    (found,) = choose(seen).uplinks
    assert found.masquerade6 == from_text("fd00::d")
    assert [one[-1] for one in found.addresses] == [0xB, 0xC, 0xD]
    assert told(found) == "eth0 (default route; fd00::b, fd00::c, fd00::d)"


# ---- addresses of the node ---------------------------------------------------------------------


def test_the_node_is_spoken_to_at_every_address_but_those_of_loopback_and_link() -> None:
    down, ipvs = Link(5, "eth5", flags=0), Link(6, "kube-ipvs0", "dummy")
    seen = Snapshot(
        (LO, ETH0, down, ipvs),
        (
            *(at(LO, "127.0.0.1/8", scope=254), at(LO, "::1", scope=254), at(LO, "10.0.0.7")),
            *(at(ETH0, "10.0.0.1/24"), at(ETH0, "fd00::1/64"), at(ETH0, "fe80::1/64", scope=253)),
            *(at(ETH0, "169.254.3.4/16"), at(ETH0, "fd00::f/64", flags=DADFAILED)),
            *(at(down, "10.0.5.1/24"), at(ipvs, "10.96.0.1")),
        ),
    )
    assert set(served(seen)) == set(map(from_text, ("10.0.0.7", "10.0.0.1", "fd00::1")))
