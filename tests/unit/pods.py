"""A node in memory for the tests of who follows its pods: interfaces, hooks, and a way to find.

The interfaces are the truth; `locate` finds in them as `datapath.locate` does in the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from controllers.endpoint import Pod as Endpoint
from controllers.endpoint import present
from controllers.endpoints import Endpoints, Force
from controllers.pods import PodsController
from kpbpf.address import Address, from_text
from kpbpf.datapath.locate import Located, NotLocated
from kpbpf.errors import LinkGone
from kpbpf.home import Home
from kpbpf.model.event import Event
from kpbpf.model.objects import Key, Pod
from maps import config
from maps.fake import FakeTables, fake_tables

NODE = "node-a"


class Veth(NamedTuple):
    """A pod's interface: MACs of both ends, and what addresses lead there."""

    pod_mac: bytes
    node_mac: bytes
    addresses: frozenset[Address]


class Node:
    """Interfaces by index, programs on them, and a PodsController; `now` is its clock."""

    def __init__(self, run: Path) -> None:
        self.tables: FakeTables = fake_tables()
        config.ensure(self.tables)
        self.veths: dict[int, Veth] = {}
        self.programs: dict[int, Force] = {}
        self.asking: set[Address] = set()
        """Addresses that only a thorough search finds."""
        self.searches: list[tuple[tuple[Address, ...], bool]] = []
        self.events: list[Event] = []
        self.now = 1000.0
        self.endpoints = Endpoints(Home(run / "pins", run / "run"), self.tables, self)
        self.restart()

    def restart(self) -> None:
        """A new daemon on the same maps and interfaces."""
        tell = self.events.append
        self.pods = PodsController(self.endpoints, self.locate, tell, NODE, lambda: self.now)

    def veth(self, ifindex: int, *ips: str, mac: int = 0) -> None:
        """An interface appears, or is another one now."""
        pod_mac = bytes([2, 0, 0, 0, mac, ifindex])
        addresses = frozenset(map(from_text, ips))
        self.veths[ifindex] = Veth(pod_mac, bytes([2, 0, 0, 1, 0, ifindex]), addresses)

    def gone(self, ifindex: int) -> None:
        """An interface vanishes, and its programs with it."""
        del self.veths[ifindex]
        self.programs.pop(ifindex, None)

    def tell(self, *pods: Pod) -> None:
        """The API names pods."""
        for pod in pods:
            self.pods.changed(pod.key, pod)

    def forget(self, *names: str) -> None:
        """The API says that pods are gone."""
        for name in names:
            self.pods.changed(Key("Pod", "default", name), None)

    def settle(self, seconds: float = 40.0) -> None:
        """Let time pass: work whenever it is due, and look at the interfaces in between."""
        end = self.now + seconds
        while self.now < end:
            self.pods.reconcile(self.mac_of)
            delay = self.pods.work()
            self.now = min(end, self.now + (0.8 if delay is None else max(0.01, min(delay, 0.8))))

    def served(self) -> dict[int, tuple[str, set[Address]]]:
        """What the maps say: name and addresses, by interface."""
        found = present(self.tables).values()
        return {one.ifindex: (one.name, set(one.addresses)) for one in found}

    def endpoint(self, ifindex: int) -> Endpoint:
        return next(one for one in present(self.tables).values() if one.ifindex == ifindex)

    def why_not(self) -> dict[str, str]:
        return {one.pod: one.why_not for one in self.pods.status()}

    # ---- what the controller stands on --------------------------------------------------

    def locate(self, addresses: tuple[Address, ...], thorough: bool) -> Located:
        self.searches.append((addresses, thorough))
        for ifindex, veth in self.veths.items():
            own = [one for one in addresses if one in veth.addresses]
            if own and not (self.asking.intersection(own) and not thorough):
                name = f"veth{ifindex}"
                return Located("route", name, ifindex, veth.pod_mac, veth.node_mac, own)
        raise NotLocated("no route leads there", soon=bool(self.asking.intersection(addresses)))

    def attach(self, ifindex: int) -> None:
        if ifindex not in self.veths:
            raise LinkGone(ifindex)
        self.programs[ifindex] = Force.TODAY

    def detach(self, ifindex: int) -> None:
        self.programs.pop(ifindex, None)

    def attached(self) -> Mapping[int, Force]:
        return self.programs

    def mac_of(self, ifindex: int) -> bytes | None:
        veth = self.veths.get(ifindex)
        return veth.node_mac if veth else None


def pod(name: str, *ips: str, uid: str = "", node: str = NODE) -> Pod:
    """What the API says of a pod that runs."""
    return Pod("default", name, node, tuple(map(from_text, ips)), (), False, False, uid)


def addresses(*ips: str) -> set[Address]:
    return set(map(from_text, ips))
