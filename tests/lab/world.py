"""A world of network namespaces: a node with pods, a router, a remote server.

      pod a               pod b                 each pod: eth0 with one /32 and one /128 address,
      10.42.0.2           10.42.0.3             the default route by way of 169.254.1.1 and fe80::1
      fd42::2             fd42::3
        | eth0              | eth0
    ----+-------------------+----
        | veth-a            | veth-b            proxy_arp, proxy_ndp; routes to each pod's address
    +---+-------------------+---+
    |           node            |               kpbpf runs here: the daemon and the command line
    +-------------+-------------+
                  | uplink  192.168.50.1        fd50::1
                  |
                  | near    192.168.50.2        fd50::2
    +-------------+-------------+
    |          router           |               path MTU 1400 towards "narrow", 1500 elsewhere
    +-------------+-------------+
                  | far     192.168.60.1        fd60::1
                  |
                  | eth0    192.168.60.2        fd60::2    the place "remote"
    +-------------+-------------+   192.168.60.3        fd60::3    the place "narrow"
    |          remote           |
    +---------------------------+

Holds the topology only: who speaks over it is sockets.py, what runs on the node is agent.py.
All settings are made inside the namespaces; the machine's own network is never touched.
Interfaces are given numbers: where both ends of a veth pair happen to have the same number, the
kernel takes up to a second to see that they are up.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from kpbpf.datapath import cgroup
from kpbpf.datapath.netns import in_netns
from kpbpf.home import Home

NETNS = Path("/run/netns")
BPFFS = Path("/sys/fs/bpf")
NARROW_MTU = 1400
POD_MTU = 1500

IPV4, IPV6 = 4, 6
FAMILIES = (IPV4, IPV6)
ADDRESS_FAMILY = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}

_worlds = count(1)


@dataclass(frozen=True)
class Place:
    """A network namespace and the addresses by which it is reached.

    `addresses` maps 4 and 6 to an address in text. A pod also has `host_ifname`, the name of
    its interface on the node; `on_node` names the Node that it is, or runs on, where there are
    several (nodes.py).
    """

    name: str
    netns: Path
    addresses: dict[int, str]
    host_ifname: str = ""
    on_node: str = ""

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run the body with the calling thread in this namespace."""
        with in_netns(self.netns):
            yield

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """Make a socket that lives in this namespace, whichever thread uses it later."""
        with self.inside():
            made = socket.socket(ADDRESS_FAMILY[family], kind, proto)
        made.settimeout(5)
        return made

    def run(self, *command: str) -> str:
        """Run a command in this namespace and return what it prints."""
        argv = ["nsenter", f"--net={self.netns}", "--", *command]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def links(self, *lines: str) -> None:
        """Give `ip` a batch of lines to do in this namespace."""
        ip("-n", self.netns.name, "-batch", "-", stdin="\n".join(lines))

    def sysctl(self, **settings: int | str) -> None:
        """Set values below /proc/sys/net; `__` in a name stands for a slash."""
        with self.inside():
            for name, value in settings.items():
                Path("/proc/sys/net", name.replace("__", "/")).write_text(f"{value}\n")


