"""Finding a pod's interface on this node from the pod's addresses, without its CNI's help.

In this order: the route to the address leads to the pod's veth; or to a bridge, whose neighbour
and forwarding tables name the port; or a veth with a prefix that the operator gave has the
address behind it; or any veth of the node has. Looks only, and lets the kernel ask for a
neighbour it does not know; attaches nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from kpbpf.address import Address, to_text
from kpbpf.datapath.interfaces import LOCAL, UNICAST, FarEnd, Interface, Interfaces
from kpbpf.errors import Retry

How = Literal["route", "neighbour", "prefix", "far-end"]

FAR_ENDS_AGE_SEC = 2.0
"""How long a look behind all veths of the node is believed: some 60 µs for each of them."""


class Located(NamedTuple):
    """A pod's interface, as it is now (a `controllers.endpoints.Link`), and how it was found."""

    how: How
    host_ifname: str
    ifindex: int
    """Of the host-side end."""
    pod_mac: bytes
    node_mac: bytes
    addresses: list[Address]
    """Those of the pod's addresses that do not lead elsewhere."""


class NotLocated(Retry):
    """Why no interface was found; `soon`: the kernel is asking, look again in a moment."""

    def __init__(self, why: str, soon: bool = False) -> None:
        super().__init__(why)
        self.soon = soon


class _Lead(NamedTuple):
    """Where an address leads: the pod's veth, and the interface that has its neighbour entry."""

    how: How
    veth: Interface
    device: int
    far: FarEnd | None


