"""Three nodes of network namespaces, each with pods, and places outside, joined by a router.

        client   a1          a2   b2             a3                pods, plugged as in world.py:
     10.42.1.2   .3     10.42.2.2  .3         10.42.3.2            10.42.<n>.<i>, fd42:0:0:<n>::<i>
           |     |            |     |             |
       +---+-----+---+    +---+-----+---+    +----+--------+
       |   node-1    |    |   node-2    |    |   node-3    |       each: a daemon, pins, forwarding,
       +------+------+    +------+------+    +------+------+       rp_filter as strict as it gets
              | uplink           | uplink           | uplink       192.168.7<n>.1  fd7<n>::1
              |                  |                  |              192.168.7<n>.2  fd7<n>::2  second
              | to-1             | to-2             | to-3         192.168.7<n>.254  fd7<n>::fe
       +------+------------------+------------------+------+
       |                      router                       |       routes: pods of node n by node n;
       +------+----------------------------+---------------+       10.96/16, fd96::/64 (cluster
              | 192.168.60.1               | 192.168.61.1          IPs), 192.0.2/24, fd02::/64
              | fd60::1                    | fd61::1               (load balancer), 198.51.100/24
              |                            |                       fd05::/64: by node-1
              | 192.168.60.2               | 192.168.61.2
              | fd60::2                    | fd61::2
       +------+------+              +------+------+
       |   outside   |              |  stranger   |
       +-------------+              +-------------+

Holds the topology only. Other wires between the nodes are in wires.py, daemons and Services on
them in fleet.py. Every node has the same interface numbers, since it is alone in its namespace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.lab.world import (
    BPFFS,
    IPV4,
    IPV6,
    NETNS,
    Place,
    add_namespace,
    fresh_prefix,
    plug,
    remove,
    remove_leftovers,
)

PODS = {1: ("client", "a1"), 2: ("a2", "b2"), 3: ("a3",)}
OUTSIDE = {"outside": 60, "stranger": 61}
UPLINK_INDEX = 100
TO_NODE_1 = {
    IPV4: ("10.96.0.0/16", "192.0.2.0/24", "198.51.100.0/24"),
    IPV6: ("fd96::/64", "fd02::/64", "fd05::/64"),
}


@dataclass
class Node:
    """One of the nodes. `node` is itself as a Place: its first address in each family."""

    number: int
    node: Place
    pins: Path
    pods: dict[str, Place] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its Node object is called."""
        return self.node.on_node

    @property
    def second(self) -> dict[int, str]:
        """Its second address in each family, of the same subnets."""
        return {IPV4: f"192.168.7{self.number}.2", IPV6: f"fd7{self.number}::2"}

    @property
    def gateway(self) -> dict[int, str]:
        """The router as this node's uplink sees it."""
        return {IPV4: f"192.168.7{self.number}.254", IPV6: f"fd7{self.number}::fe"}

    @property
    def pod_cidr(self) -> dict[int, str]:
        """Where its pods' addresses come from."""
        return {IPV4: f"10.42.{self.number}.0/24", IPV6: f"fd42:0:0:{self.number}::/64"}

    def add_pod(self, name: str) -> Place:
        """Make a pod on this node."""
        i = len(self.pods) + 2
        addresses = {IPV4: f"10.42.{self.number}.{i}", IPV6: f"fd42:0:0:{self.number}::{i:x}"}
        prefix = self.node.netns.name.removesuffix(f"-{self.name}")
        pod = Place(name, NETNS / f"{prefix}-pod-{name}", addresses, f"veth-{name}", self.name)
        plug(self.node, pod, UPLINK_INDEX + 10 + i)
        self.pods[name] = pod
        return pod