class World:
    """The namespaces of the picture above; pods are added one by one.

    Use it as a context manager: it is taken down whatever happens in between. `prefix` starts
    the name of all that the world owns: namespaces, the directory of pins, nothing else.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix or fresh_prefix()
        self.pins = BPFFS / self.prefix
        self.pods: dict[str, Place] = {}
        self.node = self._place("node", "192.168.50.1", "fd50::1")
        self.router = self._place("router", "192.168.60.1", "fd60::1")
        self.remote = self._place("remote", "192.168.60.2", "fd60::2")
        self.narrow = Place("narrow", self.remote.netns, {IPV4: "192.168.60.3", IPV6: "fd60::3"})

    def _place(self, name: str, ipv4: str, ipv6: str, host_ifname: str = "") -> Place:
        netns = NETNS / f"{self.prefix}-{name}"
        return Place(name, netns, {IPV4: ipv4, IPV6: ipv6}, host_ifname)

    def __enter__(self) -> Self:
        try:
            self.build()
        except BaseException:
            remove(self.prefix)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        remove(self.prefix)

    def build(self) -> None:
        """Make all but the pods; first remove what killed test runs left."""
        remove_leftovers()
        for place in (self.node, self.router, self.remote):
            add_namespace(place)
        for place in (self.node, self.router):
            place.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self.node.links(
            f"link add uplink index 100 type veth peer name near netns {self.router.netns.name}",
            "address add 192.168.50.1/24 dev uplink",
            "address add fd50::1/64 dev uplink nodad",
            "link set uplink up",
        )
        self.router.links(
            f"link add far index 100 type veth peer name eth0 netns {self.remote.netns.name}",
            "address add 192.168.50.2/24 dev near",
            "address add fd50::2/64 dev near nodad",
            "address add 192.168.60.1/24 dev far",
            "address add fd60::1/64 dev far nodad",
            "link set near up",
            "link set far up",
            "route add 10.42.0.0/24 via 192.168.50.1",
            "route add fd42::/64 via fd50::1",
            f"route add 192.168.60.3/32 dev far mtu lock {NARROW_MTU}",
            f"route add fd60::3/128 dev far mtu lock {NARROW_MTU}",
        )
        self.remote.links(
            "address add 192.168.60.2/24 dev eth0",
            "address add 192.168.60.3/24 dev eth0",
            "address add fd60::2/64 dev eth0 nodad",
            "address add fd60::3/64 dev eth0 nodad preferred_lft 0",  # never chosen as a source
            "link set eth0 up",
            "route add default via 192.168.60.1",
            "route add default via fd60::1",
        )
        self.node.links("route add default via 192.168.50.2", "route add default via fd50::2")

    def add_pod(self, name: str) -> Place:
        """Make a pod on the node as a CNI plugin would, with a veth pair and host routes."""
        number = len(self.pods) + 2
        pod = self._place(f"pod-{name}", f"10.42.0.{number}", f"fd42::{number:x}", f"veth-{name}")
        plug(self.node, pod, 100 + number)
        self.pods[name] = pod
        return pod


def fresh_prefix() -> str:
    """A prefix that no other world has; remove_leftovers finds by it whose it was."""
    return f"kpt-{os.getpid()}-{next(_worlds)}"


def plug(node: Place, pod: Place, index: int) -> None:
    """Make a pod's namespace, its veth with this number on the node, and the routes to it."""
    add_namespace(pod)
    veth = pod.host_ifname
    node.links(
        f"link add {veth} index {index} mtu {POD_MTU}"
        f" type veth peer name eth0 netns {pod.netns.name}",
        f"address add fe80::1/64 dev {veth} nodad",
        f"link set {veth} up",
    )
    # Without proxy_delay=0 the kernel waits up to 0.8 s before it answers for another.
    node.sysctl(
        **{
            f"ipv4__conf__{veth}__proxy_arp": 1,
            f"ipv6__conf__{veth}__proxy_ndp": 1,
            f"ipv4__neigh__{veth}__proxy_delay": 0,
            f"ipv6__neigh__{veth}__proxy_delay": 0,
        }
    )
    pod.links(
        f"link set eth0 mtu {POD_MTU} up",
        f"address add {pod.addresses[IPV4]}/32 dev eth0",
        f"address add {pod.addresses[IPV6]}/128 dev eth0 nodad",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1 dev eth0",
        "route add default via fe80::1 dev eth0",
    )
    node.links(
        f"route add {pod.addresses[IPV4]}/32 dev {veth} scope link",
        f"route add {pod.addresses[IPV6]}/128 dev {veth}",
    )


def add_namespace(place: Place) -> None:
    """Make the namespace: loopback up, no duplicate address detection, unprivileged ping."""
    ip("netns", "add", place.netns.name)
    place.sysctl(
        ipv6__conf__default__accept_dad=0,
        ipv6__conf__all__accept_dad=0,
        ipv4__conf__default__rp_filter=1,
        ipv4__conf__all__rp_filter=1,
        ipv4__ping_group_range="0 2147483647",
    )
    place.links("link set lo up")


def remove(prefix: str) -> None:
    """Take down all that a world of this prefix owns; what is already gone is no error."""
    for netns in sorted(NETNS.glob(f"{prefix}-*")):
        ip("netns", "delete", netns.name)
    for pins in (BPFFS / prefix, *BPFFS.glob(f"{prefix}-*")):
        if pins.exists():
            with TemporaryDirectory() as run:  # for the lock; nobody else has these pins any more
                cgroup.detach(Home(pins, Path(run)))
        shutil.rmtree(pins, ignore_errors=True)


def remove_leftovers() -> None:
    """Take down the worlds of test runs that were killed, and of those only."""
    names = [*NETNS.glob("kpt-*-*"), *BPFFS.glob("kpt-*-*")]
    for prefix in {"-".join(path.name.split("-")[:3]) for path in names}:
        if not Path("/proc", prefix.split("-")[1]).exists():
            remove(prefix)


def ip(*arguments: str, stdin: str = "") -> None:
    """Run `ip`; a refusal is raised with what it said and what it was told."""
    done = subprocess.run(
        ["ip", *arguments], input=stdin, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}\n{stdin}")