class Locator:
    """Finds pods in the network namespace of the thread that calls it first.

    `prefixes` are those of Settings.pod_interface_prefixes. `locate` costs some 0.2 ms for a
    pod that a route leads to. OSError never leaves it: what the kernel refuses is a Retry.
    """

    def __init__(
        self, prefixes: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._prefixes = tuple(prefixes)
        self._clock = clock
        self._opened: Interfaces | None = None
        self._behind: dict[Address, list[Interface]] = {}
        self._looked = float("-inf")

    def close(self) -> None:
        """Close the socket; it is opened again when needed."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def forget(self) -> None:
        """Interfaces came or went: look behind all of them again when it matters."""
        self._looked = float("-inf")

    def locate(self, addresses: Sequence[Address], thorough: bool = False) -> Located:
        """Find the interface of the pod that has these addresses; NotLocated tells why not.

        While the kernel is still asking for a neighbour, only a `thorough` search goes on to
        the last steps, which take longer. LinkGone when the interface vanishes meanwhile.
        """
        try:
            return self._locate(addresses, thorough)
        except OSError as error:
            self.close()  # whatever is still under way on it
            raise Retry(f"asking the kernel about interfaces failed: {error}") from error

    def _locate(self, addresses: Sequence[Address], thorough: bool) -> Located:
        leads: dict[Address, _Lead] = {}
        failures: list[NotLocated] = []
        for address in addresses:
            try:
                leads[address] = self._lead(address, thorough)
            except NotLocated as failure:
                failures.append(failure)
        if not leads:
            raise failures[0] if failures else NotLocated("it has no address yet")
        first = next(iter(leads.values()))
        index = first.veth.ifindex
        own = [one for one in addresses if one not in leads or leads[one].veth.ifindex == index]
        mac = self._pod_mac(first, own)
        return Located(first.how, first.veth.name, index, mac, first.veth.mac, own)

    @property
    def _interfaces(self) -> Interfaces:
        if self._opened is None:
            self._opened = Interfaces()
        return self._opened

    # ---- where an address leads ---------------------------------------------------------

    def _lead(self, address: Address, thorough: bool) -> _Lead:
        try:
            return self._by_route(address)
        except NotLocated as failure:
            if failure.soon and not thorough:
                raise
            found = self._by_prefix(address) or self._by_far_end(address)
            if found is None:
                raise
            return found

    def _by_route(self, address: Address) -> _Lead:
        text = to_text(address)
        route = self._interfaces.route(address)
        if route is None:
            raise NotLocated(f"no route leads to {text}")
        if route.kind == LOCAL:
            raise NotLocated(f"{text} is an address of this node itself")
        if route.kind != UNICAST:
            raise NotLocated(f"the route to {text} refuses what is sent there")
        if not route.ifindex:
            raise NotLocated(f"the route to {text} names no single interface")
        link = self._interfaces.interface(route.ifindex)
        if link.kind == "veth":
            # A node's own uplink may be a veth too, with a gateway, or for a whole network.
            own = route.host and not route.gateway
            return self._lead_to(link, link.ifindex, "route", address, own)
        if link.kind == "bridge" and not route.gateway:
            return self._behind_bridge(link, address)
        raise NotLocated(_no_pods(link, f"the route to {text} leads to"))

    def _behind_bridge(self, bridge: Interface, address: Address) -> _Lead:
        interfaces = self._interfaces
        mac = interfaces.neighbour(address, bridge.ifindex)
        if mac is None:
            interfaces.resolve(address, bridge.ifindex)
            text = to_text(address)
            raise NotLocated(f"bridge {bridge.name} knows no MAC for {text} yet", soon=True)
        port = interfaces.port(mac, bridge.ifindex)
        if port is None:
            interfaces.confirm(address, bridge.ifindex, mac)
            text = mac.hex(":")
            raise NotLocated(
                f"bridge {bridge.name} does not know yet which port {text} is behind", soon=True
            )
        link = interfaces.interface(port)
        if link.kind != "veth":
            raise NotLocated(_no_pods(link, f"{to_text(address)} is behind port"))
        return self._lead_to(link, bridge.ifindex, "neighbour", address)

    def _lead_to(
        self, veth: Interface, device: int, how: How, address: Address, own: bool = True
    ) -> _Lead:
        """This veth, unless its other end is not a pod's, or clearly another pod's.

        `own` tells that the way there is for this address alone; if it is not, the other end
        must have the address.
        """
        far = self._interfaces.far_end(veth)
        if far and address in far.addresses:
            return _Lead(how, veth, device, far)
        text = to_text(address)
        if not own:
            raise NotLocated(_no_pods(veth, f"the route to {text} leads to"))
        if veth.namespace is None:
            raise NotLocated(f"{text} leads to {veth.name}, whose other end is on this node itself")
        if far and far.addresses:
            others = ", ".join(sorted(map(to_text, far.addresses)))
            raise NotLocated(f"{text} leads to {veth.name}, but behind it is {others}", soon=True)
        return _Lead(how, veth, device, far)

    # ---- looking behind every veth ------------------------------------------------------

    def _by_prefix(self, address: Address) -> _Lead | None:
        """A veth that the operator's prefixes name, by neighbour entry or by its other end."""
        if not self._prefixes:
            return None
        behind = self._veths_with(address)
        known = {index for index, other in self._interfaces.neighbours() if other == address}
        for link in [*behind, *map(self._interfaces.interface, sorted(known))]:
            if not link.name.startswith(self._prefixes) or link.kind != "veth":
                continue
            if link.namespace is not None:
                return _Lead("prefix", link, link.ifindex, self._interfaces.far_end(link))
        return None

    def _by_far_end(self, address: Address) -> _Lead | None:
        behind = self._veths_with(address)
        if len(behind) > 1:
            names = ", ".join(link.name for link in behind)
            raise NotLocated(f"several interfaces have {to_text(address)} behind them: {names}")
        for link in behind:
            device = link.bridge or link.ifindex
            return _Lead("far-end", link, device, self._interfaces.far_end(link))
        return None

    def _veths_with(self, address: Address) -> list[Interface]:
        """The veths whose other end has the address now, as of the last look."""
        if self._clock() - self._looked > FAR_ENDS_AGE_SEC:
            self._behind = {}
            for link in self._interfaces.every():
                far = self._interfaces.far_end(link) if link.kind == "veth" else None
                for one in far.addresses if far else ():
                    self._behind.setdefault(one, []).append(link)
            self._looked = self._clock()
        return self._behind.get(address, [])

    # ---- the pod's MAC address ----------------------------------------------------------

    def _pod_mac(self, lead: _Lead, addresses: Sequence[Address]) -> bytes:
        """The MAC address that packets for the pod must carry when they are handed to it.

        That of the veth's other end, where the address is its own; else what the neighbours
        say: a virtual machine in the pod may have taken the address.
        """
        if lead.far and not lead.far.addresses.isdisjoint(addresses):
            return lead.far.mac
        for address in addresses:
            mac = self._interfaces.neighbour(address, lead.device)
            if mac:
                return mac
        for address in addresses:
            self._interfaces.resolve(address, lead.device)
        texts = ", ".join(map(to_text, addresses))
        raise NotLocated(f"nobody behind {lead.veth.name} has answered for {texts} yet", soon=True)


def _no_pods(link: Interface, how: str) -> str:
    """Say that an address leads to an interface that is no pod's."""
    if link.kind in ("ipvlan", "macvlan", "netkit"):
        return f"{how} {link.name}, and {link.name} is {link.kind}: not supported in this version"
    return f"{how} {link.name}, which is no pod's interface"