class Nodes:
    """The namespaces of the picture. A context manager, taken down whatever happens in between."""

    def __init__(self) -> None:
        self.prefix = fresh_prefix()
        self.nodes = {number: self._node(number) for number in PODS}
        self.router = Place("router", NETNS / f"{self.prefix}-router", {})
        self.outside, self.stranger = (
            Place(
                name,
                NETNS / f"{self.prefix}-{name}",
                {IPV4: f"192.168.{subnet}.2", IPV6: f"fd{subnet}::2"},
            )
            for name, subnet in OUTSIDE.items()
        )

    def _node(self, number: int) -> Node:
        name = f"node-{number}"
        addresses = {IPV4: f"192.168.7{number}.1", IPV6: f"fd7{number}::1"}
        place = Place(name, NETNS / f"{self.prefix}-{name}", addresses, on_node=name)
        return Node(number, place, BPFFS / f"{self.prefix}-{name}")

    @property
    def pods(self) -> dict[str, Place]:
        """The pods of all nodes, by name."""
        return {name: pod for node in self.nodes.values() for name, pod in node.pods.items()}

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            self.build()
        except BaseException:
            remove(self.prefix)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        remove(self.prefix)

    def build(self) -> None:
        """Make the router first, then all that hangs on it."""
        places = [node.node for node in self.nodes.values()]
        for place in (self.router, *places, self.outside, self.stranger):
            add_namespace(place)
        for place in (self.router, *places):
            place.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        for index, name in enumerate(OUTSIDE):
            self._join_outside(getattr(self, name), OUTSIDE[name], 200 + index)
        for number, node in self.nodes.items():
            self._join_node(node)
            for name in PODS[number]:
                node.add_pod(name)
        self.route_services()

    def route_services(self) -> None:
        """Let the router send all that is for Services to node-1."""
        self.router.links(*self.ways_to_node_1(self.nodes[1].node.addresses))

    def ways_to_node_1(self, addresses: dict[int, str]) -> list[str]:
        """The router's routes to Services, by way of these addresses of node-1."""
        return [
            f"route replace {block} via {addresses[family]}"
            for family, blocks in TO_NODE_1.items()
            for block in blocks
        ]

    def _join_outside(self, place: Place, subnet: int, index: int) -> None:
        self.router.links(
            f"link add {place.name} index {index} type veth peer name eth0"
            f" netns {place.netns.name}",
            f"address add 192.168.{subnet}.1/24 dev {place.name}",
            f"address add fd{subnet}::1/64 dev {place.name} nodad",
            f"link set {place.name} up",
        )
        place.links(
            f"address add {place.addresses[IPV4]}/24 dev eth0",
            f"address add {place.addresses[IPV6]}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via 192.168.{subnet}.1",
            f"route add default via fd{subnet}::1",
        )

    def _join_node(self, node: Node) -> None:
        leg = f"to-{node.number}"
        node.node.links(
            f"link add uplink index {UPLINK_INDEX} type veth peer name {leg}"
            f" index {300 + node.number} netns {self.router.netns.name}",
        )
        self.router.links(f"link set {leg} up")
        self.address_uplink(node)
        self.address_leg(node, leg)

    def address_uplink(self, node: Node) -> None:
        """Give the uplink its addresses and the default routes."""
        first, gateway = node.node.addresses, node.gateway
        node.node.links(
            f"address add {first[IPV4]}/24 dev uplink",
            f"address add {node.second[IPV4]}/24 dev uplink",
            f"address add {node.second[IPV6]}/64 dev uplink nodad preferred_lft 0",
            f"address add {first[IPV6]}/64 dev uplink nodad",
            "link set uplink up",
            f"route replace default via {gateway[IPV4]} dev uplink",
            f"route replace default via {gateway[IPV6]} dev uplink",
        )

    def address_leg(self, node: Node, leg: str) -> None:
        """Give the router's end of an uplink its addresses, and the routes to the pods."""
        first, gateway, block = node.node.addresses, node.gateway, node.pod_cidr
        self.router.links(
            f"link set {leg} up",
            f"address add {gateway[IPV4]}/24 dev {leg}",
            f"address add {gateway[IPV6]}/64 dev {leg} nodad",
            f"route add {block[IPV4]} via {first[IPV4]} dev {leg}",
            f"route add {block[IPV6]} via {first[IPV6]} dev {leg}",
        )
