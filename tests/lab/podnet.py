"""Pods as CNI plugins of other kinds make them: behind a bridge, or with nothing but a veth.

World.add_pod makes the routed kind; these go into the same World and are taken down with it.
Pods have no programs: attaching is what the tests are about.
"""

from __future__ import annotations

from kpbpf.address import Address, from_text
from kpbpf.model.objects import Pod
from tests.lab.manifests import NODE_NAME
from tests.lab.world import IPV4, IPV6, NETNS, Place, World, add_namespace


def add_bridge(world: World, name: str = "cni0") -> None:
    """A bridge that is the pods' gateway, as the plugins "bridge" and "kubenet" make it."""
    world.node.links(
        f"link add {name} type bridge",
        f"address add 10.44.0.1/24 dev {name}",
        f"address add fd44::1/64 dev {name} nodad",
        f"link set {name} up",
    )


def add_bridged_pod(world: World, name: str, number: int, bridge: str = "cni0") -> Place:
    """A pod at a port of the bridge: 10.44.0.<number> and fd44::<number in hex>."""
    pod = bare_pod(world, name, f"10.44.0.{number}/24", f"fd44::{number:x}/64")
    world.node.links(f"link set {pod.host_ifname} master {bridge}")
    pod.links("route add default via 10.44.0.1", "route add default via fd44::1")
    return pod


def bare_pod(world: World, name: str, ipv4: str, ipv6: str, prefix: str = "veth-") -> Place:
    """A pod with a veth and addresses (with prefix lengths), and no way to it."""
    addresses = {IPV4: ipv4.partition("/")[0], IPV6: ipv6.partition("/")[0]}
    pod = Place(name, NETNS / f"{world.prefix}-pod-{name}", addresses, f"{prefix}{name}")
    add_namespace(pod)
    # In two steps: a pair with the same number on both ends is slow to come up.
    world.node.links(
        f"link add {pod.host_ifname} type veth peer name eth0 netns {pod.netns.name} index 7",
        f"link set {pod.host_ifname} up",
    )
    pod.links(
        f"address add {ipv4} dev eth0", f"address add {ipv6} dev eth0 nodad", "link set eth0 up"
    )
    return pod


def addresses(pod: Place, *families: int) -> tuple[Address, ...]:
    """A place's addresses as 16 bytes; of both families unless told."""
    return tuple(from_text(pod.addresses[family]) for family in families or (IPV4, IPV6))


def model(pod: Place, *, name: str = "", uid: str = "", finished: bool = False) -> Pod:
    """What the API says of it."""
    named = name or pod.name
    return Pod("default", named, NODE_NAME, addresses(pod), (), False, finished, uid or named)
