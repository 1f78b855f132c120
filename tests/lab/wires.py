"""Other wires for the Nodes of nodes.py: a second uplink, tunnels between nodes, an uplink
without Ethernet header. Each function makes one; the world that they are in takes them down.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.nodes import UPLINK_INDEX, Node, Nodes
from tests.lab.world import IPV4, IPV6, Place

SECOND_TABLE = 200
TUNNEL = "vxlan0"
TUNNEL_MTU = 1450
TUN_MTU = 1400

_TUNSETIFF = 0x400454CA
_IFF_TUN_WITHOUT_HEADER = 0x1001


def second_addresses(node: Node) -> dict[int, str]:
    """The node's addresses on its second uplink: 192.168.8<n>.1 and fd8<n>::1."""
    return {IPV4: f"192.168.8{node.number}.1", IPV6: f"fd8{node.number}::1"}


def add_second_uplink(nodes: Nodes) -> None:
    """Give every node another uplink, `uplink2`, used for what has its address as the source."""
    for number, node in nodes.nodes.items():
        own, leg = second_addresses(node), f"to-{number}b"
        gateway = {IPV4: f"192.168.8{number}.254", IPV6: f"fd8{number}::fe"}
        node.node.links(
            f"link add uplink2 index {UPLINK_INDEX + 1} type veth peer name {leg}"
            f" index {310 + number} netns {nodes.router.netns.name}",
            f"address add {own[IPV4]}/24 dev uplink2",
            f"address add {own[IPV6]}/64 dev uplink2 nodad",
            "link set uplink2 up",
            f"route add default via {gateway[IPV4]} dev uplink2 table {SECOND_TABLE}",
            f"route add default via {gateway[IPV6]} dev uplink2 table {SECOND_TABLE}",
        )
        node.node.run("ip", "-4", "rule", "add", "from", own[IPV4], "table", str(SECOND_TABLE))
        node.node.run("ip", "-6", "rule", "add", "from", own[IPV6], "table", str(SECOND_TABLE))
        nodes.router.links(
            f"link set {leg} up",
            f"address add {gateway[IPV4]}/24 dev {leg}",
            f"address add {gateway[IPV6]}/64 dev {leg} nodad",
        )


def tunnel_addresses(node: Node) -> dict[int, str]:
    """The addresses of its end of the tunnel: the first of its pods' blocks, as flannel has it."""
    return {family: block.partition("/")[0] for family, block in node.pod_cidr.items()}


def add_tunnels(nodes: Nodes) -> None:
    """Let pods of one node reach those of another by vxlan, as flannel does."""
    macs = {number: f"02:00:00:00:42:{number:02x}" for number in nodes.nodes}
    for number, node in nodes.nodes.items():
        own = tunnel_addresses(node)
        node.node.links(
            f"link add {TUNNEL} index {UPLINK_INDEX + 2} address {macs[number]}"
            f" mtu {TUNNEL_MTU} type vxlan id 42"
            f" dstport 8472 local {node.node.addresses[IPV4]} dev uplink nolearning",
            f"address add {own[IPV4]}/32 dev {TUNNEL}",
            f"address add {own[IPV6]}/128 dev {TUNNEL} nodad",
            f"link set {TUNNEL} up",
        )
        for other in nodes.nodes.values():
            if other is node:
                continue
            far, mac = tunnel_addresses(other), macs[other.number]
            underlay = other.node.addresses[IPV4]
            node.node.links(
                f"neigh add {far[IPV4]} lladdr {mac} dev {TUNNEL}",
                f"neigh add {far[IPV6]} lladdr {mac} dev {TUNNEL}",
                f"route add {other.pod_cidr[IPV4]} via {far[IPV4]} dev {TUNNEL} onlink",
                f"route add {far[IPV6]}/128 dev {TUNNEL}",
                f"route add {other.pod_cidr[IPV6]} via {far[IPV6]} dev {TUNNEL}",
            )
            node.node.run("bridge", "fdb", "add", mac, "dev", TUNNEL, "dst", underlay)


@contextmanager
def loose(place: Place) -> Iterator[None]:
    """Let a router carry what comes back another way."""
    with place.inside():
        names = [path.name for path in Path("/proc/sys/net/ipv4/conf").iterdir()]
    settings = {f"ipv4__conf__{name}__rp_filter": 1 for name in names}
    place.sysctl(**dict.fromkeys(settings, 0))
    try:
        yield
    finally:
        place.sysctl(**settings)


@contextmanager
def tun_uplink(nodes: Nodes, node: Node) -> Iterator[None]:
    """Put a device without Ethernet header in place of the node's uplink, for the block."""
    leg = f"tun-{node.number}"
    node.node.links("link delete uplink")
    ends = [_open_tun(node.node, "uplink"), _open_tun(nodes.router, leg)]
    stop, stopper = os.pipe()
    pump = threading.Thread(target=_pump, args=(*ends, stop))
    try:
        node.node.links(f"link set uplink mtu {TUN_MTU}")
        nodes.router.links(f"link set {leg} mtu {TUN_MTU}")
        nodes.address_uplink(node)
        nodes.address_leg(node, leg)
        if node.number == 1:
            nodes.route_services()
        pump.start()
        yield
    finally:
        os.close(stopper)
        if pump.ident:
            pump.join()
        for fd in (*ends, stop):
            os.close(fd)


def _open_tun(place: Place, ifname: str) -> int:
    with place.inside():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", ifname.encode(), _IFF_TUN_WITHOUT_HEADER)
        fcntl.ioctl(fd, _TUNSETIFF, request)
    return fd


def _pump(one: int, other: int, stop: int) -> None:
    """Carry packets between the two until the far end of `stop` is closed."""
    towards = {one: other, other: one}
    while True:
        readable, _, _ = select.select([one, other, stop], [], [])
        if stop in readable:
            return
        for fd in readable:
            with suppress(BlockingIOError):
                while True:
                    os.write(towards[fd], os.read(fd, 65536))
