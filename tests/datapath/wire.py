"""The wire of a node under test: two uplinks, whose routes lead to clients and to other nodes.

The first uplink leads to clients outside, the second to the pods of other nodes. Both are real
devices, because the programs ask the kernel for routes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from kpbpf import address
from maps import abi
from maps.abi import AddressFlag, FrontendFlag, Hook, RangeScope
from maps.layout import U32
from tests.datapath.node import Node
from tests.datapath.packets import End, Net
from tests.datapath.result import Pod, Result

FIRST = Pod(
    "up-1", 71, "02:00:00:00:71:01", "02:00:00:00:71:fe", ("198.51.100.2", "2001:db8:71::2")
)
SECOND = Pod("up-2", 72, "02:00:00:00:72:01", "02:00:00:00:72:fe", ("10.72.0.2", "fd72::2"))
"""As pods are described; `node_mac` is the router's at the other end."""

ROUTERS = (("198.51.100.1", "2001:db8:71::1"), ("10.72.0.1", "fd72::1"))
BEHIND = (("192.0.2.0/24", "2001:db8::/64"), ("10.2.0.0/16", "fd02::/64"))
NODE_PORTS = (30000, 32767)
ROUTED_MARK = 0x6B70726F


def _ip(lines: Iterable[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), check=True, text=True)


def _set_up(uplink: Pod, routers: tuple[str, str], behind: tuple[str, str]) -> Iterator[str]:
    name, far = uplink.name, uplink.name.replace("up", "far")
    device = f"{name} index {uplink.ifindex} address {uplink.mac}"
    yield f"link add {device} type veth peer name {far}"
    yield f"link set {far} addrgenmode none up"
    yield f"link set {name} addrgenmode none up"
    for text, router, block in zip(uplink.addresses, routers, behind, strict=True):
        length = "24" if "." in text else "64 nodad"
        yield f"address add {text}/{length} dev {name}"
        yield f"neighbour add {router} lladdr {uplink.node_mac} dev {name} nud permanent"
        yield f"route add {block} via {router} dev {name} onlink"


@contextmanager
def uplinks() -> Iterator[None]:
    """Make both in the present namespace, which forwards; take them away at the end."""
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", name).write_text("1")
    try:
        for made in zip((FIRST, SECOND), ROUTERS, BEHIND, strict=True):
            _ip(_set_up(*made))
        yield
    finally:
        for uplink in (FIRST, SECOND):
            subprocess.run(["ip", "link", "delete", uplink.name], check=False)


class Wire:
    """The node with its uplinks: what the daemon would write, and packets through its hooks."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.here |= {*FIRST.addresses, *SECOND.addresses}
        for uplink in (FIRST, SECOND):
            ipv4, ipv6 = map(address.from_text, uplink.addresses)
            device = abi.Device(ipv4, ipv6, 0, address.mac_bytes(uplink.mac))
            node.tables.devices.put(U32(uplink.ifindex), device)
            for text in uplink.addresses:
                key = abi.AddressKey(address.from_text(text))
                flags = AddressFlag.NODE | AddressFlag.NODE_PORT
                node.tables.addresses.put(key, abi.Address(flags))
        first, last = NODE_PORTS
        node.change_config(node_port_first=first, node_port_last=last, uplink_ifindex=FIRST.ifindex)

    def range(self, scope: int, *blocks: str) -> None:
        """Write address ranges: of pods, of Services, or those that may reach a Service port."""
        for block in blocks:
            text, length = block.split("/")
            prefix = int(length) + (96 if "." in text else 0)
            key = abi.RangeKey(32 + prefix, scope, address.from_text(text))
            self.node.tables.ranges.put(key, U32(1))

    def pods_are_in(self, net: Net) -> None:
        """Say which addresses are those of pods, instead of looking where packets come from."""
        pods = {4: "10.1.0.0/16", 6: "fd01::/64"}
        self.range(RangeScope.RANGE_PODS, pods[net.version])

    def receives(self, packet: Packet, uplink: Pod = FIRST, **fields: int) -> Result:
        """A packet comes in from outside."""
        return self.node.send(Hook.FROM_WIRE, uplink, uplink.node_mac, uplink.mac, packet, fields)

    def sends(self, packet: Packet, uplink: Pod = FIRST, came_by: int = 0, **fields: int) -> Result:
        """A packet of the node's stack goes out; it came in by an interface, or is the node's."""
        fields = {"ingress_ifindex": came_by, **fields}
        return self.node.send(Hook.TO_WIRE, uplink, uplink.mac, uplink.node_mac, packet, fields)

    def carried(self, result: Result, uplink: Pod) -> Packet:
        """What was routed comes by to_wire once more on its way out, which leaves it alone."""
        again = Ether(src=uplink.mac, dst=uplink.node_mac) / result.packet
        marked = self.sends(again, uplink, came_by=FIRST.ifindex, cb2=ROUTED_MARK)
        marked.expect("direct", again)
        return result.packet


def frontend(net: Net, kind: str) -> tuple[End, End, int]:
    """Where clients send, where that stands in the map, and its flags: by kind of frontend."""
    cluster = End(net.service, 80)
    if kind == "ClusterIP":
        return cluster, cluster, 0
    if kind == "LoadBalancer":
        end = End(net.second_service, 80)
        return end, end, FrontendFlag.EXTERNAL
    ipv4 = net.version == 4
    node_port = End(FIRST.addresses[0 if ipv4 else 1], 30080)
    return node_port, End("0.0.0.0" if ipv4 else "::", 30080), FrontendFlag.EXTERNAL


def node_address(net: Net, uplink: Pod = SECOND) -> str:
    """The node's address at an uplink."""
    return uplink.addresses[0 if net.version == 4 else 1]
