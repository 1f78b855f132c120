"""Which interfaces of this node are its uplinks: those that lead to other nodes and the outside.

A pure function of what the kernel says (`snapshot`), of what was asked for, and of the Node's
addresses. An uplink has a default route of any table, or one of the Node's addresses, or is a
tunnel with an address of its own; instead of a port of a bridge or bond, that one is. A pod's
interface is none, nor is loopback. Names that were asked for replace all of this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from kpbpf.address import ZERO, Address, block_from_text, is_ipv4, lies_in, to_text
from kpbpf.datapath.snapshot import (
    DADFAILED,
    DEPRECATED,
    ETHERNET,
    GLOBAL_SCOPE,
    LOOPBACK,
    SECONDARY,
    TENTATIVE,
    UP,
    Link,
    LocalAddress,
    Snapshot,
)

TUNNELS = frozenset(
    {
        *("vxlan", "geneve", "ipip", "sit", "ip6tnl", "gre", "gretap", "ip6gre", "ip6gretap"),
        *("wireguard", "tun", "vti", "vti6", "xfrm"),
    }
)
"""Kinds of link by which network plugins reach the pods of other nodes."""

_NO_HEADER = frozenset({0xFFFE, 512, 519, 768, 769, 776, 778, 823})
"""Types of link without an Ethernet header: none at all, PPP, raw IP, ipip, ip6tnl, sit, GRE."""

_LOOPBACK4 = block_from_text("127.0.0.0/8")
_NOT_SERVED = (
    _LOOPBACK4,
    *map(block_from_text, ("::1/128", "169.254.0.0/16", "fe80::/10")),
)
_LEFT_OVER = "kube-ipvs0"
"""kube-proxy puts every address of a Service on it, and leaves it behind."""

_MAIN = 254

MOST = 64
"""Uplinks of one node: the entries of kp_devices."""


class Uplink(NamedTuple):
    """An interface that leads to other nodes or the outside."""

    ifindex: int
    name: str
    kind: str
    """As in Link."""
    mac: bytes
    """6 bytes; zero without Ethernet."""
    ethernet: bool
    """Whether its packets have an Ethernet header."""
    addresses: tuple[Address, ...]
    """Of its own and of global scope."""
    masquerade4: Address
    """What a backend sees as its client: see `_masquerade`. ZERO: it has no address."""
    masquerade6: Address
    why: str
    """"asked for", "default route", "node address", "tunnel"."""


class Unfit(NamedTuple):
    """An interface, or a name that was asked for, that cannot be an uplink."""

    name: str
    why_not: str


class Choice(NamedTuple):
    """What the uplinks are; `first` is the index of the one that the main default route takes."""

    uplinks: tuple[Uplink, ...] = ()
    unfit: tuple[Unfit, ...] = ()
    first: int = 0


def choose(
    seen: Snapshot,
    asked: Sequence[str] = (),
    node_addresses: Sequence[Address] = (),
    pods: Collection[int] = (),
) -> Choice:
    """Find the uplinks, sorted by index.

    `asked` are names and starts of names as in Settings.uplinks, `pods` the indexes of pods'
    host-side interfaces.
    """
    reasons = _asked(seen, asked) if asked else _reasons(seen, node_addresses)
    uplinks: list[Uplink] = []
    unfit = [Unfit(name, "there is none") for name in _missing(seen, asked)]
    for link in sorted(seen.links, key=lambda link: link.ifindex):
        why = reasons.get(link.ifindex)
        why_not = _why_not(link, pods)
        if why and why_not:
            unfit.append(Unfit(link.name, why_not))
        elif why and len(uplinks) == MOST:
            unfit.append(Unfit(link.name, f"there are {MOST} others"))
        elif why:
            uplinks.append(_uplink(seen, link, why, node_addresses))
    indexes = {uplink.ifindex for uplink in uplinks}
    return Choice(tuple(uplinks), tuple(unfit), _first(seen, indexes))


def served(seen: Snapshot) -> tuple[Address, ...]:
    """The addresses at which this node can be spoken to: none of loopback, none link-local.

    Those of interfaces that are down are not, nor those left behind by kube-proxy's IPVS.
    """
    up = {one.ifindex for one in seen.links if one.flags & UP and one.name != _LEFT_OVER}
    found = (one for one in seen.addresses if one.ifindex in up and not one.flags & DADFAILED)
    return tuple(
        one.address
        for one in found
        if not any(lies_in(one.address, base, prefix) for base, prefix in _NOT_SERVED)
    )


# ---- which ----------------------------------------------------------------------------------


def _reasons(seen: Snapshot, node_addresses: Collection[Address]) -> dict[int, str]:
    """Why an interface is an uplink, by index; the first reason counts."""
    links = {link.ifindex: link for link in seen.links}
    own = {one.ifindex for one in seen.addresses if _is_own(one)}
    found: dict[int, str] = {}
    for ifindex, why in _signs(seen, node_addresses, own):
        link = links.get(ifindex)
        while link and link.master in links and links[link.master].kind != "vrf":
            link = links[link.master]
        if link and link.flags & UP and not link.flags & LOOPBACK:
            found.setdefault(link.ifindex, why)
    return found


def _signs(
    seen: Snapshot, node_addresses: Collection[Address], own: Collection[int]
) -> Iterator[tuple[int, str]]:
    for route in seen.routes:
        yield route.ifindex, "default route"
    for one in seen.addresses:
        if one.address in node_addresses:
            yield one.ifindex, "node address"
    for link in seen.links:
        if link.kind in TUNNELS and link.ifindex in own:
            yield link.ifindex, "tunnel"


def _asked(seen: Snapshot, asked: Sequence[str]) -> dict[int, str]:
    return {
        link.ifindex: "asked for"
        for link in seen.links
        if any(_is_meant(link.name, name) for name in asked)
    }


def _missing(seen: Snapshot, asked: Sequence[str]) -> list[str]:
    """Names that were asked for and that no interface has; starts of names may have none."""
    names = {link.name for link in seen.links}
    return [name for name in asked if not name.endswith("*") and name not in names]


def _is_meant(name: str, asked: str) -> bool:
    return name.startswith(asked[:-1]) if asked.endswith("*") else name == asked


def _why_not(link: Link, pods: Collection[int]) -> str:
    if link.flags & LOOPBACK:
        return "it is loopback"
    if link.ifindex in pods:
        return "it is a pod's"
    if link.type != ETHERNET and link.type not in _NO_HEADER:
        return f"frames of its kind (link type {link.type}) are not understood"
    return ""


def _first(seen: Snapshot, uplinks: Collection[int]) -> int:
    """The uplink that packets take by default: of the main table, IPv4, of the lowest metric."""
    routes = [route for route in seen.routes if route.ifindex in uplinks]
    routes.sort(key=lambda one: (one.table != _MAIN, not one.is_ipv4, one.metric))
    return routes[0].ifindex if routes else min(uplinks, default=0)


# ---- what of it -----------------------------------------------------------------------------


def _uplink(seen: Snapshot, link: Link, why: str, node_addresses: Sequence[Address]) -> Uplink:
    ethernet = link.type == ETHERNET
    own = [one for one in seen.addresses if one.ifindex == link.ifindex and _is_own(one)]
    families = {
        ipv4: [one for one in own if is_ipv4(one.address) is ipv4] for ipv4 in (True, False)
    }
    return Uplink(
        ifindex=link.ifindex,
        name=link.name,
        kind=link.kind,
        mac=link.mac if ethernet else bytes(6),
        ethernet=ethernet,
        addresses=tuple(one.address for one in own),
        masquerade4=_masquerade(families[True], node_addresses),
        masquerade6=_masquerade(families[False], node_addresses),
        why=why,
    )


def _is_own(one: LocalAddress) -> bool:
    return one.scope == GLOBAL_SCOPE and not one.flags & (TENTATIVE | DADFAILED)


def _masquerade(own: Sequence[LocalAddress], node_addresses: Sequence[Address]) -> Address:
    """The one of an interface's addresses that stands for this node; ZERO: it has none.

    The Node's own first; then what is neither secondary (temporary, of IPv6) nor deprecated,
    and of a network before a single address, which is mostly a virtual one that moves.
    """
    ranks: Mapping[Address, int] = {one: rank for rank, one in enumerate(node_addresses)}
    best = sorted(
        own,
        key=lambda one: (
            ranks.get(one.address, len(ranks)),
            bool(one.flags & DEPRECATED),
            bool(one.flags & SECONDARY),
            one.prefix == 128,
        ),
    )
    return best[0].address if best else ZERO


def told(uplink: Uplink) -> str:
    """An uplink in words: "eth0 (default route; 10.0.0.1, fd00::1)"."""
    return f"{uplink.name} ({'; '.join(filter(None, (uplink.why, _texts(uplink.addresses))))})"


def _texts(addresses: Sequence[Address]) -> str:
    return ", ".join(map(to_text, addresses))
