"""Uplinks of kinds that not every kernel has, between node-1 of nodes.py and the router.

    vlan        vlan9, tag 9, on a veth of its own
    bond        bond9, active-backup over two veths
    tunnel      ipip9 (IPv4) and sit9 (IPv6), over the usual uplink: no Ethernet header
    wireguard   wg9, over the usual uplink: no Ethernet header

Node and router have the addresses 192.168.9<i>.1 and .254, fd9<i>::1 and ::fe on the i-th. What
has such an address as its source takes that uplink, as an operator of several would set it up.
"""

from __future__ import annotations

from typing import NamedTuple

from pyroute2 import WireGuard

from tests.lab.nodes import Nodes
from tests.lab.world import FAMILIES, IPV4, IPV6, Place


class Key(NamedTuple):
    """Of WireGuard: any 32 bytes, and what Curve25519 makes of them."""

    private: str
    public: str


KEYS = {
    "node": Key(
        "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICEA=",
        "N8lGvdVlWafnRXIGrQXWmbtLvOocy2+YuihMQVYoKG0=",
    ),
    "router": Key(
        "EBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEEA=",
        "OztUG1EXfGsWeiS4XRnWc7W7Z6OaslD0qIswGyLe8nA=",
    ),
}
UDP_PORT = 51820


class Uplink(NamedTuple):
    """One more way between node-1 and the router: devices by family, and both ends' addresses."""

    kind: str
    number: int
    devices: dict[int, str]
    leg: dict[int, str]

    @property
    def node(self) -> dict[int, str]:
        """The node's addresses on it."""
        return {IPV4: f"192.168.9{self.number}.1", IPV6: f"fd9{self.number}::1"}

    @property
    def far(self) -> dict[int, str]:
        """The router's."""
        return {IPV4: f"192.168.9{self.number}.254", IPV6: f"fd9{self.number}::fe"}


UPLINKS = {
    kind: Uplink(kind, number, devices, legs)
    for number, (kind, devices, legs) in enumerate(
        (
            ("vlan", dict.fromkeys(FAMILIES, "vlan9"), dict.fromkeys(FAMILIES, "far-vlan9")),
            ("bond", dict.fromkeys(FAMILIES, "bond9"), dict.fromkeys(FAMILIES, "far-bond9")),
            ("tunnel", {IPV4: "ipip9", IPV6: "sit9"}, {IPV4: "far-ipip9", IPV6: "far-sit9"}),
            ("wireguard", dict.fromkeys(FAMILIES, "wg9"), dict.fromkeys(FAMILIES, "far-wg9")),
        ),
        start=1,
    )
}


def add_uplinks(nodes: Nodes) -> None:
    """Make all of them, with addresses, and routes by source."""
    node, router = nodes.nodes[1].node, nodes.router
    _vlan(node, router)
    _bond(node, router)
    _tunnels(node, router, nodes.nodes[1].gateway[IPV4])
    _wireguard(node, router, nodes.nodes[1].gateway[IPV4])
    for uplink in UPLINKS.values():
        for family in FAMILIES:
            _address(node, uplink.devices[family], uplink.node[family], family)
            _address(router, uplink.leg[family], uplink.far[family], family)
            _route_by_source(node, uplink, family)


def far_end(nodes: Nodes, uplink: Uplink) -> Place:
    """The router as a backend that is reached through this uplink."""
    return Place(f"far-{uplink.kind}", nodes.router.netns, uplink.far)


def _address(place: Place, device: str, address: str, family: int) -> None:
    block = f"{address}/24" if family == IPV4 else f"{address}/64 nodad"
    place.links(f"link set {device} up")
    place.run("ip", "address", "add", *block.split(), "dev", device)


def _route_by_source(node: Place, uplink: Uplink, family: int) -> None:
    table, device = str(900 + uplink.number), uplink.devices[family]
    way = ("via", uplink.far[family], "dev", device)
    node.run("ip", f"-{family}", "route", "add", "default", *way, "table", table)
    node.run("ip", f"-{family}", "rule", "add", "from", uplink.node[family], "table", table)


def _vlan(node: Place, router: Place) -> None:
    node.links(
        f"link add trunk index 120 type veth peer name far-trunk index 420 netns"
        f" {router.netns.name}",
        "link set trunk up",
        "link add link trunk name vlan9 index 121 type vlan id 9",
    )
    router.links(
        "link set far-trunk up", "link add link far-trunk name far-vlan9 index 421 type vlan id 9"
    )


def _bond(node: Place, router: Place) -> None:
    node.links("link add bond9 index 122 type bond mode active-backup miimon 100")
    router.links("link add far-bond9 index 422 type bridge")
    for number in (1, 2):
        node.links(
            f"link add port{number} index {122 + number} type veth peer name far-port{number}"
            f" index {422 + number} netns {router.netns.name}",
            f"link set port{number} master bond9",
        )
        router.links(f"link set far-port{number} master far-bond9", f"link set far-port{number} up")
    node.links("link set port1 up", "link set port2 up")


def _tunnels(node: Place, router: Place, gateway: str) -> None:
    own = node.addresses[IPV4]
    for kind, index in (("ipip", 125), ("sit", 126)):
        ends = f"local {own} remote {gateway}"
        node.links(f"link add {kind}9 index {index} type {kind} {ends}")
        ends = f"local {gateway} remote {own}"
        router.links(f"link add far-{kind}9 index {300 + index} type {kind} {ends}")


def _wireguard(node: Place, router: Place, gateway: str) -> None:
    ends = ((node, "wg9", 127, "node", "router"), (router, "far-wg9", 427, "router", "node"))
    endpoints = {"node": node.addresses[IPV4], "router": gateway}
    for place, device, index, own, other in ends:
        place.links(f"link add {device} index {index} type wireguard")
        with place.inside():
            wireguard = WireGuard()
        with wireguard:
            wireguard.set(
                device,
                listen_port=UDP_PORT,
                private_key=KEYS[own].private,
                peer={
                    "public_key": KEYS[other].public,
                    "endpoint_addr": endpoints[other],
                    "endpoint_port": UDP_PORT,
                    "allowed_ips": ["0.0.0.0/0", "::/0"],
                },
            )
